"""Sphinx extension: an exercise leads to its solution, and solutions are folded.

In the student's edition, which has no solutions, an exercise leads to the notebook to solve it in: to the label
``start-LABEL`` there.
"""

from companion import folded
from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx_exercise.nodes import is_exercise_node, solution_node

# A link to a solution opens it.
UNFOLD = """
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches(".solution")) target.querySelector("details").open = true;
};
addEventListener("DOMContentLoaded", unfold);
addEventListener("hashchange", unfold);
"""


class FoldSolutions(SphinxTransform):
    """Fold every solution below its title."""

    default_priority = 500  # after those of sphinx-exercise, which collect the cells of a solution

    def apply(self):
        for solution in self.document.findall(solution_node):
            solution[1:] = [folded("Show the solution", solution[1:])]


def places(env) -> dict[str, tuple[str, str, str]]:
    """Return, for the label of an exercise, what its link says, and the page and anchor that it leads to."""
    solutions = [entry for entry in env.sphinx_exercise_registry.values() if "target_label" in entry["node"]]
    starts = env.get_domain("std").anonlabels
    return {
        label.removeprefix("start-"): ("Solve it in a notebook", *starts[label])
        for label in starts
        if label.startswith("start-ex-")
    } | {entry["node"]["target_label"]: ("Solution", entry["docname"], entry["node"]["label"]) for entry in solutions}


def link(app, doctree, docname):
    """Add a line to every exercise that has a solution, or a notebook to solve it in."""
    exercises = list(doctree.findall(is_exercise_node))
    found = places(app.env) if exercises else {}  # it goes through all labels of the book
    for exercise in exercises:
        if exercise["label"] in found:
            text, page, anchor = found[exercise["label"]]
            uri = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
            reference = nodes.reference("", text, internal=True, refuri=uri)
            exercise += nodes.paragraph("", "", reference, classes=["exercise-link"])


def setup(app):
    app.add_transform(FoldSolutions)
    app.add_js_file(None, body=UNFOLD)
    app.connect("doctree-resolved", link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
