"""Sweeps: what is planned, what is refused before anything starts, and what is there after whatever happens."""

import csv
import dataclasses
import errno
import itertools
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from epimlib import _checks
from epimlib.lab import sweep, sweep_page
from epimlib.lab.jobs import Job, alone
from epimlib.lab.notebooks import Notebook, RunError
from epimlib.lab.records import RunRecord
from epimlib.lab.sweep import MOST_POINTS, Sweep, plan_points
from tests.test_cli import EPIM, epim
from tests.test_runs import PROFILE, RECORD, foreign, write

CELL = PROFILE + "n: int = 1  # number [1], 1..9999\nm: int = 1  # number [1], 1..9999\n"
CELL += "sizes: list[int] = [1]  # of something [1], 1..99\nkind: str = 'a'  # a word [name], a|b|13\n"
TINY = (
    "from epimlib.lab import report\nassert n != 13, 'thirteen'\nreport(product=n * m, root=(n + m) ** 0.5, word=kind)"
)
FILE = "notebook: tiny\ngrid:\n  n: [2, 1]\n  m: [3, 5]\nwhere: n >= 2 or m == 3\nmetric: root\n"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Return a folder with a small notebook and a sweep of it, and be in it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks" / "01_tiny.ipynb", TINY, cell=CELL)
    (tmp_path / "a.yaml").write_text(FILE)
    return tmp_path


@pytest.fixture
def tiny(project) -> Notebook:
    return Notebook.load(project / "notebooks" / "01_tiny.ipynb")


@pytest.fixture
def no_process(monkeypatch):
    """Fail if a process would be started."""

    def forbidden(*arguments, **options):
        raise AssertionError("a process would have been started")

    monkeypatch.setattr("epimlib.lab.jobs.ProcessPoolExecutor", forbidden)


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the table of a sweep, without times."""
    with (folder / "table.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


class TestPlan:
    def test_a_grid_has_every_combination_and_the_last_parameter_changes_fastest(self, tiny):
        points = plan_points(tiny, {"n": [2, 1], "m": [3, 5]})
        assert points == ({"n": 2, "m": 3}, {"n": 2, "m": 5}, {"n": 1, "m": 3}, {"n": 1, "m": 5})

    def test_what_is_zipped_goes_together(self, tiny):
        assert plan_points(tiny, None, {"n": [2, 1], "m": [3, 5]}) == ({"n": 2, "m": 3}, {"n": 1, "m": 5})

    def test_points_stand_as_they_are_and_combine_with_the_rest(self, tiny):
        points = plan_points(tiny, {"m": [3, 5]}, {"kind": ["a"]}, [{"n": 4}, {}])
        assert points == tuple({**first, "kind": "a", "m": m} for first in ({"n": 4}, {}) for m in (3, 5))

    def test_equal_points_are_one(self, tiny):
        assert plan_points(tiny, points=[{"n": 1}, {"m": 2}, {"n": 1}]) == ({"n": 1}, {"m": 2})

    def test_the_filter_knows_what_is_not_swept(self, tiny):
        assert plan_points(tiny, {"n": [2, 1]}, condition="m == 1 and n < 2") == ({"n": 1},)

    def test_without_anything_it_is_one_run(self, tiny):
        assert plan_points(tiny) == ({},)

    def test_a_thousand_points_are_planned_at_once(self, tiny):
        """In 3 s of a processor: others do not make that longer."""
        started = time.process_time()
        jobs = Sweep(tiny, plan_points(tiny, {"n": list(range(1, 41)), "m": list(range(1, 26))})).jobs(Path("s"))
        assert len({job.folder for job in jobs if not job.done}) == 1000
        assert time.process_time() - started < 3

    @pytest.mark.parametrize("cut", range(len(FILE)))
    def test_a_truncated_file_is_refused_or_a_whole_one(self, project, cut):
        (project / "cut.yaml").write_text(FILE[:cut])
        try:
            points = Sweep.load("cut.yaml").points
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
        else:
            said = f"{len(points)} points"
        assert re.fullmatch(r"[^\n]{8,400}", said)


class TestFolder:
    def folders(self, notebook: Notebook, point: dict) -> set[Path]:
        return {job.folder for job in Sweep(notebook, (point,)).jobs(Path("s"))}

    def test_it_is_named_by_the_values_however_they_are_given(self, tiny):
        assert self.folders(tiny, {}) == self.folders(tiny, {"n": 1, "profile": "quick"})
        assert self.folders(tiny, {}) != self.folders(tiny, {"n": 2})

    def test_another_notebook_library_or_data_is_another_folder(self, tiny, monkeypatch, tmp_path):
        found = [self.folders(tiny, {})]
        write(tiny.path, TINY + "  # changed", cell=CELL)
        found.append(self.folders(tiny, {}))
        (tmp_path / "data" / "results" / "sweeps").mkdir(parents=True)
        (tmp_path / "epimlib").mkdir()
        for file in ("data/a.json", "epimlib/b.py", "epimlib/c.yaml"):
            monkeypatch.setattr(sweep, "PROJECT", tmp_path)
            monkeypatch.setattr(sweep, "LIBRARY", tmp_path / "epimlib")
            found.append(self.folders(tiny, {}))
            (tmp_path / file).write_text("1")
            found.append(self.folders(tiny, {}))
            (tmp_path / file).write_text("2")
            found.append(self.folders(tiny, {}))
        assert len({*map(frozenset, found)}) == 2 + 1 + 3 * 2
        (tmp_path / "data" / "results" / "sweeps" / "a.json").write_text("1")
        assert self.folders(tiny, {}) == found[-1]

    def test_a_file_that_a_parameter_names_is_part_of_it(self, project):
        path = write(project / "own.ipynb", TINY, cell=CELL + "file: str = 'x'  # of a network [name]\n")
        before = self.folders(Notebook.load(path), {"file": "net.json"})
        (project / "net.json").write_text("1")
        assert self.folders(Notebook.load(path), {"file": "net.json"}) != before


MANY = ",".join(map(str, range(1, 3200)))
MISTAKES = [
    ("tiny -p k=1,2", "unknown parameter 'k'; known are kind, m, n, profile, sizes"),
    ("tiny -p n=1,0", "n must be in 1..9999 [1], got 0"),
    ("tiny -p n=1,x", "n must be of type int, got 'x'"),
    ("tiny -p n=1 -p n=2", "parameter 'n' is given twice"),
    ("tiny -p n", "a parameter is given as NAME=VALUE, got 'n'"),
    ("tiny -p sizes=1;200", "sizes must be in 1..99 [1], got [200]"),
    (f"tiny -p n={MANY} -p m={MANY}", f"a sweep has at most {MOST_POINTS} points, got {3199**2}"),
    ("tiny -j 0", "-j must be at least 1, got 0"),
    ("tiny --where __import__('os').remove('a.yaml')", "a filter is made of comparisons such as rows >= 512"),
    ("tiny --where n>1", "where leaves none of the 1 points: n>1"),
    ("tiny --where k>1", "unknown name 'k' in a filter; "),
    ("tiny -p n=1,2 --where n>x", "n is 1, which > does not compare with x"),
    ("tiny --output a.yaml", "[Errno 17] File exists: 'a.yaml'"),
    ("nothing", "unknown notebook 'nothing'; known are tiny"),
    ("a.yaml -p n=1", "-p and --where are for a notebook; a.yaml says itself what it sweeps"),
    ("missing.yaml", "no sweep at missing.yaml"),
    ("notebooks", "unknown notebook 'notebooks'"),
]
FILES = [
    ("notebook: tiny\ngrid: {n: [1, 2", "b.yaml is not a readable sweep: "),
    ("notebook: tiny\ngrid: {k: [1]}", "b.yaml: unknown parameter 'k'; known are "),
    ("notebook: tiny\ngrid: {n: 1}", "b.yaml: grid must list values of n, got 1"),
    ("notebook: tiny\ngrid: {n: []}", "b.yaml: grid must list values of n, got []"),
    ("notebook: tiny\ngrid: [1]", "b.yaml: grid must be a mapping of parameters to lists, got [1]"),
    ("notebook: tiny\ngrid: {n: ['1']}", "b.yaml: n must be of type int, got '1'"),
    ("notebook: tiny\ngrid: {kind: [13]}", "b.yaml: kind must be of type str, got 13"),
    ("notebook: tiny\ngrid: {sizes: [1]}", "b.yaml: sizes must be of type list[int], got 1"),
    (
        "notebook: tiny\nzip: {n: [1, 2], m: [1]}",
        "b.yaml: zip must list equally many values of each parameter",
    ),
    ("notebook: tiny\npoints: {n: 1}", "b.yaml: points must be a list of mappings, at least one, got {'n': 1}"),
    ("notebook: tiny\npoints: []", "b.yaml: points must be a list of mappings, at least one, got []"),
    ("notebook: tiny\ngrid: {n: [1]}\nzip: {n: [1]}", "b.yaml: a parameter has one place in a sweep, 'n' has two"),
    ("notebook: tiny\nwhere: os.system('x')", "b.yaml: a filter is made of comparisons"),
    ("notebook: tiny\nwhere: [1]", "where of b.yaml must be a text, got [1]"),
    ("notebook: 3", "notebook of b.yaml must be a text, got 3"),
    ("notebook: tinny", "unknown notebook 'tinny'; did you mean 'tiny'?"),
    ("notebook: tiny\ngird: {n: [1]}", "unknown key 'gird' in b.yaml; did you mean 'grid'?"),
    ("grid: {n: [1]}", "b.yaml lacks 'notebook'"),
    ("study", "b.yaml must be a mapping, got str"),
    ("", "b.yaml must be a mapping, got NoneType"),
    ("study: a", "b.yaml lacks 'seeds', 'base', 'runs'"),
]


@pytest.mark.parametrize(("command", "sentence"), MISTAKES)
def test_a_wrong_request_is_one_sentence_and_starts_nothing(project, capsys, no_process, command, sentence):
    before = sorted(project.rglob("*"))
    started = time.process_time()
    code, out, err = epim(capsys, "sweep", *command.split(" "))
    assert (code, out) == (2, "")
    assert err.startswith(f"epim: {sentence}")
    assert err.count("\n") == 1
    assert sorted(project.rglob("*")) == before
    assert time.process_time() - started < 3


@pytest.mark.parametrize(("text", "sentence"), FILES)
def test_a_wrong_file_is_one_sentence_and_starts_nothing(project, capsys, no_process, text, sentence):
    (project / "b.yaml").write_text(text)
    before = sorted(project.rglob("*"))
    code, out, err = epim(capsys, "sweep", "b.yaml")
    assert (code, out) == (2, "")
    assert err.startswith(f"epim: {sentence}")
    assert err.count("\n") == 1
    assert sorted(project.rglob("*")) == before


def test_what_would_run_is_said_and_nothing_is_written(project, capsys, no_process):
    before = sorted(project.rglob("*"))
    code, out, err = epim(capsys, "sweep", "a.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert out.count("  no  ") == 3
    assert out.endswith("\n3 of 3 would run, no record says how long\n")
    assert sorted(project.rglob("*")) == before


def test_the_time_is_that_of_records(project, capsys, no_process):
    for seconds in (20, 40):
        record = dataclasses.replace(RECORD, notebook="01_tiny", seconds=seconds)
        record.save(project / "data" / "results" / "01_tiny" / f"{seconds}.json")
    _, out, _ = epim(capsys, "sweep", "a.yaml", "--dry-run", "-j", "2")
    assert out.endswith("3 of 3 would run, for about 0:00:45 [h:min:s]\n")


def test_it_runs_what_is_left_and_what_changed(project, capsys):
    def swept() -> list[str]:
        code, out, err = epim(capsys, "sweep", "a.yaml", "-j", "2", "--output", "s", "--records", "r")
        assert (code, out, err) == (0, f"s{os.sep}index.html\n", "")
        return [row["folder"] for row in rows(Path("s"))]

    first = swept()
    assert [(row["n"], row["m"], row["product"], row["word"]) for row in rows(Path("s"))] == [
        ("2", "3", "6", "a"), ("2", "5", "10", "a"), ("1", "3", "3", "a"),
    ]  # fmt: skip
    kept = [RunRecord.load(path) for path in sorted(Path("r/a").iterdir())]
    assert kept == [RunRecord.load(Path("s", folder)) for folder in first]
    started = {folder: RunRecord.load(Path("s", folder)).started for folder in first}
    page = Path("s/index.html").read_text()
    assert foreign(page) == []
    assert all((Path("s") / link).is_file() for link in re.findall(r'<a href="([^"]+)"', page))
    assert "root over n and m, from 2 to 2.64575." in page
    assert {path.name for path in Path("s").iterdir()} - {".lock", "table.parquet"} == {
        *first, "index.html", "table.csv",
    }  # fmt: skip

    (project / "a.yaml").write_text(FILE.replace("[2, 1]", "[4, 2, 1]"))
    second = swept()
    assert second[2:] == first
    assert {folder: RunRecord.load(Path("s", folder)).started for folder in first} == started

    write(project / "notebooks" / "01_tiny.ipynb", TINY + "\nreport(new=1)", cell=CELL)
    assert not {*swept()} & {*second}
    assert {row["new"] for row in rows(Path("s"))} == {"1"}


def test_a_failing_point_is_listed_and_the_rest_goes_on(project, capsys):
    command = ("sweep", "tiny", "-p", "n=1,13,2", "--output", "s", "--records", "r")
    code, out, err = epim(capsys, *command)
    assert (code, out) == (1, f"s{os.sep}index.html\n")
    assert err.startswith("failed: n = 13: cell 4 raised AssertionError: thirteen (what was executed is in ")
    assert err.splitlines()[1:] == ["epim: 1 of 3 runs failed; the same command begins them anew"]
    assert [row["n"] for row in rows(Path("s"))] == ["1", "2"]
    assert "thirteen" in Path("s/index.html").read_text()
    assert len(list(Path("s/unfinished").rglob("*.partial.ipynb"))) == 1
    assert not Path("r").exists()


def test_a_second_sweep_in_a_folder_is_refused(project, capsys, no_process):
    with alone(Path("s")):
        before = sorted(Path("s").iterdir())
        sentence = "epim: another sweep is at work in s; wait for its end, or take another folder\n"
        assert epim(capsys, "sweep", "a.yaml", "--output", "s") == (2, "", sentence)
        assert sorted(Path("s").iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_full_disk_ends_the_sweep_with_one_sentence(project):
    """A limit on the size of a file stands for the disk: the page of a run exceeds it in a process that works."""
    import resource

    done = subprocess.run(
        [*EPIM, "sweep", "a.yaml", "--output", "s"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"epim: \S+01_tiny.html: File too large; the same command goes on with what is left\n", done.stderr
    )
    assert {path.name for path in Path("s").iterdir()} == {".lock", "unfinished"}


def test_a_disk_that_is_full_at_the_end_leaves_no_half_a_table(project, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("epimlib.lab.jobs.run_jobs", lambda jobs, workers, name: {})
    Path("s").mkdir()
    monkeypatch.setattr(_checks.os, "fsync", full)
    code, out, err = epim(capsys, "sweep", "a.yaml", "--output", "s")
    assert (code, out, err) == (1, "", f"epim: [Errno 28] No space left on device: {str(Path('s/table.csv'))!r}\n")
    assert [path.name for path in Path("s").iterdir()] == [".lock"]


def test_what_was_killed_goes_on_and_ends_with_the_same_table(project):
    command = [*EPIM, "sweep", "tiny", "-p", "n=1,2,3", "-p", "m=4,5", "-j", "2", "--output"]
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    chance, done = random.Random(), []
    for _ in range(3):
        sweeping = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(2, 8))
        sweeping.kill()
        sweeping.wait()
        done.append({path.parent for path in Path("killed").glob("*/record.json")})
    last = subprocess.run([*command, "killed"], check=True, capture_output=True, text=True)
    assert last.stderr == ""
    assert rows(Path("killed")) == rows(Path("whole"))
    assert all(first <= second for first, second in itertools.pairwise(done))
    assert not Path("killed/unfinished").exists()


class TestPage:
    def written(self, folder: Path, points: list[dict], metric: str | None = None, **metrics) -> str:
        jobs = [Job(folder / str(number), point, print) for number, point in enumerate(points)]
        for number, job in enumerate(jobs):
            found = {"found": number * number, "same": 1} | {name: values[number] for name, values in metrics.items()}
            dataclasses.replace(RECORD, metrics=found).save(job.folder / "record.json")
        sweep_page.write_results(folder, "a <sweep>", jobs, {}, metric)
        return (folder / "index.html").read_text()

    @pytest.mark.parametrize(
        ("points", "alt", "meshes"),
        [
            ([{"n": 3}, {"n": 1}, {"n": 2}], "found over n, from 0 to 4.", 0),
            ([{"n": n, "m": m} for n in (1, 2) for m in (3, 4)], "found over n and m, from 0 to 9.", 1),
            ([{"n": n, "m": 2 * n} for n in (1, 2)], "found over n, from 0 to 1.", 0),
            ([{"n": n, "m": m, "k": k} for n in (1, 2) for m in (3, 4) for k in "ab"], "found over n and m and k", 0),
            ([{"sizes": [1, 2]}, {"sizes": [1]}], "found over sizes, from 0 to 1.", 0),
        ],
    )
    def test_the_figure_is_a_line_or_a_heat_map_by_what_is_swept(self, tmp_path, points, alt, meshes):
        page = self.written(tmp_path, points)
        assert f'aria-label="{alt}' in page
        assert page.count('id="QuadMesh') == meshes
        assert "a &lt;sweep&gt;" in page

    def test_one_point_needs_no_figure(self, tmp_path):
        assert "<svg" not in self.written(tmp_path, [{"n": 1}])

    def test_a_metric_must_be_a_number_that_was_found(self, tmp_path):
        assert "same over n, from 1 to 1." in self.written(tmp_path, [{"n": 1}, {"n": 2}], "same")
        with pytest.raises(ValueError, match="no run has a number 'fund' for a figure; did you mean 'found'?"):
            self.written(tmp_path / "b", [{"n": 1}, {"n": 2}], "fund")
        assert not (tmp_path / "b" / "table.csv").exists()

    def test_a_table_holds_whatever_was_found(self, tmp_path):
        self.written(tmp_path, [{"sizes": [1, 2]}, {"sizes": [3]}], mixed=["a", 3], share=[0.1, 1e-20])
        assert (tmp_path / "table.csv").read_text().splitlines() == [
            "sizes,found,same,mixed,share,seconds,folder", '"[1, 2]",0,1,a,0.1,1.5,0', "[3],1,1,3,1e-20,1.5,1",
        ]  # fmt: skip
        if (tmp_path / "table.parquet").exists():
            assert pd.read_parquet(tmp_path / "table.parquet")["found"].tolist() == [0, 1]


STUDY = """study: small
seeds: [0]
base: {data: digits, model: resnet9, model_options: {width: 8}, epochs: 1, batch_size: 512}
runs:
  dense: {}
  again: {start: dense}
  apart: {lr: 0.01}
"""


def test_trainings_run_after_what_they_start_from_and_go_on(project, capsys):
    (project / "study.yaml").write_text(STUDY)
    code, out, err = epim(capsys, "sweep", "study.yaml", "--dry-run")
    assert code == 0
    assert "3 of 3 would run, for about" in out
    assert not Path("runs").exists()
    code, out, err = epim(capsys, "sweep", "study.yaml", "-j", "2", "--records", "r")
    assert (code, err) == (0, "")
    folder = Path("runs/train/small")
    assert [(row["run"], row["seed"]) for row in rows(folder)] == [("dense", "0"), ("again", "0"), ("apart", "0")]
    dense, again = (RunRecord.load(Path("r/small") / f"{name}-s0.json") for name in ("dense", "again"))
    assert dense.notebook == "train small/dense-s0"
    assert dense.machine["threads"] == 1
    assert again.started >= dense.started
    assert epim(capsys, "sweep", "study.yaml")[0] == 0
    assert RunRecord.load(folder / "dense-s0") == dense


def test_what_starts_from_a_failed_one_fails_with_it(project, capsys, tmp_path):
    from epimlib.lab.jobs import run_jobs

    first = Job(tmp_path / "a", {"run": "a"}, sys.exit)  # ends the process that works
    with pytest.raises(RunError, match="a process was killed; the same command goes on"):
        run_jobs([dataclasses.replace(first, work=os.abort)], 1, "test")
    first = dataclasses.replace(first, work=test_what_starts_from_a_failed_one_fails_with_it)  # lacks arguments
    second = Job(tmp_path / "b", {"run": "b"}, print, (first.folder,))
    third = Job(tmp_path / "c", {"run": "c"}, print, (second.folder,))
    failed = run_jobs([first, second, third], 2, "test")
    assert "missing 3 required positional arguments" in failed.pop(first.folder)
    assert failed == dict.fromkeys([second.folder, third.folder], "what it starts from has failed")
