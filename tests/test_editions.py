"""The students' edition holds no solution, and its notebooks are cut from those with solutions."""

import os
import re
import sys
from collections import defaultdict
from html import unescape
from pathlib import Path

import nbformat
import pytest

from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
STUDENT = ROOT / "_build" / "student"
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "book"))  # it imports slides.py beside it
editions = load("book/editions.py")


def chapter(path: Path) -> "editions.Chapter":
    """Return the chapter of a notebook with solutions as it is committed, where every glued value is 0."""
    found = editions.Chapter(path.stem, nbformat.read(ROOT / "notebooks" / path.name, as_version=4).cells)
    found.glued = defaultdict(lambda: "0")
    return found


def halves(path: Path):
    """Return the notebook with starters and what was taken out of a notebook with solutions."""
    return editions.cut(nbformat.read(path, as_version=4), editions.exercises(chapter(path)))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_cut_notebook_is_made_whole_again_byte_for_byte(path):
    starter, taken = halves(path)
    whole = nbformat.writes(editions.restore(starter, taken)).rstrip("\n") + "\n"
    assert whole.encode() == path.read_bytes()
    asked = list(chapter(path).exercises)
    number = int(path.stem[:2])
    assert asked == [f"ex-{number:02d}-{at}" for at in range(1, len(asked) + 1)]
    assert [cell.id for cell in starter.cells if cell.id.startswith("start-ex")] == [f"start-{one}" for one in asked]


def test_what_is_cut_out_of_code_and_what_stays():
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Solutions: Sums\n\nAll of them."),
        new.new_code_cell("import math"),
        new.new_markdown_cell("```{solution-start} ex-01-1\n```\n\nAdd."),
        new.new_code_cell(
            'def add(a, b):\n    """Add."""\n    # BEGIN SOLUTION\n    c = a + b\n    return c\n    # END SOLUTION'
        ),
        new.new_code_cell("assert add(1, 2) == 3", metadata={"tags": ["test"]}),
        new.new_code_cell("add(3, 4)"),
        new.new_code_cell("add(5, 6)"),
        new.new_markdown_cell("It is 7.\n\n```{solution-end}\n```\n\n```{solution} ex-01-2\nBecause.\n```"),
    ]
    starter, taken = editions.cut(
        new.new_notebook(cells=cells), {"ex-01-1": ("Add", "Write it."), "ex-01-2": ("Why", "Say why.")}
    )
    assert [cell.source for cell in starter.cells] == [
        "# Exercises: Sums",
        "import math",
        "(start-ex-01-1)=\n## Exercise 1.1: Add\n\nWrite it.",
        'def add(a, b):\n    """Add."""\n    ...  # your code here',
        "assert add(1, 2) == 3",
        "...  # your code here",
        "(start-ex-01-2)=\n## Exercise 1.2: Why\n\nSay why.\n\n*Your answer:*",
    ]
    assert editions.restore(starter, taken).cells == cells


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_starter_runs_to_its_first_open_cell(path, monkeypatch):
    starter, _ = halves(path)
    monkeypatch.chdir(path.parent)
    names = {"__name__": "__main__", "In": []}
    for cell in starter.cells:
        if cell.id.startswith("open-"):
            break
        if cell.cell_type == "code":
            names["In"].append(cell.source)
            exec(compile(cell.source, cell.id, "exec"), names)
    else:
        assert not [cell for cell in starter.cells if "test" in cell.metadata.get("tags", [])]


def plain(text: str) -> str:
    """Return the letters and digits of a text, which survive however a page or a file writes them."""
    return re.sub(r"[\W_]+", "", text).lower()


def secrets() -> dict[str, str]:
    """Return pieces of all solutions, each with more than 30 characters, that no chapter and no docstring has."""
    cut = {path: halves(path) for path in SOLUTIONS}
    texts = [path.read_text(encoding="utf-8") for kind in ("book/*.md", "epimlib/**/*.py") for path in ROOT.glob(kind)]
    shown = [chapter(path) for path in SOLUTIONS] + [starter for starter, _ in cut.values()]
    published = plain("\n".join([*texts, *(cell.source for each in shown for cell in each.cells)]))
    found = {}
    for path, (_, taken) in cut.items():
        for cell in taken.values():
            # Roles, formulas and emphasis look otherwise in a page; what stands between them does not.
            split = r"\n" if cell.cell_type == "code" else r"\n|\{[\w:-]+\}`[^`]*`|\$[^$]*\$|[`*|\[\]]|\. |: "
            for piece in re.split(split, cell.source):
                if len(piece.strip()) > 30 and plain(piece) and plain(piece) not in published:
                    found[plain(piece)] = f"{path.stem}: {piece.strip()}"
    return found


def leaks(text: str, pieces: dict[str, str]) -> list[str]:
    """Return the pieces that a file shows, as it is or as the text of a page."""
    forms = [plain(text), plain(unescape(re.sub(r"<[^>]*>", "", text)))]
    return [told for piece, told in pieces.items() if any(piece in form for form in forms)]


@pytest.fixture(scope="module")
def pieces():
    found = secrets()
    assert len(found) > 800
    return found


@pytest.fixture(scope="module")
def files():
    if not (STUDENT / "index.html").is_file():
        pytest.skip("the students' edition is not built here: run make student")
    return [path for path in STUDENT.rglob("*") if path.is_file() and "mathjax" not in path.parts]


def test_the_students_edition_holds_no_solution(files, pieces):
    for path in files:
        assert "solution" not in path.name, path
        text = path.read_bytes().decode("utf-8", errors="ignore")
        assert "solution_" not in text, path  # a value that a solution computes
        assert leaks(text, pieces) == [], path


def test_the_search_for_leaks_finds_one(files, pieces):
    """In a page, as the readers' edition shows it, and in a notebook."""
    for path in SOLUTIONS[:3]:
        page = ROOT / "_build" / "html" / "notebooks" / "solutions" / f"{path.stem}.html"
        assert len(leaks(page.read_text(encoding="utf-8"), pieces)) > 10
        assert len(leaks(path.read_text(encoding="utf-8"), pieces)) > 10


def test_every_exercise_of_the_students_edition_leads_to_its_starter(files):
    for path in SOLUTIONS:
        page = (STUDENT / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        links = re.findall(rf'href="exercises/{path.stem}\.html#(start-ex-[\d-]+)"', page)
        assert len(links) == len(set(links)) == page.count('class="exercise admonition"')
        assert f'href="../{path.stem}.html' in (STUDENT / "notebooks/exercises" / f"{path.stem}.html").read_text(
            "utf-8"
        )


def test_an_edition_that_does_not_exist_and_a_book_that_is_not_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    assert editions.build("student") == 1
    assert "run make book" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
