"""Predictions: the directive, the form in a browser, and what every chapter asks.

A tiny book stands for the real one.
"""

import json
import re
import sys

import pytest
from nbformat import v4, write
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from tests import test_browser
from tests.test_book import NOTEBOOKS, ROOT, cells

browser, tab = test_browser.browser, test_browser.tab

GLUED = {"ratio": 3.2, "share": 0.25, "name": "rows", "first": 2.0, "second": 5.0, "third": 1.0}
PROSE = """# One

## Numbers

:::{predict} number
:answer: ratio:.1f
:unit: times

How much larger, by {eq}`eq-one` with $x = 1$ ({doc}`two`)?
:::

The answer is a number.

:::{answer-end}
:::

$$x$$ (eq-one)

:::{predict} choice
:answer: share:.0%
:bounds: 0.1 0.5

Which share?

- a twentieth
- about $1/4$
- all of it
:::

The answer is a choice.

:::{answer-end}
:::

:::{predict} order
:answer: first second third

Order them, the largest first.

- A
- B
- C
:::

The answer is an order.

:::{answer-end}
:::
"""


def make(folder, prose, monkeypatch, builder="html"):
    """Build a book of two chapters, the first with this prose, and the page of predictions.

    Return the folder of its pages, and the warnings.
    """
    outputs = [
        v4.new_output(
            "display_data",
            {"application/papermill.record/text/plain": repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
        )
        for name, value in GLUED.items()
    ]
    book = [v4.new_markdown_cell(prose), v4.new_code_cell("report()", outputs=outputs)]
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    (folder / "parts").mkdir(parents=True)
    write(v4.new_notebook(cells=book, metadata=metadata), folder / "parts" / "one.ipynb")
    (folder / "parts" / "two.md").write_text("# Two\n", encoding="utf-8")
    toc = "```{toctree}\nparts/one\nparts/two\n```\n"
    (folder / "index.md").write_text("# My predictions\n\n```{predictions}\n```\n\n" + toc, encoding="utf-8")
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    for name in ("companion", "predict"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    settings = {
        "extensions": ["sphinx.ext.autodoc", "myst_nb", "sphinx_design", "companion", "predict"],
        "nb_execution_mode": "off",
    }
    settings |= {"myst_enable_extensions": ["colon_fence", "dollarmath"], "html_theme": "basic"}
    settings |= {"html_static_path": [str(ROOT / "book" / "_static")], "author": "Somebody", "copyright": "2026"}
    warnings = (folder / "warnings").open("w+", encoding="utf-8")
    with patch_docutils(), docutils_namespace(), warnings:
        app = Sphinx(folder, None, folder / builder, folder / "trees", builder, settings, None, warnings)
        app.build()
        warnings.seek(0)
        return folder / builder, re.sub(r"\x1b\[[\d;]*m", "", warnings.read())  # colours


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the address of the tiny book; the fixtures of test_browser.py see to it that no other is asked."""
    with pytest.MonkeyPatch.context() as patch:
        folder, warnings = make(tmp_path_factory.mktemp("book"), PROSE, patch)
    assert warnings == ""
    return folder.as_uri()


@pytest.fixture
def pages(site):
    return {"index": f"{site}/index.html", "one": f"{site}/parts/one.html"}


def prompt(tab, name):
    """Return a prompt and what is folded behind it."""
    return tab.locator(f"#predict-{name}"), tab.locator(f"#predict-{name} + details")


@pytest.mark.browser
def test_a_reader_guesses_with_the_keyboard_and_sees_the_answers(tab, pages):
    tab.goto(pages["one"])
    asked, answer = prompt(tab, "ratio")
    answer.locator("summary").click()
    assert answer.get_attribute("open") is None
    assert "A guess first" in asked.inner_text()
    tab.keyboard.type("many")  # into the field, which has the focus
    tab.keyboard.press("Enter")
    assert "A number is needed" in asked.inner_text()
    tab.keyboard.press("Control+a")
    tab.keyboard.type("1.6")
    tab.keyboard.press("Enter")
    assert "Your guess: 1.6 times; computed: 3.2 times; guess / computed: 0.5." in answer.inner_text()

    asked, answer = prompt(tab, "share")
    asked.get_by_label("a twentieth").focus()
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert "Your guess: about 1/4; computed: about 1/4 (25%)." in answer.inner_text()

    asked, answer = prompt(tab, "first")
    up = asked.get_by_role("button", name="C: up")
    up.focus()
    for _ in range(3):  # one more than there is room for
        tab.keyboard.press("Enter")
    asked.get_by_role("button", name="This is my guess").click()
    assert "Your guess: C, A, B; computed: B, A, C." in answer.inner_text()

    tab.reload()
    for name, guess in (("ratio", "1.6 times"), ("share", "about 1/4"), ("first", "C, A, B")):
        _, answer = prompt(tab, name)
        answer.locator("summary").click()
        assert f"Your guess: {guess}; computed: " in answer.inner_text()
    assert prompt(tab, "ratio")[0].locator("input").input_value() == "1.6"
    assert prompt(tab, "share")[0].get_by_label("about").is_checked()
    assert [item[0] for item in prompt(tab, "first")[0].locator("li").all_inner_texts()] == ["C", "A", "B"]


@pytest.mark.browser
def test_guesses_are_listed_saved_and_removed(tab, pages):
    tab.goto(pages["one"])
    prompt(tab, "ratio")[0].locator("input").fill("1.6")
    prompt(tab, "share")[0].get_by_label("about").check()
    for name in ("ratio", "share", "first"):
        prompt(tab, name)[0].get_by_role("button", name="This is my guess").click()
    tab.goto(pages["index"])
    assert tab.locator(".predict-entry:visible").count() == 3
    links = [
        link.rpartition("/html/")[2]
        for link in tab.evaluate("[...document.querySelectorAll('.predict-entry a')].map(a => a.href)")
    ]
    assert links[:3] == ["parts/one.html#equation-eq-one", "parts/two.html", "parts/one.html#predict-ratio"]
    assert "3 of 3 predictions" in tab.locator(".predict-list").inner_text()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as a file").click()
    saved = json.loads(download.value.path().read_text("utf-8"))
    assert [(entry["guess"], entry["computed"]) for entry in saved] == [
        ("1.6 times", "3.2 times"),
        ("about 1/4", "about 1/4 (25%)"),
        ("A, B, C", "B, A, C"),
    ]
    assert saved[0]["question"] == "How much larger, by (1) with x = 1 (Two)?"
    assert saved[0]["guess / computed"] == 0.5
    tab.on("dialog", lambda dialog: dialog.accept())
    with tab.expect_navigation():
        tab.get_by_role("button", name="Remove all").click()
    assert tab.locator(".predict-entry:visible").count() == 0
    tab.goto(pages["one"])
    assert "Your guess: 1.6" not in tab.locator("body").inner_text()


@pytest.mark.browser
def test_an_answer_is_shown_without_a_guess_to_whoever_asks(tab, pages):
    tab.goto(pages["one"])
    asked, answer = prompt(tab, "share")
    asked.get_by_role("button", name="Show me anyway").click()
    assert "The answer is a choice." in answer.inner_text()
    assert "computed" not in answer.inner_text()
    assert tab.evaluate("() => localStorage.length") == 0


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "value"), [("1,000", 1000), ("0,5", 0.5), ("-2e-3", -0.002), ("12 %", 12), ("1 000.5", 1000.5)]
)
def test_a_number_may_be_written_in_several_ways(tab, pages, text, value):
    tab.goto(pages["one"])
    asked, answer = prompt(tab, "ratio")
    asked.locator("input").fill(text)
    asked.get_by_role("button", name="This is my guess").click()
    shown = answer.inner_text().partition("guess / computed: ")[2].split(".\n")[0]
    assert float(shown) == float(f"{value / GLUED['ratio']:.2g}")


@pytest.mark.browser
def test_where_nothing_may_be_kept_or_no_script_runs_a_prompt_is_text(browser, pages):
    forbid = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })"
    for script in (True, False):
        context = browser.new_context(java_script_enabled=script)
        context.add_init_script(forbid)
        tab = context.new_page()
        tab.goto(pages["one"])
        asked, answer = prompt(tab, "share")
        assert asked.locator("li").count() == 3
        assert tab.locator("form:has(button):visible").count() == 0
        answer.locator("summary").click()
        assert "The answer is a choice." in answer.inner_text()
        context.close()


@pytest.mark.browser
def test_the_forms_have_no_barriers(tab, pages):
    for name in pages:
        tab.goto(pages[name])
        found = test_browser.barriers_of(tab, rules={"document-title": {"enabled": False}})
        assert not [barrier for barrier in found if "predict" in barrier], name


@pytest.mark.parametrize("builder", ["epub", "latex"])
def test_in_print_a_prompt_is_an_admonition_and_there_is_no_list(tmp_path, monkeypatch, builder):
    folder, _ = make(tmp_path, PROSE, monkeypatch, builder)
    text = "".join(path.read_text("utf-8") for path in folder.rglob("*.xhtml" if builder == "epub" else "*.tex"))
    assert "a twentieth" in text
    assert "The answer is a choice." in text
    assert "In print there is nothing to list" in text
    assert "predict-form" not in text


WRONG = {
    "guess\n:answer: ratio": "kind must be one of number, choice, order, got 'guess'",
    "number": "answer is missing; it names what the notebook reports",
    "number\n:answer: rate": "answer 'rate' is not a name that this notebook reports",
    "number\n:answer: name": "answer must be a number, got 'rows'",
    "choice\n:answer: name": "choice needs a list of two items or more at the end of the prompt, got 0",
    "choice\n:answer: name\n\n- lines\n- words": "answer must be one of lines, words, got 'rows'",
    "choice\n:answer: ratio\n:bounds: 2 1\n\n- a\n- b\n- c": "bounds must be 2 ascending numbers for 3 choices, "
    "got '2 1'",
    "order\n:answer: first second\n\n- a\n- b\n- c": "order needs as many answers as items, got 2 and 3",
    "order\n:answer: first\n:first: last\n\n- a\n- b": "order needs as many answers as items, got 1 and 2",
    "order\n:answer: first second\n:first: last\n\n- a\n- b": "first must be one of largest, least, got 'last'",
}


def test_what_is_wrong_with_a_prompt_is_one_sentence_with_its_place(tmp_path, monkeypatch):
    text = "# One\n" + "".join(f"\n:::{{predict}} {lines}\n:::\n" for lines in WRONG)
    _, warnings = make(tmp_path, f"{text}\n:::{{answer-end}}\n:::\n", monkeypatch)
    found = re.findall(r"one\.ipynb:\d+: ERROR: predict: (.*)", warnings)
    assert found == list(WRONG.values())
    assert "no prompt stands before this answer-end in its section" in warnings


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.parent.name == "notebooks"], ids=lambda path: path.stem
)
def test_every_chapter_asks_for_three_guesses(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    asked = re.findall(r"^:::\{predict\} (?:number|choice|order)\n:answer: (\w+)", text, re.MULTILINE)
    assert len(set(asked)) == len(asked) >= 3 * path.name[0].isdigit()  # the appendix asks for none
