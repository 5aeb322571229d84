"""One setting switches on what leaves the book."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbformat import v4, writes
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from tests.test_notebooks import load

EXTENSIONS = Path(__file__).parents[1] / "book" / "_ext"
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
    edit, issue, alone = {"label": "source-edit-button"}, {"label": "source-issues-button"}, {"label": "fullscreen"}
    for page, left in (("book/parameters/03_mapping", [issue]), ("book/notation", [edit, issue])):
        context = {"header_buttons": [{"buttons": [edit, issue]}, alone]}
        published.drop_edit(None, page, None, context, None)
        assert context["header_buttons"] == [{"buttons": left}, alone]


@pytest.mark.parametrize(("address", "on"), [("", False), (ADDRESS, True)], ids=["empty", "an address"])
def test_a_page_leaves_the_book_with_an_address_only(address, on, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    (tmp_path / "notebooks").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("rows: int = 2")]
    (tmp_path / "notebooks" / "01_tiny.ipynb").write_text(writes(v4.new_notebook(cells=cells, metadata=kernel)))
    settings = {"extensions": ["myst_nb", "published"], "nb_execution_mode": "off", "master_doc": "notebooks/01_tiny"}
    options = {"repository_url": address, "repository_branch": "main"}
    settings |= {"html_theme": "sphinx_book_theme", "html_theme_options": options}
    with patch_docutils(), docutils_namespace():
        Sphinx(tmp_path, None, tmp_path / "html", tmp_path / "trees", "html", settings, None, None).build()
    page = (tmp_path / "html" / "notebooks" / "01_tiny.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="(https://(?:mybinder|github)[^"]*)"', page)
    if not on:
        assert links == []
    else:
        assert f"{ADDRESS}/edit/main/notebooks/01_tiny.ipynb" in links
        assert "https://mybinder.org/v2/gh/somebody/epimlib/main?urlpath=lab/tree/notebooks/01_tiny.ipynb" in links
