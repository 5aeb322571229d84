"""The page that shows two or more runs side by side: what was set, what was found, and how far it moved."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from epimlib._checks import line
from epimlib.lab.page import html_table, page
from epimlib.lab.records import RunRecord, compare_runs

MOST = 30
"""Metrics that the figure has room for."""


def comparison(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """Return the HTML page of two or more runs: parameters that differ, metrics, and a figure.

    The figure shows the metrics that move most as ratios to those of the first run. ``names`` are what the page calls
    the runs.

    Raises:
        ValueError: if the runs are of different notebooks.
    """
    from nbformat.v4 import new_notebook

    parameters, metrics = compare_runs(*runs)
    title = f"{len(runs)} runs of {line(runs[0].notebook)}"
    parts = [html_table("Runs", ("run", "started", "seconds", "commit"), list(map(_run, names, runs)))]
    if parameters:
        parts.append(html_table("Parameters that differ", ("parameter", *names), parameters))
    else:
        parts.append("<p>All parameters are the same.</p>")
    parts.append(html_table("Metrics", ("metric", *names), [row[: len(runs) + 1] for row in metrics]))
    parts.append(_figure(names, [row[: len(runs) + 1] for row in metrics]))
    return page(new_notebook(), title, {}, Path(), f"<h1>{escape(title)}</h1>{''.join(parts)}")


def _run(name: str, record: RunRecord) -> tuple[Any, ...]:
    return name, record.started, record.seconds, record.commit and record.commit[:7]


def _figure(names: Sequence[str], metrics: list[tuple]) -> str:
    """Return the figure as HTML, or a sentence where there is nothing to show."""
    import pandas as pd
    from matplotlib.ticker import ScalarFormatter

    from epimlib.lab.figures import PALETTE, canvas, embed

    ratios = {name: [_ratio(values[0], value) for value in values] for name, *values in metrics}
    moved = {name: row for name, row in ratios.items() if all(row) and set(row) != {1.0}}
    if not moved:
        return "<p>No metric moved whose ratio to the first run could be shown.</p>"
    far = sorted(moved, key=lambda name: -max(abs(math.log(ratio)) for ratio in moved[name]))[:MOST]
    data = pd.DataFrame([moved[name] for name in far], index=pd.Index(far, name="metric"), columns=names)
    figure, axes = canvas(height=1.4 + 0.28 * len(far))
    for number, name in enumerate(names):
        style = {"color": PALETTE[number % len(PALETTE)], "marker": "o^sDvP*X"[number % 8], "ls": ""}
        axes.plot(data.iloc[:, number], range(len(far)), label=f"{number + 1}: {name}", **style)
    axes.set(xscale="log", xlabel="ratio to the first run", yticks=range(len(far)), yticklabels=far)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(axis="x")
    axes.invert_yaxis()
    figure.legend(loc="outside lower left")
    some = f"The {len(far)} that move most of {len(moved)} metrics" if len(far) < len(moved) else "The metrics"
    alt = f"{some} that differ, as ratios to the first run: from {data.min().min():.3g} to {data.max().max():.3g}."
    return f"<figure>{embed(figure, data, 'ratios', alt)}<figcaption>{alt}</figcaption></figure>"


def _ratio(first: Any, value: Any) -> float | None:
    """Return value / first if both are numbers of the same sign, and not zero."""
    numbers = all(type(number) in (int, float) for number in (first, value))
    return value / first if numbers and first * value > 0 else None
