"""Parameters, run records and runs: what a notebook declares is what a reader can set, and what a record says."""

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat import v4

from epimlib.lab import check, records, report, studies
from epimlib.lab import notebooks as runs
from epimlib.lab import page as _page
from epimlib.lab.notebooks import Notebook, RunError, execute, find_notebook
from epimlib.lab.page import plain
from epimlib.lab.parameters import Parameter, ParameterError, named, parse_parameters, resolve
from epimlib.lab.records import METRIC, RunRecord, compare_runs, table

PROFILE = 'profile: str = "quick"  # quick runs in seconds [name], quick|full\n'
CELL = (
    PROFILE
    + """rows: int = 1024  # word lines, the rows of an epitome [word lines], 16..8192; full: 2048
bits: list[int] = [3, 5]  # bits of a weight [bit], 1|2|3|5
rate: float = 1  # learning rate [1/step], 1e-3..1.5
wrap: bool = True  # share patches [flag]
label: str = "a b"  # name of the figure [text]
"""
)
PARAMETERS = (
    Parameter("profile", "str", "quick", "quick runs in seconds", "name", choices=("quick", "full")),
    Parameter("rows", "int", 1024, "word lines, the rows of an epitome", "word lines", low=16, high=8192, full=2048),
    Parameter("bits", "list[int]", [3, 5], "bits of a weight", "bit", choices=(1, 2, 3, 5)),
    Parameter("rate", "float", 1.0, "learning rate", "1/step", low=0.001, high=1.5),
    Parameter("wrap", "bool", True, "share patches", "flag"),
    Parameter("label", "str", "a b", "name of the figure", "text"),
)
PROSE = """# A tiny notebook

(sec-x)=
There are {glue:text}`tiny_double:,` cells on $R$ crossbars.

$$
R = 2 r
$$ (eq-r)
"""
CODE = """from epimlib.lab.notebooks import report
import numpy as np
report(tiny_double=np.int64(2 * rows), tiny_share=rate / 4)
print(open("beside.txt").read(), "for", label)"""


PYTHON = {"kernel_name": "python3", "language": "python"}


def write(path: Path, *sources: str, cell: str = CELL) -> Path:
    """Write a notebook with these cells after the parameters cell and its check."""
    parameters = v4.new_code_cell(cell, metadata={"tags": ["parameters"]})
    checking = v4.new_code_cell("from epimlib.lab import check\ncheck(globals())")
    cells = [v4.new_markdown_cell(PROSE), parameters, checking, *map(v4.new_code_cell, sources)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def no_kernel(monkeypatch):
    """Fail if anything is executed."""

    def forbidden(*arguments, **options):
        raise AssertionError("a kernel would have been started")

    monkeypatch.setattr("papermill.execute_notebook", forbidden)


@pytest.fixture
def read_only(tmp_path):
    """Return a folder in which this process cannot write."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    root = os.geteuid() == 0  # whom no mode keeps out
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)


class TestParametersCell:
    def test_every_field_is_read_from_the_line(self):
        assert parse_parameters(CELL) == PARAMETERS

    def test_the_types_are_those_of_the_annotation(self):
        rate = parse_parameters(CELL)[3]
        assert type(rate.default) is float

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("rows = 3  # rows [1], 1..4", "a parameter is written 'name: type = default"),
            ("rows: int = 3", "a parameter is written"),
            ("rows: int = 3  # rows, 1..4", "a parameter is written"),
            ("rows: int  # rows [1], 1..4", "a parameter is written"),
            ("import numpy  # rows [1], 1..4", "a parameter is written"),
            ("rows: list[int] = [1,\n 2]  # rows [1], 1..4", "a parameter is written"),
            ("a: int = 1; rows: int = 2  # rows [1], 1..4", "a parameter is written"),
            ("rows: integer = 3  # rows [1], 1..4", "the type of rows must be one of int, .*got integer"),
            ("rows: int = 3  # rows [1]", "the range of rows must be low..high or a|b|c"),
            ("rows: int = 3  # rows [1], 4..1", "the range of rows must be low"),
            ("rows: int = 3  # rows [1], 1..4.5", "the range of rows must be low"),
            ("rows: int = 3  # rows [1], small", "the range of rows must be low"),
            ("rows: float = 3  # rows [1], 0..inf", "the range of rows must be low"),
            ("rows: bool = True  # rows [1], True|False", "the range of rows must be low"),
            ("rows: str = 'a'  # rows [1], a..c", "the range of rows must be low"),
            ("rows: int = 2 ** 3  # rows [1], 1..9", r"the value of rows must be a literal, got 2 \*\* 3"),
            ("rows: int = 9  # rows [1], 1..4", r"rows must be in 1..4 \[1\], got 9"),
            ("rows: int = 3  # rows [1], 1..4; full: 9", r"rows must be in 1..4 \[1\], got 9"),
            ("rows: int = 3.0  # rows [1], 1..4", "rows must be of type int, got 3.0"),
            ("rows: str = 'd'  # rows [1], a|b", "rows must be 'a' or 'b', got 'd'"),
            ("profile: str = 'quick'  # p [name], quick|full", "profile is declared twice"),
            (
                "rows: int = 3  # rows [1], 1..4, 2.. values",
                "behind the range of a list rows stand 'N.. values' and one of",
            ),
            ("rows: int = 3  # rows [1], 1..4, ascending", "behind the range of a list rows stand"),
            ("rows: list[int] = [3]  # rows [1], 1..4, sorted", "behind the range of a list rows stand"),
            ("rows: list[int] = [3]  # rows [1], 1..4, 0.. values", "behind the range of a list rows stand"),
            ("rows: list[int] = [3]  # rows [1], 1..4, 3..2 values", "behind the range of a list rows stand"),
            ("rows: list[int] = [3]  # rows [1], 1..4, ascending, 2 values", "behind the range of a list rows stand"),
            ("rows: list[int] = [3]  # rows [1], 1..4, 2.. values", r"rows must have at least 2 values, got \[3\]"),
            ("rows: int = 3  # rows [1], 1..4; quick: 2", "a parameter is written"),
            ("rows: int = 3  # rows [1] 1..4", "a parameter is written"),
        ],
    )
    def test_a_malformed_line_is_named(self, line, message):
        with pytest.raises(ValueError, match=rf"^x.ipynb, line 2: {message}"):
            parse_parameters(PROFILE + line + "\n", "x.ipynb")

    def test_spaces_do_not_keep_it(self):
        line = "rows: int = 3  #" + " " * 30_000 + "rows [1]" + " " * 30_000 + "; 1..4"
        with pytest.raises(ValueError, match="a parameter is written"):
            parse_parameters(PROFILE + line)

    @pytest.mark.parametrize(
        ("rules", "good", "bad"),
        [
            ("", [[3], [3, 3], [4, 1, 2]], [[]]),
            (", 2.. values", [[3, 3], [4, 1, 2]], [[3]]),
            (", 2 values", [[3, 3]], [[3], [1, 2, 3]]),
            (", 1..2 values", [[3], [3, 3]], [[], [1, 2, 3]]),
            (", ascending", [[3], [1, 2, 4]], [[], [3, 3], [1, 4, 2]]),
            (", descending", [[3], [4, 2, 1]], [[3, 3], [4, 1, 2]]),
            (", 2.. values, distinct", [[4, 1, 2]], [[4], [4, 1, 4]]),
        ],
    )
    def test_number_and_order_of_a_list_are_part_of_the_line(self, rules, good, bad):
        line = f"rows: list[int] = {good[0]}  # rows [1], 1..4{rules}\n"
        rows = named(parse_parameters(PROFILE + line), "rows")
        assert rows.range == "1..4" + rules
        assert [rows.parse(",".join(map(str, value))) for value in good] == good
        for value in bad:
            with pytest.raises(ParameterError, match="rows must (have|be)|values of rows must be"):
                rows.parse(",".join(map(str, value)))

    def test_a_cell_that_is_not_python_is_named(self):
        with pytest.raises(ValueError, match=r"x.ipynb is not Python: .*line 2"):
            parse_parameters(PROFILE + "rows: int = = 3", "x.ipynb")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("rows: int = " + "(" * 300 + "1" + ")" * 300, "is not Python: too many nested parentheses"),
            ("rows: int = " + "-" * 5000 + "1", "nested|recursion"),
            ("rows: int = " + "1+" * 30_000 + "1", "nested|recursion"),
            ("rows: int = " + "[" * 5000, "is not Python: too many nested parentheses"),
            ("rows: int = " + "9" * 5000, "is not Python: Exceeds the limit"),
            ("rows: int = " + "9" * 4000 + "  # rows [1], 1..4", "line 2: rows must be in 1..4"),
            ("rows: float = " + "9" * 4000 + "  # rows [1], 1..4", "line 2: rows must be in 1.0..4.0"),
            ("rows: float = -" + "9" * 4000 + "  # rows [1], 1..4", "line 2: rows must be in 1.0..4.0"),
            ("rows: int = 3  # rows [1], 1.." + "9" * 5000, "line 2: the range of rows must be low..high"),
            ("rows: int = 3  # rows [1], 1..4" + "," * 20_000, "line 2: behind the range of a list rows stand"),
            ("rows: int = 3  # rows " + "[" * 20_000, "line 2: a parameter is written"),
            ("a.b: int = 3  # rows [1], 1..4", "line 2: a parameter is written"),
            ("a[0]: int = 3  # rows [1], 1..4", "line 2: a parameter is written"),
            ("(a): int = 3  # rows [1], 1..4", "line 2: a parameter is written"),
            ("rows: float = 1  # rows [1], nan..nan", "line 2: the range of rows must be low..high"),
            ("rows: str = 'a\\nb'  # rows [1]", "line 2: rows must be a line of printable text"),
            ("rows: str = '\\ud800'  # rows [1]", "line 2: rows must be a line of printable text"),
            ("rows: list[int] = [" + "1," * 20_000 + "2]  # rows [1], 1..4, distinct", "must be distinct"),
            ("class: int = 3  # rows [1], 1..4", "is not Python: invalid syntax"),
            ("\0", "is not Python: source code string cannot contain null bytes"),
            ('"' + "'" * 3, "is not Python: unterminated string"),
            ("\\", "is not Python"),
            ("rows" * 20_000, r"has \d+ characters, more than 65536"),
        ],
    )
    def test_what_keeps_parsers_is_one_error_at_once(self, line, message):
        started = time.monotonic()
        with pytest.raises(ValueError, match=message):
            parse_parameters(PROFILE + line, "x.ipynb")
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize("cell", ["", 'profile: str = "quick"  # p [name], quick|slow\n'])
    def test_every_notebook_has_both_profiles(self, cell):
        with pytest.raises(ValueError, match='x.ipynb lacks the line: profile: str = "quick"'):
            parse_parameters(cell, "x.ipynb")


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("rows", True, "rows must be of type int, got True"),
            ("rows", "64", "rows must be of type int, got '64'"),
            ("rows", 15, r"rows must be in 16..8192 \[word lines\], got 15"),
            ("rows", 8193, r"rows must be in 16..8192 \[word lines\], got 8193"),
            ("rate", "1", "rate must be of type float, got '1'"),
            ("rate", True, "rate must be of type float, got True"),
            ("rate", float("nan"), r"rate must be in 0.001..1.5 \[1/step\], got nan"),
            ("bits", 3, r"bits must be of type list\[int\], got 3"),
            ("bits", "3,5", r"bits must be of type list\[int\], got '3,5'"),
            ("bits", [3, 4.0], r"bits must be of type list\[int\], got \[3, 4.0\]"),
            ("bits", [3, 4], r"bits must be 1 or 2 or 3 or 5, got \[3, 4\]"),
            ("wrap", 1, "wrap must be of type bool, got 1"),
            ("profile", "fast", "profile must be 'quick' or 'full', got 'fast'"),
            ("rwos", 3, "unknown parameter 'rwos'; did you mean 'rows'?"),
            ("zzz", 3, "unknown parameter 'zzz'; known are bits, label, profile, rate, rows, wrap"),
        ],
    )
    def test_a_wrong_value_is_refused(self, name, value, message):
        with pytest.raises((TypeError, ValueError), match=message):
            resolve(PARAMETERS, {name: value})

    def test_an_int_is_a_float_but_not_the_other_way_round(self):
        assert type(resolve(PARAMETERS, {"rate": 1})["rate"]) is float
        with pytest.raises(TypeError, match="rows must be of type int, got 64.0"):
            resolve(PARAMETERS, {"rows": 64.0})

    def test_the_full_profile_replaces_defaults_but_not_what_was_given(self):
        assert resolve(PARAMETERS, {})["rows"] == 1024
        assert resolve(PARAMETERS, {"profile": "full"})["rows"] == 2048
        assert resolve(PARAMETERS, {"profile": "full", "rows": 1024})["rows"] == 1024
        assert resolve(PARAMETERS, {"profile": "full"})["bits"] == [3, 5]

    @given(st.integers(-20_000, 20_000))
    def test_a_number_is_accepted_exactly_within_its_range(self, value):
        rows = PARAMETERS[1]
        if 16 <= value <= 8192:
            assert rows.parse(str(value)) == rows.check(value) == value
        else:
            with pytest.raises(ValueError, match="rows must be in"):
                rows.parse(str(value))

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("rows", "64", 64),
            ("rate", "0.5", 0.5),
            ("rate", "1e-3", 0.001),
            ("wrap", "false", False),
            ("wrap", "True", True),
            ("bits", "3,5,5", [3, 5, 5]),
            ("bits", "[3, 5]", [3, 5]),
            ("bits", "3", [3]),
            ("label", "a=b", "a=b"),
        ],
    )
    def test_the_command_line_is_read_by_type(self, name, text, value):
        assert named(PARAMETERS, name).parse(text) == value

    @pytest.mark.parametrize(
        ("name", "text"), [("rows", "64.0"), ("rate", "fast"), ("wrap", "yes"), ("bits", "3,x"), ("bits", "3,,5")]
    )
    def test_a_text_of_another_type_is_refused(self, name, text):
        with pytest.raises(TypeError, match=f"{name} must be of type .*, got '{text}'"):
            named(PARAMETERS, name).parse(text)


class TestCheck:
    """What the second cell of a notebook does, with the history that a kernel would have."""

    def run(self, *inputs: str, **defaults) -> dict:
        namespace = {"In": ["", *inputs, "check(globals())"]}
        for source in inputs:
            exec(source, namespace)
        return namespace | {"default": check(namespace, **defaults)} | {"rows": namespace["rows"]}

    def test_it_says_what_the_reader_sees(self, capsys):
        self.run(CELL)
        assert "Profile quick, every parameter at its default." in capsys.readouterr().out

    def test_it_names_injected_values(self, capsys):
        self.run(CELL, "# Parameters\nrows = 64\nwrap = False\n")
        assert "Profile quick, rows = 64 instead of 1024, wrap = False instead of True." in capsys.readouterr().out

    def test_the_full_profile_sets_what_was_not_injected(self):
        assert self.run(CELL, '# Parameters\nprofile = "full"\n')["rows"] == 2048
        assert self.run(CELL, '# Parameters\nprofile = "full"\nrows = 1024\n')["rows"] == 1024
        assert self.run(CELL.replace('"quick"', '"full"', 1))["rows"] == 2048

    def test_an_edited_value_is_known_from_a_default_one(self):
        assert self.run(CELL, rows=1024)["default"]
        assert not self.run(CELL.replace("1024", "512"), rows=1024)["default"]
        assert not self.run(CELL, "# Parameters\nwrap = False\n")["default"]

    def test_the_full_profile_keeps_what_was_edited_in_the_cell(self, capsys):
        full = CELL.replace('"quick"', '"full"', 1)
        assert self.run(full, rows=1024)["rows"] == 2048
        assert self.run(full.replace("1024", "512"), rows=1024)["rows"] == 512
        assert "Profile full, rows = 512 instead of 1024." in capsys.readouterr().out
        assert not self.run(full, rows=1024)["default"]

    def test_a_default_of_no_parameter_is_refused(self):
        with pytest.raises(ValueError, match="unknown parameter 'rwos'; did you mean 'rows'?"):
            self.run(CELL, rwos=1)

    @pytest.mark.parametrize(
        ("injected", "message"),
        [
            ("rwos = 64", "unknown parameter 'rwos'; did you mean 'rows'?"),
            ("rows = '64'", "rows must be of type int, got '64'"),
            ("wrap = 1", "wrap must be of type bool, got 1"),
            ("rows = 9000", "rows must be in 16..8192"),
        ],
    )
    def test_it_stops_on_an_injected_mistake(self, injected, message):
        with pytest.raises((TypeError, ValueError), match=message):
            self.run(CELL, f"# Parameters\n{injected}\n")

    def test_it_stops_on_a_mistake_in_the_cell_itself(self):
        with pytest.raises(ValueError, match="the parameters cell, line 2: rows must be in 16..8192"):
            self.run(CELL.replace("1024", "9000"))

    def test_the_cell_that_was_run_last_counts(self):
        changed = CELL.replace("1024", "512")
        assert self.run(CELL, "# Parameters\nrows = 64\n", "print()", changed)["rows"] == 512

    def test_it_needs_a_parameters_cell(self):
        with pytest.raises(ValueError, match="check found no parameters cell"):
            check({"In": ["", "rows = 3", "profile: 3 +", "check(globals())"]})


class TestReport:
    def test_metric_and_glue_are_one_output_that_shows_nothing(self, monkeypatch):
        shown = []
        monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
        report(share=0.25)
        ((data, options),) = shown
        assert data == {METRIC: {"share": 0.25}, "application/papermill.record/text/plain": "0.25"}
        assert options["metadata"]["scrapbook"]["name"] == "share"

    @pytest.mark.parametrize("value", [None, [1], {"a": 1}, 1j])
    def test_other_values_are_refused(self, value):
        with pytest.raises(TypeError, match="share must be a number, a text or a bool, got"):
            report(share=value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_number_must_be_finite(self, value):
        with pytest.raises(ValueError, match="share must be finite, got"):
            report(share=value)


class TestKernels:
    """The check works wherever a notebook is executed."""

    def test_plain_papermill_stops_at_an_unknown_name(self, tmp_path):
        path = write(tmp_path / "x.ipynb", "marker = 1")
        with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'rwos'; did you mean 'rows'?"):
            papermill.execute_notebook(path, tmp_path / "out.ipynb", {"rwos": 3}, progress_bar=False, **PYTHON)
        assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].execution_count is None

    def test_nbclient_which_builds_the_book(self, tmp_path):
        path = write(tmp_path / "x.ipynb", cell=CELL.replace("1024", "512"))
        executed = NotebookClient(nbformat.read(path, as_version=4), kernel_name="python3").execute()
        assert executed.cells[2].outputs[0].data["text/plain"] == "Profile quick, every parameter at its default."

    def test_nbval_which_keeps_no_history(self, tmp_path):
        good = write(tmp_path / "good.ipynb", "assert rows == 1024")
        bad = write(tmp_path / "bad.ipynb", cell=CELL.replace("1024", "9000"))
        command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", tmp_path, "--nbval-lax", "-p"]
        done = subprocess.run(
            [*command, "no:cacheprovider", good, bad], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "4 passed" in done.stdout, done.stdout
        assert "1 failed" in done.stdout, done.stdout
        assert "line 2: rows must be in 16..8192 [word lines], got 9000" in done.stdout


class TestNotebook:
    def test_title_and_name(self, tmp_path):
        notebook = Notebook.load(write(tmp_path / "notebooks" / "03_tiny.ipynb"))
        assert (notebook.title, notebook.name) == ("A tiny notebook", "03_tiny")
        assert notebook.parameters == PARAMETERS

    def test_a_solution_has_another_name_than_its_chapter(self, tmp_path):
        assert Notebook.load(write(tmp_path / "notebooks" / "solutions" / "03_tiny.ipynb")).name == "solutions/03_tiny"

    def test_elsewhere_the_file_names_it(self, tmp_path):
        assert Notebook.load(write(tmp_path / "mine.ipynb")).name == "mine"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "x.ipynb is not a readable notebook"),
            (b'{"cells": [', "x.ipynb is not a readable notebook"),
            (b"\xff\xfe\x00", "x.ipynb is not a readable notebook"),
            (b"[1, 2]", "x.ipynb is not a notebook of format 4"),
            (b'{"worksheets": []}', "x.ipynb is not a notebook of format 4"),
            (b'{"cells": [3]}', "x.ipynb is not a notebook of format 4"),
            (b'{"cells": []}', "the first code cell of .*x.ipynb is not tagged 'parameters'"),
            (b'{"cells": [{"cell_type": "code", "source": "a = 1"}]}', "x.ipynb is not tagged 'parameters'"),
        ],
    )
    def test_an_unreadable_file_is_one_sentence(self, tmp_path, content, message):
        (tmp_path / "x.ipynb").write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            Notebook.load(tmp_path / "x.ipynb")
        assert "\n" not in str(error.value)

    def test_a_missing_file_is_one_sentence(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no notebook at .*x.ipynb"):
            Notebook.load(tmp_path / "x.ipynb")

    def test_a_malformed_line_is_found_in_its_file(self, tmp_path):
        with pytest.raises(ValueError, match="x.ipynb, parameters cell, line 2: rows must be of type int"):
            Notebook.load(write(tmp_path / "x.ipynb", cell=PROFILE + "rows: int = 'a'  # rows [1], 1..4"))

    def test_it_is_found_by_number_and_topic(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "notebooks" / "03_mapping.ipynb")
        write(tmp_path / "notebooks" / "04_epitome.ipynb")
        file = Path("notebooks/03_mapping.ipynb")
        assert find_notebook("03_mapping") == find_notebook("mapping") == find_notebook(str(file)) == file
        assert find_notebook("03") == find_notebook("3") == file
        with pytest.raises(FileNotFoundError, match="unknown notebook 'maping'; did you mean 'mapping'?"):
            find_notebook("maping")
        with pytest.raises(FileNotFoundError, match="unknown notebook 'x'; known are epitome, mapping"):
            find_notebook("x")

    def test_without_notebooks_it_says_so(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(runs, "PROJECT", tmp_path / "site-packages")
        with pytest.raises(FileNotFoundError, match="no folder 'notebooks' here"):
            find_notebook("mapping")


RECORD = RunRecord(
    notebook="03_mapping",
    parameters={"profile": "quick", "rows": 64, "bits": [3, 5]},
    versions={"python": "3.11.7"},
    commit="0" * 40,
    dirty=False,
    machine={"platform": "Linux", "processor": "x", "cores": 2},
    started="2026-01-02T03:04:05+00:00",
    seconds=1.5,
    metrics={"crossbars": 400, "share": 0.5, "name": "a"},
)


class TestResults:
    @pytest.fixture
    def folder(self, tmp_path):
        ended = {"dense-s0": 90.0, "dense-s1": 91.0, "small-s0": 87.0, "small-s2": 89.0, "other-s1": 90.5}
        for name, accuracy in ended.items():
            crossbars = 30 if name == "small-s2" else 20
            metrics = {"accuracy": accuracy, "crossbars": crossbars, "factor": 600 / crossbars}
            dataclasses.replace(RECORD, metrics=metrics).save(tmp_path / "study" / f"{name}.json")
        return tmp_path

    def test_what_is_lost_is_lost_against_dense_of_the_same_seed(self, folder):
        records = studies.results("study", folder).set_index(["run", "seed"])
        assert list(records.index) == [("dense", 0), ("dense", 1), ("other", 1), ("small", 0), ("small", 2)]
        assert records["lost"].tolist() == pytest.approx([0, 0, 0.5, 3, math.nan], nan_ok=True)

    def test_seeds_of_a_run_become_one_row(self, folder):
        rows = studies.over_seeds(studies.results("study", folder), ["run"])
        assert list(rows.columns) == ["seeds", "accuracy", "spread", "lost", "crossbars", "factor"]
        assert rows.loc["dense"].tolist() == [2, 90.5, 1, 0, 20, 30]
        assert rows.loc["other"].tolist() == pytest.approx([1, 90.5, math.nan, 0.5, 20, 30], nan_ok=True)
        small = rows.loc["small"].tolist()
        assert small == pytest.approx([2, 88, 2, math.nan, 25, 25], nan_ok=True)  # seed 2 has no dense run

    @pytest.mark.parametrize("study", ["..", "../study", "/abs", "", "a/b", "a\0b"])
    def test_a_study_is_a_name(self, folder, study):
        with pytest.raises(ValueError, match="study must be a name"):
            studies.results(study, folder)

    def test_a_study_without_accuracy_has_no_cost(self, tmp_path):
        for seed in (0, 1):
            dataclasses.replace(RECORD, metrics={"rank": 0.5 + seed}).save(tmp_path / "study" / f"first-s{seed}.json")
        table = studies.results("study", tmp_path)
        assert table.to_dict("list") == {"run": ["first", "first"], "seed": [0, 1], "rank": [0.5, 1.5]}

    def test_no_record_yet_is_no_row(self, tmp_path):
        assert studies.results("study", tmp_path).empty

    def test_the_name_of_a_file_must_tell_run_and_seed(self, folder):
        (folder / "study" / "small.json").write_text("{}")
        with pytest.raises(ValueError, match="must be named <run>-s<seed>.json, got 'small.json'"):
            studies.results("study", folder)


class TestRecord:
    def test_round_trip(self, tmp_path):
        RECORD.save(tmp_path / "record.json")
        assert RunRecord.load(tmp_path) == RunRecord.load(tmp_path / "record.json") == RECORD
        assert RunRecord.from_dict(RECORD.to_dict()) == RECORD

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"metric": {}}, "unknown key 'metric' in a run record; did you mean 'metrics'?"),
            *(
                ({"seconds": value}, "seconds of a run record must be a number of at least 0, got")
                for value in ("1", -1, -1e-9, True, None, [1])
            ),
            *(
                ({"metrics": {"a": value}}, "metric a of a run record must be a finite number, text or bool, got")
                for value in (None, [1], {"b": 1})
            ),
            *(({"started": value}, "started of a run record must be a time") for value in ("", "now", "12:00")),
            ({"started": 3}, "started of a run record has the wrong type: 3"),
            ({"notebook": None}, "notebook of a run record has the wrong type: None"),
            ({"commit": 3}, "commit of a run record has the wrong type: 3"),
            ({"dirty": "no"}, "dirty of a run record has the wrong type: 'no'"),
            ({"parameters": None}, "parameters of a run record has the wrong type: None"),
            ({"versions": "1"}, "versions of a run record has the wrong type: '1'"),
            ({"machine": []}, r"machine of a run record has the wrong type: \[\]"),
            ({"metrics": [1]}, r"metrics of a run record has the wrong type: \[1\]"),
        ],
    )
    def test_wrong_keys_are_refused(self, tmp_path, change, message):
        file = tmp_path / "r.json"
        file.write_text(json.dumps(RECORD.to_dict() | change))
        with pytest.raises(ValueError, match=rf"r.json: {message}"):
            RunRecord.load(file)

    @pytest.mark.parametrize(
        "change", [{"seconds": math.nan}, {"metrics": {"a": math.nan}}, {"metrics": {"a": -math.inf}}]
    )
    def test_what_is_not_finite_is_neither_written_nor_read(self, tmp_path, change):
        with pytest.raises(ValueError, match="run record must be a"):
            dataclasses.replace(RECORD, **change)
        (tmp_path / "record.json").write_text(json.dumps(RECORD.to_dict() | change))
        with pytest.raises(ValueError, match="record.json is not a readable run record: a number is not finite"):
            RunRecord.load(tmp_path)

    @pytest.mark.parametrize(("variable", "threads"), [("2", 2), ("4,2", None), ("", None), ("many", None)])
    def test_it_has_the_number_of_threads_where_that_is_known(self, monkeypatch, variable, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert records._machine().get("threads") == threads

    def test_it_has_the_threads_of_training_in_this_process(self, one_thread):
        torch = pytest.importorskip("torch")
        torch.set_num_threads(2)
        assert records._machine()["threads"] == 2

    def test_a_missing_key_is_named(self):
        data = RECORD.to_dict()
        del data["metrics"]
        with pytest.raises(ValueError, match="a run record lacks 'metrics'"):
            RunRecord.from_dict(data)

    def test_a_truncated_record_is_one_sentence(self, tmp_path):
        RECORD.save(tmp_path / "record.json")
        text = (tmp_path / "record.json").read_text()
        (tmp_path / "record.json").write_text(text[: len(text) // 2])
        with pytest.raises(ValueError, match="record.json is not a readable run record") as error:
            RunRecord.load(tmp_path)
        assert "\n" not in str(error.value)

    def test_an_unfinished_run_has_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="a run that failed or was interrupted leaves no record"):
            RunRecord.load(tmp_path)

    def test_it_names_neither_host_nor_user_nor_path(self):
        import getpass
        import socket

        text = json.dumps(records._machine())
        assert socket.gethostname() not in text.split('"')
        assert str(Path.home()) not in text
        assert getpass.getuser() not in re.findall(r"\w+", text)


class TestCompare:
    def test_parameters_that_differ_and_all_metrics(self):
        other = RunRecord.from_dict(
            RECORD.to_dict()
            | {"parameters": {"profile": "quick", "rows": 32, "seed": 1}, "metrics": {"crossbars": 100, "name": "a"}}
        )
        parameters, metrics = compare_runs(RECORD, other)
        assert parameters == [("rows", 64, 32), ("bits", [3, 5], None), ("seed", None, 1)]
        assert metrics == [
            ("crossbars", 400, 100, -300, 0.25),
            ("share", 0.5, None, None, None),
            ("name", "a", "a", None, None),
        ]

    def test_nothing_has_a_ratio_to_zero(self):
        zero = RunRecord.from_dict(RECORD.to_dict() | {"metrics": {"crossbars": 0}})
        assert compare_runs(zero, zero)[1] == [("crossbars", 0, 0, 0, None)]

    def test_more_than_two_stand_side_by_side(self):
        runs = [dataclasses.replace(RECORD, metrics={"crossbars": n}, parameters={"rows": n}) for n in (1, 2, 8)]
        assert compare_runs(*runs) == ([("rows", 1, 2, 8)], [("crossbars", 1, 2, 8, 7, 8)])

    def test_other_notebooks_do_not_compare(self):
        other = RunRecord.from_dict(RECORD.to_dict() | {"notebook": "04_epitome"})
        with pytest.raises(ValueError, match="runs of different notebooks, 03_mapping and 04_epitome"):
            compare_runs(RECORD, other)

    def test_trainings_compare_whichever_study_and_run_they_are_of(self):
        names = ("train", "train cifar10/dense-s0", "train cifar10/q3-scratch-20-s1")
        runs = [dataclasses.replace(RECORD, notebook=name) for name in names]
        assert all(compare_runs(a, b)[0] == [] for a in runs for b in runs)
        with pytest.raises(ValueError, match="runs of different notebooks, train and 03_mapping"):
            compare_runs(runs[0], RECORD)

    def test_a_foreign_text_does_not_break_the_table(self):
        assert table(("metric", "first"), [("a", "x\n\x1b[2Jy"), ("b", "z" * 1000)]).splitlines()[1:] == [
            r"a       x \x1b[2Jy",
            "b       " + "z" * 295 + " ... " + "z" * 100,
        ]

    def test_the_table_is_aligned(self):
        rows = [("crossbars", 13120, None), ("share", 1 / 3, [3, 5])]
        assert table(("metric", "first", "second"), rows) == (
            "metric     first     second\n"
            "crossbars  13120     -\n"
            "share      0.333333  [3, 5]"
        )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Return the folder of a finished run."""
    project = tmp_path_factory.mktemp("project")
    (project / "notebooks").mkdir()
    (project / "notebooks" / "beside.txt").write_text("read here")
    notebook = Notebook.load(write(project / "notebooks" / "01_tiny.ipynb", CODE))
    return execute(notebook, {"rows": 64, "rate": 1, "label": "x"}, project / "runs")


class TestRun:
    def test_the_folder_holds_notebook_page_and_record(self, finished):
        assert re.fullmatch(r"01_tiny-\d{8}-\d{6}", finished.name)
        assert {path.name for path in finished.iterdir()} - {"kernel.log"} == {
            "01_tiny.html",
            "01_tiny.ipynb",
            "record.json",
        }

    def test_the_record_says_what_ran_and_what_came_out(self, finished):
        record = RunRecord.load(finished)
        assert record.notebook == "01_tiny"
        assert record.parameters == {
            "profile": "quick", "rows": 64, "bits": [3, 5], "rate": 1.0, "wrap": True, "label": "x",
        }  # fmt: skip
        assert record.metrics == {"tiny_double": 128, "tiny_share": 0.25}
        assert record.versions["python"] == sys.version.split()[0]
        assert record.versions["papermill"] == papermill.__version__
        assert record.machine["cores"] == os.cpu_count()
        assert 0 < record.seconds < 600

    def test_the_notebook_ran_in_its_own_folder_with_the_given_values(self, finished):
        executed = nbformat.read(finished / "01_tiny.ipynb", as_version=4)
        assert "read here for x" in executed.cells[-1].outputs[-1].text

    def test_the_page_loads_nothing(self, finished):
        assert foreign((finished / "01_tiny.html").read_text()) == []

    def test_the_page_quotes_this_run(self, finished):
        page = BeautifulSoup((finished / "01_tiny.html").read_text(), "html.parser")
        assert page.title.text == "A tiny notebook"
        assert "There are 128 cells on $R$ crossbars." in page.text
        assert "papermill.record" not in page.text
        assert "(sec-x)=" not in page.text

    def test_two_runs_of_one_second_have_two_folders(self, tmp_path):
        assert runs._new_folder(tmp_path, "a") == tmp_path / "a"
        assert runs._new_folder(tmp_path, "a") == tmp_path / "a-2"
        assert runs._new_folder(tmp_path / "b" / "c", "a") == tmp_path / "b" / "c" / "a"

    def test_a_failing_cell_leaves_what_was_executed_and_no_record(self, tmp_path):
        path = write(tmp_path / "02_bad.ipynb", "print('before')", "raise ValueError('no\\nway')", "print('after')")
        with pytest.raises(RunError, match=r"^cell 5 raised ValueError: no \(what was executed is in .*02_bad-"):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        (folder,) = (tmp_path / "runs").iterdir()
        assert {file.name for file in folder.iterdir()} - {"kernel.log"} == {"02_bad.partial.ipynb"}
        executed = nbformat.read(folder / "02_bad.partial.ipynb", as_version=4)
        assert "before" in str(executed)
        assert executed.cells[-1].outputs == []

    @pytest.mark.parametrize("code", ["import sys\nsys.exit(0)", "exit", "quit()"])
    def test_a_notebook_that_ends_itself_leaves_no_record(self, tmp_path, code):
        path = write(tmp_path / "02_ends.ipynb", code, "print('after')")
        with pytest.raises(RunError, match=r"^cell 4 ended the notebook \(what was executed is in .*02_ends-"):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        (folder,) = (tmp_path / "runs").iterdir()
        assert {file.name for file in folder.iterdir()} - {"kernel.log"} == {"02_ends.partial.ipynb"}

    def test_metrics_that_are_none_leave_no_record(self, tmp_path):
        show = "from IPython.display import display\ndisplay({{{!r}: {}}}, raw=True)"
        for metric, message in (("{'a': {'b': 1}}", "metric a of a run record must be"), ("[1]", "as its metrics")):
            path = write(tmp_path / "02_odd.ipynb", show.format(METRIC, metric))
            with pytest.raises(RunError, match=message):
                execute(Notebook.load(path), {}, tmp_path / "runs")
        assert not list(tmp_path.glob("runs/*/record.json"))

    def test_an_error_of_millions_of_characters_is_cut(self, tmp_path):
        path = write(tmp_path / "02_long.ipynb", "raise ValueError('x' * 10_000_000)")
        with pytest.raises(RunError, match="cell 4 raised ValueError: xxx") as caught:
            execute(Notebook.load(path), {}, tmp_path / "runs")
        assert len(str(caught.value)) < 1000

    def test_an_error_without_a_message_is_named(self, tmp_path):
        path = write(tmp_path / "02_empty.ipynb", "assert rows == 0")
        with pytest.raises(RunError, match=r"^cell 4 raised AssertionError \(what was"):
            execute(Notebook.load(path), {}, tmp_path / "runs")

    def test_braces_and_percents_in_a_path_are_no_format(self, tmp_path):
        path = write(tmp_path / "p{a}%s{x}" / "02_{b}%s.ipynb", "1")
        folder = execute(Notebook.load(path), {}, tmp_path / "%d{y}{")
        assert folder.parent == tmp_path / "%d{y}{"
        assert {"02_{b}%s.ipynb", "02_{b}%s.html", "record.json"} <= {file.name for file in folder.iterdir()}

    @pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
    @pytest.mark.parametrize(("link", "target"), [("d", "nowhere"), ("d", "d"), ("d", "file")])
    def test_a_link_that_leads_nowhere_is_no_folder(self, tmp_path, link, target):
        (tmp_path / "file").touch()
        (tmp_path / link).symlink_to(tmp_path / target)
        for output in (tmp_path / link, tmp_path / link / "inner"):
            with pytest.raises(OSError, match="cannot write into .*(it is no folder|symbolic|Not a directory)"):
                runs._new_folder(output, "a")
        assert sorted(path.name for path in tmp_path.iterdir()) == [link, "file"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
    def test_a_link_in_place_of_a_run_is_another_run(self, tmp_path):
        (tmp_path / "a").symlink_to(tmp_path / "nowhere")
        assert runs._new_folder(tmp_path, "a") == tmp_path / "a-2"

    def test_a_dying_kernel_leaves_no_record(self, tmp_path):
        path = write(tmp_path / "02_dies.ipynb", "import os\nos._exit(1)")
        with pytest.raises(RunError, match=r"^DeadKernelError: .*02_dies-"):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        (folder,) = (tmp_path / "runs").iterdir()
        assert not (folder / "record.json").exists()
        assert (folder / "02_dies.partial.ipynb").exists()

    @pytest.mark.parametrize("place", ["notebook", "cell", "tags"])
    @pytest.mark.parametrize("metadata", [None, [], ["parameters"], "parameters", 3, True])
    def test_metadata_of_another_type_start_no_kernel(self, tmp_path, no_kernel, place, metadata):
        path = write(tmp_path / "x.ipynb")
        data = json.loads(path.read_text())
        if place == "tags" and metadata != ["parameters"]:
            data["cells"][1]["metadata"]["tags"] = metadata
        elif place == "cell":
            data["cells"][1]["metadata"] = metadata
        else:
            data["metadata"] = metadata
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=r"x.ipynb is not (a valid notebook|tagged)"):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"cells": None}, {"cells": {}}, {"cells": [None]}, {"cells": ["a"]}, {"cells": [{}]}, {"cells": []},
            {"cells": [{"cell_type": "code", "source": 3}]}, {"cells": [{"cell_type": "code", "source": [3]}]},
            {"cells": [{"cell_type": "code", "source": None}]}, {"cells": [{"cell_type": [], "source": ""}]},
            {"nbformat": None}, {"nbformat": "4"}, {"nbformat": 3}, {"nbformat": 99}, {"nbformat_minor": None},
            {"nbformat_minor": "5"}, {"nbformat_minor": -1}, {"metadata": {"kernelspec": None}},
            {"metadata": {"kernelspec": 3}}, {"metadata": {"language_info": []}}, {"metadata": {"authors": 3}},
        ],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore::Warning")
    def test_a_foreign_notebook_starts_no_kernel(self, tmp_path, no_kernel, change):
        path = write(tmp_path / "x.ipynb")
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match="x.ipynb is not|the first code cell of .*x.ipynb"):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    def test_an_invalid_notebook_starts_no_kernel(self, tmp_path, no_kernel):
        path = write(tmp_path / "x.ipynb")
        data = json.loads(path.read_text())
        data["cells"][0]["metadata"] = 3
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match="x.ipynb is not a valid notebook: "):
            execute(Notebook.load(path), {}, tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("given", [{"rwos": 3}, {"rows": 3}, {"rows": "64"}])
    def test_bad_parameters_start_no_kernel(self, tmp_path, no_kernel, given):
        with pytest.raises((TypeError, ValueError), match=r"rows"):
            execute(Notebook.load(write(tmp_path / "x.ipynb")), given, tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    def test_an_output_that_is_no_folder_starts_no_kernel(self, tmp_path, no_kernel):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="cannot write into .*file: it is no folder"):
            execute(Notebook.load(write(tmp_path / "x.ipynb")), {}, tmp_path / "file")

    def test_a_read_only_output_is_one_sentence(self, read_only):
        with pytest.raises(OSError, match="cannot write into .*locked: Permission denied"):
            runs._new_folder(read_only, "a")


def test_what_is_installed_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LIBRARY", Path(__file__).parents[1])  # which lies in a repository
    assert records._git_state(Path(__file__).parent) == (None, None)


def test_commit_and_changes_of_a_repository(tmp_path):
    assert records._git_state(tmp_path) == (None, None)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "-m", "first")
    commit, dirty = records._git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert dirty is False
    (tmp_path / "file").write_text("changed")
    assert records._git_state(tmp_path) == (commit, True)


def foreign(html: str) -> list[str]:
    """Return every address that a browser would fetch to show a page."""
    page = BeautifulSoup(html, "html.parser")
    found = [tag["src"] for tag in page.find_all(src=True)]
    found += [tag["href"] for tag in page.find_all("link", href=True)]
    styles = " ".join(tag.text for tag in page.find_all("style"))
    styles += " ".join(tag["style"] for tag in page.find_all(style=True))
    found += re.findall(r"@import[^;]+", styles) + re.findall(r"url\(\s*['\"]?([^'\")]+)", styles)
    scripts = " ".join(tag.text for tag in page.find_all("script", type="module"))
    found += re.findall(r"import [^;]+", scripts)
    return [address for address in found if not address.startswith(("data:", "#"))]


class TestPage:
    def test_foreign_addresses_are_found(self):
        html = '<script src="https://a/b.js"></script><link href="x.css"><style>a {b: url("c.png")}</style>'
        assert foreign(html) == ["https://a/b.js", "x.css", "c.png"]

    def test_formulas_are_typeset_by_the_page_itself(self, finished):
        page = BeautifulSoup((finished / "01_tiny.html").read_text(), "html.parser")
        assert "MathJax" in page.find_all("script")[0].text
        assert len(page.find_all("script")[1].text) > 1_000_000

    def test_a_page_begins_with_what_was_changed_and_the_nearest_record_beside_it(self):
        record = RunRecord.from_dict(RECORD.to_dict() | {"parameters": {"profile": "quick", "rows": 64, "bits": [3]}})
        near = dataclasses.replace(record, parameters={"profile": "quick", "rows": 64}, metrics={"crossbars": 100})
        far = dataclasses.replace(record, parameters={"profile": "full", "rows": 1})
        head = _page.beginning(record, {"profile": "quick", "rows": 1024, "bits": [3]}, {"a": far, "b<": near})
        made = _page.page(v4.new_notebook(cells=[v4.new_markdown_cell("# First")]), "title", {}, Path(), head)
        page = BeautifulSoup(made, "html.parser")
        assert [h.text.strip("¶") for h in page(["h1", "h2"])] == ["This run", "First"]
        changed, differ = [[[c.text for c in r(["th", "td"])] for r in table("tr")] for table in page.section("table")]
        assert changed == [
            ["parameter", "default", "record", "this run"],
            ["rows", "1024", "64", "64"],
            ["bits", "[3]", "-", "[3]"],
        ]
        assert ["crossbars", "100", "400", "300", "4"] in differ
        assert "b< (2026-01-02, commit 0000000, x): 3 of 3 metrics differ." in page.section.text

    def test_of_a_default_run_that_equals_its_record_both_is_said(self):
        head = _page.beginning(RECORD, RECORD.parameters, {"a": RECORD})
        assert "Every parameter has its default." in head
        assert "0 of 3 metrics differ." in head
        assert "<table" not in head

    def test_committed_records_are_those_beside_the_notebooks(self, tmp_path):
        notebook = Notebook.load(write(tmp_path / "notebooks" / "03_mapping.ipynb"))
        assert notebook.recorded() == {}
        assert notebook.seconds("quick") is None
        RECORD.save(tmp_path / "data" / "results" / "03_mapping" / "quick.json")
        assert notebook.recorded() == {"data/results/03_mapping/quick.json": RECORD}

    @pytest.mark.browser
    def test_a_browser_asks_for_nothing_else_and_shows_the_formulas(self, finished):
        from playwright.sync_api import sync_playwright

        from tests.test_browser import BROWSERS, FLAGS

        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None:
            pytest.skip("no Chromium or Chrome is installed here")
        address = (finished / "01_tiny.html").as_uri()
        requests, trouble = [], []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
            tab = browser.new_page()
            tab.on("request", lambda request: requests.append(request.url))
            tab.on("console", lambda message: trouble.append(message.text))
            tab.on("pageerror", lambda error: trouble.append(str(error)))
            tab.goto(address)
            tab.evaluate("async () => await MathJax.startup.promise")
            formulas = tab.locator("mjx-container").count()
            errors = tab.locator("mjx-merror, [data-mjx-error]").count()
            browser.close()
        assert requests == [address]
        assert trouble == []
        assert (formulas, errors) == (2, 0)

    def test_without_mathjax_formulas_stay_tex(self, finished, monkeypatch):
        monkeypatch.setattr(_page, "find_spec", lambda name: None)
        executed = nbformat.read(finished / "01_tiny.ipynb", as_version=4)
        page = BeautifulSoup(_page.page(executed, "title", {}, finished), "html.parser")
        assert page.find_all("script") == []
        assert "$R$" in page.text

    def test_figures_carry_their_caption_and_images_their_bytes(self, tmp_path):
        (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        cell = v4.new_code_cell("1", metadata={"mystnb": {"figure": {"name": "fig-a", "caption": "Two {term}`dots`"}}})
        notebook = v4.new_notebook(cells=[cell, v4.new_markdown_cell("![A dot](dot.svg)")])
        page = BeautifulSoup(_page.page(notebook, "title", {}, tmp_path), "html.parser")
        assert "Figure fig-a. Two dots" in page.text
        assert page.img["src"].startswith("data:image/svg+xml;base64,")
        assert page.img["alt"] == "A dot"

    @pytest.mark.parametrize(
        ("myst", "markdown"),
        [
            ("see {eq}`eq-a` and {numref}`fig-b`", "see (eq-a) and fig-b"),
            ("a {term}`crossbar <crossbars>` of {cite}`epim`", "a crossbar of [epim]"),
            ("{term}`ADC/DAC`", "ADC/DAC"),
            ("{doc}`../book/notation` and {doc}`02_crossbar`", "notation and 02_crossbar"),
            ("{math}`a_b`", "$a_b$"),
            ("{glue:text}`n:,` of {glue:text}`f:.2f`, {glue:text}`x.ipynb::other:,`", "13,120 of 0.50, [other]"),
            ("$$\na\n$$ (eq-a)", "$$\na\n\\tag{eq-a}$$"),
            ("```{math}\n:label: eq-a\na\n```", "\n$$\na\n\\tag{eq-a}$$"),
            ("(label)=\n% a comment\ntext\n+++", "text"),
            ("```python\n% {eq}`x`\n```", "```python\n% {eq}`x`\n```"),
            ("```{code-block} bash\nls\n```", "\n```bash\nls\n```"),
            ("```{exercise} Count\n:label: ex\nHow many?\n```", "\n**Count**\n\nHow many?\n"),
            ("```{tip}\nLook.\n```", "\n**Tip**\n\nLook.\n"),
            ("```{solution} ex-1\nSo.\n```", "\n**Solution**\n\nSo.\n"),
            ("::::{grid} 1 2\n:gutter: 3\n:::{grid-item-card} Goal\nx\n:::\n::::", "\n\n\n**Goal**\n\nx\n\n"),
            ("```{figure} a.svg\n:alt: Two\nCaption\n```", "\n![Two](a.svg)\n\nCaption\n"),
        ],
    )
    def test_myst_becomes_its_text(self, myst, markdown):
        assert plain(myst, {"n": 13120, "f": 0.5}) == markdown
