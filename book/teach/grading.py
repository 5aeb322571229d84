"""Make an assignment for nbgrader of each exercise whose solution is a function with tests: grading.py [FOLDER].

Everything comes from ``notebooks/solutions``. What stands between ``# BEGIN SOLUTION`` and ``# END SOLUTION`` is to be
written; each cell with the tags ``test`` and ``points-N`` that follows is a part of the grade. FOLDER, by default
``_build/grading``, becomes a course of nbgrader: ``source`` holds the version with solutions, ``release`` the one that
is handed out. What else is there, such as submissions, is left alone.
"""

import re
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat

from epimlib._checks import write_text
from epimlib.lab.page import plain
from epimlib.lab.records import RunRecord

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book"))
from editions import MARKED, OPEN, SOLUTION, Chapter  # noqa: E402

CONFIG = f"""# Made by book/teach/grading.py.
c = get_config()
c.CourseDirectory.course_id = "epim"
c.ClearSolutions.code_stub = {{"python": "{OPEN}"}}
"""


def tags(cell: Any) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def marked(cell: Any, name: str, **kind: Any) -> Any:
    """Return a cell as nbgrader knows it; ``kind`` says what is not the default, a cell that nobody may change."""
    cell = deepcopy(cell)
    known = {"schema_version": 3, "grade_id": name, "grade": False, "solution": False, "locked": True, "task": False}
    cell.metadata = nbformat.from_dict({"nbgrader": known | kind})
    cell.id = name
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    return cell


def assignments(solutions: Any, asked: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Return the assignments that a notebook with solutions gives, with their solutions, by the exercise's label.

    An assignment holds the text of the exercise, the code that stands outside of all exercises before it, the cell
    with the function, and its tests.

    Args:
        solutions: the notebook.
        asked: title and text of each exercise, by its label.

    Raises:
        ValueError: if an exercise has several cells with marked lines, or a test of one has no points.
    """
    found, setup, label = {}, [], None
    for cell in solutions.cells:
        if cell.cell_type == "markdown":
            for _, kind, name in SOLUTION.findall(cell.source):
                label = {"-start": name, "-end": None}.get(kind, label)
        elif label is None:
            if "parameters" not in tags(cell) and "check(globals()" not in cell.source:
                setup.append(marked(cell, f"setup-{len(setup) + 1}"))
        elif MARKED.search(cell.source):
            if label in found:
                raise ValueError(f"exercise {label} must have one cell with marked lines, got a second one")
            title, text = asked[label]
            head = nbformat.v4.new_markdown_cell(f"# {title}\n\n{text.strip()}")
            function = marked(cell, f"{label}-function", solution=True, locked=False)
            found[label] = [marked(head, f"{label}-text"), *setup, function]
        elif label in found and "test" in tags(cell):
            points = [int(tag.removeprefix("points-")) for tag in tags(cell) if re.fullmatch(r"points-[1-9]", tag)]
            if len(points) != 1:
                raise ValueError(f"test {cell.id} must have one tag points-1 to points-9, got {tags(cell)}")
            number = sum(part.metadata.nbgrader.grade for part in found[label]) + 1
            found[label].append(marked(cell, f"{label}-test-{number}", grade=True, points=points[0]))
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {label: nbformat.v4.new_notebook(cells=cells, metadata=metadata) for label, cells in found.items()}


def all_assignments() -> dict[str, Any]:
    """Return the assignments of all chapters, by label; numbers in their texts are those of the chapter's record."""
    found = {}
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")):
        solutions = nbformat.read(path, as_version=4)
        if any(MARKED.search(cell.source) for cell in solutions.cells):
            record = ROOT / "data" / "results" / path.stem / "quick.json"
            values = RunRecord.load(record).metrics if record.exists() else {}
            chapter = Chapter(path.stem, nbformat.read(ROOT / "notebooks" / path.name, as_version=4).cells)
            asked = {label: (title, plain(text, values)) for label, (title, text) in chapter.exercises.items()}
            found |= assignments(solutions, asked)
    return found


def handed_out(assignment: Any) -> Any:
    """Return an assignment without its solution."""
    starter = deepcopy(assignment)
    for cell in starter.cells:
        cell.source = MARKED.sub(rf"\1{OPEN}", cell.source)
    return starter


def write(folder: Path) -> list[str]:
    """Write a course of nbgrader and return the names of its assignments."""
    found = all_assignments()
    for label, assignment in found.items():
        for version, notebook in (("source", assignment), ("release", handed_out(assignment))):
            path = folder / version / label / f"{label}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, nbformat.writes(notebook) + "\n")
    write_text(folder / "nbgrader_config.py", CONFIG)
    return list(found)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(f"grading: at most one folder is needed, got {sys.argv[1:]}", file=sys.stderr)
        sys.exit(2)
    print(*write(Path(sys.argv[1] if len(sys.argv) == 2 else ROOT / "_build" / "grading")), sep="\n")
