"""What counts as the same output of a notebook cell."""

import subprocess
import sys

import nbformat
import pytest

from tests.nbval_tolerance import RELATIVE, same


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("loss 0.12345678", "loss 0.12345679"),
        ("1e-12 J", "0.0 J"),
        ("a  0.5\nb 10.25", "a 0.50001\nb  10.25"),  # the column of a table moves
        ("resnet50 needs 13888.", "resnet50 needs 13888."),
        (f"{1.0}", f"{1.0 + RELATIVE / 2}"),
    ],
)
def test_decimals_may_differ_in_their_last_digits(left, right):
    assert same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("13888 crossbars", "13889 crossbars"),
        ("13888 crossbars", "13888 blocks"),
        ("loss 0.12345678", "loss 0.12365678"),
        ("0.5", "-0.5"),
        ("1.0 2.0", "1.0"),
        ("conv3", "conv4"),
        ("torch 2.13.0", "torch 2.13.1"),
        (f"{1.0}", f"{1.0 + RELATIVE * 2}"),
    ],
)
def test_words_integers_and_larger_differences_count(left, right):
    assert not same(left, right)


@pytest.mark.parametrize(("stored", "code"), [("0.33333", 0), ("0.33433", 1)])
def test_nbval_compares_by_this_rule(tmp_path, stored, code):
    cell = nbformat.v4.new_code_cell("1 / 3", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": stored}, execution_count=1)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "one.ipynb")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nbval -p tests.nbval_tolerance\n")
    result = subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == code, result.stdout
