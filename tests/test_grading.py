"""The graded exercises: the reference has all points, the starter none, and each wrong solution loses what it should.

With ``EPIM_GRADER=PATH/OF/nbgrader`` the last test asks nbgrader itself; see book/teach/grading.md.
"""

import csv
import os
import re
import subprocess
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest

from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
grading = load("book/teach/grading.py")
ASSIGNMENTS = grading.all_assignments()
GRADER = os.environ.get("EPIM_GRADER")

WRONG: dict[str, list[tuple[str, str, set[int]]]] = {
    "ex-01-5": [
        ("math.ceil(n / pace)", "max(1, n // pace)", {3}),  # one copy too few
        ("math.ceil(n / pace)", "n // pace + 1", {1, 2}),  # one too many where it divides
        ("sum(n * once for n, once in zip(copies, crossbars, strict=True))", "max(copies) * sum(crossbars)", {2}),
    ],
    "ex-02-3": [
        (" - offset * inputs", "", {1, 2}),  # the offset stays in the sum
        ("5, read)", "5, lambda sums: sums)", {3}),  # nothing is converted
        ("W + offset, 5,", "W + offset, 4,", {1, 2, 3}),  # the offset needs a slice more
    ],
    "ex-03-4": [
        ("together * round(baseline / factor / together)", "round(baseline / factor)", {2}),  # pairs are broken up
        ("round(baseline / left, 2) == factor", "baseline / left >= factor", {3}),  # at least instead of equal
        ("round(baseline / factor / together)", "(int(baseline / factor / together) + 1)", {1, 3}),
    ],
    "ex-05-3": [
        ("left // 2", "left // 4", {1, 2}),  # as if such a block took four more
        ("min(blocks, left // 2)", "left // 2", {3}),  # more than there are
        ("left // 2", "math.ceil(left / 2)", {1}),  # one crossbar too many
    ],
    "ex-07-4": [
        ("output[copy : copy + size] = output[source : source + size]", "pass", {3}),
        ("sums + extends * output[c : c + size]", "sums", {1, 2, 3}),  # partial sums are overwritten
        ("((0, 0), (1, 1), (1, 1))", '((0, 0), (1, 1), (1, 1)), mode="edge"', {2}),
    ],
    "ex-10-4": [
        (") / price", ")", {1}),  # the largest decrease, whatever it costs
        ("> budget", ">= budget", {2}),  # what fits exactly is left out
        ("min((c for c in sensitivity[name] if c > b), default=None)", "5 if b == 3 else None", {3}),
    ],
    "ex-12-2": [
        (" - price * budget", "", {1, 3}),
        ("min(t + price * n for n, t in layer)", "min((t, price * n) for n, t in layer)[0]", {1, 3}),
        ("min(t", "max(t", {1, 2, 3}),
    ],
    "ex-15-2": [
        ("min(stacked(used, cols, rows), stacked(used.T, rows, cols))", "stacked(used, cols, rows)", {3}),
        ("min(stacked(used, cols, rows), stacked(used.T, rows, cols))", "stacked(used.T, rows, cols)", {1}),
        ("math.ceil(strip.any(axis=1).sum() / depth)", "strip.any(axis=1).sum() // depth + 1", {1, 2, 3}),
    ],
    "ex-16-2": [
        ("np.clip(np.rint(np.array(currents) / step), -last - 1, last)", "np.rint(np.array(currents) / step)", {3}),
        ("np.arange(len(codes))", "np.arange(len(codes))[::-1]", {1, 2, 3}),  # most significant first
        ("np.rint(", "np.trunc(", {2}),
    ],
    "ex-17-4": [
        ("8 *", "4 *", {1, 2}),  # only one of the means is uncertain
        ("math.ceil(", "int(", {2}),
        ("max(2, math.ceil(8 * (deviation / difference) ** 2))", "math.ceil(8 * (deviation / difference) ** 2)", {3}),
    ],
    "ex-18-5": [
        ("(1 if layer is last else width)", "width", {2}),  # more classes
        ('(1 if layer.inputs == ("input",) else width)', "1", {3}),  # outputs only
        ("layers = [", "width = 2\n    layers = [", {1}),
    ],
    "ex-22-4": [
        ("machine.nor(x, drop), machine.nor(y, keep)", "machine.nor(x, keep), machine.nor(y, drop)", {1, 2}),  # smaller
        ("machine.nor(machine.nor(x, drop), machine.nor(y, keep))", "np.where(keep, x, y)", {3}),  # no gates
        ("machine.nor(x, drop)", "machine.nor(x, machine.nor(keep))", {3}),  # a gate more in every bit
    ],
    "ex-23-4": [
        ("bits == 8 or ", "", {2, 3}),
        ("range(2, 9)", "range(3, 9)", {1}),
        ("cost(bits) < cost(bits + 1)", "cost(bits) <= cost(bits + 1)", {1, 2, 3}),
    ],
    "ex-25-4": [
        ("axis=0, ", "", {1, 2, 3}),  # entropy of single neurons' states, not of rows
        ("np.log2", "np.log", {2, 3}),  # another unit
        ("np.shape(states)[1]", "2", {3}),  # always two neurons
    ],
    "ex-26-4": [
        ("density * (weights", "(weights", {1, 2, 3}),  # of a uniform weight
        ("2**bits / 2", "2 * bits / 2", {3}),  # as many levels as two bits have, twice
        ("(weights - quantized) ** 2", "abs(weights - quantized)", {1, 2, 3}),  # the mean error instead of its square
    ],
    "ex-24-4": [
        ("t * dac + k * cell", "t + k", {2, 3}),  # steps of one bit
        ("len({t * dac + k * cell for t in range(z) for k in range(slices)})", "z * slices", {1, 2}),  # every read
        (
            "len({t * dac + k * cell for t in range(z) for k in range(slices)})",
            "(z - 1) * dac + (slices - 1) * cell + 1",
            {3},
        ),  # gaps counted
    ],
    "ex-27-4": [
        ('if kind == "sign" else', "if not kind else", {3}),  # signs are forgotten
        ('if kind == "sign" else', "if kind else", {2}),  # signs for both kinds
        ("int(np.linalg.matrix_rank(weight))", "len(weight)", {2}),  # rows instead of rank
    ],
}
"""For each exercise three changes of its solution, and the tests that each of them loses."""


def points_of(notebook) -> dict[int, int]:
    """Return the points of each test of an assignment, by its number."""
    cells = [cell.metadata.nbgrader for cell in notebook.cells]
    return {number: part.points for number, part in enumerate((part for part in cells if part.grade), 1)}


def lost(notebook) -> set[int]:
    """Return the tests that an assignment does not pass: its cells are executed in turn, as a grader does."""
    names = {"__name__": "__main__", "In": []}
    failed, number = set(), 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        number += cell.metadata.nbgrader.grade
        try:
            exec(compile(cell.source, cell.id, "exec"), names)
        except Exception:
            assert cell.metadata.nbgrader.grade, f"{cell.id} must run"
            failed.add(number)
    return failed


def answered(label: str, old: str, new: str):
    """Return an assignment with a change in its solution."""
    notebook = deepcopy(ASSIGNMENTS[label])
    (cell,) = (cell for cell in notebook.cells if cell.metadata.nbgrader.solution)
    assert cell.source.count(old) == 1, (old, cell.source)
    cell.source = cell.source.replace(old, new)
    return notebook


def test_there_are_enough_assignments_and_each_can_be_solved_in_part():
    assert len(ASSIGNMENTS) >= 10
    assert len({label[:5] for label in ASSIGNMENTS}) >= 8
    assert set(WRONG) == set(ASSIGNMENTS)
    for label, notebook in ASSIGNMENTS.items():
        assert len(points_of(notebook)) >= 2
        assert len({str(sorted(parts)) for *_, parts in WRONG[label]}) >= 2
        assert len(WRONG[label]) == 3


@pytest.mark.parametrize("label", ASSIGNMENTS)
def test_the_reference_has_all_points_the_starter_none_and_wrong_solutions_lose_theirs(label, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks" / "solutions")
    reference = ASSIGNMENTS[label]
    assert lost(reference) == set()
    assert lost(grading.handed_out(reference)) == set(points_of(reference))
    for old, new, parts in WRONG[label]:
        assert lost(answered(label, old, new)) == parts, (old, new)


@pytest.mark.parametrize("label", ASSIGNMENTS)
def test_a_test_says_in_words_what_is_wrong(label):
    for cell in ASSIGNMENTS[label].cells:
        if cell.metadata.nbgrader.grade:
            assert re.search(r'assert .+, f?"[A-Z0-9{][^"]{20,}[.]"', cell.source), cell.source


def test_what_is_handed_out_holds_no_solution_and_nothing_else_is_missing():
    for reference in ASSIGNMENTS.values():
        starter = grading.handed_out(reference)
        assert "SOLUTION" not in nbformat.writes(starter)
        changed = [cell.id for cell, own in zip(starter.cells, reference.cells, strict=True) if cell != own]
        assert changed == [cell.id for cell in reference.cells if cell.metadata.nbgrader.solution]
        names = [cell.metadata.nbgrader.grade_id for cell in starter.cells]
        assert len(set(names)) == len(names)
        nbformat.validate(starter)
        assert "{" not in starter.cells[0].source.replace("$", "").replace("\\mathcal{B}", "")


def test_a_course_is_written_and_what_else_is_there_stays(tmp_path):
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "mine").write_text("kept")
    for _ in range(2):
        assert grading.write(tmp_path) == list(ASSIGNMENTS)
    for label in ASSIGNMENTS:
        source, release = (nbformat.read(tmp_path / v / label / f"{label}.ipynb", 4) for v in ("source", "release"))
        assert grading.handed_out(source) == release
    assert (tmp_path / "submitted" / "mine").read_text() == "kept"


def test_marks_in_the_wrong_place_are_refused():
    new = nbformat.v4
    start = new.new_markdown_cell("```{solution-start} ex-01-1\n```")
    function, again = (
        new.new_code_cell(f"def {name}():\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION") for name in "fg"
    )
    bare = new.new_code_cell("assert f() == 1", metadata={"tags": ["test"]})
    asked = {"ex-01-1": ("One", "Write f.")}
    with pytest.raises(ValueError, match="must have one tag points-1 to points-9, got \\['test'\\]"):
        grading.assignments(new.new_notebook(cells=[start, function, bare]), asked)
    with pytest.raises(ValueError, match="exercise ex-01-1 must have one cell with marked lines, got a second one"):
        grading.assignments(new.new_notebook(cells=[start, function, again]), asked)


if GRADER:  # defined only where it is installed: it is in an environment of its own

    def test_the_grader_gives_these_points(tmp_path):
        path = os.pathsep.join((str(Path(GRADER).parent), os.environ["PATH"]))  # it calls another program beside it

        def nbgrader(*arguments: str) -> None:
            done = subprocess.run(
                [GRADER, *arguments], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-4000:]

        labels = os.environ.get("EPIM_GRADED", " ".join(ASSIGNMENTS)).split()
        grading.write(tmp_path)
        expected = {}
        for label in labels:
            handed_out = nbformat.read(tmp_path / "release" / label / f"{label}.ipynb", 4)
            nbgrader("generate_assignment", label, "--create", "--force")
            made = nbformat.read(tmp_path / "release" / label / f"{label}.ipynb", 4)
            assert [cell.source for cell in made.cells] == [cell.source for cell in handed_out.cells]
            points = points_of(ASSIGNMENTS[label])
            answers = {"reference": (ASSIGNMENTS[label], set()), "starter": (handed_out, set(points))}
            answers |= {f"wrong-{n}": (answered(label, *w[:2]), w[2]) for n, w in enumerate(WRONG[label], 1)}
            for student, (answer, parts) in answers.items():
                path = tmp_path / "submitted" / student / label / f"{label}.ipynb"
                path.parent.mkdir(parents=True)
                for cell, own in zip(answer.cells, made.cells, strict=True):  # a student changes the open cell only
                    own.source = cell.source
                nbformat.write(made, path)
                expected[label, student] = sum(points.values()) - sum(points[part] for part in parts)
            nbgrader("autograde", label, "--create")
        nbgrader("export", "--to=grades.csv")
        with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {(row["assignment"], row["student_id"]): float(row["score"]) for row in rows} == expected
