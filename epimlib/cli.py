"""The ``epim`` command. Exit code 0: success, 1: the work failed, 2: the request was wrong."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from epimlib._checks import line, positive
from epimlib.lab import notebooks
from epimlib.lab.notebooks import Notebook, RunError, execute, find_notebook
from epimlib.lab.parameters import named
from epimlib.lab.records import RunRecord, compare_runs, table

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that are no fault of the request."""
MOST_THREADS = 1024
"""That a request can mean."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not those of a notebook
            stream.reconfigure(errors="backslashreplace")  # a name of a file may be no text
    try:
        with _ended_by_signals():
            request = _parser().parse_args(arguments)
            request.command(request)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, KeyboardInterrupt) as error:
        return _fail(str(error) or "interrupted", 1)
    except (OSError, OverflowError, TypeError, ValueError) as error:
        return _fail(str(error) or type(error).__name__, 1 if getattr(error, "errno", None) in FULL else 2)
    return 0


def _fail(sentence: str, code: int) -> int:
    print(f"epim: {line(sentence)}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, where they would end the process at once, end it as Ctrl-C does."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    main = threading.current_thread() is threading.main_thread()
    taken = [number for name in names if main and signal.getsignal(number := signal.Signals[name]) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help says more")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="epim", description="Run the notebooks of the EPIM companion.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="the notebooks, with the number of their parameters")
    command.set_defaults(command=_list)

    command = commands.add_parser("show", help="the parameters of a notebook")
    command.set_defaults(command=_show)
    command.add_argument("notebook", metavar="NOTEBOOK", help="a name (03_mapping or mapping) or a file")

    command = commands.add_parser("run", help="run a notebook into a folder of its own")
    command.set_defaults(command=_run)
    command.add_argument("notebook", metavar="NOTEBOOK", help="a name (03_mapping or mapping) or a file")
    command.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter; a list is written 3,5; may be repeated",
    )
    command.add_argument("--profile", choices=("quick", "full"), help="the same as -p profile=...")
    command.add_argument("--output", metavar="DIR", default="runs", help="where the folder is made (runs)")

    command = commands.add_parser("compare", help="what differs between two runs of a notebook")
    command.set_defaults(command=_compare)
    command.add_argument("runs", nargs=2, metavar="RUN", help="the folder of a run, or its record")

    command = commands.add_parser("data", help="which data sets are found where, and whether they are whole")
    command.set_defaults(command=_data)
    command.add_argument("names", nargs="*", metavar="NAME", help="data sets (all)")
    command.add_argument("--fetch", action="store_true", help="download what is missing; needs a network")

    command = commands.add_parser("train", help="train the networks of a file of experiments, or go on with them")
    command.set_defaults(command=_train)
    command.add_argument("experiments", metavar="CONFIG", help="a YAML file, as those in data/experiments")
    command.add_argument("--run", metavar="NAME", action="append", default=[], help="only this; may be repeated")
    command.add_argument(
        "--seed", metavar="N", type=int, action="append", default=[], help="only this; may be repeated"
    )
    command.add_argument("--output", metavar="DIR", default="runs/train", help="where folders are made (runs/train)")
    command.add_argument("--records", metavar="DIR", help="where a copy of each record is kept, as data/results")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps or auto, the best that is there (auto)")
    command.add_argument("--threads", metavar="N", type=int, help="of the processor; more is not always faster")
    command.add_argument("--check", action="store_true", help="only check all runs; sizes, and an estimate of the time")
    command.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard too")
    return parser


def _list(request: argparse.Namespace) -> None:
    loaded = [Notebook.load(path) for path in notebooks.notebooks().values()]
    print(table(("notebook", "parameters", "title"), [(n.name, len(n.parameters), n.title) for n in loaded]))


def _show(request: argparse.Namespace) -> None:
    notebook = Notebook.load(find_notebook(request.notebook))
    rows = [(p.name, p.type, p.default, p.full, p.range, p.unit, p.help) for p in notebook.parameters]
    print(f"{notebook.name}: {notebook.title}\n")
    print(table(("parameter", "type", "default", "full", "range", "unit", "meaning"), rows))


def _run(request: argparse.Namespace) -> None:
    notebook = Notebook.load(find_notebook(request.notebook))
    folder = execute(notebook, _given(request, notebook), request.output)
    print(f"{RunRecord.load(folder)}\n\n{folder}")


def _given(request: argparse.Namespace, notebook: Notebook) -> dict[str, Any]:
    """Return the parameters of a request, converted to the types that the notebook declares."""
    texts = [text.partition("=") for text in request.parameters]
    if request.profile:
        texts.append(("profile", "=", request.profile))
    given = {}
    for name, equals, text in texts:
        if not equals:
            raise ValueError(f"a parameter is given as NAME=VALUE, got {name!r}")
        if name in given:
            raise ValueError(f"parameter {name!r} is given twice")
        given[name] = named(notebook.parameters, name).parse(text)
    return given


def _compare(request: argparse.Namespace) -> None:
    parameters, metrics = compare_runs(*map(RunRecord.load, request.runs))
    if parameters:
        print(table(("parameter", *request.runs), parameters), end="\n\n")
    print(table(("metric", *request.runs, "difference", "ratio"), metrics))


def _data(request: argparse.Namespace) -> None:
    from epimlib.train import data

    for name in request.names or data.DATASETS:
        if request.fetch and name in data.FETCHED:
            try:
                data.fetch(name)
            except OSError as error:
                raise RunError(str(error)) from error
        print(f"{name}: {data.verify(name)}")
        if request.fetch and name in request.names and name != "digits" and data.find(name) is None:
            raise RunError(f"{name} cannot be downloaded without an account; EPIM_DATA names the folder that has it")


def _train(request: argparse.Namespace) -> None:
    from epimlib.train.config import read_experiments

    found = read_experiments(request.experiments, request.run, request.seed)
    if request.threads is not None:
        positive("threads", request.threads, maximum=MOST_THREADS)
    import torch

    from epimlib.train.training import check_runs, train

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    checked = check_runs(found, request.output, request.device)  # all of them, before the first one takes hours
    if request.check:
        header = ("run", "seeds", "epochs", "parameters", "crossbars", "factor", "estimate [h:min:s]")
        print(table(header, [(*row, timedelta(seconds=round(seconds))) for *row, seconds in checked]))
        return
    if request.records:
        Path(request.records).mkdir(parents=True, exist_ok=True)  # before the hours, not after them
    for run in found:
        output = Path(request.output) / run.study
        start = output / f"{run.config.start}-s{run.config.seed}" if run.config.start else None
        try:
            record = train(
                run.config,
                output / run.folder,
                start,
                request.device,
                tensorboard=request.tensorboard,
                name=f"train {run.study}/{run.folder}",
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on in {output / run.folder}") from None
        if request.records and int(os.environ.get("RANK", 0)) == 0:
            record.save(Path(request.records) / run.study / f"{run.folder}.json")
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in record.metrics.items())
        print(f"{run.study} {run.folder}: {metrics}")
