"""The ``epim`` command. Exit code 0: success, 1: the work failed, 2: the request was wrong."""

import argparse
import contextlib
import csv
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from epimlib import __version__
from epimlib._checks import FULL, line, positive, read_yaml, write_text
from epimlib.lab import notebooks
from epimlib.lab.comparison import comparison
from epimlib.lab.notebooks import Notebook, RunError, execute, find_notebook
from epimlib.lab.parameters import named, resolve
from epimlib.lab.records import RECORD, RunRecord, compare_runs, records_in, table
from epimlib.lab.verify import Judgement, plan, verify
from epimlib.lab.where import OPERATORS, where

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
    """A parser whose mistakes are one line, and whose help may end with a text that takes time to make."""

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (f"\n{self.more()}\n" if self.more else "")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help says more")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="epim", description="Run the notebooks of the EPIM companion.")
    parser.add_argument("--version", action="version", version=f"epim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_notebooks(commands)
    _add_runs(commands)
    _add_sweep(commands)
    _add_training(commands)
    _add_exam(commands)
    return parser


def _add_notebooks(commands: Any) -> None:
    command = commands.add_parser("list", help="the notebooks, with their parameters and the minutes they took")
    command.set_defaults(command=_list)

    command = commands.add_parser("show", help="the parameters of a notebook")
    command.set_defaults(command=_show)
    command.add_argument("notebook", metavar="NOTEBOOK", help="a name (03_mapping, 03 or mapping) or a file")

    command = commands.add_parser("run", help="run a notebook into a folder of its own")
    command.set_defaults(command=_run)
    command.add_argument("notebook", metavar="NOTEBOOK", help="a name (03_mapping, 03 or mapping) or a file")
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
    command.add_argument("--open", action="store_true", help="show the page of the run in a browser")


def _add_runs(commands: Any) -> None:
    command = commands.add_parser("runs", help="the runs in a folder")
    command.set_defaults(command=_runs)
    command.add_argument("folder", nargs="?", metavar="FOLDER", default="runs", help="of runs or of records (runs)")
    command.add_argument(
        "filters",
        nargs="*",
        metavar="FILTER",
        help="of parameters and metrics, each in quotes: 'notebook=03_mapping' 'rows>=512 or bits==3'; all must hold",
    )
    command.add_argument("--csv", action="store_true", help="with all parameters and metrics, comma-separated")

    command = commands.add_parser("compare", help="what differs between runs of a notebook, as tables and as a page")
    command.set_defaults(command=_compare)
    command.add_argument("first", metavar="RUN", help="the folder of a run, or its record")
    command.add_argument("others", nargs="+", metavar="RUN", help="one or more that are compared with it")
    command.add_argument("--output", metavar="DIR", default="runs", help="where the page is written (runs)")

    command = commands.add_parser("verify", help="run again what records say, and compare metric by metric")
    command.set_defaults(command=_verify)
    command.add_argument("records", nargs="+", metavar="RECORD", help="a record, or a folder of records or of runs")
    command.add_argument("--output", metavar="DIR", default="runs", help="where the runs are made (runs)")


def _add_training(commands: Any) -> None:
    command = commands.add_parser("data", help="which data sets are found where, and whether they are whole")
    command.set_defaults(command=_data)
    command.add_argument("names", nargs="*", metavar="NAME", help="data sets (all)")
    command.add_argument("--fetch", action="store_true", help="download what is missing; needs a network")

    command = commands.add_parser("train", help="train the networks of a file of experiments, or go on with them")
    command.set_defaults(command=_train)
    command.more = _keys
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


def _add_sweep(commands: Any) -> None:
    command = commands.add_parser("sweep", help="run a notebook at every point of a grid, or all trainings of a file")
    command.set_defaults(command=_sweep)
    command.add_argument("what", metavar="SWEEP", help="a YAML file, as those in data/sweeps, or a notebook")
    command.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUES",
        action="append",
        default=[],
        help="values of a parameter, as rows=256,512; between lists stands a semicolon; may be repeated",
    )
    command.add_argument("--where", metavar="FILTER", help="only these points, as 'rows >= 512 or bits == 3'")
    command.add_argument("--metric", metavar="NAME", help="what the figure shows")
    command.add_argument("-j", dest="jobs", metavar="N", type=int, default=1, help="so many at a time (1)")
    command.add_argument("--output", metavar="DIR", help="where what is done is kept (runs/sweep-SWEEP, runs/train)")
    command.add_argument("--records", metavar="DIR", help="where a copy of each record is kept, as data/results/sweeps")
    command.add_argument("--dry-run", action="store_true", help="only say what would run, and for about how long")
    command.add_argument("--device", default="auto", help="of trainings: cpu, cuda, mps or auto (auto)")
    command.add_argument("--engine", choices=("here", "snakemake"), default="here", help="what runs a notebook (here)")
    command.add_argument("--profile", metavar="NAME", help="of Snakemake, as slurm")
    command.add_argument("--snakemake", metavar="OPTIONS", default="", help="further ones, as '--executor slurm'")
    command.add_argument("--chunk", metavar="N", type=int, default=10, help="most points of a job of Snakemake (10)")


def _add_exam(commands: Any) -> None:
    command = commands.add_parser("exam", help="a sheet of exam questions with the numbers of a seed, and its key")
    command.set_defaults(command=_exam)
    command.add_argument("--seed", metavar="N", type=int, required=True, help="another number is another sheet")
    command.add_argument("--questions", metavar="N", type=int, default=8, help="how many (8)")
    command.add_argument("--chapters", metavar="LIST", help="what may be asked about, as 1-5,9 (all)")
    command.add_argument("--output", metavar="DIR", help="write exam-N.md and exam-N-key.md there, do not print")
    command.add_argument("--key", action="store_true", help="print the key, not the sheet")


def _list(request: argparse.Namespace) -> None:
    loaded = [Notebook.load(path) for path in notebooks.notebooks().values()]
    rows = [(n.name, len(n.parameters), _minutes(n, "quick"), _minutes(n, "full"), n.title) for n in loaded]
    print(table(("notebook", "parameters", "quick [min]", "full [min]", "title"), rows))


def _minutes(notebook: Notebook, profile: str) -> float | None:
    seconds = notebook.seconds(profile)
    return None if seconds is None else round(seconds / 60, 1)


def _show(request: argparse.Namespace) -> None:
    notebook = Notebook.load(find_notebook(request.notebook))
    rows = [(p.name, p.type, p.default, p.full, p.range, p.unit, p.help) for p in notebook.parameters]
    print(f"{notebook.name}: {notebook.title}\n")
    print(table(("parameter", "type", "default", "full", "range", "unit", "meaning"), rows))


def _run(request: argparse.Namespace) -> None:
    notebook = Notebook.load(find_notebook(request.notebook))
    folder = execute(notebook, _given(request, notebook), request.output)
    print(f"{RunRecord.load(folder)}\n\n{folder}")
    if request.open:
        _open(folder / f"{notebook.path.stem}.html")


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise RunError(f"no browser could be opened; the page is {page}")


def _given(request: argparse.Namespace, notebook: Notebook) -> dict[str, Any]:
    """Return the parameters of a request, converted to the types that the notebook declares."""
    texts = [*request.parameters, *([f"profile={request.profile}"] if request.profile else [])]
    return {name: named(notebook.parameters, name).parse(text) for name, text in _named(texts)}


def _named(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Take NAME=VALUE apart; no name comes twice."""
    known = set()
    for name, equals, text in (text.partition("=") for text in texts):
        if not equals:
            raise ValueError(f"a parameter is given as NAME=VALUE, got {name!r}")
        if name in known:
            raise ValueError(f"parameter {name!r} is given twice")
        known.add(name)
        yield name, text


def _sweep(request: argparse.Namespace) -> None:
    from epimlib.lab import cluster, jobs, sweep_page

    positive("-j", request.jobs, maximum=MOST_THREADS)
    positive("--chunk", request.chunk)
    here, file = request.engine == "here", request.what.endswith((".yaml", ".yml"))
    if here and (request.profile or request.snakemake):
        raise ValueError("--profile and --snakemake are for --engine snakemake")
    if not here:
        cluster.need_snakemake()
    options = shlex.split(request.snakemake)
    if file and (request.parameters or request.where):
        raise ValueError(f"-p and --where are for a notebook; {request.what} says itself what it sweeps")
    trainings = file and "study" in (read_yaml(request.what, "sweep") or ())
    if trainings and not here:
        raise ValueError(f"--engine {request.engine} is for notebooks; {request.what} is of trainings")
    folder, listed, metric, seconds = (_trainings if trainings else _points)(request)
    name = folder.name if trainings else Path(request.what).stem
    if request.dry_run:
        left = sum(not job.done for job in listed)
        print(table(("folder", "done", "point"), [(job.folder, "yes" if job.done else "no", job) for job in listed]))
        about = "no record says how long"
        if seconds is not None:
            time = timedelta(seconds=math.ceil(seconds * left / max(1, min(request.jobs, left))))
            about = f"for about {time} [h:min:s]"
        print(f"\n{left} of {len(listed)} would run, {about}")
        return
    with jobs.alone(folder):
        if here:
            failed = jobs.run_jobs(listed, request.jobs, name)
        else:
            failed = cluster.by_snakemake(listed, request.jobs, request.profile, options, request.chunk)
        sweep_page.write_results(folder, name, listed, failed, request.metric or metric)
    print(folder / "index.html")
    jobs.complain(listed, failed)
    for number, job in enumerate(listed if request.records else (), 1):
        own = job.folder.name if trainings else f"{number:02}"
        RunRecord.load(job.folder).save(Path(request.records) / name / f"{own}.json")


def _points(request: argparse.Namespace) -> tuple[Path, list[Any], str | None, float | None]:
    """Return folder, jobs, metric and seconds of each job of a sweep of a notebook."""
    from epimlib.lab.sweep import Sweep, plan_points, seconds_each

    if request.what.endswith((".yaml", ".yml")):
        sweep = Sweep.load(request.what)
    else:
        notebook = Notebook.load(find_notebook(request.what))
        sweep = Sweep(notebook, plan_points(notebook, _grid(request, notebook) or None, condition=request.where))
    folder = Path(request.output or f"runs/sweep-{Path(request.what).stem}")
    return folder, sweep.jobs(folder), sweep.metric, seconds_each(sweep, folder)


def _trainings(request: argparse.Namespace) -> tuple[Path, list[Any], str | None, float | None]:
    """Return the same of a file of experiments."""
    from epimlib.train.config import read_experiments
    from epimlib.train.study import study_jobs
    from epimlib.train.training import check_runs

    found, output = read_experiments(request.what), Path(request.output or "runs/train")
    seconds = sum(row[-1] for row in check_runs(found, output, request.device)) / len(found)
    return output / found[0].study, study_jobs(found, output, request.device), "accuracy", seconds


def _grid(request: argparse.Namespace, notebook: Notebook) -> dict[str, list[Any]]:
    """Return the values of each parameter of a request, of the types that the notebook declares."""
    grid = {}
    for name, text in _named(request.parameters):
        parameter = named(notebook.parameters, name)
        grid[name] = [parameter.parse(value) for value in text.split(";" if parameter.type.startswith("list") else ",")]
    return grid


def _runs(request: argparse.Namespace) -> None:
    folder, filters = request.folder, request.filters
    if any(sign in folder for sign in OPERATORS) and not Path(folder).is_dir():  # the folder was left out
        folder, filters = "runs", [folder, *filters]
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder!r}; a run makes one, {'runs'!r} unless --output names another")
    found = {_run_name(file, folder): record for file, record in records_in(folder).items()}
    values = {name: record.values() for name, record in found.items()}
    names = list(dict.fromkeys(key for value in values.values() for key in value))
    holds = [where(text, names) for text in filters]
    values = {name: value for name, value in values.items() if all(hold(value) for hold in holds)}
    if request.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("run", *names))
        writer.writerows((name, *map(value.get, names)) for name, value in values.items())
        return
    changed = _changes({name: found[name] for name in values})
    rows = [(n, *(values[n][key] for key in ("notebook", "started", "seconds")), changed[n]) for n in values]
    print(table(("run", "notebook", "started", "seconds", "changed parameters"), rows))


def _run_name(file: Path, folder: str) -> str:
    """Return the name of a run in a listing: its folder, or the file of its record."""
    return (file.parent if file.name == RECORD else file).relative_to(folder).as_posix()


def _changes(found: dict[str, RunRecord]) -> dict[str, str | None]:
    """Return the parameters of each run that are not the defaults; None for runs of unknown notebooks."""
    known = notebooks.notebooks()
    wanted = {record.notebook for record in found.values()} & known.keys()
    defaults = {name: resolve(Notebook.load(known[name]).parameters, {}) for name in wanted}
    return {
        name: ", ".join(f"{k}={v}" for k, v in r.parameters.items() if defaults[r.notebook].get(k) != v)
        if r.notebook in defaults
        else None
        for name, r in found.items()
    }


def _compare(request: argparse.Namespace) -> None:
    names = [request.first, *request.others]
    runs = [RunRecord.load(name) for name in names]
    parameters, metrics = compare_runs(*runs)
    page = Path(request.output) / f"compare-{datetime.now(UTC):%Y%m%d-%H%M%S}.html"
    write_text(page, comparison(names, runs))
    if parameters:
        print(table(("parameter", *names), parameters), end="\n\n")
    change = ("difference", "ratio") if len(runs) == 2 else ()
    print(table(("metric", *names, *change), [row[: 1 + len(names) + len(change)] for row in metrics]))
    print(f"\n{page}")


def _verify(request: argparse.Namespace) -> None:
    doubted, trainings = plan(request.records)
    if trainings:
        print(f"{trainings} records of trainings are left out: epim train repeats them.", file=sys.stderr)
    wrong = []
    for file, (record, notebook) in doubted.items():
        print(f"{file}\n", flush=True)
        try:
            judgements = verify(record, notebook, request.output)
        except RunError as error:
            wrong.append(f"{file}: {error}")
            print(f"{line(error)}\n")
            continue
        print(table(("metric", "recorded", "now", "kind", "tolerance", "holds"), map(_judged, judgements)), end="\n\n")
        wrong += [f"{file}: {_differs(j)}" for j in judgements if j.holds is False]
    if wrong:
        raise RunError(f"{len(wrong)} of what {len(doubted)} records say does not hold: {'; '.join(wrong)}")
    print(f"{len(doubted)} records hold.")


def _differs(judgement: Judgement) -> str:
    now = "is no longer reported" if judgement.now is None else f"is {judgement.now}"
    return f"{judgement.metric} was {judgement.recorded} and {now}"


def _judged(judgement: Judgement) -> tuple[Any, ...]:
    said = {True: "yes", False: "NO", None: None}[judgement.holds]
    return *(getattr(judgement, name) for name in ("metric", "recorded", "now", "kind", "tolerance")), said


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


def _keys() -> str:
    """Return what a file of experiments may hold, read from the configuration itself."""
    from epimlib.train.config import describe

    return describe()


def _train(request: argparse.Namespace) -> None:
    from epimlib.train.config import read_experiments

    found = read_experiments(request.experiments, request.run, request.seed)
    if request.threads is not None:
        positive("threads", request.threads, maximum=MOST_THREADS)
    import torch

    from epimlib.train.training import check_runs, epochs_bar, train

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    checked = check_runs(found, request.output, request.device)  # all of them, before the first one takes hours
    if request.check:
        header = ("run", "seeds", "epochs", "parameters", "crossbars", "factor", "estimate [h:min:s]")
        print(table(header, [(*row, timedelta(seconds=round(seconds))) for *row, seconds in checked]))
        return
    if request.records:
        Path(request.records).mkdir(parents=True, exist_ok=True)  # before the hours, not after them
    first = int(os.environ.get("RANK", 0)) == 0  # of the processes of torchrun
    with epochs_bar(sum(run.config.epochs for run in found), first) as bar:
        for run in found:
            output = Path(request.output) / run.study
            start = output / f"{run.config.start}-s{run.config.seed}" if run.config.start else None
            name = f"train {run.study}/{run.folder}"
            try:
                record = train(run.config, output / run.folder, start, request.device, bar, request.tensorboard, name)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted; the same command goes on in {output / run.folder}") from None
            if request.records and first:
                record.save(Path(request.records) / run.study / f"{run.folder}.json")
            metrics = ", ".join(f"{name} {value:.6g}" for name, value in record.metrics.items())
            bar.write(f"{run.study} {run.folder}: {metrics}")  # above the bar


def _exam(request: argparse.Namespace) -> None:
    from epimlib.teach.exam import chapters, exam, write_exam

    if request.key and request.output:
        raise ValueError("--key is for what is printed; --output writes sheet and key")
    allowed = None if request.chapters is None else chapters(request.chapters)
    if request.output:
        print(*write_exam(request.output, request.seed, request.questions, allowed), sep="\n")
    else:
        print(exam(request.seed, request.questions, allowed)[request.key], end="")
