"""Run a notebook with other seeds on three floating-point paths, and keep the records: spread.py NOTEBOOK [SEEDS].

What one trained network shows may be its luck. This repeats a notebook that has a parameter ``seed`` with the seeds 1
to SEEDS (6) and writes ``data/results/NOTEBOOK/<path>-s<seed>.json``, one record a run. The paths differ in the order
in which sums are rounded: what this processor can do, what every x86-64 processor can do, and without oneDNN.
"""

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from epimlib.lab.notebooks import Notebook, execute, find_notebook
from epimlib.lab.records import RECORD, RunRecord

RESULTS = Path(__file__).parents[1] / "data" / "results"
OFF = "import torch\n\ntorch.backends.mkldnn.enabled = False\n"


def main(name: str, seeds: int = 6) -> int:
    """Make the records and return the exit code."""
    notebook = Notebook.load(find_notebook(name))
    with tempfile.TemporaryDirectory(prefix="epimlib-") as scratch:
        (Path(scratch) / "sitecustomize.py").write_text(OFF, encoding="utf-8")
        first = os.pathsep.join(filter(None, [scratch, os.environ.get("PYTHONPATH")]))
        paths = {
            "default": {},
            "sse41": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
            "no-onednn": {"PYTHONPATH": first},
        }
        for seed in range(1, seeds + 1):
            for path, environment in paths.items():
                with patch.dict(os.environ, environment):
                    folder = execute(notebook, {"seed": seed}, Path(scratch) / path)
                RunRecord.load(folder / RECORD).save(RESULTS / notebook.name / f"{path}-s{seed}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:3])))
