"""Verification: the tolerance of each kind of metric, and what is run again."""

import dataclasses

import pytest

from epimlib.lab.notebooks import KIND, TIMING, Notebook, report
from epimlib.lab.records import RunRecord
from epimlib.lab.verify import judge, plan, verify
from tests.test_runs import RECORD, write

SEEDS = [("conv1", 97.0, 20), ("conv1", 98.0, 22), ("conv5", 99.0, 21)]


def record(seed: int = 0, **metrics) -> RunRecord:
    """Return the record of a seed."""
    started = f"2026-01-02T03:04:0{seed}+00:00"
    return dataclasses.replace(
        RECORD, parameters={"profile": "quick", "rows": 64, "seed": seed}, metrics=metrics, started=started
    )


@pytest.mark.parametrize(
    ("recorded", "now", "kind", "holds"),
    [
        (428, 428, "exact", True),
        (428, 427, "exact", False),
        (428, 428.0, "relative", True),
        (10**40, 10**40 + 1, "exact", False),
        ("window", "window", "exact", True),
        ("window", "channel", "exact", False),
        (True, True, "exact", True),
        (True, 1, "exact", False),
        (0.5, 0.5, "relative", True),
        (0.5, 0.50004, "relative", True),
        (0.5, 0.5001, "relative", False),
        (-0.5, -0.5001, "relative", False),
        (4.4e-16, 0.0, "relative", True),
        (1e-6, 2e-6, "relative", False),
        (428, None, "exact", False),
        (0.5, None, "exact", False),
        (0.5, "0.5", "exact", False),
    ],
)
def test_counts_are_exact_and_decimals_nearly_so(recorded, now, kind, holds):
    repeated = {} if now is None else {"metric": now}
    (judgement,) = judge(record(metric=recorded), repeated, [])
    assert (judgement.kind, judgement.holds) == (kind, holds)
    assert (judgement.metric, judgement.recorded, judgement.now) == ("metric", recorded, now)


@pytest.mark.parametrize(
    ("metric", "recorded", "now", "holds"),
    [
        ("accuracy", 98.0, 98.0, True),
        ("accuracy", 98.0, 98.01 - 4 * 2**0.5, True),  # one is the standard deviation
        ("accuracy", 98.0, 97.99 - 4 * 2**0.5, False),
        ("accuracy", 50.0, 98.0, False),
        ("won", 20, 22, True),
        ("won", 20, 26, False),
        ("layer", "conv1", "conv5", True),
        ("layer", "conv3", "conv3", True),
        ("layer", "conv3", "conv1", False),
        ("layer", "conv1", "conv3", False),
        ("layer", "conv1", None, False),
        ("won", 20, None, False),
    ],
)
def test_what_differs_between_seeds_has_their_spread(metric, recorded, now, holds):
    others = [record(n, layer=a, accuracy=b, won=c) for n, (a, b, c) in enumerate(SEEDS, 1)]
    own = record(0, **{metric: recorded})
    (judgement,) = judge(own, {} if now is None else {metric: now}, [own, *others])
    assert (judgement.kind, judgement.holds) == ("spread", holds)


def test_a_record_does_not_widen_its_own_tolerance():
    own, other = record(0, accuracy=1.0), record(1, accuracy=98.0)
    assert judge(own, {"accuracy": 98.0}, [own, other])[0].kind == "relative"


def test_what_is_equal_for_all_seeds_is_exact():
    others = [record(seed, crossbars=160) for seed in (1, 2, 3)]
    assert not judge(record(0, crossbars=161), {"crossbars": 160}, others)[0].holds


def test_records_of_other_parameters_say_nothing_of_the_spread():
    others = [record(seed, accuracy=90.0 + seed) for seed in (1, 2)]
    others = [dataclasses.replace(o, parameters=o.parameters | {"rows": 128}) for o in others]
    assert judge(record(0, accuracy=98.0), {"accuracy": 98.1}, others)[0].kind == "relative"


def test_a_timing_is_shown_and_not_judged():
    (judgement,) = judge(record(time=1.5), {"time": 3.0}, [], {"time"})
    assert (judgement.kind, judgement.tolerance, judgement.holds, judgement.now) == (TIMING, None, None, 3.0)


def test_a_notebook_says_which_of_its_metrics_are_timings(tmp_path):
    code = "from epimlib.lab import report\nreport('timing', clock=1.5)\nreport(count=3)"
    notebook = Notebook.load(write(tmp_path / "notebooks" / "03_mapping.ipynb", code))
    judged = verify(dataclasses.replace(RECORD, metrics={"clock": 9.0, "count": 3}), notebook, tmp_path / "runs")
    assert [(j.metric, j.kind, j.holds) for j in judged] == [("clock", "timing", None), ("count", "exact", True)]


def test_a_metric_has_no_other_kind(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(options["metadata"]))
    report("timing", clock=1.5)
    report(kind="timing")
    assert [metadata.get(KIND) for metadata in shown] == ["timing", None]
    with pytest.raises(ValueError, match="kind must be one of '', 'timing', got 'time'"):
        report("time", clock=1.5)


def test_trainings_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks" / "03_mapping.ipynb")
    RECORD.save(tmp_path / "results" / "03_mapping" / "quick.json")
    for name in ("train", "train digits/dense-s0"):
        dataclasses.replace(RECORD, notebook=name).save(tmp_path / "results" / f"{name[-5:]}.json")
    found, trainings = plan(["results"])
    assert ([(record, notebook.name) for record, notebook in found.values()], trainings) == (
        [(RECORD, "03_mapping")],
        2,
    )
