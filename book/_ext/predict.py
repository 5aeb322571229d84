"""Sphinx extension: predictions that are made before an answer is shown.

- The directive ``predict`` is a prompt with a definite answer, a ``number``, a ``choice`` or an ``order``. Where no
  script runs it is an admonition, and its answer is folded as that of every prompt. ``book/_static/predict.js`` makes
  a form of it, which keeps the guess in the browser.
- What is computed comes from what the notebook glues, and stands in the page where nobody sees it.
- The directive ``predictions`` lists the prompts of the book; the script shows those with a guess.

::

    :::{predict} choice
    :answer: reuse_energy:.2f
    :bounds: 1.2 3

    What happens to the energy?

    - the same
    - a half more
    - ten times
    :::

``answer`` is a glued name, with a format if it is shown. A number may have a ``unit``. A choice is the one that has
the glued text; or, with one bound between each two choices, that into which the glued number falls; or, with a name for
each choice, that of the largest number, or of the least with ``:first: least``. An order has a name for each item too.
"""

import ast
import json
from bisect import bisect_right
from html import escape
from typing import ClassVar

from companion import PROMPT
from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.core.variables import RetrievalError, format_plain_text
from myst_nb.ext.glue.utils import retrieve_glue_data
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxDirective

KINDS = ("number", "choice", "order")
ENDS = ("largest", "least")


class prediction(nodes.Element):
    """What a prompt asks for and what the notebook computed, for the script."""


class predictions(nodes.Element):
    """The place of the list of all prompts."""


class Predict(SphinxDirective):
    """``{predict}``: a prompt that takes a guess."""

    optional_arguments = 1
    has_content = True
    option_spec: ClassVar = dict.fromkeys(("answer", "unit", "bounds", "first"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        prompt = nodes.admonition("", nodes.title("", PROMPT), classes=["tip", "predict"])
        self.set_source_info(prompt)
        self.state.nested_parse(self.content, self.content_offset, prompt)
        items = [" ".join(item.astext().split()) for item in prompt[-1]] if is_list(prompt[-1]) else []
        try:
            names = self.options.get("answer", "").split()
            values = [self.glued(name) for name in names]
            kind = one_of("kind", " ".join(self.arguments), KINDS)
            found = judge(kind, items, values, self.options)
        except ValueError as error:
            raise self.error(f"predict: {error}") from error
        place = nodes.make_id(f"predict-{names[0].partition(':')[0]}")
        prompt["ids"].append(place)
        where = f"{self.env.docname}#{place}"
        prompt += prediction(data={"id": where, "kind": kind, "items": items, **found})
        remember(self.env, prompt)
        return [prompt]

    def glued(self, name: str) -> tuple[object, str]:
        """Return a glued value and how it is shown, nothing if the name has no format."""
        key, _, form = name.partition(":")
        try:
            text = retrieve_glue_data(self.state.document, key).data["text/plain"]
        except RetrievalError:
            raise ValueError(f"answer {key!r} is not a name that this notebook reports") from None
        return ast.literal_eval(text), format_plain_text(text, form) if form else ""


def is_list(node: nodes.Node) -> bool:
    return isinstance(node, nodes.bullet_list)


def judge(kind: str, items: list[str], values: list[tuple[object, str]], options: dict[str, str]) -> dict[str, object]:
    """Return what was computed: as text, for a number as value too, and its unit.

    Raises:
        ValueError: if there is no answer, or it does not fit the kind, the items or the options.
    """
    if not values:
        raise ValueError("answer is missing; it names what the notebook reports")
    if kind == "number":
        if len(values) > 1 or items:
            raise ValueError(f"a number has one answer and no list, got {len(values)} and a list of {len(items)}")
        ((value, shown),) = values
        if shown.endswith("%"):
            return {"answer": shown[:-1], "value": 100 * number(value), "unit": "%"}
        return {"answer": shown or str(value), "value": number(value), "unit": options.get("unit", "")}
    if len(items) < 2:
        raise ValueError(f"{kind} needs a list of two items or more at the end of the prompt, got {len(items)}")
    if kind == "choice" and len(values) == 1:
        ((value, shown),) = values
        if "bounds" in options:
            item = items[bisect_right(limits(options["bounds"], len(items)), number(value))]
        else:
            item = one_of("answer", str(value), items)
        return {"answer": item + (f" ({shown})" if shown else "")}
    if len(values) != len(items):
        raise ValueError(f"{kind} needs as many answers as items, got {len(values)} and {len(items)}")
    by_size = sorted(range(len(items)), key=lambda at: number(values[at][0]))
    if one_of("first", options.get("first", "largest"), ENDS) == "largest":
        by_size.reverse()
    said = [items[at] + (f" ({values[at][1]})" if values[at][1] else "") for at in by_size]
    return {"answer": said[0] if kind == "choice" else ", ".join(said)}


def one_of(name: str, value: str, allowed: tuple[str, ...] | list[str]) -> str:
    """Return the value if it is one of those allowed.

    Raises:
        ValueError: naming all of them otherwise.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def number(value: object) -> float:
    """Return a glued value, which may be a text of digits, as a number.

    Raises:
        ValueError: if it is none.
    """
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"answer must be a number, got {value!r}") from None


def limits(text: str, items: int) -> list[float]:
    """Return the bounds between the choices.

    Raises:
        ValueError: if they do not ascend, or are not one fewer than the choices.
    """
    bounds = [number(part) for part in text.split()]
    if len(bounds) != items - 1 or bounds != sorted(set(bounds)):
        raise ValueError(f"bounds must be {items - 1} ascending numbers for {items} choices, got {text!r}")
    return bounds


def remember(env, prompt: nodes.Element) -> None:
    """Keep a copy of a prompt for the page that lists them; the environment forgets it when the chapter changes."""
    copy = nodes.container("", *(node.deepcopy() for node in prompt[1:]), classes=["predict-entry"])
    for node in copy.findall():
        node.document = None  # the environment is pickled, and a document cannot be
    env.metadata[env.docname].setdefault("predictions", []).append(copy)


class Predictions(SphinxDirective):
    """``{predictions}``: the list of all prompts."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # it follows every chapter
        return [predictions()]


class ListPredictions(SphinxPostTransform):
    """Put the prompts of all chapters into their list, before references are resolved."""

    default_priority = 1

    def run(self, **kwargs) -> None:
        for place in list(self.document.findall(predictions)):
            if self.app.builder.name != "html":
                place.replace_self(
                    nodes.paragraph("", "In print there is nothing to list: open this page in a browser.")
                )
                continue
            chapters = [self.chapter(name) for name, kept in sorted(self.env.metadata.items()) if "predictions" in kept]
            place.replace_self(nodes.container("", *chapters, classes=["predict-list"]))

    def chapter(self, name: str) -> nodes.container:
        """Return the prompts of a chapter behind a link to it."""
        uri = self.app.builder.get_relative_uri(self.env.docname, name)
        title = self.env.titles[name].astext()
        listed = nodes.container("", nodes.rubric("", title), classes=["predict-chapter"])
        for kept in self.env.metadata[name]["predictions"]:
            entry = kept.deepcopy()
            (data,) = entry.findall(prediction)
            target = f"{uri}#{data['data']['id'].partition('#')[2]}"
            link = nodes.reference("", "to the prompt", refuri=target, internal=True)
            data["data"] = data["data"] | {"chapter": title}
            for reference in entry.findall(pending_xref):  # it leads away from this page now
                if reference["reftype"] == "doc":
                    reference["reftarget"] = "/" + docname_join(name, reference["reftarget"])
                reference["refdoc"] = self.env.docname
            entry += nodes.paragraph("", "", link)
            listed += entry
        return listed


def write(self, node: prediction) -> None:
    """Write what the script reads, and no reader sees: on the page that lists prompts with the text of this one."""
    if self.builder.name != "html":
        raise nodes.SkipNode
    asked = [part.astext() for part in node.parent[: node.parent.index(node)] if isinstance(part, nodes.paragraph)]
    data = node["data"] | ({"question": " ".join(" ".join(asked).split())} if "chapter" in node["data"] else {})
    self.body.append(f'<div class="predict-form" hidden data-predict="{escape(json.dumps(data))}"></div>')
    raise nodes.SkipNode


def skip(self, node: prediction) -> None:
    """Leave it out of print."""
    raise nodes.SkipNode


def add_files(app, pagename, templatename, context, doctree):
    """Load script and style on pages with a prompt."""
    if app.builder.name == "html" and doctree is not None and next(iter(doctree.findall(prediction)), None):
        app.add_css_file("predict.css")
        app.add_js_file("predict.js", loading_method="defer")


def setup(app):
    app.add_node(prediction, html=(write, None), latex=(skip, None))
    app.add_directive("predict", Predict)
    app.add_directive("predictions", Predictions)
    app.add_post_transform(ListPredictions)
    app.connect("html-page-context", add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
