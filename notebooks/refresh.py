"""Execute the notebooks and keep only the outputs that nbval compares: refresh.py [NOTEBOOK ...].

A notebook of this project is committed without outputs, apart from those of cells tagged ``nbval-check-output``.
Run this after a change of such a cell or of what it computes, read the diff, and commit it. A second run changes
nothing.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from epimlib._checks import write_text

CELL_METADATA = ("tags", "mystnb", "slideshow")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def strip(notebook: Any) -> Any:
    """Return the notebook, changed in place, with nothing in it that depends on who executed it and when."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        if cell.cell_type == "code":
            compared = "nbval-check-output" in cell.metadata.get("tags", [])
            cell.execution_count = 1 if compared else None  # nbval refuses an output without one
            if not compared:
                cell.outputs = []
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
    return notebook


def text(notebook: Any) -> str:
    """Return the text of the notebook's file."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def refresh(path: Path) -> bool:
    """Execute a notebook in its own folder, write it if that changes the file, and return whether it does.

    Raises:
        CellExecutionError: if a cell fails; the file is left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    new = text(strip(client.execute()))
    changed = new != path.read_text(encoding="utf-8")
    if changed:
        write_text(path, new)
    return changed


def main(arguments: list[str]) -> int:
    """Refresh the named notebooks, or all of this folder, and return the exit code."""
    here = Path(__file__).parent
    paths = [Path(name) for name in arguments] or sorted([*here.glob("*.ipynb"), *here.glob("solutions/*.ipynb")])
    for path in tqdm(paths, unit="notebook"):
        try:
            if refresh(path):
                tqdm.write(f"changed: {path}")
        except CellExecutionError as error:
            print(f"{path}: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
