"""The scripts that keep records of notebooks: of other seeds on three floating-point paths, and of a profile."""

from epimlib.lab.records import RunRecord
from tests.test_notebooks import load
from tests.test_runs import PROFILE, write

spread = load("notebooks/spread.py")
records = load("notebooks/records.py")

CELL = PROFILE + "seed: int = 0  # of everything [1], 0..9\n"
BODY = """import torch
from epimlib.lab import report
report(doubled=2 * seed, cpu=torch.backends.cpu.get_cpu_capability(), onednn=torch.backends.mkldnn.enabled)"""


def test_each_seed_leaves_a_record_of_each_path(tmp_path, monkeypatch):
    path = write(tmp_path / "notebooks" / "01_tiny.ipynb", BODY, cell=CELL)
    monkeypatch.setattr(spread, "RESULTS", tmp_path / "results")
    assert spread.main(str(path), seeds=1) == 0
    folder = tmp_path / "results" / "01_tiny"
    records = {file.stem: RunRecord.load(file) for file in folder.iterdir()}
    assert set(records) == {"default-s1", "sse41-s1", "no-onednn-s1"}
    for record in records.values():
        assert record.parameters == {"profile": "quick", "seed": 1}
        assert record.metrics["doubled"] == 2
    assert records["sse41-s1"].metrics["cpu"] == "DEFAULT"
    assert not records["no-onednn-s1"].metrics["onednn"]
    assert records["default-s1"].metrics["onednn"] == records["sse41-s1"].metrics["onednn"]


def test_a_profile_leaves_one_record_of_each_notebook(tmp_path, monkeypatch):
    path = write(tmp_path / "notebooks" / "01_tiny.ipynb", cell=PROFILE + "rows: int = 2  # rows [1], 1..9; full: 4\n")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    assert records.main("full", str(path)) == 0
    record = RunRecord.load(tmp_path / "results" / "01_tiny" / "full.json")
    assert record.parameters == {"profile": "full", "rows": 4}
    assert record.seconds > 0
