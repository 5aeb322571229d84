"""What a finished run was and what it found: the record, its file, and the comparison of two."""

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from epimlib._checks import LIBRARY, PROJECT, keys, line, read_json, write_json

METRIC = "application/vnd.epimlib.metric+json"
METRICS = (int, float, str, bool)
RECORD = "record.json"
PACKAGES = ("epimlib", "numpy", "scipy", "pandas", "matplotlib", "torch", "torchvision", "timm", "papermill")


@dataclass(frozen=True)
class RunRecord:
    """What a finished run was and what it found; ``record.json`` in the folder of the run.

    Attributes:
        notebook: name of the notebook, or of a training: ``train`` and, of one of a file of experiments,
            ``STUDY/RUN-sSEED`` behind it.
        parameters: value of every parameter, ``profile`` and, where there is one, ``seed`` among them.
        versions: of Python and of the main packages; of a training also the checksum of its data set, under its name.
        commit: Git commit of the notebook, None outside a repository and for a notebook that came with a wheel.
        dirty: whether files of the repository differed from that commit, None outside a repository.
        machine: platform, processor, number of cores, and of threads where that is known: it changes the order in which
            numbers are added, and so what training ends with. Of a training also its processes, which do the same.
        started: UTC, ISO 8601.
        seconds: wall time of the notebook or of the epochs [s].
        metrics: the numbers that the notebook reported, or those of `epimlib.train.training.train`.
    """

    notebook: str
    parameters: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    machine: dict[str, Any]
    started: str
    seconds: float
    metrics: dict[str, Any]

    def __post_init__(self) -> None:
        for name, kind in (
            *(("notebook", str), ("started", str), ("commit", str | None), ("dirty", bool | None)),
            *((name, dict) for name in ("parameters", "versions", "machine", "metrics")),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} of a run record has the wrong type: {getattr(self, name)!r}")
        if type(self.seconds) not in (int, float) or not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds of a run record must be a number of at least 0, got {self.seconds!r}")
        try:
            datetime.fromisoformat(self.started)
        except ValueError:
            raise ValueError(f"started of a run record must be a time, ISO 8601, got {self.started!r}") from None
        for name, value in self.metrics.items():
            if type(value) not in METRICS or (type(value) is float and not math.isfinite(value)):
                raise ValueError(f"metric {name} of a run record must be a finite number, text or bool, got {value!r}")

    @property
    def training(self) -> bool:
        """Whether it is of a training, and not of a notebook."""
        return self.notebook.partition(" ")[0] == "train"

    @classmethod
    def load(cls, path: str | Path) -> "RunRecord":
        """Return the record at ``path``, a file or the folder of a run.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is truncated, or its keys or their types are not those of a record.
        """
        path = Path(path)
        if path.is_dir():
            path = path / RECORD
            if not path.exists():
                raise FileNotFoundError(f"no {path}; a run that failed or was interrupted leaves no record")
        data = read_json(path, "run record")
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def of(
        cls, notebook: str, parameters: dict[str, Any], started: datetime, folder: Path | None = None
    ) -> "RunRecord":
        """Return the record of a run that starts now, with nothing found yet.

        ``folder`` is where what is run lies; None is the clone of this library.
        """
        commit, dirty = _git_state(folder or PROJECT)
        when = started.isoformat(timespec="seconds")
        return cls(notebook, parameters, _versions(), commit, dirty, _machine(), when, 0.0, {})

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    def values(self) -> dict[str, Any]:
        """Return what filters and tables name: notebook, started, seconds and commit, parameters, and metrics.

        Of a parameter and a metric of one name it is the parameter.
        """
        own = {name: getattr(self, name) for name in ("notebook", "started", "seconds", "commit")}
        return own | {k: v for k, v in (self.parameters | self.metrics | self.parameters).items() if k not in own}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunRecord":
        """Return the record of ``to_dict``; unknown, missing or mistyped keys raise ``ValueError``."""
        keys("a run record", data, [field.name for field in fields(cls)])
        return cls(**data)

    def __str__(self) -> str:
        metrics = table(("metric", "value"), list(self.metrics.items()))
        return f"{self.notebook}, {self.started}, {self.seconds:.1f} s\n\n{metrics}"


def compare_runs(*runs: RunRecord) -> tuple[list[tuple], list[tuple]]:
    """Return what differs between two or more runs of one notebook, or trainings.

    Returns:
        The parameters that differ as (name, one value for each run), and every metric as (name, one value for each run,
        last - first, last / first); None stands for a value that a run lacks or that cannot be computed.

    Raises:
        ValueError: if the runs are of different notebooks.
    """
    notebooks = dict.fromkeys(re.sub(r"^train [^/]+/.+-s\d+$", "train", run.notebook) for run in runs)
    if len(notebooks) > 1:
        raise ValueError(f"runs of different notebooks, {' and '.join(notebooks)}, do not compare")
    parameters = [row for row in _beside([r.parameters for r in runs]) if any(value != row[1] for value in row[2:])]
    metrics = []
    for name, *values in _beside([run.metrics for run in runs]):
        first, last = values[0], values[-1]
        numbers = type(first) in (int, float) and type(last) in (int, float)
        metrics.append((name, *values, last - first if numbers else None, last / first if numbers and first else None))
    return parameters, metrics


def _beside(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for name in dict.fromkeys(name for values in found for name in values):
        yield name, *(values.get(name) for values in found)


def records_in(path: str | Path) -> dict[Path, RunRecord]:
    """Return the records that a file or a folder means, by their files and in their order.

    A folder means the runs somewhere below it, each a folder with a ``record.json``, or, where there are none, all
    JSON files below it, as in ``data/results``.

    Raises:
        FileNotFoundError: if there is no such file or folder, or no record in it.
        ValueError: if a file is no record.
    """
    path = Path(path)
    if not path.is_dir():
        return {path: RunRecord.load(path)}
    files = sorted(path.rglob(RECORD)) or sorted(path.rglob("*.json"))
    if not files:
        raise FileNotFoundError(f"no record of a run in {path}; a run that failed or was interrupted leaves none")
    return {file: RunRecord.load(file) for file in files}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned text; floats with six digits, None as a dash."""
    cells = [list(header), *([text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def text(value: Any) -> str:
    """Return a value as a table shows it."""
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else line(value)


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit and whether files differ from it; None where there is no repository or no Git."""
    if folder.resolve().is_relative_to(LIBRARY):  # installed; a repository around it is another one's
        return None, None
    commit = _git(folder, "rev-parse", "HEAD")
    return commit, None if commit is None else _git(folder, "status", "--porcelain") != ""


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _machine() -> dict[str, Any]:
    """Return what the machine is, but not which one: no host name, no user, no path."""
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() says nothing on Linux
    models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    known = {"platform": platform.platform(), "processor": processor, "cores": os.cpu_count()}
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules:  # it trains in this process
        known["threads"] = sys.modules["torch"].get_num_threads()
    elif threads.isdecimal():
        known["threads"] = int(threads)
    return known
