"""Run notebooks with the values of a profile and keep the records: records.py quick|full [NOTEBOOK ...].

Writes ``data/results/NOTEBOOK/PROFILE.json``, by default of all notebooks but those of which spread.py keeps records.
The book takes from these records how long a notebook runs, and what the full profile found. Commit first: a record
names the commit and whether files differ from it.
"""

import sys
import tempfile
from pathlib import Path

from epimlib.lab.notebooks import Notebook, execute, find_notebook, notebooks
from epimlib.lab.records import RunRecord

RESULTS = Path(__file__).parents[1] / "data" / "results"


def main(profile: str, *names: str) -> int:
    """Make the records, the files only when all are made, and return the exit code."""
    names = names or tuple(name for name in notebooks() if not any((RESULTS / name).glob("*-s*.json")))
    found = [Notebook.load(find_notebook(name)) for name in names]
    with tempfile.TemporaryDirectory(prefix="epimlib-") as scratch:
        made = {book.name: RunRecord.load(execute(book, {"profile": profile}, scratch)) for book in found}
    for name, record in made.items():
        (RESULTS / name).mkdir(parents=True, exist_ok=True)
        record.save(RESULTS / name / f"{profile}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
