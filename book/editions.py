"""Build the book for a class or for a lecturer: editions.py student|instructor.

- The student's edition has no solutions. A notebook with starters takes the place of each notebook with solutions: it
  is cut from it, so that the two cannot drift apart, and it holds the text of each exercise.
- The lecturer's edition is the readers' book and the guide in ``book/teach``.

Both are made from a copy of the sources in ``_build/editions``, with the outputs that ``make book`` left in the cache,
and come to lie in ``_build/student`` and ``_build/instructor``.
"""

import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import yaml
from slides import Chapter

ROOT = Path(__file__).parents[1]
SOURCES = ("_config.yml", "_toc.yml", "book", "data", "epimlib", "notebooks", "constraints.txt", "CHANGELOG.md")
OPEN = "...  # your code here"
SOLUTION = re.compile(r"^(`{3,})\{solution(-start|-end)?\} *(\S*)\n.*?^\1$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$", re.MULTILINE | re.DOTALL)
GLUED = re.compile(r"\{glue:text\}`([^`]+)`")


def exercises(chapter: Chapter) -> dict[str, tuple[str, str]]:
    """Return title and text of a chapter's exercises, by label, as they stand in a page in a folder beside it."""
    found = {}
    for label, (title, text) in chapter.exercises.items():
        text = GLUED.sub(lambda name: chapter.reported(name[1]), text)
        found[label] = title, re.sub(r"\{doc\}`(?=\w)", "{doc}`../", text).strip()
    return found


def started(label: str, title: str, text: str, written: bool) -> Any:
    """Return the cell that names an exercise, with a place for a written answer or not."""
    number = ".".join(str(int(part)) for part in label.split("-")[1:])
    source = f"(start-{label})=\n## Exercise {number}: {title}\n\n{text}"
    source += "\n\n*Your answer:*" * written
    return nbformat.v4.new_markdown_cell(source, id=f"start-{label}")


def cut(solutions: Any, asked: dict[str, tuple[str, str]]) -> tuple[Any, dict[int, Any]]:
    """Cut what solves the exercises out of a notebook with solutions.

    A code cell within a solution goes as a whole, or between the lines ``# BEGIN SOLUTION`` and ``# END SOLUTION``
    where it has them; one with the tag ``test`` stays.

    Args:
        solutions: the notebook.
        asked: title and text of each exercise, by its label.

    Returns:
        The notebook with starters, and the cells that were taken out or changed, by their place, for `restore`.
    """
    starter, taken, inside = deepcopy(solutions), {}, None
    starter.cells = []
    for place, cell in enumerate(solutions.cells):
        if cell.cell_type == "markdown" and (inside or SOLUTION.search(cell.source)):
            taken[place] = cell
            for _, kind, label in SOLUTION.findall(cell.source):
                inside = {"-start": label, "-end": None}.get(kind, inside)
                if kind != "-end":
                    starter.cells.append(started(label, *asked[label], written=not kind))
        elif inside and "test" not in cell.metadata.get("tags", []):
            taken[place] = cell
            begun, marks = MARKED.subn(rf"\1{OPEN}", cell.source)
            if marks or starter.cells[-1].source != OPEN:  # cells that go as a whole leave one place to write
                starter.cells.append(nbformat.v4.new_code_cell(begun if marks else OPEN, id=f"open-{place}"))
        else:
            starter.cells.append(deepcopy(cell))
    taken[0] = solutions.cells[0]
    heading = taken[0].source.partition("\n")[0].replace("# Solutions: ", "# Exercises: ")
    starter.cells[0] = nbformat.v4.new_markdown_cell(heading, id="start-title")
    return starter, taken


def restore(starter: Any, taken: dict[int, Any]) -> Any:
    """Put back what `cut` took; what it left as it was comes between."""
    whole = deepcopy(starter)
    left = [cell for cell in starter.cells if not re.match(r"(start|open)-", cell.id)]
    rest = iter(left)
    whole.cells = [taken[place] if place in taken else next(rest) for place in range(len(taken) + len(left))]
    return whole


def starters(folder: Path) -> dict[str, Any]:
    """Return the notebooks with starters, by name; the cache of ``make book`` holds what the chapters reported."""
    return {
        path.stem: cut(nbformat.read(path, as_version=4), exercises(Chapter.load(path.stem)))[0]
        for path in sorted((folder / "solutions").glob("*.ipynb"))
    }


def for_class(source: Path, toc: dict, config: dict) -> None:
    """Make the sources of a copy of the project those of the student's edition."""
    made = starters(source / "notebooks")
    shutil.rmtree(source / "notebooks" / "solutions")
    (source / "book" / "solutions.md").unlink()
    (source / "notebooks" / "exercises").mkdir()
    for name, starter in made.items():
        nbformat.write(starter, source / "notebooks" / "exercises" / f"{name}.ipynb")
    (source / "book" / "exercises.md").write_text(EXERCISES, encoding="utf-8")
    config["title"] += ", for students"
    config["execute"]["exclude_patterns"] = ["notebooks/exercises/*"]
    for part in toc["parts"]:
        for page in part["chapters"]:
            if page.get("file") == "book/solutions":
                page["file"] = "book/exercises"
                page["sections"] = [{"file": f"notebooks/exercises/{name}"} for name in made]


def for_lecturer(source: Path, toc: dict, config: dict) -> None:
    """Make the sources of a copy of the project those of the lecturer's edition."""
    guide = yaml.safe_load((source / "book" / "teach" / "toc.yml").read_text(encoding="utf-8"))
    toc["parts"].insert(0, {"caption": "Teach", "chapters": [{"file": f"book/teach/{page}"} for page in guide]})
    config["title"] += ", for lecturers"


EDITIONS = {"student": for_class, "instructor": for_lecturer}
EXERCISES = """# Exercises

For each chapter a notebook with its exercises, the cells to begin from and, where code is asked for, the cells that
check it. Download it with the button at the top of its page, put it into the folder `notebooks/exercises` of a clone,
and open it there: it needs the library, and some read the project's data.

```{tableofcontents}
```
"""


def build(edition: str) -> int:
    """Build an edition and return the exit code; the one that was there before is replaced by a whole one only."""
    if not (ROOT / "_build" / "html" / "index.html").is_file():
        print("editions: there is no built book in _build/html; run make book", file=sys.stderr)
        return 1
    source, target = ROOT / "_build" / "editions" / edition, ROOT / "_build" / edition
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "cache"))
        else:
            shutil.copy2(ROOT / name, source / name)
    shutil.copytree(ROOT / "_build" / "explore", source / "_build" / "explore")  # what takes a minute to compute
    config, toc = (yaml.safe_load((source / name).read_text(encoding="utf-8")) for name in ("_config.yml", "_toc.yml"))
    config["execute"]["cache"] = str(ROOT / ".jupyter_cache")
    EDITIONS[edition](source, toc, config)
    for name, content in (("_config.yml", config), ("_toc.yml", toc)):
        (source / name).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", ".", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=source, stdout=subprocess.DEVNULL, check=False)  # warnings are on stderr
    if done.returncode:
        return 1
    shutil.rmtree(target, ignore_errors=True)
    (source / "_build" / "html").replace(target)
    shutil.rmtree(source)
    print(f"The {edition}'s edition is {target.relative_to(ROOT)}/index.html.")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in EDITIONS:
        print(f"editions: one of {', '.join(EDITIONS)} is needed, got {sys.argv[1:]}", file=sys.stderr)
        sys.exit(2)
    sys.exit(build(sys.argv[1]))
