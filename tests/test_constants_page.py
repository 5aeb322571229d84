"""The page of all hardware constants."""

import re
from types import SimpleNamespace

import pytest

from epimlib import Hardware
from tests.test_notebooks import load

constants = load("book/_ext/constants.py")


@pytest.fixture(scope="module")
def page() -> str:
    source = ["# Title\n"]
    constants.append_sections(SimpleNamespace(), "book/constants", source)
    return source[0]


def test_every_preset_stands_there_with_its_readme_and_all_its_constants(page):
    names = constants.presets()
    assert names[0] == "default"
    assert set(names) >= {"default", "isaac", "mnsim-2021", "mnsim-2024"}
    for name in names:
        section = page.split(f"(constants-{name})=\n## {name}\n")[1].split("(constants-")[0]
        assert "### What it models" in section
        for constant in Hardware.preset(name).provenance:
            assert section.count(f"\n| `{constant.name}` | {constants.value(constant)} | {constant.kind} [") == 1
            assert constant.source in section
            assert constant.note in section


def test_every_table_has_as_many_cells_in_each_line(page):
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) > len(constants.presets())
    for table in tables:
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("75.7575 nW", "75.76 nW"),
        ("1200 um2", "1200 µm²"),
        ("0.054 pJ/bit", "0.054 pJ/bit"),
        (["2 KB", "4 KB", "512 KB"], "2 KB to 512 KB"),
        (256, "256"),
        (True, "True"),
        ("channel", "channel"),
    ],
)
def test_values_are_rounded_to_four_digits(written, shown):
    assert constants.value(SimpleNamespace(value=written)) == shown


def test_other_pages_are_left_alone():
    source = ["# Other\n"]
    constants.append_sections(SimpleNamespace(), "book/other", source)
    assert source == ["# Other\n"]
