"""The pages of parameters: what they say, and that their commands work as they stand there."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from epimlib import cli
from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import named, resolve
from epimlib.lab.records import RunRecord
from tests.test_notebooks import load
from tests.test_runs import write

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
NOTEBOOKS = {path.stem: Notebook.load(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SAYS = {"try": {"rows": 2048}, "effect": {"rows": "More rows, more weight."}, "time": {"rows": "rises"}}

pages = load("book/_ext/parameters.py")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A notebook of which nothing was recorded."""
    notebook = Notebook.load(write(tmp_path / "notebooks" / "03_tiny.ipynb"))
    write(tmp_path / "notebooks" / "04_draft.ipynb")
    (tmp_path / "_toc.yml").write_text("chapters:\n  - file: notebooks/03_tiny\n", encoding="utf-8")
    monkeypatch.setattr(
        pages, "said", lambda: {"all": {"effect": {}}, "03_tiny": SAYS | {"metrics": {"found": "finds"}}}
    )
    return notebook


def record(notebook: Notebook, **changes) -> RunRecord:
    """A record of the quick profile with these parameters; it finds their sum."""
    values = resolve(notebook.parameters, changes)
    machine = {"processor": "Abacus", "cores": 2}
    found = {"found": float(values["rows"])}
    return RunRecord("03_tiny", values, {}, "0123456789", False, machine, "2026-11-30T10:00:00+00:00", 7.4, found)


def keep(notebook: Notebook, runs: list[RunRecord]) -> None:
    """Put records where those of the notebook are looked for."""
    folder = notebook.path.parents[1] / "data" / "results" / notebook.name
    folder.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        run.save(folder / f"{number}.json")


class TestWhatIsSaid:
    def test_of_every_notebook_and_parameter_and_of_no_other(self):
        said = pages.said()
        assert set(said) - {"all"} == set(NOTEBOOKS)
        for name, notebook in NOTEBOOKS.items():
            known = {p.name for p in notebook.parameters}
            effects = said[name]["effect"]
            assert set(effects) <= known, name
            assert known - set(effects) <= set(said["all"]["effect"]), name
            assert set(said[name].get("time", {})) <= known, name

    @pytest.mark.parametrize("name", NOTEBOOKS)
    def test_what_is_to_be_tried_is_allowed_and_a_change(self, name):
        ((parameter, value),) = pages.said()[name]["try"].items()
        changed = resolve(NOTEBOOKS[name].parameters, {parameter: value})
        assert changed[parameter] != named(NOTEBOOKS[name].parameters, parameter).default

    @pytest.mark.parametrize("name", [name for name in NOTEBOOKS if "metrics" in pages.said()[name]])
    def test_metrics_that_are_shown_are_reported_by_the_notebook(self, name):
        cells = nbformat.read(NOTEBOOKS[name].path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for metric in pages.said()[name]["metrics"]:
            assert f"{metric}=" in code, metric


class TestPage:
    def test_it_is_written_from_the_parameters_cell(self, tiny):
        text = pages.page(tiny)
        assert text.startswith(
            "(parameters-03_tiny)=\n# Parameters of chapter 3\n\nWhat {doc}`/notebooks/03_tiny` lets"
        )
        assert "```bash\nepim run 03_tiny -p rows=2048\n```" in text
        assert "`rows`: word lines, the rows of an epitome\n: More rows, more weight. The time rises.\n" in text
        assert "*whole number, 16 to 8192 word lines; default* `1024`, in the full profile `2048`.\n" in text
        assert "*list of whole numbers, 1, 2, 3 or 5 bit; default* `3,5`.\n" in text
        assert "No record says how long it runs." in text
        assert "made before" not in text

    def test_times_come_from_records_of_the_same_values(self, tiny):
        runs = [record(tiny), replace(record(tiny, rows=512), seconds=99.0)]
        keep(tiny, runs)
        expected = "The quick profile took 7 seconds on Abacus (2 cores), 2026-11-30, commit `0123456`. "
        assert pages.times(tiny) == expected + "The full profile has no record."

    def test_three_runs_make_a_table_and_a_figure(self, tiny):
        runs = [record(tiny, rows=rows) for rows in (2048, 512)]
        keep(tiny, runs)
        assert pages.before(tiny) == ""
        keep(tiny, [*runs, record(tiny), replace(record(tiny), parameters={"rows": 1024})])
        text = pages.before(tiny)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert rows == [
            "| `rows` | finds |",
            "| --- | --- |",
            "| `512` | 512 |",
            "| `1024` | 1024 |",
            "| `2048` | 2048 |",
        ]
        assert 'aria-label="A point for each run over rows. finds: 512 at 512; 1024 at 1024; 2048 at 2048."' in text

    def test_the_full_profile_stands_beside_this_page(self, tiny):
        assert "full" not in pages.again(tiny)
        keep(tiny, [record(tiny, profile="full")])
        assert "| finds | {glue:text}`found:.4g` | 2048 |" in pages.again(tiny)
        assert "{ref}`its parameters <parameters-03_tiny>`" in pages.again(tiny)

    def test_only_what_changed_is_written_and_what_is_left_over_is_removed(self, tiny, tmp_path):
        app = SimpleNamespace(srcdir=tmp_path)
        (tmp_path / "book").mkdir()
        pages.write_pages(app, None)
        (written,) = (tmp_path / "book" / "parameters").iterdir()
        before = written.stat().st_mtime_ns
        (tmp_path / "book" / "parameters" / "99_gone.md").write_text("# Gone", encoding="utf-8")
        pages.write_pages(app, None)
        assert [p.name for p in (tmp_path / "book" / "parameters").iterdir()] == ["03_tiny.md"]
        assert written.stat().st_mtime_ns == before

    def test_a_chapter_is_read_again_when_its_records_are_others(self, tiny, tmp_path):
        app, env = SimpleNamespace(srcdir=tmp_path), SimpleNamespace(found_docs={"notebooks/03_tiny", pages.FOLDER})
        assert pages.outdated(app, env) == [pages.FOLDER, "notebooks/03_tiny"]
        assert pages.outdated(app, env) == [pages.FOLDER]
        keep(tiny, [record(tiny)])
        assert pages.outdated(app, env) == [pages.FOLDER, "notebooks/03_tiny"]


@pytest.fixture(scope="module")
def commands():
    """The commands of the built pages: those of the index, and of each page of parameters by its notebook."""
    if not (HTML / "book" / "parameters").is_dir():
        pytest.skip("the book is not built here: run make book")

    def of(page: Path) -> list[str]:
        blocks = re.findall(r"<pre>(.*?)</pre>", page.read_text(encoding="utf-8"), re.DOTALL)
        lines = [line for block in blocks for line in unescape(re.sub(r"<[^>]*>", "", block)).splitlines()]
        return [line.partition("#")[0].strip() for line in lines if line.startswith("epim ")]

    return {"": of(HTML / "book" / "parameters.html")} | {
        name: of(HTML / "book" / "parameters" / f"{name}.html") for name in NOTEBOOKS if f"notebooks/{name}\n" in TOC
    }


class TestBuilt:
    def test_every_page_has_one_command_and_its_chapter_ends_with_it(self, commands):
        assert len(commands) > 20
        for name in commands.keys() - {""}:
            (command,) = commands[name]
            assert command.startswith(f"epim run {name} -p ")
            text = re.sub(r"<[^>]*>", "", (HTML / "notebooks" / f"{name}.html").read_text(encoding="utf-8"))
            assert command in unescape(text)

    def test_commands_do_what_the_page_says(self, commands, tmp_path, monkeypatch, capsys):
        """Those of the index with a notebook, a parameter and a run in place of the words in capitals."""
        monkeypatch.chdir(tmp_path)
        name = "03_mapping"
        (run,) = commands[name]
        assert cli.main(run.split()[1:]) == 0
        folder = capsys.readouterr().out.splitlines()[-1]
        words = {"NOTEBOOK": name, "NAME=VALUE": run.split()[-1], "RUN": folder}
        kinds = set()
        for command in commands[""]:
            kind, *rest = command.split()[1:]
            kinds.add(kind)
            if kind not in ("run", "sweep"):  # one was run above; tests/test_sweep.py has the other
                assert cli.main([kind, *(words.get(word, word) for word in rest)]) == 0, command
        assert {"list", "show", "run", "runs", "compare", "verify", "sweep"} <= kinds
