"""Run notebooks and keep the outputs that nbval compares: ``python -m tests.outputs NOTEBOOK...`` (make outputs).

A cell tagged ``nbval-ignore-output`` keeps none. Pictures are dropped everywhere: nbval does not compare them.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from epimlib._checks import write_text

PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def refresh(path: str) -> None:
    """Execute a notebook in its own folder and write it back with the outputs that are compared."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(Path(path).parent)}}
    NotebookClient(notebook, timeout=300, record_timing=False, resources=folder).execute()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
        for output in cell.outputs:
            for kind in PICTURES:
                output.get("data", {}).pop(kind, None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    write_text(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    for path in tqdm(sys.argv[1:], unit="notebook", disable=None):
        refresh(path)
