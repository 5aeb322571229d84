"""One setting switches on what leaves the book."""

import json
from types import SimpleNamespace

import pytest
from nbformat import v4, writes

from tests.test_notebooks import load

published = load("book/_ext/published.py")
ADDRESS = "https://github.com/somebody/epimlib"


def app(address: str) -> SimpleNamespace:
    """What the extension asks of Sphinx, after it has read this setting."""
    config = SimpleNamespace(html_theme_options={"repository_url": address})
    published.switch_on(None, config)
    return SimpleNamespace(config=config)


@pytest.mark.parametrize(("address", "on"), [("", False), (ADDRESS, True)], ids=["empty", "an address"])
def test_buttons_are_on_with_an_address_only(address, on):
    options = app(address).config.html_theme_options
    for name, value in published.BUTTONS.items():
        assert options.get(name) == (value if on else None)


@pytest.mark.parametrize(("address", "on"), [("", False), (ADDRESS, True)], ids=["empty", "an address"])
def test_a_chapter_says_how_to_install_before_its_first_cell_with_an_address_only(address, on):
    source = [writes(v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell("rows: int = 2")]))]
    published.hint(app(address), "notebooks/03_mapping", source)
    cells = json.loads(source[0])["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", *["markdown"] * on, "code"]
    assert (f"%pip install git+{ADDRESS}" in source[0]) == on
    if on:
        v4.reads(source[0])


def test_nothing_edits_a_page_that_no_file_holds():
    edit, issue = {"label": "source-edit-button"}, {"label": "source-issues-button"}
    for page, left in (("book/parameters/03_mapping", [issue]), ("book/notation", [edit, issue])):
        context = {"header_buttons": [{"buttons": [edit, issue]}]}
        published.drop_edit(None, page, None, context, None)
        assert context["header_buttons"] == [{"buttons": left}]
