"""The epim command: exit codes, sentences, and what a run leaves behind."""

import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

import epimlib
from epimlib import cli
from epimlib.lab.records import RunRecord
from epimlib.train.config import TrainConfig
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
        "notebook    parameters  quick [min]  full [min]  title\n"
        "03_mapping  6           -            -           A tiny notebook\n"
        "04_epitome  1           -            -           A tiny notebook\n",
        "",
    )


def test_the_minutes_of_a_list_are_those_of_committed_records(project, capsys):
    folder = Path("data", "results", "03_mapping")
    values = {"profile": "quick", "rows": 1024, "bits": [3, 5], "rate": 1.0, "wrap": True, "label": "a b"}
    for number, (change, seconds) in enumerate(
        [({}, 60), ({"seed": 1}, 84), ({"seed": 2}, 600), ({"rows": 64}, 1), ({"profile": "full", "rows": 2048}, 3600)]
    ):
        dataclasses.replace(RECORD, parameters=values | change, seconds=seconds).save(folder / f"{number}.json")
    assert re.split("  +", epim(capsys, "list")[1].splitlines()[1])[2:4] == ["1.4", "60"]


def test_version(capsys):
    assert epim(capsys, "--version") == (0, f"epim {epimlib.__version__}\n", "")


def test_the_help_of_train_names_every_key_of_a_run(capsys):
    code, out, err = epim(capsys, "train", "--help")
    keys = {field.name for field in dataclasses.fields(TrainConfig)} - {"seed"}
    assert (code, err) == (0, "")
    assert set(re.findall(r"^  (\w+): ", out, re.MULTILINE)) == keys
    assert "  epochs: needed\n" in out
    assert "  lr: 0.1\n" in out
    assert '  data: needed\n      One of "digits", "fashion-mnist"' in out


def test_show(project, capsys):
    code, out, err = epim(capsys, "show", "mapping")
    assert (code, err) == (0, "")
    assert out.startswith("03_mapping: A tiny notebook\n\nparameter")
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    assert ["rows", "int", "1024", "2048", "16..8192", "word lines", "word lines, the rows of an epitome"] in lines
    assert ["bits", "list[int]", "[3, 5]", "-", "1|2|3|5", "bit", "bits of a weight"] in lines
    assert epim(capsys, "show", "03") == epim(capsys, "show", "3") == (code, out, err)


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
    ("run 05", "unknown notebook '05'; known are epitome, mapping"),
    ("runs", "no folder 'runs'; a run makes one"),
    ("runs nowhere", "no folder 'nowhere'; a run makes one"),
    ("runs rows>=512", "no folder 'runs'; a run makes one"),
    ("runs notebooks", "no record of a run in notebooks; a run that failed or was interrupted leaves none"),
    ("runs data rowz>=512", "unknown name 'rowz' in a filter; did you mean 'rows'?"),
    ("runs data __import__('os')", "a filter is made of comparisons such as rows >= 512, joined by"),
    ("runs data rows>=512 (rows)", "a filter is made of comparisons such as rows >= 512, joined by"),
    ("runs data rows>=many", "rows is 64, which >= does not compare with many"),
    ("verify nowhere", "no run record at nowhere"),
    ("verify notebooks", "no record of a run in notebooks; a run that failed or was interrupted leaves none"),
    ("verify truncated.ipynb", "truncated.ipynb is not a readable run record: Expecting"),
    ("verify data/results/old.json", "data/results/old.json cannot be run again: unknown notebook '99_gone'; known"),
    ("verify data/results/less.json", "data/results/less.json cannot be run again: rows must be in 16..8192"),
    ("verify data/results/other.json", "data/results/other.json cannot be run again: unknown parameter 'rwos'; did"),
    ("verify data", "data/results/less.json cannot be run again: rows must be in 16..8192"),
    ("verify data/training.json", "data/training.json is the record of a training, which epim train repeats"),
]


@pytest.mark.parametrize(("command", "sentence"), MISTAKES)
def test_a_wrong_request_is_one_sentence_and_starts_no_kernel(project, capsys, no_kernel, command, sentence):
    text = (project / "notebooks" / "03_mapping.ipynb").read_text()
    (project / "truncated.ipynb").write_text(text[: text.rindex("]")])
    RECORD.save("data/results/good.json")
    dataclasses.replace(RECORD, notebook="99_gone").save("data/results/old.json")
    dataclasses.replace(RECORD, notebook="train a/b-s0").save("data/training.json")
    for name, parameters in {"less": {"rows": 1}, "other": {"rwos": 64}}.items():
        dataclasses.replace(RECORD, parameters=parameters).save(f"data/results/{name}.json")
    before = sorted(project.rglob("*"))
    code, out, err = epim(capsys, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"epim: {sentence}")
    assert err.count("\n") == 1
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        "", "nothing", "show", "run", "run mapping --profile fast", "run mapping -p", "run mapping --output", "run a b",
        "compare one", "compare", "verify", "verify --output", "runs --csv=yes", "runs --nope", "train",
        "train a.yaml --seed one", "train a.yaml --seed 1.5",
        "train a.yaml --threads", "--nope", "list now", "data --nope", "show mapping --profile quick", "-p a=b",
        "%s{x}", "sweep mapping -j two",
    ],
)  # fmt: skip
def test_a_malformed_command_line_is_one_sentence(project, capsys, command):
    code, out, err = epim(capsys, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith("epim: ")
    assert err.endswith("--help says more\n")
    assert err.count("\n") == 1


LONG = "x" * 10_000_000
HOSTILE = [
    ("run", "mapping", "-p", "label=a\0b"),
    ("run", "mapping", "-p", "label=a\nb"),
    ("run", "mapping", "-p", "label=\udcff"),
    ("run", "mapping", "-p", f"rows={'9' * 5000}"),
    ("run", "mapping", "-p", f"rows={LONG}"),
    ("run", "mapping", "-p", f"rate=1{'0' * 400}"),
    ("run", "mapping", "-p", "rate=nan"),
    ("run", "mapping", "-p", "rate=-inf"),
    ("run", "mapping", "-p", "rows=1e3"),
    ("run", "mapping", "-p", "bits=" + "3," * 100_000 + "7"),
    ("run", "mapping", "-p", "bits="),
    ("run", "mapping", "-p", "bits=" + "[" * 5000),
    ("run", "mapping", "-p", "=3"),
    ("run", "mapping", "-p", ""),
    ("run", "mapping", "-p", "=" * 100_000),
    ("run", "mapping", "-p", "pro\0file=quick"),
    ("run", "mapping", "--output", "a\0b"),
    ("run", "mapping", "--output", "a\udcff"),
    ("run", "mapping", "--output", "y" * 300),
    ("run", "mapping", "--output", "y/" * 5000),
    ("run", "mapping", "--output", LONG),
    ("run", LONG),
    ("run", LONG + ".ipynb"),
    ("run", "a\0b.ipynb"),
    ("run", "a\0b"),
    ("run", "\udcff.ipynb"),
    ("run", "notebooks"),
    ("run", "../mapping"),
    ("run", ""),
    ("run", ".ipynb"),
    ("run", "folder.ipynb"),
    ("run", "deep.ipynb"),
    ("run", "digits.ipynb"),
    ("run", "cell.ipynb"),
    ("show", "deep.ipynb"),
    ("show", "%s{x}"),
    ("runs", "a\0b"),
    ("runs", LONG),
    ("runs", "\udcff"),
    ("runs", "notebooks", LONG),
    ("runs", ""),
    ("verify", "a\0b"),
    ("verify", LONG),
    ("verify", "deep.ipynb"),
    ("verify", "nan.json"),
    ("verify", ""),
    ("verify", "folder.ipynb"),
    ("compare", "a\0b", "a\0b"),
    ("compare", "deep.ipynb", "deep.ipynb"),
    ("compare", LONG, LONG),
    ("compare", "nan.json", "nan.json"),
    ("compare", "", ""),
    ("data", "../x"),
    ("data", LONG),
    ("data", "a\0b"),
    ("sweep", "a\0b"),
    ("sweep", "a\0b.yaml"),
    ("sweep", LONG),
    ("sweep", "deep.yaml"),
    ("sweep", "aliases.yaml"),
    ("sweep", "tag.yaml"),
    ("sweep", "mapping", "-p", "rows=" + "64," * 10_001 + "64"),
    ("sweep", "mapping", "-p", f"rows={LONG}"),
    ("sweep", "mapping", "-p", "bits=" + ";" * 10_001),
    ("sweep", "mapping", "--where", LONG),
    ("sweep", "mapping", "--where", "rows>1" + " and rows>1" * 100_000 + " x"),
    ("sweep", "mapping", "--output", "a\0b"),
    ("sweep", "mapping", "-j", "9" * 5000),
    ("train", "a\0b"),
    ("train", LONG),
    ("train", "notebooks"),
    ("train", "deep.yaml"),
    ("train", "aliases.yaml"),
    ("train", "twice.yaml"),
    ("train", "tag.yaml"),
    ("train", "empty.yaml"),
    ("train", "large.yaml"),
    ("train", "deep.yaml", "--seed", "9" * 5000),
    (LONG,),
    ("%s{x}" * 1000,),
    ("\udcff\0",),
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_asked_the_answer_is_one_short_line_at_once(project, capsys, no_kernel, arguments):
    text = (project / "notebooks" / "03_mapping.ipynb").read_text()
    (project / "folder.ipynb").mkdir()
    (project / "deep.ipynb").write_text(
        text.replace('"metadata": {}', '"metadata": {"a": ' + "[" * 5000 + "]" * 5000 + "}")
    )
    (project / "digits.ipynb").write_text(text.replace('"metadata": {}', '"metadata": {"a": ' + "9" * 5000 + "}"))
    write(project / "cell.ipynb", cell=CELL + f"\ndepth: int = {'-' * 5000}1  # a [b], 1..2\n")
    (project / "nan.json").write_text(json.dumps(RECORD.to_dict() | {"seconds": float("nan")}))
    (project / "deep.yaml").write_text("[" * 60_000)
    (project / "twice.yaml").write_text("study: a\nstudy: b\n")
    (project / "tag.yaml").write_text("!!python/object/apply:os.mkdir [evil]\n")
    (project / "empty.yaml").touch()
    (project / "large.yaml").write_text("a: 1 #" + " " * 10_000_000)
    (project / "aliases.yaml").write_text(
        "a: &a [1]\n"
        + "".join(f"{k}: &{k} [{', '.join([f'*{j}'] * 10)}]\n" for j, k in itertools.pairwise("abcdefghij"))
    )
    before = sorted(project.parent.rglob("*"))
    started = time.monotonic()
    code, out, err = epim(capsys, *arguments)
    assert time.monotonic() - started < 10
    assert (code, out) == (2, "")
    assert re.fullmatch(r"epim: [^\n]{10,400}\n", err), err[:1000]
    assert err[:-1].isprintable()
    assert sorted(project.parent.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
def test_a_link_to_nothing_ends_the_request(project, capsys, no_kernel):
    (project / "d").symlink_to("nowhere")
    assert epim(capsys, "run", "mapping", "--output", "d") == (2, "", "epim: cannot write into d: it is no folder\n")
    assert not (project / "nowhere").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_the_work_that_failed_and_names_the_path(project, capsys, monkeypatch, number):
    def full(path, *arguments, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    assert epim(capsys, "run", "mapping") == (1, "", f"epim: cannot write into runs: {os.strerror(number)}\n")


def test_a_full_disk_within_a_run_names_its_folder(project, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(project / "notebooks" / "05_bad.ipynb", "1")
    (project / "runs").mkdir()
    monkeypatch.setattr("epimlib._checks.sync", lambda path: None)
    monkeypatch.setattr(os, "fsync", full)
    code, out, err = epim(capsys, "run", "bad")
    (folder,) = Path("runs").iterdir()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith(
        f"No space left on device: {str(folder / '05_bad.html')!r} (what was executed is in {folder})"
    )
    assert {path.name for path in folder.iterdir()} - {"kernel.log"} == {"05_bad.partial.ipynb"}


@pytest.mark.parametrize("error", [ValueError(), TypeError(), OSError(), OverflowError()])
def test_no_error_is_said_by_nothing(project, capsys, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("epimlib.lab.notebooks.notebooks", fail)
    assert epim(capsys, "list") == (2, "", f"epim: {type(error).__name__}\n")


def test_fetching_what_cannot_be_fetched_fails(project, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    code, out, err = epim(capsys, "data", "imagenet", "--fetch")
    assert (code, out) == (1, f"imagenet: not in {tmp_path}\n")
    assert err.startswith("epim: imagenet cannot be downloaded without an account")
    assert epim(capsys, "data", "imagenet")[0] == 0


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "9" * 5000])
def test_threads_that_no_machine_has_are_refused(project, capsys, threads):
    (project / "a.yaml").write_text(
        "study: a\nseeds: [0]\nbase: {data: digits, model: resnet9, epochs: 1}\nruns: {b: {}}\n"
    )
    code, out, err = epim(capsys, "train", "a.yaml", "--threads", threads)
    assert (code, out) == (2, "")
    assert "threads" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has another error for a closed pipe")
def test_a_reader_that_has_read_enough_is_no_error(project):
    listing = subprocess.Popen([*EPIM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    listing.stdout.close()
    assert listing.wait(60) == 1
    assert listing.stderr.read() == b""
    listing.stderr.close()


def test_run_and_compare(project):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*EPIM, *arguments], capture_output=True, text=True, check=False)

    first = run("run", "03_mapping", "-p", "bits=2,3")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # no bar where there is no terminal
    folder = first.stdout.splitlines()[-1]
    assert re.fullmatch(r"runs/03_mapping-\d{8}-\d{6}", folder)
    assert "tiny_double  2048" in first.stdout

    second = run("run", "notebooks/03_mapping.ipynb", "--profile", "full", "--output", "other")
    assert second.returncode == 0, second.stderr
    other = second.stdout.splitlines()[-1]
    assert RunRecord.load(other).parameters == RunRecord.load(folder).parameters | {
        "profile": "full", "rows": 2048, "bits": [3, 5],
    }  # fmt: skip

    head = BeautifulSoup((Path(other) / "03_mapping.html").read_text(encoding="utf-8"), "html.parser").section
    assert ["rows", "1024", "2048"] in [[cell.text for cell in row.find_all(["th", "td"])] for row in head("tr")]
    assert "No record of this notebook is committed" in head.text

    both = run("compare", folder, f"{other}/record.json")
    assert both.returncode == 0, both.stderr
    lines = [re.split(r"  +", line) for line in both.stdout.splitlines()]
    assert ["rows", "1024", "2048"] in lines
    assert ["bits", "[2, 3]", "[3, 5]"] in lines
    assert ["tiny_double", "2048", "4096", "2048", "2"] in lines
    assert ["tiny_share", "0.25", "0.25", "0", "1"] in lines
    assert not any(line[0] == "wrap" for line in lines)
    page = BeautifulSoup(Path(lines[-1][0]).read_text(encoding="utf-8"), "html.parser")
    assert [table.caption.text for table in page("table")] == ["Runs", "Parameters that differ", "Metrics"]
    assert len(page("svg", class_="plot")) == 1
    assert "The metrics that differ, as ratios to the first run: from 1 to 2." in page.text

    listed = run("runs", ".", "rows>=2048")
    assert listed.returncode == 0, listed.stderr
    assert [line.split("  ")[0] for line in listed.stdout.splitlines()[1:]] == [Path(other).as_posix()]
    assert "profile=full, rows=2048" in listed.stdout


@pytest.fixture
def listed(project) -> Path:
    """Return a folder with the records of four runs."""
    for name, change in {
        "a": {"parameters": {"profile": "quick", "rows": 1024, "label": "x, y"}},
        "b": {"parameters": {"profile": "quick", "rows": 64}},
        "c": {"notebook": "99_gone"},
        "d": {"notebook": "train s/e-s0", "parameters": {"epochs": 3, "design": {"rows": 1}}},
    }.items():
        dataclasses.replace(RECORD, **change).save(project / "mine" / name / "record.json")
    return project / "mine"


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], "abcd"),
        (["notebook=03_mapping"], "ab"),
        (["rows>=512"], "a"),
        (["rows<512", "notebook==03_mapping"], "b"),
        (["rows>=512 or epochs==3"], "ad"),
        (["seconds>2"], ""),
        (["crossbars==400 and share<1"], "abcd"),
    ],
)
def test_runs_are_filtered(listed, capsys, filters, names):
    code, out, err = epim(capsys, "runs", "mine", *filters)
    assert (code, err) == (0, "")
    assert [row.split("  ")[0] for row in out.splitlines()] == ["run", *names]
    assert [row["run"] for row in csv.DictReader(epim(capsys, "runs", "mine", *filters, "--csv")[1].splitlines())] == [
        *names
    ]


def test_a_listing_shows_what_was_changed_and_its_csv_shows_all(listed, capsys):
    lines = [re.split("  +", line) for line in epim(capsys, "runs", "mine")[1].splitlines()]
    assert lines[:3] == [
        ["run", "notebook", "started", "seconds", "changed parameters"],
        ["a", "03_mapping", RECORD.started, "1.5", "label=x, y"],
        ["b", "03_mapping", RECORD.started, "1.5", "rows=64"],
    ]
    assert [line[-1] for line in lines[3:]] == ["-", "-"]
    rows = list(csv.DictReader(epim(capsys, "runs", "mine", "--csv")[1].splitlines()))
    assert rows[0]["label"] == "x, y"
    assert [row["rows"] for row in rows] == ["1024", "64", "64", ""]
    assert {row["crossbars"] for row in rows} == {"400"}


def test_without_a_folder_it_is_that_of_runs(listed, capsys):
    listed.rename("runs")
    assert epim(capsys, "runs", "rows>=512")[1].splitlines()[1].startswith("a ")


def test_runs_of_different_notebooks_do_not_compare(project, capsys):
    RECORD.save("a.json")
    RunRecord.from_dict(RECORD.to_dict() | {"notebook": "04_epitome"}).save("b.json")
    assert epim(capsys, "compare", "a.json", "b.json") == (
        2,
        "",
        "epim: runs of different notebooks, 03_mapping and 04_epitome, do not compare\n",
    )


def test_three_runs_compare_on_one_page(project, capsys):
    for name, crossbars in {"a<b": 400, "c": 100, "d": 800}.items():
        metrics = {"crossbars": crossbars, "name": f"<{name}>", "none": 0, "sign": -crossbars}
        dataclasses.replace(RECORD, metrics=metrics).save(f"{name}.json")
    code, out, err = epim(capsys, "compare", "a<b.json", "c.json", "d.json", "--output", "here")
    assert (code, err) == (0, "")
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    assert lines[:2] == [["metric", "a<b.json", "c.json", "d.json"], ["crossbars", "400", "100", "800"]]
    (page,) = Path("here").iterdir()
    assert lines[-1] == [str(page)]
    assert test_runs.foreign(page.read_text(encoding="utf-8")) == []
    page = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert page.title.text == page.h1.text == "3 runs of 03_mapping"
    assert "All parameters are the same." in page.text
    assert ["name", "<a<b>", "<c>", "<d>"] in [[c.text for c in row.find_all(["th", "td"])] for row in page("tr")]
    data = unquote(page.find("a", download="ratios.csv")["href"])
    assert data.endswith("metric,a<b.json,c.json,d.json\ncrossbars,1.0,0.25,2.0\nsign,1.0,0.25,2.0\n")


def test_equal_runs_compare_without_a_figure(project, capsys):
    RECORD.save("a.json")
    assert epim(capsys, "compare", "a.json", "a.json")[0] == 0
    (page,) = Path("runs").iterdir()
    assert "No metric moved" in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_prints_no_table(project, capsys):
    RECORD.save("a.json")
    code, out, err = epim(capsys, "compare", "a.json", "a.json", "--output", "a.json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("opened", [True, False])
def test_the_page_of_a_run_is_opened(project, capsys, monkeypatch, opened):
    monkeypatch.setattr("epimlib.cli.execute", lambda notebook, given, output: Path("runs", "a"))
    RECORD.save("runs/a/record.json")
    addresses = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or opened)
    code, _, err = epim(capsys, "run", "03", "--open")
    assert addresses == [(project / "runs" / "a" / "03_mapping.html").as_uri()]
    page = Path("runs", "a", "03_mapping.html")
    assert (code, err) == ((0, "") if opened else (1, f"epim: no browser could be opened; the page is {page}\n"))


def test_verify_repeats_a_record_and_names_the_metric_that_was_altered(project, capsys):
    assert epim(capsys, "run", "mapping", "-p", "rows=64", "--output", "data/results")[0] == 0
    (file,) = Path("data", "results").glob("*/record.json")
    code, out, err = epim(capsys, "verify", str(file.parent))
    assert (code, err) == (0, "")
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    assert lines[0] == [str(file)]
    assert ["tiny_double", "128", "128", "exact", "0", "yes"] in lines
    assert ["tiny_share", "0.25", "0.25", "relative", "2.5e-05", "yes"] in lines
    assert lines[-1] == ["1 records hold."]

    record = RunRecord.load(file)
    altered = dataclasses.replace(record, metrics=record.metrics | {"tiny_double": 129, "lost": 1})
    altered.save("altered.json")
    dataclasses.replace(RECORD, notebook="train a/b-s0").save("training.json")
    code, out, err = epim(capsys, "verify", "altered.json", "training.json")
    assert code == 1
    assert err == (
        "1 records of trainings are left out: epim train repeats them.\n"
        "epim: 2 of what 1 records say does not hold: altered.json: tiny_double was 129 and is 128; "
        "altered.json: lost was 1 and is no longer reported\n"
    )


def test_verify_goes_on_after_a_run_that_fails(project, capsys):
    write(project / "notebooks" / "05_bad.ipynb", "assert rows != 64", CODE)
    for rows in (64, 128):
        metrics = {"tiny_double": 2 * rows}
        parameters = RECORD.parameters | {"rows": rows}
        record = dataclasses.replace(RECORD, notebook="05_bad", parameters=parameters, metrics=metrics)
        record.save(f"data/{rows:04}.json")
    code, out, err = epim(capsys, "verify", "data")
    assert code == 1
    assert "AssertionError" in out
    assert re.search(r"^tiny_double +256 +256 +exact +0 +yes$", out, re.MULTILINE)
    assert re.match(r"epim: 1 of what 2 records say does not hold: data/0064.json: cell 4 raised AssertionError", err)


def test_a_failing_cell_leaves_with_1(project, capsys):
    write(project / "notebooks" / "05_bad.ipynb", "print('before')", "1 / 0")
    code, out, err = epim(capsys, "run", "bad")
    (folder,) = Path("runs").iterdir()
    sentence = f"epim: cell 5 raised ZeroDivisionError: division by zero (what was executed is in {folder})"
    assert (code, out, err.splitlines()[-1]) == (1, "", sentence)
    # kernel.log is there if the kernel itself had something to say, as it may on a crowded machine
    assert {path.name for path in folder.iterdir()} - {"kernel.log"} == {"05_bad.partial.ipynb"}


SIGNALS = [
    pytest.param(name, marks=pytest.mark.skipif(os.name == "nt", reason="on Windows a signal ends a process at once"))
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_the_process_alone_ends_the_run_and_its_kernel(project, name):
    write(
        project / "notebooks" / "05_long.ipynb",
        "print('before')",
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nos.replace('pid', 'started')\ntime.sleep(600)",
    )
    # A job in the background ignores the signal, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + EPIM[-1]
    running = subprocess.Popen([*EPIM[:-1], code, "run", "long"], stderr=subprocess.PIPE, text=True)
    started = project / "notebooks" / "started"
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.Signals[name])
    err = running.communicate(timeout=60)[1]
    (folder,) = Path("runs").iterdir()
    assert running.returncode == 1
    assert err.splitlines()[-1] == (
        f"epim: interrupted (what was executed is in {folder}); a run begins anew, with the same command"
    )
    assert "Traceback" not in err
    assert "before" in (folder / "05_long.partial.ipynb").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} <= {"05_long.partial.ipynb", "kernel.log"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_one_bar_for_all_runs_of_a_file_and_none_without_a_terminal(project):
    (project / "a.yaml").write_text(
        "study: a\nseeds: [0, 1]\nruns: {b: {}}\n"
        "base: {data: digits, model: resnet9, model_options: {width: 2}, epochs: 2}\n"
    )

    def train(*seed: str) -> str:
        import pty
        import termios

        reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (40, 100))
        command = [*EPIM, "train", "a.yaml", "--output", "out", *seed]
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer)
        os.close(writer)
        shown = b""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while part := os.read(reader, 4096):
                shown += part
        os.close(reader)
        assert done.wait(60) == 0
        assert len(done.stdout.read().splitlines()) == (1 if seed else 2)
        done.stdout.close()
        return shown.decode()

    first = train("--seed", "1")
    assert "b-s1: 100%" in first
    assert {total for _, total in re.findall(r"([\d.]+)/(\d+) epochs", first)} == {"2"}
    both = re.findall(r"([\d.]+)/(\d+) epochs", train())
    assert {total for _, total in both} == {"4"}
    assert [float(n) for n, _ in both] == sorted(float(n) for n, _ in both)
    assert both[-1] == ("4.0", "4")
    silent = subprocess.run([*EPIM, "train", "a.yaml", "--output", "out"], capture_output=True, text=True, check=True)
    assert "epochs" not in silent.stderr
    assert len(silent.stdout.splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="on Windows a signal ends a process at once")
def test_signals_of_the_caller_are_given_back(project, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    epim(capsys, "list")
    epim(capsys, "nonsense")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.skipif(os.name == "nt", reason="on Windows a signal ends a process at once")
def test_an_ignored_hangup_stays_ignored(project, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("epimlib.lab.notebooks.notebooks", lambda: seen.append(signal.getsignal(signal.SIGHUP)) or {})
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        epim(capsys, "list")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]


def test_the_command_is_installed(project):
    done = subprocess.run([Path(sys.executable).with_name("epim"), "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "03_mapping" in done.stdout


def test_it_starts_without_the_heavy_packages():
    code = "import sys, epimlib.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "papermill", "nbformat", "nbconvert", "IPython", "pandas", "scipy"}.isdisjoint(loaded)
