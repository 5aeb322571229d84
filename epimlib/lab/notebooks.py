"""Notebooks: what a notebook says of itself, how it is executed, and what it reports."""

import itertools
import math
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from epimlib._checks import PROJECT, line, make_folder, nearest, one_of, read_json, write_text
from epimlib.lab.parameters import Parameter, parse_parameters, resolve
from epimlib.lab.records import METRIC, METRICS, RECORD, RunRecord

KIND = "epimlib_kind"
"""In the metadata of an output, what kind of metric it is."""
TIMING = "timing"
PARTIAL = ".partial.ipynb"


def report(kind: str = "", /, **values: int | float | str | bool) -> None:
    """Put numbers of this notebook into its run record, and glue them for the prose of the book.

    Nothing is shown. In the book ``{glue:text}`name``` stands for the value.

    Args:
        kind: ``"timing"`` for what was measured with a clock, which ``epim verify`` then does not compare.
        **values: by their names.

    Raises:
        TypeError: if a value is neither a number, a text nor a bool.
        ValueError: if a number is not finite, or the kind is another one.
    """
    from IPython.display import display

    one_of("kind", kind, ("", TIMING))

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
            metadata={"scrapbook": {"name": name, "mime_prefix": prefix}} | ({KIND: kind} if kind else {}),
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
        return self.path.resolve().with_suffix("").relative_to(self._folder).as_posix()

    @property
    def _folder(self) -> Path:
        path = self.path.resolve()
        return next((parent for parent in path.parents if parent.name == "notebooks"), path.parent)

    def recorded(self) -> dict[str, RunRecord]:
        """Return the committed records of this notebook by their paths in the project; there may be none.

        They lie beside the folder of the notebooks in ``data/results/NAME`` and, those of a sweep, in
        ``data/results/sweeps/NAME``.

        Raises:
            ValueError: if a file there is no record.
        """
        project = self._folder.parent
        results = project / "data" / "results"
        folders = (results / self.name, results / "sweeps" / self.name)
        paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        return {path.relative_to(project).as_posix(): RunRecord.load(path) for path in paths}

    def seconds(self, profile: str) -> float | None:
        """Return the median time of the committed records with the values of a profile and any seed [s], or None.

        A record may lack parameters that are newer than it.
        """
        values = resolve(self.parameters, {"profile": profile})
        times = [
            record.seconds
            for record in self.recorded().values()
            if all(name == "seed" or values.get(name) == value for name, value in record.parameters.items())
        ]
        return statistics.median(times) if times else None

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
    for folder in (Path("notebooks"), PROJECT / "notebooks"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    raise FileNotFoundError("no folder 'notebooks' here; change to a clone of the project or name a file")


def find_notebook(name: str) -> Path:
    """Return the file that a path, a name such as ``03_mapping``, its number ``03`` or its topic ``mapping`` means.

    Raises:
        FileNotFoundError: naming the nearest known one.
    """
    if name.endswith(".ipynb"):
        return Path(name)
    known = notebooks()
    topics = {stem.partition("_")[2]: stem for stem in known}
    numbers = {stem.partition("_")[0]: stem for stem in known}
    stem = topics.get(name) or numbers.get(name.zfill(2), name)
    if stem not in known:
        raise FileNotFoundError(f"unknown notebook {name!r}; {nearest(name, topics)}")
    return known[stem]


class RunError(RuntimeError):
    """A run that started did not end well."""


def execute(notebook: Notebook, given: Mapping[str, Any], output: str | Path = "runs", progress: bool = True) -> Path:
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
    recorded = notebook.recorded()
    started = datetime.now(UTC)
    folder = _new_folder(Path(output), f"{notebook.name.replace('/', '-')}-{started:%Y%m%d-%H%M%S}")
    where = f"(what was executed is in {folder})"
    try:
        executed, record = _execute(notebook, source, values, started, folder, progress)
        _write(notebook, executed, record, recorded, folder)
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


def _execute(
    notebook: Notebook, source: Any, values: dict[str, Any], started: datetime, folder: Path, progress: bool
) -> tuple[Any, RunRecord]:
    """Return the executed notebook, which is in ``*.partial.ipynb`` too, and its record."""
    import papermill

    record = RunRecord.of(notebook.name, values, started, notebook.path.parent)
    partial = folder / f"{notebook.path.stem}{PARTIAL}"
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
                progress_bar={"desc": notebook.name, "disable": None if progress else True},  # None: no terminal
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
    metrics = {name: value for metric, _ in metrics_of(executed) for name, value in metric.items()}
    return executed, replace(record, seconds=seconds, metrics=metrics)


def _write(
    notebook: Notebook, executed: Any, record: RunRecord, recorded: Mapping[str, RunRecord], folder: Path
) -> None:
    import nbformat

    from epimlib.lab.page import beginning, page

    stem = folder / notebook.path.stem
    head = beginning(record, resolve(notebook.parameters, {}), recorded)
    html = page(executed, notebook.title, record.metrics, notebook.path.parent, head)
    write_text(stem.with_name(f"{stem.name}.html"), html)
    write_text(stem.with_name(f"{stem.name}.ipynb"), nbformat.writes(executed))
    stem.with_name(f"{stem.name}{PARTIAL}").unlink()
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
            paths = filter(None, [os.environ.get("PYTHONPATH"), str(PROJECT)])  # a notebook may import from tests
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            return super().start_kernel(stderr=stream, env=environment, **options)

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


def metrics_of(executed: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the metrics that each cell of an executed notebook reported, and their kind."""
    for cell in executed["cells"]:
        for output in cell.get("outputs", []):
            metric = output.get("data", {}).get(METRIC, {})
            if not isinstance(metric, dict):
                raise ValueError(f"a cell shows as its metrics {metric!r}")
            yield metric, output.get("metadata", {}).get(KIND, "")
