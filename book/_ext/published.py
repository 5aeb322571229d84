"""Sphinx extension: buttons that leave the book, switched on by one setting once the project has an address.

While ``repository: url`` in ``_config.yml`` is empty, no page links to a repository or starts a notebook elsewhere.
With an address every page has the buttons for its source, its correction and an issue, every notebook one for Binder,
which builds ``environment.yml``, and a chapter says how to install the library where a notebook is opened alone.
"""

import json
import re

BUTTONS = {
    "use_repository_button": True,
    "use_edit_page_button": True,
    "use_issues_button": True,
    "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
}
WRITTEN = "book/parameters/"
"""Pages that no file of the repository holds, so that there is nothing to edit."""


def switch_on(app, config) -> None:
    """Turn the theme's buttons on if there is an address."""
    if config.html_theme_options.get("repository_url"):
        config.html_theme_options.update(BUTTONS)


def hint(app, docname, source) -> None:
    """Say before the first cell of a chapter how to install the library where it is missing."""
    address = app.config.html_theme_options.get("repository_url")
    if not address or not re.fullmatch(r"notebooks/\w+", docname):
        return
    data = json.loads(source[0])
    first = next(i for i, cell in enumerate(data["cells"]) if cell["cell_type"] == "code")
    text = f"Opened alone, as in Colab, this notebook first needs the library: `%pip install git+{address}`"
    data["cells"].insert(first, {"cell_type": "markdown", "id": "install", "metadata": {}, "source": text})
    source[0] = json.dumps(data)


def drop_edit(app, pagename, templatename, context, doctree) -> None:
    """Leave out the button that would edit a page that is written when the book is built."""
    groups = context.get("header_buttons", []) if pagename.startswith(WRITTEN) else []
    for group in groups:
        if "buttons" in group:
            group["buttons"] = [button for button in group["buttons"] if button.get("label") != "source-edit-button"]


def setup(app):
    app.connect("config-inited", switch_on)
    app.connect("source-read", hint)
    app.connect("html-page-context", drop_edit, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
