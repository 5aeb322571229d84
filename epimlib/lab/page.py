"""The HTML page of a run: one file that shows an executed notebook and loads nothing.

The prose of a notebook is written in MyST for the book. nbconvert knows plain Markdown, so directives and roles are
reduced to their text first, and numbers that the prose quotes from the notebook are those of this run. The page begins
with what is particular to the run: parameters that are not the defaults, and what a committed record found.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from epimlib.lab.records import RunRecord, compare_runs, text

TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{{ resources.mathjax }}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
{{ resources.include_css("static/theme-dark.css") | replace("<style", '<style media="(prefers-color-scheme: dark)"') }}
<style>.wide {overflow-x: auto} .wide :is(table, caption, th, td) {margin-left: 0; text-align: left}
.wide td {min-width: 5em}</style>
{%- endblock -%}
"""
MATHJAX = r"""
<script>
window.MathJax = {tex: {inlineMath: [["$", "$"]], displayMath: [["$$", "$$"], ["\\[", "\\]"]]},
                  svg: {fontCache: "global"}};
</script>
<script>%s</script>
"""
FENCE = re.compile(r" *(?P<fence>`{3,}|:{3,}|~{3,}) *(?P<info>.*)")
DIRECTIVE = re.compile(r"\{(?P<name>[\w:-]+)\} *(?P<argument>.*)")
OPTION = re.compile(r" *:(?P<name>[\w-]+): *(?P<value>.*?) *")
MARK = re.compile(r" *(\([\w:.-]+\)=|\+{3}.*|\^{3}|%.*) *")  # label, end of a block, card header, comment
ROLE = re.compile(r"\{(?P<name>[\w:.-]+)\}`(?P<text>[^`]+)`")
LABELLED = re.compile(r"\$\$ *\((?P<label>[\w:.-]+)\)")
UNTITLED = ("grid", "exercise-end", "solution-end")
NAMED = ("note", "tip", "hint", "warning", "important", "seealso", "solution", "solution-start")


def page(executed: Any, title: str, metrics: Mapping[str, Any], folder: Path, head: str = "") -> str:
    """Return the HTML page of an executed notebook.

    Args:
        executed: the notebook, as nbformat reads it.
        title: of the page.
        metrics: what the notebook reported; the prose quotes it by ``{glue:text}``.
        folder: of the notebook, from which its images are taken.
        head: HTML that stands before the first cell.
    """
    from nbformat.v4 import new_markdown_cell

    notebook = deepcopy(executed)
    notebook.metadata.title = title
    cells, notebook.cells = notebook.cells, []
    for cell in cells:
        notebook.cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, metrics)
        elif cell.cell_type == "code":  # what is glued is not shown
            cell.outputs = [o for o in cell.outputs if "scrapbook" not in o.get("metadata", {})]
            figure = {"name": "", "caption": ""} | cell.metadata.get("mystnb", {}).get("figure", {})
            if figure["caption"]:
                caption = plain(figure["caption"], metrics)
                notebook.cells.append(new_markdown_cell(f"*Figure {figure['name']}.* {caption}"))
    if head:
        notebook.cells.insert(0, new_markdown_cell(head))
    return _exporter().from_notebook_node(notebook, {"mathjax": _mathjax(), "metadata": {"path": str(folder)}})[0]


@functools.cache
def _exporter() -> Any:
    """Return what makes pages; its templates are compiled once."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    config = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": ["remove-input"]}})
    return HTMLExporter(raw_template=TEMPLATE, embed_images=True, config=config)


def beginning(record: RunRecord, defaults: Mapping[str, Any], recorded: Mapping[str, RunRecord]) -> str:
    """Return, as HTML, what a run changed and found, beside the record that has the most parameters in common with it.

    Args:
        record: of the run.
        defaults: value of every parameter by default.
        recorded: committed records of the same notebook by their paths; of equally near ones the first is taken.
    """
    names = dict.fromkeys(name for one in (record, *recorded.values()) for name in one.parameters)
    near = sorted(
        recorded.items(), key=lambda item: sum(item[1].parameters.get(n) != record.parameters.get(n) for n in names)
    )[:1]
    columns = [defaults, *(other.parameters for _, other in near), record.parameters]
    compared = [(name, *(column.get(name) for column in columns)) for name in names]
    changed = [row for row in compared if any(value != row[-1] for value in row[1:])]
    parts = ["<h2>This run</h2><p>Every parameter has its default.</p>"]
    if changed:
        header = ("parameter", "default", *(["record"] if near else []), "this run")
        parts = ["<h2>This run</h2>", html_table("Parameters that were changed", header, changed)]
    if not near:
        parts.append("<p>No record of this notebook is committed that could stand beside it.</p>")
    for path, other in near:
        metrics = compare_runs(other, record)[1]
        differ = [row for row in metrics if row[1] != row[2]]
        commit = f", commit {other.commit[:7]}" if other.commit else ""
        source = escape(f"{path} ({other.started[:10]}{commit}, {text(other.machine.get('processor'))})")
        parts.append(f"<p>The record beside it is {source}: {len(differ)} of {len(metrics)} metrics differ.</p>")
        if differ:
            header = ("metric", "record", "this run", "difference", "ratio")
            parts.append(html_table("Metrics that differ from the record", header, differ))
    return f'<section aria-label="This run">{"".join(parts)}</section>'


def html_table(caption: str, header: Sequence[str], values: Sequence[Sequence[Any]]) -> str:
    """Return a table as HTML in one line; on a narrow screen it scrolls."""
    caption = escape(caption)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(text(first))}</th>'
        + "".join(f"<td>{escape(text(value))}</td>" for value in rest)
        + "</tr>"
        for first, *rest in values
    )
    return (
        f'<div role="region" tabindex="0" aria-label="{caption}" class="wide">'
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _mathjax() -> str:
    """Return MathJax whole, as a script; without the package that the book takes it from, formulas stay TeX."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        return ""
    script = Path(package.origin).parent / "static" / "mathjax" / "tex-svg-full.js"
    return MATHJAX % script.read_text(encoding="utf-8")


def plain(markdown: str, metrics: Mapping[str, Any]) -> str:
    """Return MyST as plain Markdown: directives and roles become their text, an equation shows its label."""
    lines: list[str] = []
    closing: list[tuple[str, str]] = []  # of each open fence: the fence, and what to write at its end
    options: object = False  # inside the ":name: value" lines that a directive begins with
    for line in markdown.splitlines():
        fence = FENCE.fullmatch(line)
        options = options and OPTION.fullmatch(line)
        if options:
            if options["name"] == "alt":
                lines[-1] = lines[-1].replace("![]", f"![{options['value']}]")
            elif options["name"] == "label" and closing[-1][1] == "$$":
                closing[-1] = (closing[-1][0], f"$$ ({options['value']})")
            continue
        if closing and fence and fence["fence"].startswith(closing[-1][0]) and not fence["info"]:
            lines.append(closing.pop()[1])
        elif closing and closing[-1][1] == "```":
            lines.append(line)
        elif fence and (directive := DIRECTIVE.fullmatch(fence["info"])):
            begin, end = _directive(directive["name"], directive["argument"])
            lines += ["", begin]
            closing.append((fence["fence"], end))
            options = True
        elif fence:
            lines.append("```" + fence["info"])
            closing.append((fence["fence"], "```"))
        elif not MARK.fullmatch(line):
            lines.append(ROLE.sub(lambda role: _role(role["name"], role["text"], metrics), line))
    return LABELLED.sub(r"\\tag{\g<label>}$$", "\n".join(lines))


def _directive(name: str, argument: str) -> tuple[str, str]:
    """Return what stands for the beginning and for the end of a directive."""
    if name == "math":
        return "$$", "$$"
    if name in ("code", "code-block"):
        return "```" + argument, "```"
    if name in ("figure", "image"):
        return f"![]({argument})\n", ""
    if name in NAMED and (not argument or name.startswith("solution")):
        argument = name.partition("-")[0].capitalize()
    return (f"**{argument}**\n" if argument and name not in UNTITLED else ""), ""


def _role(name: str, text: str, metrics: Mapping[str, Any]) -> str:
    """Return what stands for a role."""
    if name.startswith("glue"):
        key, _, form = text.rpartition("::")[2].partition(":")  # "file::key" quotes another page
        try:
            return format(metrics[key], form) if key in metrics else f"[{key}]"
        except ValueError as error:
            raise ValueError(f"the prose shows {key} = {metrics[key]!r} as {form!r}, which it cannot be") from error
    if name == "math":
        return f"${text}$"
    if name.startswith("cite"):
        return f"[{text}]"
    if name == "eq":
        return f"({text})"
    if name == "doc" and "<" not in text:
        return text.rpartition("/")[2]
    return re.sub(r" *<.*>$", "", text)
