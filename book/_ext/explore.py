"""Sphinx extension: the page *Explore*.

- The directive ``explore`` is the form and the places of its answer; ``book/_static/explore.js`` fills them.
- The role ``explore`` is a link to it with a question, ``{explore}`text <network=resnet50&rows=512>` ``. A question
  that the table does not hold is a warning.
- The table is computed once for each state of the library, and kept in ``_build/explore``.
- Where ``make explorer`` has fetched Python for the browser, it and the library's files are packed beside the table.
"""

import hashlib
import html
import json
import re
from pathlib import Path
from urllib.parse import parse_qsl

import explore_files
import explore_table
from docutils import nodes
from explore_files import pack
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from epimlib._checks import read_yaml
from epimlib.epitome.networks import TITLES

PAGE = "book/explore"
ROOT = Path(__file__).parents[2]
LIBRARY = ["epimlib/__init__.py", "epimlib/_checks.py", "epimlib/epitome/*.py", "epimlib/pim/*.py"]
LIBRARY += ["epimlib/search/*.py", "data/workloads/*.json", "book/_ext/explore_answer.py"]
"""What answers a question: the files that the page's own Python reads."""
READ = [*LIBRARY, "epimlib/pim/presets/*.yaml", "book/_ext/explore_table.py"]
"""What the table depends on."""

PRESETS = list((ROOT / "epimlib/pim/presets").glob("*.yaml"))

DEFAULT = {"network": "resnet50", "preset": "default", "crossbar": 256, "cell_bits": 2, "bits": 9}
DEFAULT |= {"activation_bits": 9, "design": "epitome", "rows": 1024, "cols": 256, "wrap": "full"}
FORM = {
    "Network": {"network": "network", "bits": "weight [bit]", "activation_bits": "activation [bit]"},
    "Accelerator": {"preset": "preset", "crossbar": "crossbar", "cell_bits": "cell [bit]"},
    "Design": {"design": "layers", "rows": "word lines", "cols": "columns", "wrap": "wrapping"},
}
SAID = {
    "network": TITLES,
    "crossbar": {side: f"{side} × {side}" for side in explore_table.AXES["crossbar"]},
    "design": {"epitome": "epitomes", "dense": "all dense"},
    "wrap": {"full": "all", 1: "none"},
}
"""How a value is called in the form, where not by itself."""
CARDS = {
    "crossbars": ("Crossbars", ""),
    "factor": ("Fewer than dense with 32 bits", "×"),
    "utilization": ("Cells in use", "%"),
    "area": ("Area", "mm²"),
    "latency": ("Latency, layers in a pipeline", "ms"),
    "sequential": ("Latency, one layer after another", "ms"),
    "energy": ("Energy of an image", "mJ"),
}
METRICS = {"crossbars": "crossbars", "utilization": "cells in use [%]", "latency": "busy [ms]", "energy": "energy [mJ]"}
PYTHON = """from epimlib import Design, Hardware, Workload, evaluate

workload = Workload.load({network})
hardware = Hardware.preset({preset}).replace(
    {{"crossbar.rows": {crossbar}, "crossbar.cols": {crossbar}, "crossbar.cell_bits": {cell_bits}}}
)
{design}
print(evaluate(workload, hardware, design, bits={bits}, activation_bits={activation_bits}))"""
UNIFORM = "design = Design.uniform(workload, rows={rows}, cols={cols}, wrap={wrap})"


class Explore(SphinxDirective):
    """``{explore}``: the form, and the places of the answer."""

    def run(self) -> list[nodes.Node]:
        if not in_browser(self.env.app):
            return [
                nodes.paragraph("", "In print there is nothing to choose: open this page of the book in a browser.")
            ]
        return [nodes.raw("", page(scripts(self.env.app)), format="html")]


class Question(SphinxRole):
    """``{explore}`` as a role: a link that opens the page with a question."""

    def run(self) -> tuple[list[nodes.Node], list]:
        text, query = re.fullmatch(r"(.*?)\s*<(.*)>", self.text, re.DOTALL).groups()
        if wrong := unknown(query):
            logging.getLogger(__name__).warning("explore: %s", wrong, location=self.get_location())
        if not in_browser(self.env.app):
            return [nodes.inline("", text)], []
        up = "../" * self.env.docname.count("/")
        return [nodes.reference("", text, refuri=f"{up}{PAGE}.html#{query}", internal=True)], []


def in_browser(app) -> bool:
    """Return whether pages are written that a browser opens, not those of a printed book."""
    return app.builder.name == "html"


def unknown(query: str) -> str | None:
    """Return one sentence if a question names a choice or value that the table lacks."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if value not in map(str, explore_table.AXES.get(name, [])):
            return f"{name}={value} is not in the table of Explore"
    return None


def page(folder: Path) -> str:
    """Return the form and the places of the answer in HTML; the folder is that of the scripts."""
    groups = "".join(
        f"<fieldset><legend>{legend}</legend>{''.join(choice(name, label) for name, label in names.items())}</fieldset>"
        for legend, names in FORM.items()
    )
    cards = "".join(
        f'<div class="explore-card" data-metric="{name}"><dt>{label}</dt><dd><strong></strong> {unit}</dd>'
        '<dd class="explore-dense"></dd><dd class="explore-before"></dd></div>'
        for name, (label, unit) in CARDS.items()
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("layer", "matrix", "epitome", *METRICS.values()))
    options = "".join(f'<option value="{name}">{label}</option>' for name, label in METRICS.items())
    return f"""<div id="explore">
<noscript><p class="explore-says">This page needs JavaScript to answer. Without it, the lines of Python at its end give
the same answer, and <code>epim run 06_cost -p rows=512</code> runs a chapter with other numbers.</p></noscript>
<form class="explore-form" aria-label="What is asked">{groups}</form>
<p class="explore-says" id="explore-says" role="status" aria-live="polite"></p>
<dl class="explore-cards">{cards}</dl>
<p class="explore-engine">{engine(folder)}</p>
<p class="explore-bars-head"><label>Layer by layer <select id="explore-metric">{options}</select></label>
<span class="explore-key"><i></i>this choice <i class="explore-of-dense"></i>all dense</span></p>
<svg class="explore-bars" id="explore-bars" role="img" preserveAspectRatio="none"><title>Bars</title></svg>
<div class="explore-layers" tabindex="0" role="region" aria-label="Layers">
<table><thead><tr>{heads}</tr></thead><tbody id="explore-layers"></tbody></table></div>
<p>The same question in Python:</p>
<pre class="explore-python" tabindex="0"><code>{python()}</code></pre>
</div>"""


def engine(folder: Path) -> str:
    """Return the button that starts Python, or why there is none."""
    if reason := explore_files.trouble(explore_files.FOLDER):
        return (
            "Other values than those of the lists need Python in this page, which this copy of the book does not have "
            f"({html.escape(reason)}); <code>make explorer book</code> adds it."
        )
    size = (folder / "explore_pyodide.js").stat().st_size / 1e6
    return (
        f'<button type="button" id="explore-start" data-version="{fingerprint(LIBRARY)[:8]}">Allow any value</button> '
        '<span id="explore-state" role="status">'
        f"starts Python in this page, and the library itself computes. It reads {size:.0f} MB of this book and asks no "
        'other host.</span> <a href="../_static/explore_licences.txt">Licences</a>'
    )


def choice(name: str, label: str) -> str:
    """Return the list from which one choice is taken."""
    said = SAID.get(name, {})
    options = "".join(
        f'<option value="{value}"{" selected" if value == DEFAULT[name] else ""}>{said.get(value, value)}</option>'
        for value in explore_table.AXES[name]
    )
    return f'<label>{label}<select name="{name}" autocomplete="off">{options}</select></label>'


def python() -> str:
    """Return the question in Python; the script replaces its values."""
    values = {
        name: f'<span data-name="{name}">{html.escape(json.dumps(value))}</span>' for name, value in DEFAULT.items()
    }
    uniform = f'<span data-design="epitome">{UNIFORM.format(**values)}</span>'
    return PYTHON.format(**values | {"design": uniform + '<span data-design="dense" hidden>design = {}</span>'})


def fingerprint(patterns: list[str]) -> str:
    """Return a hash of the content of files of the project."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def scripts(app) -> Path:
    """Return the folder of the scripts that are written here."""
    return Path(app.outdir).parent / "explore"


def write_table(folder: Path) -> Path:
    """Return the script with the table in a folder; it is computed anew if something that it depends on changed."""
    path = folder / "explore_table.js"
    first = f"// {fingerprint(READ)}\n"
    if not (path.is_file() and path.read_text("utf-8").startswith(first)):
        text = json.dumps(explore_table.table(), separators=(",", ":"), ensure_ascii=False)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{first}EXPLORE = {{ table: "{pack(text.encode())}" }};\n', "utf-8")
    return path


def write_python(folder: Path, fetched: Path = explore_files.FOLDER) -> None:
    """Write the scripts that hold Python and the library, or remove them where Python was not fetched."""
    python, library = folder / "explore_pyodide.js", folder / "explore_library.js"
    if explore_files.trouble(fetched):
        python.unlink(missing_ok=True)
        library.unlink(missing_ok=True)
        return
    packed = {"files": sources(), "presets": {path.stem: read_yaml(path, "preset") for path in sorted(PRESETS)}}
    library.write_text(f'EXPLORE.library = "{pack(json.dumps(packed).encode())}";\n', "utf-8")
    first = f"// {hashlib.sha256(repr(explore_files.FILES).encode()).hexdigest()}\n"
    if not (python.is_file() and python.read_text("utf-8").startswith(first)):
        files = {name: pack((fetched / name).read_bytes()) for name in explore_files.FILES}
        python.write_text(f"{first}EXPLORE.files = {json.dumps(files)};\n", "utf-8")


def sources() -> dict[str, str]:
    """Return the files that answer a question, by their paths in the project."""
    paths = sorted(path for pattern in LIBRARY for path in ROOT.glob(pattern))
    return {path.relative_to(ROOT).as_posix(): path.read_bytes().decode("utf-8") for path in paths}


def add_files(app):
    """Let Sphinx copy the table, and Python if it is there, beside the pages."""
    if in_browser(app):
        folder = scripts(app)
        write_table(folder)
        write_python(folder)
        app.config.html_static_path.append(str(folder))


def add_scripts(app, pagename, templatename, context, doctree):
    """Load the script, and the table before it, on the page alone."""
    if pagename == PAGE and in_browser(app):
        app.add_css_file("explore.css")
        for name in ("explore_table.js", "explore.js"):
            app.add_js_file(name, loading_method="defer")


def setup(app):
    app.add_directive("explore", Explore)
    app.add_role("explore", Question())
    app.connect("builder-inited", add_files)
    app.connect("html-page-context", add_scripts)
    # Read the page in every build: it follows files that Sphinx does not know it depends on.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: [PAGE])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
