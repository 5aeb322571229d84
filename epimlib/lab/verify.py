"""Whether a record is still true: what it says is run again, and each metric is judged by the tolerance of its kind.

======== ==================================================================================================
exact    a count, a text or a bool must be the same
relative a number with decimals may differ by `RELATIVE`: processors and libraries add in different orders
spread   what differs between records of other seeds, as an accuracy does, may differ by `SPREAD` standard
         deviations of those records; a text must be one of theirs
timing   what a notebook reports as one is shown and not judged
======== ==================================================================================================
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epimlib._checks import read_json
from epimlib.lab.notebooks import TIMING, Notebook, execute, find_notebook, metrics_of
from epimlib.lab.parameters import resolve
from epimlib.lab.records import RunRecord, records_in

RELATIVE = 1e-4
ABSOLUTE = 1e-9
"""For what is zero apart from rounding."""
SPREAD = 4 * math.sqrt(2)
"""Standard deviations: two draws differ by more with a probability of 0.006%, were they normally distributed."""


@dataclass(frozen=True)
class Judgement:
    """One metric of a record, and what it is when the notebook is run again.

    Attributes:
        metric: its name.
        recorded, now: both values; ``now`` is None if the notebook no longer reports it.
        kind: ``exact``, ``relative``, ``spread`` or ``timing``.
        tolerance: by how much the two may differ, 0 for a text; None for a timing.
        holds: whether the record is still true in this; None for a timing.
    """

    metric: str
    recorded: Any
    now: Any
    kind: str
    tolerance: float | None
    holds: bool | None


def plan(paths: Iterable[str | Path]) -> tuple[dict[Path, tuple[RunRecord, Notebook]], int]:
    """Return the records that files and folders mean, each with its notebook, and how many are of trainings.

    Those of trainings take hours, and are left to ``epim train``.

    Raises:
        FileNotFoundError: if there is no such record.
        ValueError: if a file is no record, the notebook of one is not known or no longer takes its parameters, or all
            are of trainings.
    """
    records = {file: record for path in paths for file, record in records_in(path).items()}
    runs = {file: record for file, record in records.items() if not record.training}
    if not runs:
        raise ValueError(f"{next(iter(records))} is the record of a training, which epim train repeats")
    found = {}
    for file, record in runs.items():
        try:
            found[file] = record, Notebook.load(find_notebook(record.notebook))
            resolve(found[file][1].parameters, record.parameters)
        except (FileNotFoundError, TypeError, ValueError) as error:
            raise ValueError(f"{file} cannot be run again: {error}") from error
    return found, len(records) - len(runs)


def verify(record: RunRecord, notebook: Notebook, output: str | Path) -> list[Judgement]:
    """Run a notebook with the parameters of a record and judge every metric of the record.

    Args:
        record: of a run of the notebook.
        notebook: of which the committed records of other seeds say how much a metric spreads.
        output: where the folder of the run is made.

    Raises:
        RunError: if the run fails.
    """
    folder = execute(notebook, record.parameters, output)
    repeated = RunRecord.load(folder).metrics
    executed = read_json(folder / f"{notebook.path.stem}.ipynb", "executed notebook")
    timings = {name for metric, kind in metrics_of(executed) if kind == TIMING for name in metric}
    return judge(record, repeated, notebook.recorded().values(), timings)


def judge(
    record: RunRecord, repeated: Mapping[str, Any], recorded: Iterable[RunRecord], timings: Iterable[str] = ()
) -> list[Judgement]:
    """Judge every metric of a record.

    Args:
        record: what is doubted.
        repeated: metrics of the run that repeated it.
        recorded: records from which the spread is taken: those of the same parameters apart from ``seed``, without the
            record itself.
        timings: names of the metrics that are none of results.
    """
    seedless = record.parameters | {"seed": None}
    others = [r for r in recorded if r.parameters | {"seed": None} == seedless and r.started != record.started]
    judgements = []
    for name, value in record.metrics.items():
        now, drawn = repeated.get(name), [r.metrics[name] for r in others if name in r.metrics]
        if name in timings:
            kind, tolerance, holds = TIMING, None, None
        else:
            kind, tolerance, holds = _judge(value, now, drawn)
        judgements.append(Judgement(name, value, now, kind, tolerance, holds))
    return judgements


def _judge(value: Any, now: Any, drawn: list[Any]) -> tuple[str, float, bool]:
    """Return (kind, tolerance, whether it holds) of a metric, given its value in records of other seeds."""
    numbers = all(type(v) in (int, float) for v in (value, now, *drawn))
    if len(set(drawn)) > 1:
        if not numbers:
            return "spread", 0, value == now or {value, now} <= set(drawn)
        tolerance = SPREAD * statistics.stdev(drawn)
        return "spread", tolerance, abs(now - value) <= tolerance
    if numbers and float in (type(value), type(now)):
        tolerance = max(RELATIVE * max(abs(value), abs(now)), ABSOLUTE)
        return "relative", tolerance, abs(now - value) <= tolerance
    return "exact", 0, now == value and type(now) is type(value)
