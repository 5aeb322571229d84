"""The committed notebooks, and the script that refreshes their outputs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import resolve
from tests.test_runs import write

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))


def load(path: str):
    """Return a file of the project that is no part of a package as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = load("notebooks/refresh.py")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestCommitted:
    def test_the_check_names_the_defaults(self, path):
        """In the parameters cell a reader edits them, so that they stand in its check once more."""
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        calls = [node for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Call)]
        (given,) = [call.keywords for call in calls if ast.unparse(call.func) == "check"]
        defaults = {p.name: p.default for p in Notebook.load(path).parameters if p.name != "profile"}
        assert {keyword.arg: ast.literal_eval(keyword.value) for keyword in given} == defaults
        names = [node for source in code[2:] for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
        assert not [name for name in names if name.id == "default" and isinstance(name.ctx, ast.Store)]

    def test_it_holds_nothing_of_who_executed_it(self, path):
        assert refresh.text(refresh.strip(nbformat.read(path, as_version=4))) == path.read_text(encoding="utf-8")

    def test_conditions_on_parameters_hold_for_the_defaults(self, path):
        """They guard checks of results; a guard that is out of date would never let its check run."""
        values = resolve(Notebook.load(path).parameters, {})
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for node in (node for source in code for node in ast.walk(ast.parse(source))):
            names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Tuple) and names <= set(values):
                assert eval(ast.unparse(node), {}, values), ast.unparse(node)


class TestRefresh:
    def test_outputs_stay_only_where_nbval_checks_them(self, tmp_path):
        path = write(tmp_path / "x.ipynb", "print('kept')\n2 * rows", "print('dropped')")
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[3].metadata = {"tags": ["nbval-check-output"], "collapsed": True, "mystnb": {"figure": {}}}
        nbformat.write(notebook, path)

        assert refresh.refresh(path)
        first = path.read_text()
        cells = nbformat.read(path, as_version=4).cells
        assert [output.output_type for output in cells[3].outputs] == ["stream", "execute_result"]
        assert cells[3].outputs[1].data["text/plain"] == "2048"
        assert cells[3].metadata == {"tags": ["nbval-check-output"], "mystnb": {"figure": {}}}
        assert cells[2].outputs == cells[4].outputs == []
        assert [cell.get("execution_count") for cell in cells] == [None, None, None, 1, None]

        assert not refresh.refresh(path)
        assert path.read_text() == first

    def test_a_failing_notebook_is_left_as_it_was(self, tmp_path):
        path = write(tmp_path / "x.ipynb", "1 / 0")
        before = path.read_bytes()
        command = [sys.executable, ROOT / "notebooks" / "refresh.py", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"{path}: ZeroDivisionError: division by zero" in done.stderr
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_what_depends_on_the_run_is_stripped(self):
        cell = v4.new_code_cell("1", execution_count=7, metadata={"papermill": {}, "tags": ["nbval-check-output"]})
        cell.outputs = [v4.new_output("execute_result", {"text/plain": "1"}, execution_count=7)]
        notebook = v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}})
        text = refresh.text(refresh.strip(notebook))
        assert "7" not in text.replace(cell.id, "")
        assert "papermill" not in text
