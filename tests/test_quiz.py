"""*Check yourself*: the questions of every chapter, and a student who answers them in a page."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests import test_browser
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
CHAPTERS = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
PAGE = "notebooks/02_crossbar.html"
site, browser, tab = test_browser.site, test_browser.browser, test_browser.tab

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
        assert set(QUIZZES) <= set(CHAPTERS)
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
    def test_are_of_both_kinds_where_something_can_be_computed(self, name):
        assert any(one.choices for one in QUIZZES[name])
        assert name == "21_claims" or any(one.number for one in QUIZZES[name])

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
        assert quiz.shown(number, "ms") == f"{text} ms"

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (CHOICE.replace(", right: true", ""), "question 1: exactly one choice must be right, got 0"),
            (CHOICE + CHOICE.replace("is not.}", "is not., right: true}"), "question 2: exactly one choice .*, got 2"),
            (CHOICE.replace(", because: It is not.", ""), "question 1: one of its choices lacks 'because'"),
            (CHOICE.replace("ask", "asks"), "question 1: unknown key 'asks' in it; did you mean 'ask'"),
            ("- {ask: Why?}", "question 1: it must have either choices or a number"),
            (NUMBER.replace("2 * 3", "6"), "question 1: a number must be computed, not typed, got 6"),
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
            ("6.0", "must be computed, not typed"),
            ("2 *", "cannot compute '2 \\*'"),
            ("open('x')", "cannot compute"),
            ("x.real", "cannot compute 'x.real'; known are"),
        ],
    )
    def test_nothing_but_arithmetic_is_computed(self, expression, sentence):
        with pytest.raises(ValueError, match=sentence):
            quiz.value(expression, {}.__getitem__)

    def test_a_wrong_number_must_be_told_from_the_right_one(self, tmp_path):
        (one,) = quiz.read(write(tmp_path / "x.yaml", NUMBER))
        with pytest.raises(ValueError, match=r"2 \+ 3 = 5 cannot be told from the right 6"):
            quiz.accepted(replace(one, tolerance="10%"), {}.__getitem__)


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
