"""Runs of notebooks: what a notebook is, how it is executed, and the record that a run leaves."""

import itertools
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from epimlib import _checks
from epimlib._checks import keys, line, make_folder, nearest, read_json, write_json, write_text
from epimlib.parameters import Parameter, check, parse_parameters, require, resolve

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Notebook",
    "RunError",
    "RunRecord",
    "check",
    "compare",
    "execute",
    "find_notebook",
    "notebooks",
    "over_seeds",
    "report",
    "require",
    "results",
]

METRIC = "application/vnd.epimlib.metric+json"
METRICS = (int, float, str, bool)
RECORD = "record.json"
PACKAGES = ("epimlib", "numpy", "scipy", "pandas", "matplotlib", "torch", "torchvision", "timm", "papermill")


def report(**values: int | float | str | bool) -> None:
    """Put numbers of this notebook into its run record, and glue them for the prose of the book.

    Nothing is shown. In the book ``{glue:text}`name``` stands for the value.

    Raises:
        TypeError: if a value is neither a number, a text nor a bool.
        ValueError: if a number is not finite.
    """
    from IPython.display import display

    for name, value in values.items():
        value = value.item() if hasattr(value, "item") else value  # of NumPy or torch
        if type(value) not in METRICS:
            raise TypeError(f"{name} must be a number, a text or a bool, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}")
        # The form of myst_nb.glue(name, value, display=False), which only the book's environment has.
        prefix = "application/papermill.record/"
        display(
            {METRIC: {name: value}, f"{prefix}text/plain": repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
            raw=True,
        )


@dataclass(frozen=True)
class Notebook:
    """What a notebook file says of itself, read without a kernel.

    Attributes:
        path: the file.
        title: its first heading.
        parameters: its parameters, in the order of the parameters cell.
    """

    path: Path
    title: str
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        """Return the path below the folder ``notebooks``, or else the file name, without the suffix."""
        path = self.path.resolve().with_suffix("")
        folder = next((parent for parent in path.parents if parent.name == "notebooks"), path.parent)
        return path.relative_to(folder).as_posix()

    @classmethod
    def load(cls, path: str | Path) -> "Notebook":
        """Return the notebook at ``path``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is truncated or no notebook, or if its first code cell does not declare parameters.
        """
        path = Path(path)
        data = read_json(path, "notebook")
        cells = data.get("cells") if isinstance(data, dict) else None
        if not isinstance(cells, list) or not all(isinstance(c, dict) and _source(c) is not None for c in cells):
            raise ValueError(f"{path} is not a notebook of format 4: it has no list of cells")
        code = [cell for cell in cells if cell.get("cell_type") == "code"]
        if not code or "parameters" not in _tags(code[0]):
            raise ValueError(f"the first code cell of {path} is not tagged 'parameters'")
        texts = [_source(cell) for cell in cells if cell.get("cell_type") == "markdown"]
        title = re.search(r"^# +(.+?) *$", "\n".join(texts), re.MULTILINE)
        parameters = parse_parameters(_source(code[0]), f"{path}, parameters cell")
        return cls(path, title[1] if title else path.stem, parameters)


def _source(cell: Mapping[str, Any]) -> str | None:
    source = cell.get("source")
    lines = source if isinstance(source, list) else [source]
    return "".join(lines) if all(isinstance(line, str) for line in lines) else None


def _tags(cell: Mapping[str, Any]) -> list[Any]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []


def notebooks() -> dict[str, Path]:
    """Return the notebooks of the project by name: those below the current folder, else those beside epimlib.

    Raises:
        FileNotFoundError: if neither place has a folder ``notebooks``.
    """
    for folder in (Path("notebooks"), Path(__file__).parents[1] / "notebooks"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    raise FileNotFoundError("no folder 'notebooks' here; change to a clone of the project or name a file")


def find_notebook(name: str) -> Path:
    """Return the file that a path, a name such as ``03_mapping``, or its topic ``mapping`` means.

    Raises:
        FileNotFoundError: naming the nearest known one.
    """
    if name.endswith(".ipynb"):
        return Path(name)
    known = notebooks()
    topics = {stem.partition("_")[2]: stem for stem in known}
    stem = topics.get(name, name)
    if stem not in known:
        raise FileNotFoundError(f"unknown notebook {name!r}; {nearest(name, topics)}")
    return known[stem]


@dataclass(frozen=True)
class RunRecord:
    """What a finished run was and what it found; ``record.json`` in the folder of the run.

    Attributes:
        notebook: name of the notebook.
        parameters: value of every parameter, ``profile`` and, where there is one, ``seed`` among them.
        versions: of Python and of the main packages.
        commit: Git commit of the notebook, None outside a repository.
        dirty: whether files of the repository differed from that commit, None outside a repository.
        machine: platform, processor, number of cores, and of threads where that is known: it changes the order in which
            numbers are added, and so what training ends with.
        started: UTC, ISO 8601.
        seconds: wall time of the notebook [s].
        metrics: the numbers that the notebook reported.
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
    def of(cls, notebook: str, parameters: dict[str, Any], started: datetime) -> "RunRecord":
        """Return the record of a run that starts in this process, with nothing found yet."""
        commit, dirty = _git_state(Path(__file__).parent)
        when = started.isoformat(timespec="seconds")
        return cls(notebook, parameters, _versions(), commit, dirty, _machine(), when, 0.0, {})

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.to_dict())

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


def compare(first: RunRecord, second: RunRecord) -> tuple[list[tuple], list[tuple]]:
    """Return what differs between two runs of one notebook.

    Returns:
        The parameters that differ as (name, first, second), and every metric as (name, first, second, second -
        first, second / first); None stands for a value that a run lacks or that cannot be computed.

    Raises:
        ValueError: if the runs are of different notebooks.
    """
    if first.notebook != second.notebook:
        raise ValueError(f"runs of different notebooks, {first.notebook} and {second.notebook}, do not compare")
    parameters = [row for row in _beside(first.parameters, second.parameters) if row[1] != row[2]]
    metrics = []
    for name, a, b in _beside(first.metrics, second.metrics):
        numbers = type(a) in (int, float) and type(b) in (int, float)
        metrics.append((name, a, b, b - a if numbers else None, b / a if numbers and a else None))
    return parameters, metrics


def _beside(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in first | second:
        yield name, first.get(name), second.get(name)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned text; floats with six digits, None as a dash."""
    cells = [list(header), *([_text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else line(value)


def results(study: str, folder: str | Path | None = None) -> "pd.DataFrame":
    """Return the committed records of a study, one row each.

    Args:
        study: a folder of records, ``cifar10`` for instance.
        folder: that holds the studies; None is ``data/results`` of the clone.

    Returns:
        Columns ``run`` and ``seed``, from the record's file name, ``<run>-s<seed>.json``, its metrics, and ``cost``,
        how many points of accuracy it lies below the run ``dense`` of the same seed (nan where that has not ended);
        sorted by run and seed. Without rows if there is no record yet.

    Raises:
        ValueError: if ``study`` is no name, a file is no record, or its name is another one.
    """
    import pandas as pd

    folder = Path(folder) if folder is not None else Path(__file__).parents[1] / "data" / "results"
    rows = []
    for path in sorted((folder / _checks.name("study", study)).glob("*.json")):
        parts = re.fullmatch(r"(.+)-s(\d{1,10})", path.stem)
        if parts is None:
            raise ValueError(f"the file of a record must be named <run>-s<seed>.json, got {path.name!r}")
        rows.append({"run": parts[1], "seed": int(parts[2]), **RunRecord.load(path).metrics})
    if not rows:
        return pd.DataFrame(columns=["run", "seed"])
    table = pd.DataFrame(rows)
    dense = table[table["run"] == "dense"].set_index("seed")["accuracy"]
    return table.assign(cost=table["seed"].map(dense) - table["accuracy"])


def over_seeds(records: "pd.DataFrame", by: list[str]) -> "pd.DataFrame":
    """Return one row for all seeds of a run, in the order in which the runs first appear.

    Args:
        records: rows of `results`, perhaps with more columns.
        by: columns that tell runs apart, ``["run"]`` within a study.

    Returns:
        ``seeds``, their number; the means of ``accuracy``, ``cost`` (nan where a seed has no dense run), ``crossbars``
        and ``factor``; and ``spread``, the largest accuracy of a seed minus the smallest [points], nan for a single
        seed.
    """
    groups = records.groupby(by, sort=False)
    table = groups[["accuracy", "cost", "crossbars", "factor"]].mean()
    table["cost"] = table["cost"].where(groups["cost"].count() == groups["accuracy"].count())
    seeds, spread = groups["accuracy"].count(), groups["accuracy"].max() - groups["accuracy"].min()
    return table.assign(seeds=seeds, spread=spread.where(seeds > 1))[
        ["seeds", "accuracy", "spread", "cost", "crossbars", "factor"]
    ]


class RunError(RuntimeError):
    """A run that started did not end well."""


def execute(notebook: Notebook, given: Mapping[str, Any], output: str | Path = "runs") -> Path:
    """Run a notebook in its own folder and return the folder of the run, a new one in ``output``.

    That holds the executed notebook, its HTML page and, written last, the record. A run that fails or is
    interrupted leaves the cells executed so far in a notebook ``*.partial.ipynb`` and no record.

    Raises:
        ValueError, TypeError: before a kernel starts, if a parameter is unknown, of another type or out of range,
            or the file is no valid notebook.
        OSError: before a kernel starts, if ``output`` cannot be written.
        RunError: if the run started and a cell raised, the kernel died or the disk was full.
    """
    values = resolve(notebook.parameters, given)
    import nbformat
    import papermill

    try:
        source = nbformat.read(notebook.path, as_version=4)
        nbformat.validate(source)
    except nbformat.ValidationError as error:
        raise ValueError(f"{notebook.path} is not a valid notebook: {line(error.message)}") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:  # by what is malformed
        raise ValueError(f"{notebook.path} is not a valid notebook: {line(repr(error))}") from error
    started = datetime.now(UTC)
    folder = _new_folder(Path(output), f"{notebook.name.replace('/', '-')}-{started:%Y%m%d-%H%M%S}")
    where = f"(what was executed is in {folder})"
    try:
        _execute(notebook, source, values, started, folder)
    except papermill.PapermillExecutionError as error:
        said = str(error.evalue).strip().splitlines()[:1]
        sentence = line(": ".join([f"cell {error.exec_count} raised {error.ename}", *said]))
        raise RunError(f"{sentence} {where}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted {where}; a run begins anew, with the same command") from None
    except RunError as error:
        raise RunError(f"{error} {where}") from error
    except Exception as error:
        raise RunError(f"{line(f'{type(error).__name__}: {error}')} {where}") from error
    return folder


def _execute(notebook: Notebook, source: Any, values: dict[str, Any], started: datetime, folder: Path) -> None:
    import nbformat
    import papermill

    from epimlib._page import page

    commit, dirty = _git_state(notebook.path.parent)
    final, partial = (folder / f"{notebook.path.stem}{suffix}" for suffix in (".ipynb", ".partial.ipynb"))
    log = folder / "kernel.log"
    kernels: list[Any] = []
    clock = time.perf_counter()
    try:
        with log.open("w", encoding="utf-8") as stream:
            executed = papermill.execute_notebook(
                source,
                str(partial).replace("{", "{{").replace("}", "}}"),  # papermill formats it
                values,
                kernel_name="python3",  # this interpreter, whatever the notebook was last edited with
                language="python",
                cwd=str(notebook.path.parent),
                progress_bar={"desc": notebook.name},
                kernel_manager_class=_kernel_manager(stream, kernels),
                on_cell_executed=_go_on,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
    finally:
        for kernel in kernels:
            kernel.end()
        if not log.stat().st_size:
            log.unlink()
    seconds = round(time.perf_counter() - clock, 3)
    metrics = {name: value for metric in _metrics(executed) for name, value in metric.items()}
    record = RunRecord(
        notebook=notebook.name,
        parameters=values,
        versions=_versions(),
        commit=commit,
        dirty=dirty,
        machine=_machine(),
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        metrics=metrics,
    )
    write_text(final.with_suffix(".html"), page(executed, notebook.title, metrics, notebook.path.parent))
    write_text(final, nbformat.writes(executed))
    partial.unlink()
    record.save(folder / RECORD)


def _go_on(execute_reply: Mapping[str, Any], **_: Any) -> None:
    """Raise if a cell ended the notebook, which papermill takes for its success."""
    said = execute_reply["content"]
    if said.get("ename") == "SystemExit" or any(part.get("source") == "ask_exit" for part in said.get("payload", [])):
        raise RunError(f"cell {said.get('execution_count')} ended the notebook")


def _kernel_manager(stream: IO[str], started: list[Any]) -> type:
    """Return a manager whose kernels write what they say outside of any cell, a crash for instance, to ``stream``.

    Those that were started are in ``started``.
    """
    from jupyter_client import AsyncKernelManager

    class KernelManager(AsyncKernelManager):
        def start_kernel(self, **options: Any) -> Any:
            started.append(self)
            return super().start_kernel(stderr=stream, **options)

        def end(self) -> None:
            """End the process if it is still there, as after an interruption of papermill that was itself cut short."""
            process = getattr(self.provisioner, "process", None)
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    return KernelManager


def _new_folder(output: Path, name: str) -> Path:
    try:
        str(output).encode()  # the notebook will hold it
        make_folder(output)
        for number in itertools.count(1):
            folder = output / (name if number == 1 else f"{name}-{number}")
            if not os.path.lexists(folder):  # else it is of another run of the same second
                make_folder(folder, exist_ok=False)
                return folder
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        refused = OSError(f"cannot write into {output}: {why}")
        refused.errno = error.errno
        raise refused from error
    except ValueError as error:  # of a null byte, or what is no UTF-8
        raise ValueError(f"cannot write into {str(output)!r}: {error}") from error


def _metrics(executed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in executed["cells"]:
        for output in cell.get("outputs", []):
            metric = output.get("data", {}).get(METRIC, {})
            if not isinstance(metric, dict):
                raise ValueError(f"a cell shows as its metrics {metric!r}")
            yield metric


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit and whether files differ from it; None where there is no repository or no Git."""
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
