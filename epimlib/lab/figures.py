"""One look for every figure of the book, and the data of a figure beside it.

A notebook draws on the axes of `canvas` and ends the cell with `show`. Name and caption of the figure are in
the metadata of the cell, under ``mystnb: figure:``.
"""

import io
from html import escape
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure

OURS = "#1a86c8"
"""Blue: what this book computes."""
PAPER = "#d55e00"
"""Vermilion: what the paper says; nothing else has this colour."""
PALETTE = [OURS, "#029e73", "#b565a7", "#808890"]
"""Colours of several series. They differ less than `OURS` and `PAPER`, so label the series as well."""
INK = "#22282f"
"""Text and axes. In the page it becomes the colour of the text around the figure, light or dark."""

STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.alpha": 0.4,
    "grid.color": "#808890",  # as far from white as from black
    "legend.frameon": False,
    "patch.linewidth": 0.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def canvas(width: float = 7.0, height: float = 3.4, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes in the style of the book.

    Args:
        width: of the figure [inch]; the text column of the book is 7 wide.
        height: of the figure [inch].
        options: passed to ``matplotlib.pyplot.subplots``.
    """
    sns.set_theme(style="whitegrid", palette=PALETTE, rc=STYLE)
    return plt.subplots(figsize=(width, height), **options)


def show(figure: Figure, data: pd.DataFrame, name: str, alt: str) -> None:
    """Display a figure, with a link to its data as CSV below it, and close it.

    Both are one output, because the book numbers each output of a cell. The figure is SVG within the page:
    its text has the colour of a light or a dark page; the link holds the data itself and needs no server.

    Args:
        figure: from `canvas`.
        data: what the figure shows; an index with a name becomes the first column.
        name: of the CSV file, without its suffix; each figure of a page has its own.
        alt: what a reader who cannot see the figure should know.

    Raises:
        TypeError: if ``data`` is not a DataFrame.
        ValueError: if ``data`` has no rows or ``alt`` no words.
    """
    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"data must be a DataFrame, got {type(data).__name__}")
    if data.empty or not alt.strip():
        raise ValueError(f"figure {name!r} needs data with rows and an alt text, got {len(data)} rows and {alt!r}")
    display({"text/html": embed(figure, data, name, alt), "text/plain": alt}, raw=True)


def embed(figure: Figure, data: pd.DataFrame, name: str, alt: str) -> str:
    """Return the HTML that `show` displays, and close the figure; the arguments are those of `show`."""
    file = io.StringIO()
    # With the salt, names inside a figure are the same in every run and differ from those of the next figure.
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = file.getvalue().replace(INK, "currentColor")
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg class="plot" role="img" aria-label="{escape(alt)}"', 1)
    csv = quote(data.to_csv(index=any(name is not None for name in data.index.names), lineterminator="\n"))
    link = f'<a download="{name}.csv" href="data:text/csv;charset=utf-8,{csv}">Data of this figure (CSV)</a>'
    return f"{svg}<p>{link}</p>"
