"""A day with the book of a class, as a student and as a lecturer, from files and without a server."""

import json
from pathlib import Path

import pytest

from tests import test_browser
from tests.test_browser import UNRENDERED, barriers_of

browser = test_browser.browser
pytestmark = pytest.mark.browser

BUILD = Path(__file__).parents[1] / "_build"


@pytest.fixture(scope="module")
def site():
    """What the browser needs to be told: it may open files of the built books, and ask nobody else."""
    return BUILD.as_uri()


tab = test_browser.tab


def edition(name: str) -> Path:
    folder = BUILD / name
    if not (folder / "index.html").is_file():
        pytest.skip(f"{name} is not built here: run make {name}")
    return folder


def test_a_student_predicts_checks_hands_in_and_finds_no_solution(tab):
    book = edition("student")
    tab.goto((book / "notebooks" / "08_reuse.html").as_uri())
    form = tab.locator("form:has(button:text('This is my guess'))").nth(1)
    form.locator("input").fill("50")
    form.get_by_role("button", name="This is my guess").click()
    said = tab.locator(".predict-said").first.inner_text()
    assert said.startswith("Your guess: 50%; computed: ")

    quiz = tab.locator("form.quiz:has(input[type=radio])").first
    quiz.locator("input[type=radio]").first.check()
    quiz.get_by_role("button").first.click()
    assert len(quiz.locator("[role=status], [aria-live]").first.inner_text().split()) > 5

    exercises = tab.locator(".exercise a:text('Solve it in a notebook')")
    assert exercises.count() == tab.locator("div.exercise").count()
    assert tab.get_by_role("link", name="Solution").count() == 0
    exercises.nth(1).click()
    tab.wait_for_selector("main")
    assert "your code here" in tab.locator("main").inner_text()
    assert barriers_of(tab, rules={"color-contrast": {"enabled": False}}) == []

    tab.goto((book / "book" / "predictions.html").as_uri())
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as a file").click()
    (handed_in,) = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert (handed_in["chapter"], handed_in["guess"]) == ("Feature-map reuse", "50%")
    assert not tab.trouble


def test_a_lecturer_opens_the_guide_every_syllabus_link_and_the_decks(tab):
    guide, decks = edition("instructor"), edition("slides")
    pages = sorted((guide / "book" / "teach").glob("*.html"))
    assert {"index", "syllabi", "cards", "rubrics", "exam", "grading", "quiz_keys"} <= {page.stem for page in pages}
    for page in pages:
        tab.goto(page.as_uri())
        tab.wait_for_load_state()
        tab.evaluate("async () => { await window.MathJax?.startup?.promise; }")
        assert tab.evaluate(UNRENDERED) == [], page
        assert barriers_of(tab, rules={"color-contrast": {"enabled": False}}) == [], page
        for link in tab.evaluate("() => [...document.querySelectorAll('article a[href^=\"../\"]')].map(a => a.href)"):
            place = Path(link.removeprefix("file://").partition("#")[0])
            assert place.is_file(), f"{page.name}: {link}"
        tab.set_viewport_size({"width": 390, "height": 720})
        assert tab.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), page
        tab.set_viewport_size({"width": 1280, "height": 720})
    tab.goto((decks / "index.html").as_uri())
    listed = tab.evaluate("() => [...document.querySelectorAll('li a')].map(a => a.href)")
    assert len(listed) == len(list(decks.glob("*.html"))) - 1
    for deck in listed:
        tab.goto(deck)
        tab.wait_for_selector(".reveal .present")
    assert not tab.trouble
