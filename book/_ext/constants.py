"""Sphinx extension: the page of all hardware constants is written from the presets and their readmes."""

import re
from importlib.resources import files

from epimlib.pim.hardware import Constant, Hardware

PAGE = "book/constants"
FOLDER = files("epimlib.pim") / "presets"


def presets() -> list[str]:
    """Return the names of all presets, our own first."""
    names = (file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))
    return sorted(names, key=lambda name: (name != "default", name))


def append_sections(app, docname, source):
    """Append a table of all presets side by side, then for each its readme and its constants with sources."""
    if docname == PAGE:
        hardware = [Hardware.preset(name) for name in presets()]
        source[0] += side_by_side(hardware) + "".join(section(h) for h in hardware)


def side_by_side(hardware: list[Hardware]) -> str:
    """Return one line for each constant and one column for each preset, in MyST Markdown."""
    names = [constant.name for constant in hardware[0].provenance]
    values = [{c.name: value(c) for c in h.provenance} for h in hardware]
    heads = [f"[{h.name}](constants-{h.name})" for h in hardware]
    rows = [["rules", *(f"`{h.rules}`" for h in hardware)]]
    rows += [[f"`{name}`", *(column[name] for column in values)] for name in names]
    return "\n## Side by side\n\n" + table(["constant", *heads], rows)


def section(hardware: Hardware) -> str:
    """Return readme, sources and constants of one preset in MyST Markdown."""
    title, readme = (FOLDER / f"{hardware.name}.md").read_text(encoding="utf-8").split("\n", 1)
    sources = list(dict.fromkeys(constant.source for constant in hardware.provenance))
    rows = [[f"`{c.name}`", value(c), f"{c.kind} [{sources.index(c.source) + 1}]", c.note] for c in hardware.provenance]
    return "\n".join(
        [
            f"\n(constants-{hardware.name})=",
            f"## {title.removeprefix('# ')}",
            re.sub("^## ", "### ", readme, flags=re.MULTILINE),
            "### Constants\n",
            table(["constant", "value", "kind [source]", "note"], rows),
            "Sources:\n",
            *(f"{number}. {source}" for number, source in enumerate(sources, 1)),
            "",
        ]
    )


def value(constant: Constant) -> str:
    """Return the value with its unit, rounded to four digits; of a list the first and the last."""
    if isinstance(constant.value, list):
        return f"{rounded(constant.value[0])} to {rounded(constant.value[-1])}"
    return rounded(constant.value)


def rounded(value) -> str:
    """Return a quantity such as "75.7575 nW" with four digits; other values as they are."""
    number, _, unit = str(value).partition(" ")
    return f"{float(number):.4g} {unit.replace('u', 'µ').replace('2', '²')}" if unit else number


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def setup(app):
    app.connect("source-read", append_sections)
    # Read the page in every build: it follows files that Sphinx does not know it depends on.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: [PAGE])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
