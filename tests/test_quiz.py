"""*Check yourself*: the questions of every chapter, and a student who answers them in a page."""

import io
import itertools
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from epimlib import EpitomeSpec, Hardware, Workload, map_crossbars
from epimlib.datapath.analog import code_limits, full_scale
from epimlib.epitome.workload import Layer
from epimlib.pim.events import layer_events
from epimlib.related.bitserial import Machine
from epimlib.related.loopnest import Level, Nest
from tests import test_browser
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
CHAPTERS = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
PAGE = "notebooks/02_crossbar.html"
site, browser, tab = test_browser.site, test_browser.browser, test_browser.tab

sys.path.insert(0, str(ROOT / "book" / "_ext"))  # where Sphinx finds it
quiz = load("book/_ext/quiz.py")
QUIZZES = {path.stem: quiz.read(path) for path in sorted((ROOT / quiz.QUIZZES).glob("*.yaml"))}

CHOICE = """
- ask: Why?
  choices:
    - {text: So., because: It is., right: true}
    - {text: Not so., because: It is not.}
"""
NUMBER = "- {ask: How many?, number: 2 * 3, because: Twice three., wrong: [{number: 2 + 3, because: A sum.}]}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestQuestions:
    def test_are_asked_on_every_chapter_and_nothing_else(self):
        assert list(QUIZZES) == CHAPTERS
        for name in CHAPTERS:
            notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
            assert notebook.count('"## Exercises\\n"') == 1, name

    @pytest.mark.parametrize("name", QUIZZES)
    def test_are_four_to_six_with_a_reason_for_every_answer(self, name):
        assert 4 <= len(QUIZZES[name]) <= 6
        for one in QUIZZES[name]:
            assert one.ask.endswith("?"), one.ask
            assert not one.choices or 3 <= len(one.choices) <= 5, one.ask
            assert len({choice.text for choice in one.choices}) == len(one.choices), one.ask
            assert one.choices or one.wrong, one.ask
            for reason in (one, *one.choices, *one.wrong):
                told = reason.because.split()
                assert len(told) >= 5 or (reason is one and one.choices), one.ask
                assert not told or told[-1].endswith("."), one.ask

    @pytest.mark.parametrize("name", QUIZZES)
    def test_are_of_both_kinds(self, name):
        assert {bool(one.number) for one in QUIZZES[name]} == {True, False}

    def test_do_not_give_the_right_answer_away_by_its_place_or_length(self):
        asked = [one.choices for questions in QUIZZES.values() for one in questions if one.choices]
        places = [next(at for at, choice in enumerate(choices) if choice.right) for choices in asked]
        assert max(map(places.count, places)) <= len(places) / 2
        longest = [max(choices, key=lambda choice: len(choice.text)).right for choices in asked]
        assert sum(longest) <= len(longest) / 2
        for name, questions in QUIZZES.items():
            own = [next(at for at, c in enumerate(one.choices) if c.right) for one in questions if one.choices]
            assert len(own) < 3 or len(set(own)) > 1, name


class TestRules:
    def test_the_right_number_and_the_wrong_one_are_computed(self, tmp_path):
        (one,) = quiz.read(write(tmp_path / "x.yaml", NUMBER))
        assert quiz.accepted(one, {}.__getitem__) == [(6, 6, 6), (5, 5, 5)]
        assert quiz.accepted(replace(one, tolerance="5%"), {}.__getitem__)[0] == pytest.approx((5.7, 6, 6.3))
        assert quiz.accepted(replace(one, tolerance=0.25), {}.__getitem__)[1] == (4.75, 5, 5.25)

    def test_an_expression_knows_what_the_chapter_has_glued(self):
        names = {"crossbars": 13888.0}.__getitem__
        assert quiz.value("ceil(crossbars / 32) - floor(log2(9)) * 2**3 // 1", names) == 434 - 24

    @pytest.mark.parametrize(
        ("number", "text"),
        [(6, "6"), (13888.0, "13,888"), (1 / 3, "0.3333"), (1234567.8, "1,235,000"), (0.5, "0.5"), (-2.25, "-2.25")],
    )
    def test_a_number_is_shown_with_the_digits_that_count(self, number, text):
        assert quiz.shown(number, "") == text
        assert (quiz.shown(number, "ms"), quiz.shown(number, "%")) == (f"{text} ms", f"{text}%")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (CHOICE.replace(", right: true", ""), "question 1: exactly one choice must be right, got 0"),
            (CHOICE + CHOICE.replace("is not.}", "is not., right: true}"), "question 2: exactly one choice .*, got 2"),
            (CHOICE.replace(", because: It is not.", ""), "question 1: one of its choices lacks 'because'"),
            (CHOICE.replace("ask", "asks"), "question 1: unknown key 'asks' in it; did you mean 'ask'"),
            ("- {ask: Why?}", "question 1: it must have either choices or a number"),
            (NUMBER.replace("2 * 3", "6"), "question 1: its number must be computed, not typed, got 6"),
            (NUMBER.replace("because: Twice three., ", ""), "question 1: its number lacks a reason"),
            (NUMBER.replace("wrong:", "tolerance: much, wrong:"), "question 1: tolerance must be a .* got 'much'"),
        ],
    )
    def test_a_bad_file_is_one_sentence_with_file_and_question(self, tmp_path, text, sentence):
        with pytest.raises(ValueError, match=sentence) as caught:
            quiz.read(write(tmp_path / "09_bad.yaml", text))
        assert "09_bad.yaml is no quiz: " in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("expression", "sentence"),
        [
            ("2 *", "cannot compute '2 \\*'"),
            ("open('x')", "cannot compute"),
            ("x.real", "cannot compute 'x.real'; known are"),
        ],
    )
    def test_nothing_but_arithmetic_is_computed(self, expression, sentence):
        with pytest.raises(ValueError, match=sentence):
            quiz.value(expression, {}.__getitem__)

    def test_numbers_must_be_told_from_each_other(self, tmp_path):
        (one,) = quiz.read(write(tmp_path / "x.yaml", NUMBER))
        with pytest.raises(ValueError, match="its numbers 5 and 6 cannot be told from each other"):
            quiz.accepted(replace(one, tolerance="10%"), {}.__getitem__)


BOOK = """
extensions = ["myst_nb", "quiz"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
copyright, version = "us", "1"
"""
PYTHON = {"language_info": {"name": "python", "pygments_lexer": "python"}}
TINY = """
- ask: How many are {glue:text}`crossbars` crossbars with $2$ pairs?
  number: 2 * crossbars
  because: Twice as many, {=2 * crossbars}, by {doc}`01_tiny`.
  wrong: [{number: crossbars, because: A pair is two crossbars.}]
- ask: Why?
  choices:
    - {text: Not so., because: It is not.}
    - {text: So., because: It is., right: true}
"""


@pytest.fixture
def tiny(tmp_path):
    """Return a function that builds a book of one chapter with these questions, and returns its files and warnings."""
    glued = {"scrapbook": {"name": "crossbars", "mime_prefix": "application/papermill.record/"}}
    output = v4.new_output("display_data", {"application/papermill.record/text/plain": "820"}, metadata=glued)
    cells = [
        v4.new_markdown_cell("# Tiny"),
        v4.new_code_cell("1", outputs=[output]),
        v4.new_markdown_cell("## Discussion\n\nText.\n\n## Exercises\n\nDo it."),
    ]
    for name, text in {
        "conf.py": BOOK,
        "index.md": "# Book\n\n```{toctree}\nnotebooks/01_tiny\nbook/teach/quiz_keys\n```\n",
        "notebooks/01_tiny.ipynb": nbformat.writes(v4.new_notebook(cells=cells, metadata=PYTHON)),
        "book/teach/quiz_keys.md": (ROOT / "book/teach/quiz_keys.md").read_text(encoding="utf-8"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, text)
    (tmp_path / quiz.QUIZZES).mkdir()

    def build(questions: str, builder: str) -> tuple[Path, str]:
        write(tmp_path / quiz.QUIZZES / "01_tiny.yaml", questions)
        warnings, out = io.StringIO(), tmp_path / "out" / builder
        folders = [tmp_path, tmp_path, out, tmp_path / "doctrees"]
        with patch_docutils(tmp_path), docutils_namespace():
            Sphinx(*folders, builder, status=None, warning=warnings, freshenv=True).build()
        return out, warnings.getvalue()

    return build


class TestBook:
    def test_questions_stand_before_the_exercises_and_their_keys_on_a_page_of_their_own(self, tiny):
        folder, warnings = tiny(TINY, "html")
        assert warnings == ""
        page = (folder / "notebooks" / "01_tiny.html").read_text(encoding="utf-8")
        titles = re.findall(r"<h2>(.+?)<a", page)
        assert titles == ["Discussion", "Check yourself", "Exercises"]
        assert page.count('href="#check-yourself"') > 1  # among the page's contents
        assert "1,640" in page
        assert "820" in page
        assert 'data-ranges="[[1640.0, 1640.0], [820.0, 820.0]]"' in page
        assert page.count("quiz.js") == 1
        keys = (folder / "book" / "teach" / "quiz_keys.html").read_text(encoding="utf-8")
        assert "1. Tiny" in keys
        assert 'href="../../notebooks/01_tiny.html"' in keys
        assert keys.count("Right:") == 2
        assert "quiz.js" not in keys

    @pytest.mark.parametrize(("builder", "file"), [("latex", "*.tex"), ("epub", "notebooks/01_tiny.xhtml")])
    def test_print_has_the_questions_and_then_the_answers(self, tiny, builder, file):
        folder, warnings = tiny(TINY, builder)
        assert warnings == ""
        (page,) = folder.glob(file)
        text = page.read_text(encoding="utf-8")
        text = text[text.index("Check yourself") : text.index("Exercises")]
        places = [text.index(part) for part in ("How many are", "Why?", "Not so.", "Answers", "1,640", "It is.")]
        assert places == sorted(places)

    @pytest.mark.parametrize(
        ("questions", "sentence"),
        [
            (TINY.replace(", right: true", ""), "question 2: exactly one choice must be right, got 0"),
            (TINY.replace("2 * crossbars\n", "2 * tiles\n"), "question 1: the chapter glues no 'tiles'"),
            (TINY.replace("It is not.", '"One.\\n\\nTwo."'), "question 2: a text must be one paragraph, got"),
        ],
    )
    def test_a_bad_file_is_a_warning_of_one_sentence(self, tiny, questions, sentence):
        _, warnings = tiny(questions, "html")
        assert sentence in warnings
        assert "01_tiny.yaml is no quiz: " in warnings
        assert warnings.count("WARNING") + warnings.count("ERROR") == 1


def right(chapter: str, at: int) -> float:
    """Return the right number of a question, by its place in the file."""
    (stem,) = [name for name in QUIZZES if name.startswith(chapter)]
    return quiz.accepted(QUIZZES[stem][at - 1], {}.__getitem__)[0][1]


def blocks(layers: list[Layer], hardware: Hardware, bits: int = 3, design: dict | None = None):
    """Return how a network of these layers lies on crossbars."""
    return map_crossbars(Workload("quiz", (3, 8, 8), layers), hardware, design, bits)


def square(side: int) -> Hardware:
    """Return the accelerator of the book with crossbars of other sizes."""
    return Hardware.preset("default").replace(
        {"crossbar.rows": side, "crossbar.cols": side, "dac.per_crossbar": side, "adc.per_crossbar": 8}
    )


class TestAgainstTheLibrary:
    """What is a computation of the library, or can be tried out."""

    def test_small_matrices_take_crossbars_of_their_own(self):
        wide = blocks([Layer("one", "linear", 256, 256)], square(256))
        many = blocks([Layer(f"{n}", "linear", 64, 64) for n in range(16)], square(256))
        assert many.blocks == 16 * wide.blocks
        (sixteenfold,) = [choice.text for choice in QUIZZES["01_memory"][2].choices if choice.right]
        assert sixteenfold == "It grows sixteenfold."

    def test_crossbars(self):
        conv = {"kernel_size": (3, 3)}
        assert blocks([Layer("x", "conv", 100, 600, **conv)], square(256)).blocks == right("03", 1)
        ten = blocks([Layer("x", "linear", 256, 2560)], square(256), bits=7)
        assert (ten.blocks, ten.crossbars) == (10, right("03", 2))
        spec = EpitomeSpec(512, 512, 3, epitome=(256, 170, 3, 3))
        assert blocks([Layer("x", "conv", 512, 512, **conv)], square(256), design={"x": spec}).blocks == right("05", 1)
        twelve = [Layer("x", "linear", 256, 12 * 256)]
        by_bits = [blocks(twelve, square(256), bits=bits).crossbars for bits in (3, 5)]
        assert by_bits[1] - by_bits[0] == right("13", 2)
        assert blocks([Layer("x", "conv", 128, 128, **conv)], square(64)).crossbars == right("14", 2)
        depthwise = Layer("x", "conv", 200, 200, (7, 7), groups=200)
        assert blocks([depthwise], square(128)).blocks == right("18", 1)
        polarity = [{"crossbar.polarity": 1}, {}]
        factors = [
            blocks(twelve, h, bits=32).crossbars / blocks(twelve, h).crossbars
            for h in map(square(256).replace, polarity)
        ]
        assert factors == [right("19", 4), 16]

    def test_plans(self):
        spec = EpitomeSpec(8, 8, 3, epitome=(4, 2, 4, 4))
        assert spec.plan().applications == right("04", 2)
        assert spec.plan().usage.mean() == spec.compression == right("04", 3)
        pointwise = EpitomeSpec(32, 64, 1, epitome=(8, 8, 2, 2))
        assert (pointwise.compression, pointwise.plan().applications) == (8, right("18", 2))

    def test_events(self):
        sizes = {"padding": (1, 1), "in_size": (4, 4), "out_size": (4, 4)}
        hardware = Hardware.preset("default")
        dense = layer_events(Layer("x", "conv", 32, 64, (3, 3), **sizes), None, hardware, bits=5, activation_bits=8)
        assert dense.adc_conversions == right("06", 1)
        spec = EpitomeSpec(64, 8, 3, epitome=(32, 2, 4, 4), wrap="full")
        layer = Layer("x", "conv", 8, 64, (3, 3), in_size=(3, 3))
        reused = layer_events(layer, spec, hardware, bits=9, activation_bits=9)
        assert (reused.joins, reused.output_writes) == (right("08", 1), right("08", 2))
        signs = EpitomeSpec(32, 8, 3, epitome=(16, 2, 4, 4), wrap="full", coefficients="sign")
        layer = Layer("x", "conv", 8, 32, (3, 3), in_size=(7, 7), out_size=(5, 5))
        assert layer_events(layer, signs, hardware, bits=9, activation_bits=9).negations == right("27", 2)

    def test_two_layers_by_trying_all_designs(self):
        candidates, price, budget = [((6, 1), (3, 4)), ((9, 2), (5, 3))], 0.8, 12
        designs = [tuple(map(sum, zip(*design, strict=True))) for design in itertools.product(*candidates)]
        best = min(latency for crossbars, latency in designs if crossbars <= budget)
        assert best == right("11", 1)
        free = min(latency + price * crossbars for crossbars, latency in designs)
        assert right("12", 1) == pytest.approx(free - price * budget)
        assert right("12", 1) <= best

    def test_range_of_an_adc(self):
        hardware = square(32).replace({"adc.bits": 5})
        assert right("16", 1) == full_scale(hardware) / code_limits(hardware)[1]

    def test_related_systems(self):
        machine = Machine(rows=1)
        machine.add(*(machine.write(np.array([700]), 10) for _ in range(2)))
        assert machine.cycles == right("22", 1)
        layer = Layer("x", "conv", 6, 4, in_size=(5, 1), out_size=(5, 1))
        memories = tuple(Level(name, 1.0, 1.0) for name in ("outer", "inner"))
        nest = Nest(layer, memories, ((("M", 4), ("P", 5)), (("C", 6),)), 1.0)
        assert (nest.tile("W", 1), nest.fills("W", 1)) == (6, right("23", 3))


def ask(tab, at: int):
    """Return the form of a question of the open page."""
    return tab.locator("form.quiz").nth(at)


def kind(number: bool) -> int:
    """Return the place of the first question of a kind on the page."""
    return next(at for at, one in enumerate(QUIZZES[Path(PAGE).stem]) if bool(one.number) == number)


def words(text: str) -> str:
    """Return the first words of a source text as the page shows them, up to its first formula or reference."""
    return re.split(r"[${]", text)[0].strip().replace("'", "’")


@pytest.mark.browser
class TestStudent:
    def test_every_choice_says_why(self, tab, site):
        test_browser.visit(tab, site + PAGE)
        form, one = ask(tab, kind(number=False)), QUIZZES[Path(PAGE).stem][kind(number=False)]
        says = form.get_by_role("status")
        assert says.inner_text() == ""
        for choice in random.Random(1).sample(one.choices, len(one.choices)):
            form.get_by_label(words(choice.text)).check()
            assert says.inner_text() == ""  # not before it is asked for
            form.get_by_role("button", name="Check").click()
            assert says.inner_text().startswith("Right." if choice.right else "No.")
            assert words(choice.because) in says.inner_text()
        assert not tab.trouble

    def test_a_number_counts_within_its_tolerance_by_keyboard_alone(self, tab, site):
        test_browser.visit(tab, site + "notebooks/01_memory.html")
        at = next(at for at, one in enumerate(QUIZZES["01_memory"]) if one.number and one.tolerance == "3%")
        form, one = ask(tab, at), QUIZZES["01_memory"][at]
        (_, right, _), (_, wrong, _), *_ = quiz.accepted(one, {}.__getitem__)
        says, field = form.get_by_role("status"), form.get_by_role("spinbutton")
        ask(tab, at - 1).locator("summary").focus()
        for _ in range(5):  # formulas of the question can have the focus too
            tab.keyboard.press("Tab")
            if field.evaluate("field => field == document.activeElement"):
                break
        tab.keyboard.press("Enter")
        assert says.inner_text() == ""  # the browser asks for a number
        for number, answer in (
            (right, one.because),
            (1.02 * right, one.because),
            (0.98 * right, one.because),
            (1.04 * right, "Try once more"),
            (1.02 * wrong, one.wrong[0].because),
        ):
            field.press("ControlOrMeta+a")
            tab.keyboard.type(str(number))
            tab.keyboard.press("Enter")
            assert says.inner_text().startswith("Right." if answer == one.because else "No."), number
            assert words(answer) in says.inner_text()
        assert not tab.trouble

    def test_a_choice_is_made_by_keyboard(self, tab, site):
        test_browser.visit(tab, site + PAGE)
        form, one = ask(tab, kind(number=False)), QUIZZES[Path(PAGE).stem][kind(number=False)]
        form.get_by_role("radio").first.focus()
        tab.keyboard.press("ArrowDown")
        assert form.get_by_role("radio").nth(1).is_checked()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        assert words(one.choices[1].because) in form.get_by_role("status").inner_text()

    def test_a_screen_reader_hears_the_question_with_its_field(self, tab, site):
        test_browser.visit(tab, site + PAGE)
        for at, one in enumerate(QUIZZES[Path(PAGE).stem]):
            group = ask(tab, at).get_by_role("group", name=re.compile(re.escape(words(one.ask))))
            assert group.get_by_role("spinbutton" if one.number else "radio").first.is_visible()
        barriers = test_browser.barriers_of(tab, rules={"color-contrast": {"enabled": False}})
        assert not barriers

    def test_without_javascript_the_answers_are_folded(self, browser, site):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto((test_browser.HTML / PAGE).as_uri())  # and without a server
        form = ask(page, 0)
        assert not form.get_by_role("button").is_visible()
        reason = form.locator(".quiz-because").first
        assert not reason.is_visible()
        form.get_by_text("Show the answer").click()
        assert reason.is_visible()
        context.close()
