"""Sphinx extension: the head of a card of the lecturer's guide.

The directive ``teach-chapter`` takes the aim and the minutes planned for a discussion from the card, and prerequisites,
minutes to read and the time of a recorded run from the chapter and its records.
"""

import json
import re
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from parameters import duration, of_profile
from sphinx.util.docutils import SphinxDirective

from epimlib.lab.notebooks import Notebook


def items(notebook: Notebook, heading: str) -> list[str]:
    """Return the points below a heading of a chapter's first cell, its links as seen from the root of the book.

    Raises:
        ValueError: if the cell has no such heading.
    """
    cells = json.loads(notebook.path.read_text(encoding="utf-8"))["cells"]
    first = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
    found = re.search(rf"\{{grid-item-card\}} {re.escape(heading)}\n(.*?)\n:::", first, re.DOTALL)
    if not found:
        raise ValueError(f"the first cell of {notebook.path} has no card {heading!r}")
    text = re.sub(r"(\{doc\}`)\.\./", r"\1/", found[1])
    text = re.sub(r"(\{doc\}`)(?!/)", r"\1/notebooks/", text)
    return [re.sub(r"\s+", " ", item).strip(" ,.") for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]]


def minutes(notebook: Notebook, discuss: int) -> str:
    """Return how long a chapter takes to read, to run and to discuss."""
    (read,) = (item for item in items(notebook, "Time") if item.endswith("to read"))
    quick = of_profile(notebook, "quick")
    run = f"{duration(quick.seconds)} to run" if quick else "no record says how long to run"
    return f"{read}, {run}, about {discuss} minutes to discuss"


class TeachChapter(SphinxDirective):
    """The head of a card, for ``04_epitome`` or any other chapter."""

    required_arguments = 1
    option_spec: ClassVar[dict] = {"aim": directives.unchanged_required, "discuss": directives.positive_int}

    def run(self):
        root = Path(self.env.srcdir)
        try:
            notebook = Notebook.load(root / "notebooks" / f"{self.arguments[0]}.ipynb")
            fields = {
                "Page": f"{{doc}}`/notebooks/{notebook.name}`",
                "Aim": self.options["aim"],
                "Before": "; ".join(items(notebook, "You need")),
                "Minutes": minutes(notebook, self.options["discuss"]),
                "Deck": f"`make slides` writes `slides/{notebook.name}.html`",
            }
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise self.error(str(error)) from error
        for path in [notebook.path, *(root / name for name in notebook.recorded())]:
            self.env.note_dependency(str(path))
        holder = nodes.container(classes=["teach-card"])
        lines = [f":{name}: {text}" for name, text in fields.items()]
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, holder)
        return [holder]


def setup(app):
    app.add_directive("teach-chapter", TeachChapter)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
