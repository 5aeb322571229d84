"""The HTML page of a run: one file that shows an executed notebook and loads nothing.

The prose of a notebook is written in MyST for the book. nbconvert knows plain Markdown, so directives and roles are
reduced to their text first, and numbers that the prose quotes from the notebook are those of this run.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{{ resources.mathjax }}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
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


def page(executed: Any, title: str, metrics: Mapping[str, Any], folder: Path) -> str:
    """Return the HTML page of an executed notebook.

    Args:
        executed: the notebook, as nbformat reads it.
        title: of the page.
        metrics: what the notebook reported; the prose quotes it by ``{glue:text}``.
        folder: of the notebook, from which its images are taken.
    """
    from nbconvert import HTMLExporter
    from nbformat.v4 import new_markdown_cell
    from traitlets.config import Config

    config = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": ["remove-input"]}})
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
    exporter = HTMLExporter(raw_template=TEMPLATE, embed_images=True, config=config)
    return exporter.from_notebook_node(notebook, {"mathjax": _mathjax(), "metadata": {"path": str(folder)}})[0]


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
