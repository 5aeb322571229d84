"""Slides of the chapters: slides.py [FOLDER], by default into ``_build/slides``.

A deck is a file ``book/slides/NAME.md``, where NAME is the chapter's. It starts with ``# Title`` and the chapter's
question; each further slide starts with ``## Heading``. What stands on a slide of the chapter's own is not written
again but fetched, from the notebook that the book executed:

- ``{glue:text}`name:.2f```: a number, as in the chapter; ``{eq}`` and ``{numref}``: the number that the book gives
- a block ``{of-chapter}``, with a name behind it: a figure or an equation by its label, a figure file of any page, an
  exercise by its label, the output of a cell by the cell's id, or ``predict 2`` for the text of the second prompt
- ``:::{fragment}``: appears one key press later; ``:::{notes}``: for the presenter alone
- in a deck that belongs to no chapter, a block ``{slide}`` with ``NAME "Heading"`` behind it: a slide of another deck;
  what the block holds is said before that slide's notes
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from myst_nb.core.variables import format_plain_text
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from epimlib._checks import line, nearest

sys.path.insert(0, str(Path(__file__).parent / "_ext"))  # where the pages have what both need

from static_files import copy, copy_mathjax

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "book" / "slides"
LOOKS = SOURCES / "_static"
REVEAL = ("dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js", "LICENSE")
GLUED = "application/papermill.record/text/plain"
BLOCK = r"^(?P<fence>`{3,}|:{3,})\{%s\}(?P<argument>.*)\n(?P<body>(?:.*\n)*?)(?P=fence)$"
"""A directive in the text of a chapter or of a page."""


class SlideError(ValueError):
    """A deck asks for what does not exist, or cannot be read."""


# What a chapter holds -----------------------------------------------------------------------------------


def blocks(directive: str, text: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield the argument, the options and the content of every directive of a kind."""
    for found in re.finditer(BLOCK % directive, text, re.MULTILINE):
        options = dict(re.findall(r"^:([\w-]+): *(.*)$", found["body"], re.MULTILINE))
        content = re.sub(r"\A(:[\w-]+:.*\n)*\n*", "", found["body"])
        yield found["argument"].strip(), options, content


def drawing(path: Path, alt: str) -> str:
    """Return an SVG file as part of a page, named by its alternative text."""
    svg = path.read_text(encoding="utf-8")
    return f'<figure><svg role="img" aria-label="{escape(alt)}" {svg[svg.index("<svg") + 4 :]}</figure>'


@cache
def drawings() -> dict[str, str]:
    """Return the figure files that pages and chapters of the book show, by their labels."""
    found: dict[str, str] = {}
    for path in sorted([*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        for file, options, _ in blocks("figure", text):
            found[options["name"]] = drawing(path.parent / file, options["alt"])
    return found


@dataclass
class Chapter:
    """What the slides of a chapter may show.

    Attributes:
        name: of the notebook, such as ``08_reuse``.
        cells: of the executed notebook.
    """

    name: str
    cells: list[Any]

    @classmethod
    def load(cls, name: str) -> "Chapter":
        """Return a chapter of the book with the outputs of its last build.

        Raises:
            SlideError: if there is no such notebook, or the book was not built since its code changed.
        """
        path = ROOT / "notebooks" / f"{name}.ipynb"
        if not path.is_file():
            raise SlideError(
                f"there is no chapter {name!r}; {nearest(name, [p.stem for p in path.parent.glob('*_*')])}"
            )
        cache = ROOT / ".jupyter_cache"
        notebook = nbformat.read(path, as_version=4)
        try:
            if not cache.is_dir():
                raise KeyError(cache)
            return cls(name, get_cache(cache).merge_match_into_notebook(notebook)[1].cells)
        except KeyError:
            raise SlideError(f"{name}.ipynb as it is now was not executed; run make book first") from None

    @cached_property
    def text(self) -> str:
        """The chapter's Markdown; where a cell draws a figure of the book stands a directive that names it."""
        return "\n\n".join(
            cell.source if cell.cell_type == "markdown" else f"```{{figure}}\n:name: {label(cell)}\n```"
            for cell in self.cells
            if cell.cell_type == "markdown" or label(cell)
        )

    @cached_property
    def glued(self) -> dict[str, str]:
        """What the cells reported, by name, as Python writes it."""
        outputs = (output for cell in self.cells for output in cell.get("outputs", []))
        return {o.metadata.scrapbook.name: o.data[GLUED] for o in outputs if "scrapbook" in o.get("metadata", {})}

    def reported(self, name: str) -> str:
        """Return what the cells reported as ``name`` or ``name:format``, as the book shows it."""
        name, _, form = name.partition(":")
        return format_plain_text(self.glued[name], form or "s")

    @cached_property
    def equations(self) -> dict[str, str]:
        """The labelled equations."""
        return {options["label"]: tex.strip() for _, options, tex in blocks("math", self.text) if "label" in options}

    @cached_property
    def numbers(self) -> dict[str, str]:
        """What the book calls its equations and figures, by their labels."""
        figures = (options for _, options, _ in blocks("figure", self.text))
        labels = [options["name"] for options in figures]
        chapter = int(self.name[:2])
        return {name: f"({chapter}.{i})" for i, name in enumerate(self.equations, 1)} | {
            name: f"Fig. {chapter}.{i}" for i, name in enumerate(labels, 1)
        }

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts to predict, in their order."""
        found = blocks("(?:admonition|predict)", self.text)
        return [text for title, _, text in found if title in ("Predict", "number", "choice", "order")]

    @cached_property
    def exercises(self) -> dict[str, tuple[str, str]]:
        """Title and text of the exercises, by their labels."""
        return {options["label"]: (title, text) for title, options, text in blocks("exercise", self.text)}

    @cached_property
    def shown(self) -> dict[str, list[Any]]:
        """What each cell shows, by its id and, if it is a figure, by its label."""
        found: dict[str, list[Any]] = {}
        for cell in self.cells:
            outputs = [o for o in cell.get("outputs", []) if "scrapbook" not in o.get("metadata", {})]
            if outputs:
                found |= dict.fromkeys(filter(None, [cell.id, label(cell)]), outputs)
        return found


def in_turn(pictures: list[str]) -> str:
    """Return pictures that take each other's place, one with each key press."""
    steps = [("fade-out", 0), *(("current-visible", at) for at in range(len(pictures) - 1))]
    return '<figure class="in-turn">{}</figure>'.format(
        "".join(
            f'<div class="fragment {look}" data-fragment-index="{at}">{picture}</div>'
            for picture, (look, at) in zip(pictures, steps, strict=True)
        )
    )


def label(cell: Any) -> str | None:
    """Return the label of the figure that a cell draws."""
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("name")


# From Markdown to slides --------------------------------------------------------------------------------


@cache
def numbers() -> dict[str, str]:
    """Return what the book calls the equations and figures of all chapters, by their labels."""
    paths = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
    chapters = (Chapter(path.stem, nbformat.read(path, as_version=4).cells) for path in paths)
    return {name: number for chapter in chapters for name, number in chapter.numbers.items()}


@dataclass
class Deck:
    """A file of slides.

    Attributes:
        name: of the file, without its suffix.
        source: its text.
        chapter: that it is about, or None.
    """

    name: str
    source: str
    chapter: Chapter | None
    others: dict[str, "Deck"] = field(default_factory=dict)
    slide: str = ""

    def fail(self, why: str) -> SlideError:
        """Return an error that says where it is."""
        return SlideError(f"book/slides/{self.name}.md, slide {self.slide!r}: {why}")

    def find(self, what: str, name: str, known: dict[str, Any]) -> Any:
        """Return what has a name.

        Raises:
            SlideError: if nothing has.
        """
        if name not in known:
            where = f"chapter {self.chapter.name}" if self.chapter else "a deck without a chapter"
            raise self.fail(f"there is no {what} {name!r} in {where}; {nearest(name, known)}")
        return known[name]

    @cached_property
    def parts(self) -> list[tuple[str, list[Token]]]:
        """Headings and content of the slides, in their order; of a slide of another deck, nothing but where it is."""
        tokens = MARKDOWN.parse(self.source, {"deck": self})
        parts: list[tuple[str, list[Token]]] = []
        for at, token in enumerate(tokens):
            if token.type == "heading_open" and token.tag in ("h1", "h2"):
                parts.append((tokens[at + 1].content, [token]))
            elif token.type == "fence" and token.info.startswith("{slide}") and token.level == 0:
                parts.append(("", [token]))
            elif not parts:
                raise SlideError(f"book/slides/{self.name}.md must start with '# Title'")
            else:
                parts[-1][1].append(token)
        if not parts or parts[0][1][0].tag != "h1":
            raise SlideError(f"book/slides/{self.name}.md must start with '# Title'")
        return parts

    @cached_property
    def title(self) -> str:
        """The heading of the first slide."""
        return self.parts[0][0]

    @cached_property
    def question(self) -> str:
        """The line below it, as HTML."""
        self.slide = self.title
        return MARKDOWN.renderer.render(self.parts[0][1][3:6], MARKDOWN.options, {"deck": self})

    def slides(self) -> list[str]:
        """Return the slides as HTML, one element for each."""
        return [self.render(heading, tokens) for heading, tokens in self.parts]

    def render(self, heading: str, tokens: list[Token]) -> str:
        """Return one slide as HTML."""
        self.slide = heading
        if tokens[0].type == "fence":
            return self.fetched(tokens[0].info.removeprefix("{slide}").strip(), tokens[0].content)
        look = ' class="title"' if tokens[0].tag == "h1" else ""
        return f"<section{look}>\n{MARKDOWN.renderer.render(tokens, MARKDOWN.options, {'deck': self})}</section>"

    def fetched(self, place: str, more: str) -> str:
        """Return a slide of another deck, with more to say before its notes."""
        found = re.fullmatch(r'(\w+) "(.+)"', place)
        self.slide = place
        if not found:
            raise self.fail('behind {slide} must stand NAME "Heading"')
        other = self.find("deck", found[1], self.others)
        alike = [part for part in other.parts if part[0] == found[2]]
        if not alike:
            raise self.fail(f"deck {found[1]} has no such slide; {nearest(found[2], [h for h, _ in other.parts])}")
        notes = '<aside class="notes">'
        return other.render(*alike[0]).replace(notes, notes + self.html(more), 1)

    # What a slide shows of its chapter

    def of_chapter(self, name: str) -> str:
        """Return as HTML what the chapter, or another page of the book, calls by a name."""
        chapter = self.chapter or Chapter("", [])
        if name.startswith("predict "):
            return self.prompt(chapter, name.removeprefix("predict "))
        if name in chapter.shown:
            return "".join(map(self.output, chapter.shown[name]))
        if name in chapter.equations:
            tex = chapter.equations[name]
            tex = rf"\begin{{split}}{tex}\end{{split}}" if r"\\" in tex else tex
            return f'<div class="equation">\\[{escape(tex)}\\tag{{{chapter.numbers[name][1:-1]}}}\\]</div>'
        if name in chapter.exercises:
            title, text = chapter.exercises[name]
            return f'<div class="exercise"><p class="kind">Exercise: {escape(title)}</p>{self.html(text)}</div>'
        known = dict.fromkeys([*chapter.shown, *chapter.equations, *chapter.exercises], "") | drawings()
        return self.find("figure, equation, exercise or output", name, known)

    def prompt(self, chapter: Chapter, number: str) -> str:
        """Return one of the chapter's prompts."""
        if not number.isdecimal() or not 1 <= int(number) <= len(chapter.prompts):
            raise self.fail(f"there is no prompt 'predict {number}'; the chapter has {len(chapter.prompts)}")
        return f'<div class="predict"><p class="kind">Predict</p>{self.html(chapter.prompts[int(number) - 1])}</div>'

    def output(self, output: Any) -> str:
        """Return what a cell shows."""
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "text/html" in data:
            html = re.sub(r"<style.*?</style>|<p><a download.*?</p>", "", data["text/html"], flags=re.DOTALL)
            rounds = re.findall(r'<div class="round".*?</div>', html, re.DOTALL)
            if rounds:  # of epimlib.lab.stepview
                return in_turn(rounds)
            return f"<figure>{html}</figure>" if "<svg" in html else f'<div class="table">{html}</div>'
        if "text/markdown" in data:
            return f'<div class="table">{self.html(data["text/markdown"])}</div>'
        return f"<pre>{escape(data['text/plain'].strip())}</pre>"

    def html(self, text: str) -> str:
        """Return Markdown as HTML."""
        return MARKDOWN.render(text, {"deck": self})

    def number(self, name: str) -> str:
        """Return a number that the chapter reported, ``name`` or ``name:format``."""
        key, _, form = name.partition(":")
        value = self.find("number", key, self.chapter.glued if self.chapter else {})
        try:
            return self.chapter.reported(name)
        except ValueError:
            raise self.fail(f"{key!r} is {value}, which cannot be written as {form!r}") from None


def role(self, tokens, index, options, env) -> str:
    """Render a role."""
    deck, name, content = env["deck"], tokens[index].meta["name"], tokens[index].content
    if name == "glue:text":
        return escape(deck.number(content))
    if name in ("eq", "numref"):
        return deck.find(
            "labelled equation or figure", content, numbers() | (deck.chapter.numbers if deck.chapter else {})
        )
    raise deck.fail(f"a slide knows glue:text, eq and numref, not {{{name}}}`{content}`")


def block(self, tokens, index, options, env) -> str:
    """Render a directive, or code."""
    deck, token = env["deck"], tokens[index]
    directive, _, argument = token.info.strip().partition(" ")
    if directive == "{of-chapter}":
        return deck.of_chapter(argument.strip() or token.content.strip())
    if directive == "{fragment}":
        return f'<div class="fragment">{deck.html(token.content)}</div>\n'
    if directive == "{notes}":
        return f'<aside class="notes">{deck.html(token.content)}</aside>\n'
    if directive.startswith("{"):
        raise deck.fail(f"a slide knows of-chapter, fragment and notes, not {directive}")
    try:
        lexer = get_lexer_by_name(directive or "text")
    except ClassNotFound:
        raise deck.fail(f"code must be of a language that Pygments knows, or of none, not of {directive!r}") from None
    return highlight(token.content, lexer, HtmlFormatter(cssclass="code"))


def inline_code(self, tokens, index, options, env) -> str:
    """Render code within a line, where no directive may stand."""
    content = tokens[index].content
    if content.startswith("{"):
        raise env["deck"].fail(f"{content!r} needs lines of its own: what opens it, and what closes it")
    return f"<code>{escape(content)}</code>"


def formula(left: str, right: str):
    """Return what renders a formula between two marks of MathJax."""
    return lambda self, tokens, index, options, env: f"{left}{escape(tokens[index].content)}{right}"


MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
MARKDOWN.use(dollarmath_plugin).use(colon_fence_plugin).use(myst_role_plugin)
RULES = {"fence": block, "colon_fence": block, "myst_role": role, "code_inline": inline_code}
RULES |= {"math_inline": formula(r"\(", r"\)"), "math_block": formula(r"\[", r"\]")}
for token_type, rule in RULES.items():
    MARKDOWN.add_render_rule(token_type, rule)


# Pages --------------------------------------------------------------------------------------------------


def decks() -> dict[str, Deck]:
    """Return every deck by its name; one whose name starts with a number belongs to the chapter of that name."""
    found: dict[str, Deck] = {}
    for path in sorted(SOURCES.glob("*.md")):
        chapter = Chapter.load(path.stem) if path.stem[0].isdigit() else None
        found[path.stem] = Deck(path.stem, path.read_text(encoding="utf-8"), chapter, found)
    return found


def fill(template: str, **values: str) -> str:
    """Return a page from its template, where ``<!-- name -->`` stands for a value."""
    text = (LOOKS / template).read_text(encoding="utf-8")
    return re.sub(r"<!-- (\w+) -->", lambda found: values[found[1]], text)


def static(target: Path) -> None:
    """Copy what every page loads: reveal.js, MathJax, and our own looks."""
    copy_mathjax(target)
    copy(Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs", REVEAL, target / "reveal")
    copy(LOOKS, ("slides.js",), target)
    code = "".join(
        HtmlFormatter(style=f"a11y-{scheme}").get_style_defs(f"html[data-theme={scheme}] .code") + "\n"
        for scheme in ("light", "dark")
    )
    (target / "slides.css").write_text(code + (LOOKS / "slides.css").read_text(encoding="utf-8"), encoding="utf-8")


def main(target: str = str(ROOT / "_build" / "slides")) -> int:
    """Write all decks and the page that lists them, and return the exit code."""
    try:
        found = decks()
        pages = {name: deck.slides() for name, deck in found.items()}
    except SlideError as error:
        print(f"slides: {line(error)}", file=sys.stderr)
        return 2
    folder = Path(target)
    if folder.is_dir():
        shutil.rmtree(folder)
    static(folder / "_static")
    entries = []
    for name in sorted(pages, key=lambda name: (name[0].isdigit(), name)):  # lectures first
        deck, slides = found[name], pages[name]
        page = fill("deck.html", title=escape(deck.title), slides="\n".join(slides))
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        place = f"{int(name[:2])} " if deck.chapter else ""
        entries.append(
            f'<li><a href="{name}.html">{place}{escape(deck.title)}</a> ({len(slides)} slides)<br>{deck.question}</li>'
        )
    index = fill("index.html", decks="\n".join(entries))
    (folder / "index.html").write_text(index, encoding="utf-8")
    print(f"{len(pages)} decks: open {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
