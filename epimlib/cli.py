"""The ``epim`` command. Exit code 0: success, 1: the work failed, 2: the request was wrong."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from epimlib import runs
from epimlib.parameters import named
from epimlib.runs import Notebook, RunRecord, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    request = _parser().parse_args(arguments)
    try:
        request.command(request)
    except (runs.RunError, KeyboardInterrupt) as error:
        return _fail(str(error) or "interrupted", 1)
    except (OSError, TypeError, ValueError) as error:
        return _fail(str(error), 2)
    return 0


def _fail(sentence: str, code: int) -> int:
    print(f"epim: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="epim", description="Run the notebooks of the EPIM companion.")
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
    return parser


def _list(request: argparse.Namespace) -> None:
    loaded = [Notebook.load(path) for path in runs.notebooks().values()]
    print(table(("notebook", "parameters", "title"), [(n.name, len(n.parameters), n.title) for n in loaded]))


def _show(request: argparse.Namespace) -> None:
    notebook = Notebook.load(runs.find_notebook(request.notebook))
    rows = [(p.name, p.type, p.default, p.full, p.range, p.unit, p.help) for p in notebook.parameters]
    print(f"{notebook.name}: {notebook.title}\n")
    print(table(("parameter", "type", "default", "full", "range", "unit", "meaning"), rows))


def _run(request: argparse.Namespace) -> None:
    notebook = Notebook.load(runs.find_notebook(request.notebook))
    folder = runs.execute(notebook, _given(request, notebook), request.output)
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
    parameters, metrics = runs.compare(*map(RunRecord.load, request.runs))
    if parameters:
        print(table(("parameter", *request.runs), parameters), end="\n\n")
    print(table(("metric", *request.runs, "difference", "ratio"), metrics))
