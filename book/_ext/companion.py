"""Sphinx extension: what the book needs beyond Jupyter Book's settings.

- Everything that a page loads lies in the book itself: MathJax, which typesets the formulas, is copied out of
  the ``sphinx-mathjax-offline`` package, and the scripts of sphinx-thebe, which Jupyter Book always adds and
  which would fetch a kernel client from another host, are left out.
- A drawing (SVG) stands in the page itself, so that its lines have the colour of a light or a dark page.
- What answers a prompt to predict is folded, whatever it is: all between the prompt and ``{answer-end}``.
- The docstrings of attributes, constants and properties are plain sentences.
- What unfolds a part of the sidebar has a name, and Bootstrap follows the page's own contents while one scrolls: the
  theme names a list that its pages lack, and then every link of a page is taken for an entry of it.
- The bibliography does not claim to be a list of list items, which it is not for a screen reader.
"""

from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_design.shared import create_component
from static_files import copy_mathjax

logger = logging.getLogger(__name__)
PROMPT = "Predict"  # title of an admonition that asks for a prediction
SCROLLSPY = """
addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".page-toc a")) document.body.dataset.bsTarget = ".page-toc";
  else document.body.removeAttribute("data-bs-spy");
});
"""


class answer_end(nodes.Element):
    """The end of what answers the prompt before it."""


class AnswerEnd(SphinxDirective):
    """Marks the end of an answer; text, code cells and outputs since the prompt are the answer."""

    def run(self):
        end = answer_end()
        self.set_source_info(end)
        return [end]


class FoldAnswers(SphinxTransform):
    """Fold the answer of every prompt, in the widget of ``{dropdown}``."""

    default_priority = 500

    def apply(self):
        for title in [node for node in self.document.findall(nodes.title) if node.astext() == PROMPT]:
            section, prompt = title.parent.parent, title.parent
            start = section.index(prompt) + 1
            end = next((at for at in range(start, len(section)) if isinstance(section[at], answer_end)), None)
            if end is None:
                logger.warning("no answer-end follows this prompt in its section", location=prompt)
                continue
            section[start : end + 1] = [folded("Show the answer", section[start:end])]
        for end in list(self.document.findall(answer_end)):
            logger.warning("no prompt stands before this answer-end in its section", location=end)
            end.parent.remove(end)


def folded(title: str, content: list[nodes.Node]) -> nodes.Element:
    """Return the widget of ``{dropdown}``, closed."""
    looks = {"opened": False, "has_title": True, "icon": None, "chevron": None}
    classes = {"container_classes": ["sd-mb-3"], "title_classes": [], "body_classes": []}
    widget = create_component("dropdown", type="dropdown", **looks, **classes)
    widget += [nodes.rubric("", title), *content]
    return widget


def beside_pages(app, error):
    """Copy MathJax beside the pages."""
    if not error and app.builder.format == "html":
        copy_mathjax(Path(app.outdir) / "_static")


def inline_drawings(app, doctree, docname):
    """Replace every SVG file that a page shows by its text, with the alternative text of the image as its name."""
    if app.builder.format != "html":
        return
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"])
        if path.suffix == ".svg":
            svg = path.read_text(encoding="utf-8")
            width = f' style="width: {image["width"]}"' if "width" in image else ""
            svg = f'<svg class="plot" aria-label="{escape(image["alt"])}"{width}' + svg[svg.index("<svg") + 4 :]
            # On a phone it is scrolled, also by a keyboard.
            image.replace_self(nodes.raw("", f'<div class="drawing" tabindex="0">{svg}</div>', format="html"))


def correct_page(app, pagename, templatename, context, doctree):
    """Drop the scripts of sphinx-thebe from a page, name what unfolds its sidebar, and mend its bibliography's role."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body')}"
    ]
    if "generate_toctree_html" in context:
        sidebar = context["generate_toctree_html"]
        context["generate_toctree_html"] = lambda *given, **options: str(sidebar(*given, **options)).replace(
            "<summary>", '<summary aria-label="the pages below">'
        )
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def plain_sentence(app, what, name, obj, options, lines):
    """Put an empty comment first: napoleon takes what stands before a colon in the first line for a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def setup(app):
    app.config.mathjax_path = "mathjax/tex-mml-chtml.js"
    app.set_html_assets_policy("always")  # a formula may stand in the output of a cell only
    app.add_js_file(None, body=SCROLLSPY)
    app.add_js_file("search.js", loading_method="defer")
    app.connect("build-finished", beside_pages)
    app.add_directive("answer-end", AnswerEnd)
    app.add_transform(FoldAnswers)
    app.connect("doctree-resolved", inline_drawings)
    app.connect("html-page-context", correct_page, priority=900)
    app.connect("autodoc-process-docstring", plain_sentence, priority=400)  # napoleon comes at 500
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
