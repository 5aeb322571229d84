"""Sweeps: a notebook at every point of a grid, checked before anything starts, and one table of what was found.

The file of a sweep is YAML::

    notebook: 05_epitome_network
    grid: {rows: [256, 512, 1024], wrap: [full, "1"]}      # every combination
    zip: {cols: [64, 128], family: [window, channel]}     # the first with the first, the second with the second
    points: [{network: resnet50}, {network: resnet101}]   # as they stand
    where: rows >= 512 or wrap == full                    # what is left of them (`epimlib.lab.where`)
    metric: network_blocks                                # what the figure shows; else the first that differs

``notebook`` and one of ``grid``, ``zip`` and ``points`` suffice; of several, every combination counts.
"""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epimlib._checks import LIBRARY, PROJECT, keys, line, read_yaml
from epimlib.lab.jobs import Job, run_point
from epimlib.lab.notebooks import Notebook, find_notebook
from epimlib.lab.parameters import named, resolve
from epimlib.lab.records import RECORD, RunRecord
from epimlib.lab.where import where

MOST_POINTS = 10_000
"""Of one sweep."""
UNREAD = ("cache", "sweeps", "results/sweeps")
"""Folders of ``data`` that no notebook computes from; data sets have checksums of their own."""


@dataclass(frozen=True)
class Sweep:
    """A notebook and the points at which it runs.

    Attributes:
        notebook: that runs.
        points: what the sweep gives to it at each point, checked; no two are the same.
        metric: that the figure shows; None is the first number that differs.
    """

    notebook: Notebook
    points: tuple[dict[str, Any], ...]
    metric: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> "Sweep":
        """Return the sweep that a file describes.

        Raises:
            FileNotFoundError: if the file or its notebook is missing.
            ValueError: if it is truncated, or a key, a parameter, a value or the filter is not allowed.
        """
        data = keys(f"{path}", read_yaml(path, "sweep"), ["notebook"], ["grid", "zip", "points", "where", "metric"])
        for name in ("notebook", "where", "metric"):
            if name in data and not isinstance(data[name], str):
                raise ValueError(f"{name} of {path} must be a text, got {line(repr(data[name]))}")
        notebook = Notebook.load(find_notebook(data["notebook"]))
        try:
            points = plan_points(notebook, *(data.get(name) for name in ("grid", "zip", "points", "where")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(notebook, points, data.get("metric"))

    def jobs(self, folder: Path) -> list[Job]:
        """Return a job for each point, in a folder of ``folder`` named by all that it depends on."""
        inputs, path = _inputs(self.notebook), str(self.notebook.path.resolve())
        found = []
        for point in self.points:
            values = resolve(self.notebook.parameters, point)
            files = {text: _digest(file) for text in _texts(values) if (file := self._file(text))}
            content = json.dumps([inputs, values, files], sort_keys=True)
            own = folder / hashlib.sha256(content.encode()).hexdigest()[:16]
            found.append(Job(own, point, functools.partial(run_point, path, values, own)))
        return found

    def _file(self, text: str) -> Path | None:
        """Return the file that a value names, if it names one."""
        files = (self.notebook.path.parent / text, Path(text))
        return next((file for file in files if text.isprintable() and len(text) < 256 and file.is_file()), None)


def plan_points(
    notebook: Notebook,
    grid: Mapping[str, Sequence[Any]] | None = None,
    zipped: Mapping[str, Sequence[Any]] | None = None,
    points: Sequence[Mapping[str, Any]] | None = None,
    condition: str | None = None,
) -> tuple[dict[str, Any], ...]:
    """Return the points of a sweep, each checked against the lines of the parameters cell.

    Args:
        notebook: that they are for.
        grid: values of parameters, of which every combination counts; the last one changes fastest.
        zipped: values of parameters, equally many, of which the first go together, and the second, and so on.
        points: parameters as they stand.
        condition: a filter of `where`, of all parameters.

    Raises:
        TypeError, ValueError: naming what is not allowed. More than `MOST_POINTS` are counted and not made.
    """
    for what, values in (("grid", grid), ("zip", zipped)):
        if values is not None and not (isinstance(values, Mapping) and values):
            raise ValueError(f"{what} must be a mapping of parameters to lists, got {line(repr(values))}")
        for name, listed in (values or {}).items():
            if not isinstance(listed, list) or not listed:
                raise ValueError(f"{what} must list values of {name}, got {line(repr(listed))}")
    if points is not None and not (isinstance(points, list) and points and all(isinstance(p, Mapping) for p in points)):
        raise ValueError(f"points must be a list of mappings, at least one, got {line(repr(points))}")
    if len({len(values) for values in (zipped or {}).values()}) > 1:
        counts = ", ".join(f"{name} {len(values)}" for name, values in zipped.items())
        raise ValueError(f"zip must list equally many values of each parameter, got {counts}")
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] if zipped else [{}]
    axes = [points or [{}], rows, *([{name: value} for value in values] for name, values in (grid or {}).items())]
    count = math.prod(map(len, axes))
    if count > MOST_POINTS:
        raise ValueError(f"a sweep has at most {MOST_POINTS} points, got {count}")
    for first, second in itertools.combinations(axes, 2):
        if twice := {*itertools.chain(*first)} & {*itertools.chain(*second)}:
            raise ValueError(f"a parameter has one place in a sweep, {sorted(twice)[0]!r} has two")
    checked = [[{n: named(notebook.parameters, n).check(v) for n, v in part.items()} for part in axis] for axis in axes]
    found = [functools.reduce(lambda a, b: a | b, parts) for parts in itertools.product(*checked)]
    if condition is not None:
        holds = where(condition, [parameter.name for parameter in notebook.parameters])
        found = [point for point in found if holds(resolve(notebook.parameters, point))]
        if not found:
            raise ValueError(f"where leaves none of the {count} points: {line(condition)}")
    return tuple({json.dumps(point, sort_keys=True): point for point in found}.values())


def _texts(values: Mapping[str, Any]) -> list[str]:
    elements = itertools.chain(*(value if isinstance(value, list) else [value] for value in values.values()))
    return [element for element in elements if isinstance(element, str)]


def _inputs(notebook: Notebook) -> list[Any]:
    """Return what every point of a notebook depends on: its file, the library, its data and other packages."""
    data = PROJECT / "data"
    skipped = {data / name for name in UNREAD}
    files = {
        path.relative_to(root.parent).as_posix(): _digest(path)
        for root in (LIBRARY, data)
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and skipped.isdisjoint(path.parents)
    }
    versions = RunRecord.of(notebook.name, {}, datetime.now(UTC)).versions
    return [notebook.name, _digest(notebook.path), files, versions]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seconds_each(sweep: Sweep, folder: Path) -> float | None:
    """Return how long a point takes, the mean of the records of this sweep, else of those committed, else None [s]."""
    own = [
        record for record in map(RunRecord.load, folder.glob(f"*/{RECORD}")) if record.notebook == sweep.notebook.name
    ]
    seconds = [record.seconds for record in own or sweep.notebook.recorded().values()]
    return sum(seconds) / len(seconds) if seconds else None
