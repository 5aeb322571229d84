"""Sphinx extension: a page on the parameters of each notebook, and what a chapter says of its own runs.

Both are written when the book is built: from the parameters cell of the notebook, from ``book/parameters.yaml``, and
from the notebook's committed records. The pages lie in ``book/parameters/`` while Sphinx reads them; they are not
committed.
"""

import contextlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from epimlib._checks import PROJECT
from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import Parameter, resolve
from epimlib.lab.records import RunRecord

FOLDER = "book/parameters"
TYPES = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "list[int]": "list of whole numbers",
    "list[float]": "list of numbers",
    "list[str]": "list of texts",
}
OBJECTS = {
    "any network": "the name of a network, here or in timm, or a JSON file",
    "any hardware": "the name of an accelerator or a YAML file",
    "any design": "a JSON file, or nothing",
}
MOST_VARIANTS = 12
"""Runs that one table shows."""


# What is known ------------------------------------------------------------------------------------------


@cache
def said(folder: Path = PROJECT) -> dict[str, Any]:
    """Return what ``book/parameters.yaml`` says."""
    return yaml.safe_load((folder / FOLDER).with_suffix(".yaml").read_text(encoding="utf-8"))


def runs(notebook: Notebook) -> list[tuple[dict[str, Any], RunRecord]]:
    """Return the committed records of a notebook and of sweeps over it, each with the value of every parameter.

    A record may be older than a parameter, which then had its default.
    """
    folder = notebook.path.parents[1] / "data" / "results" / "sweeps"
    swept = (
        record for record in map(RunRecord.load, sorted(folder.rglob("*.json"))) if record.notebook == notebook.name
    )
    found = []
    for record in [*notebook.recorded().values(), *swept]:
        with contextlib.suppress(TypeError, ValueError):  # of a parameter that is gone, or has another range
            found.append((resolve(notebook.parameters, record.parameters), record))
    return found


def of_profile(notebook: Notebook, profile: str) -> RunRecord | None:
    """Return, of the committed records with the values of a profile and any seed, that of least time, or None.

    Other work on the machine makes a run longer, never shorter.
    """
    wanted = resolve(notebook.parameters, {"profile": profile}) | {"seed": None}
    alike = [record for values, record in runs(notebook) if values | {"seed": None} == wanted]
    return min(alike, key=lambda record: record.seconds, default=None)


def variants(notebook: Notebook) -> tuple[list[str], list[tuple[dict[str, Any], RunRecord]]]:
    """Return the parameters that differ between recorded runs of the quick profile, and one run for each setting."""
    alike = [(values, record) for values, record in runs(notebook) if values["profile"] == "quick"]
    differ = [p.name for p in notebook.parameters if len({repr(values[p.name]) for values, _ in alike}) > 1]
    settings: dict[str, tuple[dict[str, Any], RunRecord]] = {}
    for values, record in alike:
        settings.setdefault(repr([values[name] for name in differ]), (values, record))
    return differ, sorted(settings.values(), key=lambda run: [run[0][name] for name in differ])


# What is written ----------------------------------------------------------------------------------------


def write_pages(app, config) -> None:
    """Write a page for each notebook where Sphinx looks for pages; touch none that is as it was."""
    folder = Path(app.srcdir, FOLDER)
    pages = {folder / f"{notebook.name}.md": page(notebook) for notebook in chapters(app)}
    folder.mkdir(exist_ok=True)
    for path in set(folder.iterdir()) - set(pages):
        path.unlink()
    for path, text in pages.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def chapters(app) -> list[Notebook]:
    """Return the notebooks that the table of contents names, but those of solutions."""
    named = Path(app.srcdir, "_toc.yml").read_text(encoding="utf-8")
    paths = sorted(Path(app.srcdir, "notebooks").glob("*.ipynb"))
    return [Notebook.load(path) for path in paths if re.search(rf"\bnotebooks/{path.stem}\b", named)]


def page(notebook: Notebook) -> str:
    """Return the page of a notebook's parameters in MyST Markdown."""
    parts = [
        f"(parameters-{notebook.name})=\n# Parameters of {place(notebook)}",
        f"What {{doc}}`/notebooks/{notebook.name}` lets you change. {times(notebook)}",
        f"```bash\n{command(notebook)}\n```",
        "## Parameters\n\n" + "\n".join(entry(notebook, p) for p in notebook.parameters),
        before(notebook),
        explore(notebook),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def place(notebook: Notebook) -> str:
    """Return which chapter a notebook is, or its title where it has no number."""
    number = notebook.name.partition("_")[0]
    return f"chapter {int(number)}" if number.isdigit() else f"“{notebook.title}”"


def index(notebooks: list[Notebook]) -> str:
    """Return the table of all notebooks, with their times."""
    lines = ["", "| chapter | parameters | quick | full |", "|---|---|---|---|"]
    for notebook in notebooks:
        quick, full = (of_profile(notebook, profile) for profile in ("quick", "full"))
        same = all(p.full is None for p in notebook.parameters)
        lines.append(
            f"| {{doc}}`/notebooks/{notebook.name}` | {{ref}}`{len(notebook.parameters)} <parameters-{notebook.name}>` "
            f"| {duration(quick.seconds) if quick else ''} "
            f"| {'the same' if same else duration(full.seconds) if full else ''} |"
        )
    return "\n".join(lines) + "\n"


def command(notebook: Notebook) -> str:
    """Return a command that runs the notebook with one parameter changed."""
    ((name, value),) = said()[notebook.name]["try"].items()
    return f"epim run {notebook.name} -p {name}={text(value)}"


def entry(notebook: Notebook, p: Parameter) -> str:
    """Return what there is to say of one parameter, as an entry of a definition list."""
    values = f"`{text(p.default)}`" if p.default != "" else "nothing"
    if p.full is not None:
        values += f", in the full profile `{text(p.full)}`"
    own, general = said()[notebook.name], said()["all"]
    effect = own["effect"].get(p.name, general["effect"].get(p.name, ""))
    time = own.get("time", {}).get(p.name)
    more = effect + (f" The time {time}." if time else "")
    return f"`{p.name}`: {p.help}\n: {more.strip()}\n\n  *{allowed(p)}; default* {values}.\n"


def allowed(p: Parameter) -> str:
    """Return the type of a parameter and the values that it may have, in words."""
    least, most = p.least, p.most
    count = f"{least} values" if least == most else f"{least} to {most} values" if most else f"{least} or more values"
    if p.choices:
        *others, last = map(str, p.choices)
        span = f"{', '.join(others)} or {last}"
    else:
        span = f"{p.low:g} to {p.high:g}" if p.low is not None else OBJECTS.get(p.object, "")
    span += f" {p.unit}" if span and p.unit not in ("1", "name", "file") else ""
    many = p.type.startswith("list")
    return ", ".join(filter(None, [TYPES[p.type], span, count if many and (least, most) != (1, None) else "", p.order]))


def times(notebook: Notebook) -> str:
    """Return a sentence on how long the profiles took, where that was recorded."""
    found = {profile: of_profile(notebook, profile) for profile in ("quick", "full")}
    took = {profile: record for profile, record in found.items() if record}
    if not took:
        return "No record says how long it runs."
    sentences = [
        f"The {profile} profile took {duration(record.seconds)} on {machine(record)}, {made(record)}."
        for profile, record in took.items()
    ]
    if all(p.full is None for p in notebook.parameters):
        return f"{sentences[0]} Both profiles have the same values."
    return " ".join(sentences) + ("" if found["full"] else " The full profile has no record.")


def before(notebook: Notebook) -> str:
    """Return the section on runs made before, or nothing where there are too few to compare."""
    metrics = said()[notebook.name].get("metrics", {})
    differ, found = variants(notebook)
    shown = {name: label for name, label in metrics.items() if all(name in run.metrics for _, run in found)}
    if not 3 <= len(found) <= MOST_VARIANTS or not shown:
        return ""
    header = [*(f"`{name}`" for name in differ), *shown.values()]
    rows = [
        [*(f"`{text(values[n])}`" for n in differ), *(number(run.metrics[n]) for n in shown)] for values, run in found
    ]
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    where = "; ".join(sorted({f"{machine(run)}, {made(run)}" for _, run in found}))
    points = [", ".join(text(values[n]) for n in differ) for values, _ in found]
    return f"""## Runs made before

From committed records: {where}. All other parameters had their defaults.

{table}

{figure(notebook, ", ".join(differ), points, {shown[n]: [run.metrics[n] for _, run in found] for n in shown})}"""


def figure(notebook: Notebook, differ: str, points: list[str], metrics: dict[str, list[float]]) -> str:
    """Return a figure of the first two metrics of runs made before: a panel each, a point for each run."""
    import pandas as pd

    from epimlib.lab.figures import canvas, embed

    chosen = dict(list(metrics.items())[:2])
    drawn, axes = canvas(7.0, 2.8, ncols=len(chosen), squeeze=False)
    for axis, (label, values) in zip(axes[0], chosen.items(), strict=True):
        axis.plot([point.replace(", ", "\n") for point in points], values, "o")
        axis.set_title(label, fontsize=11)
        axis.set_xlabel(differ)
        axis.margins(x=0.1, y=0.15)
    told = [
        f"{label}: {'; '.join(f'{number(value)} at {point}' for value, point in zip(values, points, strict=True))}"
        for label, values in chosen.items()
    ]
    alt = f"A point for each run over {differ}. {'. '.join(told)}."
    html = embed(drawn, pd.DataFrame({differ: points} | chosen), f"variants_{notebook.name}", alt)
    return f"```{{raw}} html\n{html}\n```"


def explore(notebook: Notebook) -> str:
    """Return a link to the page Explore with the notebook's values, where there is that page and it knows them."""
    question = said()[notebook.name].get("explore")
    if not question or not (PROJECT / "book" / "explore.md").is_file():
        return ""
    values = {p.name: text(p.default) for p in notebook.parameters}
    return (
        "## Without running anything\n\n"
        f"{{explore}}`These values on the page Explore <{question.format(**values)}>`, where others are a choice away."
    )


# What a chapter says of itself --------------------------------------------------------------------------


def amend(app, docname, source) -> None:
    """Put the measured time into the first card of a chapter, and how to run it again at its end; write the index."""
    if docname == FOLDER:
        source[0] += index(chapters(app))
    if not re.fullmatch(r"notebooks/\w+", docname):
        return
    notebook = Notebook.load(Path(app.srcdir, f"{docname}.ipynb"))
    data = json.loads(source[0])
    prose = [cell for cell in data["cells"] if cell["cell_type"] == "markdown"]
    first = "".join(prose[0]["source"])
    prose[0]["source"] = re.sub(r"^- \d+ minutes to read$", rf"\g<0>{to_run(notebook)}", first, flags=re.MULTILINE)
    prose[-1]["source"] = "".join(prose[-1]["source"]) + again(notebook)
    source[0] = json.dumps(data)


def outdated(app, env, *sets) -> list[str]:
    """Return the pages to be read again though their files are as they were: records or ``parameters.yaml`` are not."""
    before = getattr(env, "amended", {})
    env.amended = {f"notebooks/{notebook.name}": to_run(notebook) + again(notebook) for notebook in chapters(app)}
    changed = [docname for docname, said in env.amended.items() if said != before.get(docname)]
    return sorted({FOLDER, *changed} & env.found_docs)


def to_run(notebook: Notebook) -> str:
    """Return the line of a card that says how long a run takes, or nothing where there is no record."""
    quick = of_profile(notebook, "quick")
    return f"\n- {duration(quick.seconds)} to run" if quick else ""


def again(notebook: Notebook) -> str:
    """Return the last paragraphs of a chapter: the full profile's numbers beside this page's, and a command."""
    parts = ["", full_beside(notebook)]
    parts.append(
        f"**Run it again**, with a number changed. What there is to change, what it does and what it costs: "
        f"{{ref}}`its parameters <parameters-{notebook.name}>`.\n\n```bash\n{command(notebook)}\n```"
    )
    return "\n\n".join(part for i, part in enumerate(parts) if part or not i)


def full_beside(notebook: Notebook) -> str:
    """Return a table of what this page found and what the recorded run of the full profile did, or nothing."""
    record = of_profile(notebook, "full")
    metrics = said()[notebook.name].get("metrics", {})
    shown = {name: label for name, label in metrics.items() if record and name in record.metrics}
    if not shown or all(p.full is None for p in notebook.parameters):
        return ""
    rows = "\n".join(
        f"| {label} | {{glue:text}}`{name}{'' if isinstance(record.metrics[name], int) else ':.4g'}` "
        f"| {number(record.metrics[name])} |"
        for name, label in shown.items()
    )
    return (
        f"**The full profile** took {duration(record.seconds)} on {machine(record)}, {made(record)}.\n\n"
        f"| | this page | full profile |\n|---|---|---|\n{rows}"
    )


# Words --------------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """Return a value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def number(value: Any) -> str:
    """Return a metric with four digits; integers whole."""
    return (
        f"{round(value, 9):.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def duration(seconds: float) -> str:
    """Return a time in seconds, or in minutes from two on."""
    return f"{round(seconds / 60)} minutes" if seconds >= 120 else f"{max(1, round(seconds))} seconds"


def machine(record: RunRecord) -> str:
    """Return the processor of a record and its cores."""
    return f"{record.machine['processor']} ({record.machine['cores']} cores)"


def made(record: RunRecord) -> str:
    """Return the day and the commit of a record."""
    commit = "none" if record.commit is None else f"`{record.commit[:7]}`" + (" with changes" if record.dirty else "")
    return f"{record.started[:10]}, commit {commit}"


def setup(app):
    app.connect("config-inited", write_pages, priority=100)  # before the table of contents looks for files
    app.connect("source-read", amend)
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
