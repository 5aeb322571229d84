"""Sphinx extension: *Check yourself*, the questions at the end of a chapter.

- ``book/quizzes/NN_name.yaml`` holds the questions on ``notebooks/NN_name.ipynb``; the section stands before the
  chapter's exercises, and no notebook names it. Texts are MyST, one paragraph each.
- A result is never typed: the number that answers is an expression of given numbers and of what the chapter has glued,
  and so is ``{=36 * 7}`` in a text.
- A page has forms of native controls, an ePub or a PDF the questions and then the answers.
- The directive ``quiz-keys`` lists the answers of all chapters, for lecturers.

jupyterquiz, the usual package, makes its widgets in JavaScript alone: without it there is no question. They have no
fieldset and no legend, their field for a number has no label, a screen reader is not told the result, their numbers
are typed, and they fetch MathJax from another host where a page has not loaded it yet.
"""

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from myst_nb.core.variables import RetrievalError
from myst_nb.ext.glue.utils import retrieve_glue_data
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxDirective

from epimlib._checks import fields_of, load

QUIZZES = "book/quizzes"
BEFORE = "## Exercises\n"  # what follows the questions in a chapter
SECTION = "## Check yourself\n\n```{quiz}\n```\n\n"
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
OPERATIONS |= {ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
FUNCTIONS = {"ceil": math.ceil, "floor": math.floor, "log2": math.log2, "sqrt": math.sqrt, "max": max, "min": min}


@dataclass(frozen=True)
class Choice:
    """An answer to choose: what it says, and why it is right or wrong."""

    text: str
    because: str
    right: bool = False


@dataclass(frozen=True)
class Wrong:
    """A number that is often given and wrong, or an expression of it, and why it is wrong."""

    number: str | float
    because: str


@dataclass(frozen=True)
class Question:
    """A question with choices, or one with a number.

    The tolerance is a number in the unit of the answer, or a percentage of it such as ``5%``; it holds for the usual
    wrong numbers as well.
    """

    ask: str
    choices: tuple[Choice, ...] = ()
    number: str = ""
    unit: str = ""
    tolerance: float | str = 0
    because: str = ""
    wrong: tuple[Wrong, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.choices) == bool(self.number):
            raise ValueError("it must have either choices or a number")
        if self.choices and (right := sum(choice.right for choice in self.choices)) != 1:
            raise ValueError(f"exactly one choice must be right, got {right}")
        if self.number and not isinstance(self.number, str):
            raise ValueError(f"its number must be computed, not typed, got {self.number!r}")
        if self.number and not self.because:
            raise ValueError("its number lacks a reason (because)")
        self.margin(1.0)

    def margin(self, value: float) -> float:
        """Return how far from a value an answer may lie."""
        text = str(self.tolerance)
        try:
            return float(text.removesuffix("%")) * (abs(value) / 100 if text.endswith("%") else 1)
        except ValueError:
            raise ValueError(f"tolerance must be a number or a percentage such as 5%, got {text!r}") from None


def read(path: Path) -> list[Question]:
    """Return the questions of a file, or raise one sentence that names the file and the question."""
    return load(path, "quiz", lambda items: [question(number, item) for number, item in enumerate(items, 1)])


def question(number: int, item: Any) -> Question:
    """Return one question of a file as it was read from YAML."""
    try:
        item = dict(fields_of("it", item, Question))
        for key, kind in (("choices", Choice), ("wrong", Wrong)):
            item[key] = tuple(kind(**fields_of(f"one of its {key}", one, kind)) for one in item.get(key, ()))
        return Question(**item)
    except ValueError as error:
        raise ValueError(f"question {number}: {error}") from error


def value(expression: str | float, names: Callable[[str], float]) -> float:
    """Return the value of an expression of numbers, operators, functions and names."""
    try:
        node = ast.parse(str(expression), mode="eval").body
    except SyntaxError:
        raise ValueError(f"cannot compute {expression!r}") from None

    def of(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                return names(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -of(operand)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
                return OPERATIONS[type(operation)](of(left), of(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(of, args))
        raise ValueError(f"cannot compute {ast.unparse(node)!r}; known are + - * / // % ** and {', '.join(FUNCTIONS)}")

    return of(node)


def accepted(question: Question, names: Callable[[str], float]) -> list[tuple[float, float, float]]:
    """Return the number of a question and its usual wrong ones, each between the bounds of what is taken for it."""
    values = [value(number, names) for number in (question.number, *(wrong.number for wrong in question.wrong))]
    ranges = [(v - question.margin(v), v, v + question.margin(v)) for v in values]
    for (_, number, high), (low, other, _) in pairwise(sorted(ranges)):
        if low <= high:
            raise ValueError(f"its numbers {number:g} and {other:g} cannot be told from each other")
    return ranges


def shown(number: float, unit: str = "") -> str:
    """Return a number as a reader sees it: all digits of a whole number, four of another, and the unit."""
    text = f"{number:,.0f}" if number == int(number) else f"{float(f'{number:.4g}'):,}".removesuffix(".0")
    return f"{text}{unit}" if unit == "%" else f"{text} {unit}".strip()


class quiz(nodes.General, nodes.Element):
    """The questions of a chapter, before a builder is known; each is a ``quiz_question``."""


class quiz_question(nodes.General, nodes.Element):
    """What is asked (a paragraph), and a ``quiz_reason`` for each choice or number; the first number is right."""


class quiz_reason(nodes.General, nodes.Element):
    """A choice or number, and why it is right or wrong: two paragraphs."""


class quiz_key(nodes.General, nodes.Element):
    """The place of a chapter's answers on the page of all keys."""


class html_tag(nodes.General, nodes.TextElement):
    """An element of a page."""


class Quiz(SphinxDirective):
    """``{quiz}``: the questions on the chapter in which it stands."""

    def run(self) -> list[nodes.Node]:
        path = quiz_file(self.env.srcdir, self.env.docname)
        self.env.note_dependency(str(path))
        try:
            questions = read(path)
        except ValueError as error:
            raise self.error(str(error)) from error
        result = quiz()
        for number, one in enumerate(questions, 1):
            try:
                result += self.node(one)
            except ValueError as error:
                raise self.error(f"{path} is no quiz: question {number}: {error}") from error
        return [result]

    def node(self, question: Question) -> quiz_question:
        result = quiz_question("", self.paragraph(question.ask), unit=question.unit, tolerance=str(question.tolerance))
        if question.choices:
            for choice in question.choices:
                result += self.reason(self.paragraph(choice.text), choice.because, choice.right)
            return result
        result["ranges"] = accepted(question, self.glued)
        reasons = [question.because, *(wrong.because for wrong in question.wrong)]
        for (_, number, _), because in zip(result["ranges"], reasons, strict=True):
            text = nodes.paragraph("", shown(number, question.unit))
            result += self.reason(text, because, right=because is question.because)
        return result

    def reason(self, text: nodes.paragraph, because: str, right: bool) -> quiz_reason:
        because = self.paragraph(because)
        because["classes"].append("quiz-because")
        return quiz_reason("", text, because, right=right)

    def paragraph(self, text: str) -> nodes.paragraph:
        text = re.sub(r"\{=(.+?)\}", lambda found: shown(value(found[1], self.glued)), text)
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), self.env.docname), self.content_offset, holder)
        if [type(node) for node in holder] != [nodes.paragraph]:
            raise ValueError(f"a text must be one paragraph, got {text!r}")
        return holder[0]

    def glued(self, name: str) -> float:
        try:
            return float(retrieve_glue_data(self.state.document, name).data["text/plain"])
        except RetrievalError:
            raise ValueError(f"the chapter glues no {name!r}") from None


class QuizKeys(SphinxDirective):
    """``{quiz-keys}``: the answers of all chapters, a section for each."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # what the chapters have computed may be new
        result = []
        for path in sorted(Path(self.env.srcdir, QUIZZES).glob("*.yaml")):
            chapter = f"notebooks/{path.stem}"
            cells = json.loads(Path(self.env.doc2path(chapter)).read_text(encoding="utf-8"))["cells"]
            title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
            section = nodes.section(
                "", nodes.title("", f"{int(path.stem[:2])}. {title}"), ids=[nodes.make_id(path.stem)], names=[path.stem]
            )
            section += quiz_key(chapter=chapter)
            result.append(section)
        return result


class ArrangeQuiz(SphinxPostTransform):
    """Questions become what the builder can show, while references in them are still open."""

    default_priority = 2

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(quiz)):
            if in_browser(self.app):
                node.replace_self([form(number, one) for number, one in enumerate(node, 1)])
            else:
                node.replace_self(printed(node))
        for key in list(self.document.findall(quiz_key)):
            found = list(self.env.get_doctree(key["chapter"]).findall(quiz))
            for reference in (node for one in found for node in one.findall(nodes.Element) if "refdoc" in node):
                if reference.get("reftype") == "doc":  # whose target may start from the chapter
                    reference["reftarget"] = "/" + docname_join(reference["refdoc"], reference["reftarget"])
                reference["refdoc"] = self.env.docname
            key.replace_self([answers(one, asked=True) for one in found])


def in_browser(app) -> bool:
    """Return whether pages are written that a browser opens, not those of a printed book."""
    return app.builder.name == "html"


def tag(name: str, /, *children: nodes.Node, classes: tuple[str, ...] = (), **attributes: Any) -> html_tag:
    """Return an element of a page; ``data_x`` is written ``data-x``."""
    written = {key.replace("_", "-"): value for key, value in attributes.items()}
    return html_tag("", "", *children, name=name, attributes=written, classes=list(classes))


def form(number: int, question: quiz_question) -> html_tag:
    """Return a question as a form of native controls, and its answers folded."""
    ask, *reasons = question
    legend = tag("legend", nodes.strong("", f"Question {number}."), nodes.Text(" "), *ask.children)
    if "ranges" in question:
        unit = f" [{question['unit']}]" * bool(question["unit"])
        within = f", within {question['tolerance']}" * (question["tolerance"] != "0")
        label = nodes.Text(f"Your answer{unit}{within} ")
        field = tag("input", type="number", step="any", name="answer", required="")
        answers_given = [tag("label", label, field, classes=("quiz-number",))]
    else:
        answers_given = [
            tag(
                "label",
                tag("input", type="radio", name="answer", value=str(at), required=""),
                tag("span", *(child.deepcopy() for child in reason[0])),
                classes=("quiz-choice",),
            )
            for at, reason in enumerate(reasons)
        ]
    # Without JavaScript a button would do nothing: quiz.js shows it.
    button = tag("button", nodes.Text("Check"), type="submit", disabled="", hidden="", classes=("quiz-check",))
    says = tag("div", classes=("quiz-says",), role="status")
    folded = tag("details", tag("summary", nodes.Text("Show the answer")), reason_list(reasons), classes=("quiz-key",))
    right = next(at for at, reason in enumerate(reasons) if reason["right"])
    ranges = json.dumps([[low, high] for low, _, high in question.get("ranges", [])])
    field_set = tag("fieldset", legend, *answers_given, button, says)
    data = {"data_right": str(right), "data_ranges": ranges}
    return tag("form", field_set, folded, classes=("quiz",), autocomplete="off", **data)


def reason_list(reasons: list[quiz_reason]) -> nodes.bullet_list:
    """Return every choice or number with its verdict and reason."""
    items = []
    for reason in reasons:
        text, because = reason
        verdict = nodes.paragraph("", "", nodes.strong("", "Right: " if reason["right"] else "Wrong: "), *text.children)
        items.append(nodes.list_item("", verdict, because))
    return nodes.bullet_list("", *items, bullet="-")


def answers(questions: quiz, asked: bool) -> nodes.enumerated_list:
    """Return the answers to all questions of a chapter, each after its question if that is asked for."""
    result = nodes.enumerated_list(enumtype="arabic", prefix="", suffix=".")
    for ask, *reasons in questions:
        result += nodes.list_item("", *[ask] * asked, reason_list(reasons))
    return result


def printed(questions: quiz) -> list[nodes.Node]:
    """Return all questions, and then all answers."""
    asked = nodes.enumerated_list(enumtype="arabic", prefix="", suffix=".")
    for question in questions:
        ask, *reasons = question
        item = nodes.list_item("", ask)
        if "ranges" not in question:
            texts = [nodes.list_item("", reason[0].deepcopy()) for reason in reasons]
            item += nodes.enumerated_list("", *texts, enumtype="loweralpha", prefix="(", suffix=")")
        asked += item
    return [asked, nodes.rubric("", "Answers"), answers(questions, asked=False)]


def quiz_file(srcdir: str | Path, docname: str) -> Path:
    """Return where the questions on a chapter are looked for."""
    return Path(srcdir, QUIZZES, f"{Path(docname).name}.yaml")


def add_section(app, docname: str, source: list[str]) -> None:
    """Put the section with the questions into a chapter that has some, as if its notebook held it."""
    if Path(docname).parent.as_posix() != "notebooks" or not quiz_file(app.srcdir, docname).is_file():
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and BEFORE in text:
            cell["source"] = text.replace(BEFORE, SECTION + BEFORE, 1)
    source[0] = json.dumps(notebook)


def add_files(
    app, pagename: str, templatename: str, context: Mapping[str, Any], doctree: nodes.document | None
) -> None:
    """Load script and style on pages with questions only."""
    if doctree is not None and next(doctree.findall(html_tag), None) is not None:
        app.add_css_file("quiz.css")
        app.add_js_file("quiz.js", loading_method="defer")


def visit_tag(self, node: html_tag) -> None:
    self.body.append(self.starttag(node, node["name"], "", **node["attributes"]))


def depart_tag(self, node: html_tag) -> None:
    if node["name"] != "input":
        self.body.append(f"</{node['name']}>")


def setup(app):
    app.add_directive("quiz", Quiz)
    app.add_directive("quiz-keys", QuizKeys)
    app.add_node(html_tag, html=(visit_tag, depart_tag))
    app.add_post_transform(ArrangeQuiz)
    app.connect("source-read", add_section)
    app.connect("html-page-context", add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
