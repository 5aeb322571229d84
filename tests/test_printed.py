"""The book as ePub and on the way to a PDF: a tiny one, with a figure, a table and formulas."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from nbformat import v4, write
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from epimlib.lab.figures import canvas, embed
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
printed = load("book/_ext/printed.py")

PROSE = r"""# Title

One formula, $\arg\min_x x^2$, and another:

$$\begin{aligned} a &= b \\ c &= d \end{aligned}$$
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Build the tiny book and return the folder of its output."""
    figure, axis = canvas(3.0, 2.0)
    axis.plot([1, 2])
    data = pd.DataFrame({"rows": [1, 2], "crossbars": [0.5, 2.5]}).set_index("rows")
    cells = [v4.new_markdown_cell(PROSE)]
    for html in (embed(figure, data, "tiny", "A line that rises from 1 to 2."), data.to_html(), "<p>a&nbsp;b<br></p>"):
        output = v4.new_output("display_data", {"text/html": html, "text/plain": "in words"})
        cells.append(v4.new_code_cell("shown", outputs=[output]))
    kernel = {"name": "python3", "display_name": "Python 3"}
    language = {"name": "python", "pygments_lexer": "ipython3"}
    metadata = {"kernelspec": kernel, "language_info": language}
    write(v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "index.ipynb")
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    monkeypatch.delitem(sys.modules, "printed", raising=False)

    def build(builder: str) -> Path:
        settings = {"extensions": ["myst_nb", "printed"], "nb_execution_mode": "off", "html_math_renderer": "mathjax"}
        settings |= {"myst_enable_extensions": ["amsmath", "dollarmath"], "html_title": "Tiny"}
        settings |= {"author": "Somebody", "copyright": "2026"}
        folder = tmp_path / builder
        with patch_docutils(), docutils_namespace():
            app = Sphinx(tmp_path, None, folder, tmp_path / "trees", builder, settings, None, None, warningiserror=True)
            # Without the program that converts, which not every machine has.
            monkeypatch.setattr(sys.modules["printed"], "to_pdf", lambda source, target: target.write_bytes(b"%PDF"))
            app.build()
        return folder

    return build


def test_an_epub_is_xml_with_figures_tables_and_formulas(book):
    with ZipFile(book("epub") / "epim.epub") as packed:
        page = ET.fromstring(packed.read("index.xhtml"))
    tags = [element.tag.rpartition("}")[2] for element in page.iter()]
    assert tags.count("svg") == 1
    assert tags.count("table") == 1
    assert tags.count("math") == 2
    assert "style" not in tags


def test_latex_gets_figures_as_files_and_tables_as_tables(book):
    folder = book("latex")
    text = (folder / "epim.tex").read_text(encoding="utf-8")
    (file,) = re.findall(r"includegraphics.*?\{\{(\w+)\}\.pdf\}", text)
    assert (folder / f"{file}.pdf").is_file()
    assert "crossbars" in text
    assert r"\begin{tabular" in text
    assert text.count("in words") == 1  # the paragraph, which is neither


def test_a_cell_that_spans_columns_keeps_the_others_in_their_place():
    html = "<table><tr><th></th><th colspan=2>both</th></tr><tr><th>a</th><td>1</td><td>2</td></tr></table>"
    table = printed.table(BeautifulSoup(html, "html.parser"))
    rows = [[entry.astext() for entry in row.findall(nodes.entry)] for row in table.findall(nodes.row)]
    assert rows == [["", "both", ""], ["a", "1", "2"]]


def test_what_converts_figures_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExtensionError, match="need rsvg-convert"):
        printed.to_pdf(tmp_path / "a.svg", tmp_path / "a.pdf")
