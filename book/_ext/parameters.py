"""Sphinx extension: the page of all parameters is written from the notebooks' own parameters cells."""

from pathlib import Path

from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import Parameter

PAGE = "book/parameters"


def append_sections(app, docname, source):
    """Append one section for each notebook of the book to the text of the page."""
    if docname == PAGE:
        paths = sorted(Path(app.srcdir, "notebooks").glob("*.ipynb"))
        chapters = [path for path in paths if f"notebooks/{path.stem}" in app.env.found_docs]
        source[0] += "".join(section(Notebook.load(path)) for path in chapters)


def section(notebook: Notebook) -> str:
    """Return the section of one notebook in MyST Markdown."""
    others = [p for p in notebook.parameters if p.name != "profile"]
    example = f" -p {others[0].name}={text(others[0].default)}" if others else ""
    rows = "\n".join(row(parameter) for parameter in notebook.parameters)
    return f"""
(parameters-{notebook.name})=
## {notebook.title}

Chapter {{doc}}`/notebooks/{notebook.name}`.

```bash
epim run {notebook.name}{example}
```

| parameter | type | quick | full | allowed | unit | meaning |
|---|---|---|---|---|---|---|
{rows}
"""


def row(p: Parameter) -> str:
    """Return the line of one parameter in a table."""
    allowed = p.range.replace("..", " to ").replace("|", " or ")
    full = "" if p.full is None else f"`{text(p.full)}`"
    return f"| `{p.name}` | {p.type} | `{text(p.default)}` | {full} | {allowed} | {p.unit} | {p.help} |"


def text(value):
    """Return a value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def setup(app):
    app.connect("source-read", append_sections)
    # Read the page in every build: it follows files that Sphinx does not know it depends on.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: [PAGE])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
