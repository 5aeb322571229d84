"""Sphinx extension: lists for the lecturer's guide.

- ``exam-bank``: every question of the exam bank, by chapter.
- ``graded-exercises``: the exercises that a program marks.
"""

import importlib.util
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from epimlib.teach import bank
from epimlib.teach.exam import questions

GRADING = Path(__file__).parents[1] / "teach" / "grading.py"


def bank_lines() -> list[str]:
    """Return the lines of a table: chapter, title, what is asked for, points."""
    lines = ["| chapter | question | asked for | points |", "|--:|---|---|--:|"]
    for question in questions():
        asked = ", ".join(question.draw(0).key)
        lines.append(f"| {question.chapter} | {question.title} | {asked} | {question.points} |")
    points = sum(question.points for question in questions())
    return [*lines, f"| all | {len(questions())} questions | | {points} |"]


def graded_lines() -> list[str]:
    """Return the lines of a table: exercise, function, tests, points."""
    spec = importlib.util.spec_from_file_location("grading", GRADING)
    grading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grading)
    lines = ["| exercise | assignment | function | points of its tests |", "|---|---|---|---|"]
    for label, notebook in grading.all_assignments().items():
        parts = [(cell.metadata.nbgrader, cell.source) for cell in notebook.cells]
        (function,) = (source for part, source in parts if part.solution)
        name = function.partition("# BEGIN SOLUTION")[0].rpartition("def ")[2].partition("(")[0]
        points = " + ".join(str(part.points) for part, _ in parts if part.grade)
        lines.append(f"| {{ref}}`{label}` | `{label}` | `{name}` | {points} |")
    return lines


class Listing(SphinxDirective):
    """A table that is made when the book is built."""

    tables: ClassVar = {"exam-bank": bank_lines, "graded-exercises": graded_lines}

    def run(self) -> list[nodes.Node]:
        for path in (bank.__file__, GRADING, __file__):
            self.env.note_dependency(str(path))
        parent = nodes.Element()
        self.state.nested_parse(StringList(self.tables[self.name](), source=__file__), self.content_offset, parent)
        return parent.children


def setup(app):
    for name in Listing.tables:
        app.add_directive(name, Listing)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
