"""The epim command: exit codes, sentences, and what a run leaves behind."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epimlib import cli
from epimlib.runs import RunRecord
from tests import test_runs
from tests.test_runs import CELL, CODE, RECORD, write

no_kernel = test_runs.no_kernel  # a fixture
EPIM = (sys.executable, "-c", "import sys; from epimlib.cli import main; sys.exit(main())")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Return a folder with two notebooks, and be in it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks" / "03_mapping.ipynb", CODE)
    write(tmp_path / "notebooks" / "04_epitome.ipynb", cell=CELL.splitlines(keepends=True)[0])
    (tmp_path / "notebooks" / "beside.txt").write_text("read here")
    return tmp_path


def epim(capsys, *arguments: str) -> tuple[int, str, str]:
    """Return exit code, output and error output of a command."""
    try:
        code = cli.main(arguments)
    except SystemExit as leaving:  # of argparse
        code = leaving.code
    out, err = capsys.readouterr()
    return code, out, err


def test_list(project, capsys):
    assert epim(capsys, "list") == (
        0,
        "notebook    parameters  title\n"
        "03_mapping  6           A tiny notebook\n"
        "04_epitome  1           A tiny notebook\n",
        "",
    )


def test_show(project, capsys):
    code, out, err = epim(capsys, "show", "mapping")
    assert (code, err) == (0, "")
    assert out.startswith("03_mapping: A tiny notebook\n\nparameter")
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    assert ["rows", "int", "1024", "2048", "16..8192", "word lines", "word lines, the rows of an epitome"] in lines
    assert ["bits", "list[int]", "[3, 5]", "-", "1|2|3|5", "bit", "bits of a weight"] in lines


MISTAKES = [
    ("run mapping -p rwos=64", "unknown parameter 'rwos'; did you mean 'rows'?"),
    ("run mapping -p rows=9000", "rows must be in 16..8192 [word lines], got 9000"),
    ("run mapping -p rows=many", "rows must be of type int, got 'many'"),
    ("run mapping -p wrap=1", "wrap must be of type bool, got '1'"),
    ("run mapping -p rows", "a parameter is given as NAME=VALUE, got 'rows'"),
    ("run mapping -p rows=64 -p rows=64", "parameter 'rows' is given twice"),
    ("run mapping -p profile=full --profile quick", "parameter 'profile' is given twice"),
    ("run maping", "unknown notebook 'maping'; did you mean 'mapping'?"),
    ("run nothing.ipynb", "no notebook at nothing.ipynb"),
    ("run truncated.ipynb", "truncated.ipynb is not a readable notebook: Expecting ',' delimiter"),
    ("run mapping --output notebooks/beside.txt", "cannot write into notebooks/beside.txt: it is no folder"),
    ("show maping", "unknown notebook 'maping'; did you mean 'mapping'?"),
    ("show truncated.ipynb", "truncated.ipynb is not a readable notebook: Expecting ',' delimiter"),
    ("compare nowhere nowhere", "no run record at nowhere"),
    ("compare notebooks notebooks", "no notebooks/record.json; a run that failed or was interrupted leaves no record"),
    ("compare truncated.ipynb truncated.ipynb", "truncated.ipynb is not a readable run record: Expecting"),
]


@pytest.mark.parametrize(("command", "sentence"), MISTAKES)
def test_a_wrong_request_is_one_sentence_and_starts_no_kernel(project, capsys, no_kernel, command, sentence):
    text = (project / "notebooks" / "03_mapping.ipynb").read_text()
    (project / "truncated.ipynb").write_text(text[: text.rindex("]")])
    before = sorted(project.rglob("*"))
    code, out, err = epim(capsys, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"epim: {sentence}")
    assert err.count("\n") == 1
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("command", ["", "sweep", "show", "run mapping --profile fast", "compare one"])
def test_a_malformed_command_line_leaves_with_2(project, capsys, command):
    code, out, err = epim(capsys, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith("epim: ")
    assert "usage" not in err
    assert err.count("\n") == 1


def test_run_and_compare(project):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*EPIM, *arguments], capture_output=True, text=True, check=False)

    first = run("run", "03_mapping", "-p", "bits=2,3")
    assert first.returncode == 0, first.stderr
    assert "03_mapping: 100%" in first.stderr
    folder = first.stdout.splitlines()[-1]
    assert re.fullmatch(r"runs/03_mapping-\d{8}-\d{6}", folder)
    assert "tiny_double  2048" in first.stdout

    second = run("run", "notebooks/03_mapping.ipynb", "--profile", "full", "--output", "other")
    assert second.returncode == 0, second.stderr
    other = second.stdout.splitlines()[-1]
    assert RunRecord.load(other).parameters == RunRecord.load(folder).parameters | {
        "profile": "full", "rows": 2048, "bits": [3, 5],
    }  # fmt: skip

    both = run("compare", folder, f"{other}/record.json")
    assert both.returncode == 0, both.stderr
    lines = [re.split(r"  +", line) for line in both.stdout.splitlines()]
    assert ["rows", "1024", "2048"] in lines
    assert ["bits", "[2, 3]", "[3, 5]"] in lines
    assert ["tiny_double", "2048", "4096", "2048", "2"] in lines
    assert ["tiny_share", "0.25", "0.25", "0", "1"] in lines
    assert not any(line[0] == "wrap" for line in lines)


def test_runs_of_different_notebooks_do_not_compare(project, capsys):
    RECORD.save("a.json")
    RunRecord.from_dict(RECORD.to_dict() | {"notebook": "04_epitome"}).save("b.json")
    assert epim(capsys, "compare", "a.json", "b.json") == (
        2,
        "",
        "epim: runs of different notebooks, 03_mapping and 04_epitome, do not compare\n",
    )


def test_a_failing_cell_leaves_with_1(project, capsys):
    write(project / "notebooks" / "05_bad.ipynb", "print('before')", "1 / 0")
    code, out, err = epim(capsys, "run", "bad")
    (folder,) = Path("runs").iterdir()
    sentence = f"epim: cell 5 raised ZeroDivisionError: division by zero (what was executed is in {folder})"
    assert (code, out, err.splitlines()[-1]) == (1, "", sentence)
    # kernel.log is there if the kernel itself had something to say, as it may on a crowded machine
    assert {path.name for path in folder.iterdir()} - {"kernel.log"} == {"05_bad.partial.ipynb"}


def test_an_interrupted_run_leaves_what_was_executed(project):
    write(
        project / "notebooks" / "05_long.ipynb",
        "print('before')",
        "open('started', 'w').close()\nimport time\ntime.sleep(600)",
    )
    # A job in the background ignores the signal, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + EPIM[-1]
    running = subprocess.Popen([*EPIM[:-1], code, "run", "long"], stderr=subprocess.PIPE, text=True)
    started = project / "notebooks" / "started"
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    err = running.communicate(timeout=60)[1]
    (folder,) = Path("runs").iterdir()
    assert running.returncode == 1
    assert err.splitlines()[-1] == (
        f"epim: interrupted (what was executed is in {folder}); a run begins anew, with the same command"
    )
    assert "Traceback" not in err
    assert "before" in (folder / "05_long.partial.ipynb").read_text()
    assert {path.name for path in folder.iterdir()} <= {"05_long.partial.ipynb", "kernel.log"}


def test_the_command_is_installed(project):
    done = subprocess.run([Path(sys.executable).with_name("epim"), "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "03_mapping" in done.stdout


def test_it_starts_without_the_heavy_packages():
    code = "import sys, epimlib.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "papermill", "nbformat", "nbconvert", "IPython", "pandas", "scipy"}.isdisjoint(loaded)
