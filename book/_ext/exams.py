"""Sphinx extension: the directive ``exam-bank`` lists every question of the exam bank, by chapter."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from epimlib.teach import bank
from epimlib.teach.exam import questions


def listing() -> list[str]:
    """Return the lines of a table: chapter, title, what is asked for, points."""
    lines = ["| chapter | question | asked for | points |", "|--:|---|---|--:|"]
    for question in questions():
        asked = ", ".join(question.draw(0).key)
        lines.append(f"| {question.chapter} | {question.title} | {asked} | {question.points} |")
    points = sum(question.points for question in questions())
    return [*lines, f"| all | {len(questions())} questions | | {points} |"]


class ExamBank(SphinxDirective):
    """``{exam-bank}``: the table."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(bank.__file__)
        parent = nodes.Element()
        self.state.nested_parse(StringList(listing(), source=bank.__file__), self.content_offset, parent)
        return parent.children


def setup(app):
    app.add_directive("exam-bank", ExamBank)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
