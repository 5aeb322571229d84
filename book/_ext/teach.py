"""Sphinx extension: what the lecturer's guide in ``book/teach`` takes from chapters and from their records.

- The directive ``teach-chapter`` is the head of a card: its aim, and from the chapter itself the prerequisites, the
  minutes to read and the time of a recorded run, with the minutes that the card plans for a discussion.
- The role ``metric`` is a number that a chapter reported, of its newest committed record in the quick profile:
  ``{metric}`epitome_network network_mixed_factor:.2f` `` takes the chapter's topic, the number's name and a format.
"""

import json
import re
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from parameters import duration, of_profile, runs
from sphinx.util.docutils import SphinxDirective, SphinxRole

from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import resolve

METRIC = re.compile(r"(\w+) (\w+)(?::([^\s:]+))?")


def chapter(topic: str, folder: Path) -> Notebook:
    """Return the chapter of a topic, such as ``epitome`` of ``04_epitome``.

    Raises:
        ValueError: if there is not exactly one.
    """
    found = [path for path in folder.glob("notebooks/*.ipynb") if path.stem.partition("_")[2] == topic]
    if len(found) != 1:
        raise ValueError(f"topic must be that of one chapter in {folder / 'notebooks'}, got {topic!r}")
    return Notebook.load(found[0])


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


def metric(text: str, folder: Path) -> str:
    """Return a number that a chapter reported, as the role ``metric`` writes it.

    Raises:
        ValueError: if the text has another form, the chapter no record, or the record no such number.
    """
    named = METRIC.fullmatch(text)
    if not named:
        raise ValueError(f"a metric must be written 'topic name' or 'topic name:format', got {text!r}")
    topic, name, form = named.groups()
    notebook = chapter(topic, folder)
    quick = resolve(notebook.parameters, {}) | {"seed": None}
    alike = [record for values, record in runs(notebook) if values | {"seed": None} == quick and name in record.metrics]
    if not alike:
        raise ValueError(f"name must be a metric of a record of {notebook.name} in the quick profile, got {name!r}")
    return format(max(alike, key=lambda record: record.started).metrics[name], form or "")


class TeachChapter(SphinxDirective):
    """The head of a card, for ``04_epitome`` or any other chapter."""

    required_arguments = 1
    option_spec: ClassVar[dict] = {"aim": directives.unchanged_required, "discuss": directives.positive_int}

    def run(self):
        root = Path(self.env.srcdir)
        try:
            notebook = chapter(self.arguments[0].partition("_")[2], root)
            fields = {
                "Aim": self.options["aim"],
                "Before": "; ".join(items(notebook, "You need")),
                "Minutes": minutes(notebook, self.options["discuss"]),
                "Deck": f"`make slides` writes `slides/{notebook.name}.html`",
            }
        except (KeyError, ValueError) as error:
            raise self.error(str(error)) from error
        for path in [notebook.path, *(root / name for name in notebook.recorded())]:
            self.env.note_dependency(str(path))
        holder = nodes.container(classes=["teach-card"])
        lines = [f":{name}: {text}" for name, text in fields.items()]
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, holder)
        return [holder]


class Metric(SphinxRole):
    """A number of a record."""

    def run(self):
        root = Path(self.env.srcdir)
        try:
            shown = metric(self.text, root)
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        for name in chapter(self.text.split()[0], root).recorded():
            self.env.note_dependency(str(root / name))
        return [nodes.Text(shown)], []


def setup(app):
    app.add_directive("teach-chapter", TeachChapter)
    app.add_role("metric", Metric())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
