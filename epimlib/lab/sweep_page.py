"""What a sweep found: one table, and one page with a figure and a link to each run."""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from epimlib._checks import nearest, write_bytes, write_text
from epimlib.lab.jobs import Job
from epimlib.lab.records import RECORD, RunRecord

MOST_LINES = 12
"""In a figure."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: auto; padding: 1rem; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }} figure {{ margin: 1rem 0; }} svg.plot {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{figure}
{failed}<div class="wide" role="region" aria-label="Table of all runs" tabindex="0">
<table><tr>{head}</tr>
{body}
</table></div>
<p><a href="table.csv">This table as CSV</a></p>
"""


def write_results(folder: Path, name: str, jobs: Sequence[Job], failed: Mapping[Path, str], metric: str | None) -> None:
    """Write ``table.csv`` (``table.parquet`` where pyarrow is installed) and ``index.html`` into ``folder``.

    The table has a row for each run that is done, in their order: what the sweep gave, what was found, the seconds,
    and its folder.

    Raises:
        OSError: if they cannot be written; the runs are there.
        ValueError: if no run has a number ``metric``.
    """
    found = [(job, RunRecord.load(job.folder)) for job in jobs if job.done]
    rows = [
        {**record.metrics, **job.point, "seconds": record.seconds, "folder": job.folder.name} for job, record in found
    ]
    swept = list(dict.fromkeys(itertools.chain(*(job.point for job in jobs))))
    metrics = [name for name in dict.fromkeys(itertools.chain(*(r.metrics for _, r in found))) if name not in swept]
    columns = [*swept, *metrics, "seconds", "folder"]
    texts = [{n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()} for row in rows]
    frame = pd.DataFrame(texts, columns=columns)
    figure = _figure(frame, swept, metrics, metric)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(texts)
    write_text(folder / "table.csv", stream.getvalue())
    if find_spec("pyarrow"):
        mixed = [name for name in columns if frame[name].map(type).nunique() > 1 and frame[name].dtype == object]
        write_bytes(folder / "table.parquet", frame.astype(dict.fromkeys(mixed, str)).to_parquet(index=False))
    failures = [f"<li>{escape(f'{job}: {failed[job.folder]}')}</li>" for job in jobs if job.folder in failed]
    page = PAGE.format(
        title=escape(name),
        about=f"{len(found)} of {len(jobs)} runs are done. {escape('; '.join(sorted({_made(r) for _, r in found})))}",
        figure=figure,
        failed=f"<h2>Failed</h2><ul>{''.join(failures)}</ul>\n" if failures else "",
        head="".join(f'<th scope="col">{escape(name)}</th>' for name in columns),
        body="\n".join(
            _row([row.get(n) for n in columns[:-1]], job.folder) for row, (job, _) in zip(texts, found, strict=True)
        ),
    )
    write_text(folder / "index.html", page)


def _made(record: RunRecord) -> str:
    commit = (record.commit or "unknown")[:7] + (" with changes" if record.dirty else "")
    return f"commit {commit}, Python {record.versions.get('python')}, {record.machine.get('processor')}"


def _row(values: Sequence[Any], folder: Path) -> str:
    page = next(iter(sorted(folder.glob("*.html"))), folder / RECORD)
    link = f'<a href="{folder.name}/{escape(page.name)}">{folder.name}</a>'
    return f"<tr>{''.join(f'<td>{_text(value)}</td>' for value in values)}<td>{link}</td></tr>"


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _figure(frame: pd.DataFrame, swept: Sequence[str], metrics: Sequence[str], metric: str | None) -> str:
    """Return a figure of ``metric``: a line over one parameter, a heat map of two, lines of more; or nothing."""
    if frame.empty:
        return ""
    numbers = [name for name in metrics if pd.api.types.is_numeric_dtype(frame[name].infer_objects())]
    if metric is not None and metric not in numbers:
        raise ValueError(f"no run has a number {metric!r} for a figure; {nearest(metric, numbers)}")
    shown = [name for name in numbers if frame[name].nunique() > 1]
    varied: list[str] = []
    for name in swept:  # one that another one decides adds nothing
        groups = frame.groupby(varied)[name] if varied else frame[name]
        if pd.Series(groups.nunique()).max() > 1:
            varied.append(name)
    if not varied or not (metric or shown):
        return ""
    from epimlib.lab import figures

    metric = metric or shown[0]
    values = frame[metric].dropna()
    alt = f"{metric} over {' and '.join(varied)}, from {_text(values.min())} to {_text(values.max())}."
    figure, axes = figures.canvas()
    if len(varied) == 2:
        pivot = frame.pivot_table(metric, *varied, sort=False)
        figures.sns.heatmap(pivot.astype(float), annot=pivot.size <= 100, fmt=".4g", cmap="crest", ax=axes)
        axes.collections[0].colorbar.set_label(metric)
    else:
        _lines(axes, frame, varied, metric)
    shown = figures.embed(figure, frame[[*varied, metric]], "sweep", alt)
    return f"<figure>{shown}<figcaption>{escape(alt)}</figcaption></figure>"


def _lines(axes: Any, frame: pd.DataFrame, varied: Sequence[str], metric: str) -> None:
    first, *others = varied
    groups = [((), frame)] if not others else itertools.islice(frame.groupby(others, sort=False), MOST_LINES)
    for values, group in groups:
        label = ", ".join(f"{name} {value}" for name, value in zip(others, values, strict=True))
        if pd.api.types.is_numeric_dtype(group[first]):
            group = group.sort_values(first)
        axes.plot(group[first], group[metric], marker="o", label=label)
    axes.set(xlabel=first, ylabel=metric)
    if others:
        axes.legend(fontsize=8)
