"""The lecturer's guide: whole, true to the chapters and their records, and with links that lead somewhere."""

import math
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import ParameterError, named, resolve
from tests.test_book import contents
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))  # its files import each other, as Sphinx lets them
teach, records = load("book/_ext/teach.py"), load("book/_ext/metric.py")

GUIDE = ROOT / "book" / "teach"
PAGES = {
    name: (GUIDE / f"{name}.md").read_text(encoding="utf-8")
    for name in ["index", "syllabi", "cards", "rubrics", "jose"]
}
CHAPTERS = [ROOT / f"{name}.ipynb" for name in contents() if re.fullmatch(r"notebooks/\d\d_\w+", name)]
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}
TEXTS = {stem: "\n".join(cell.source for cell in notebook.cells) for stem, notebook in NOTEBOOKS.items()}
EXERCISES = {
    label: body
    for text in TEXTS.values()
    for label, body in re.findall(
        r"^```\{exercise\}[^\n]*\n:label: (ex-\d\d-\d+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
}
FIGURES = {
    cell.metadata["mystnb"]["figure"]["name"]
    for notebook in NOTEBOOKS.values()
    for cell in notebook.cells
    if "figure" in cell.metadata.get("mystnb", {})
} | {name for text in TEXTS.values() for name in re.findall(r"^:name: (fig-[\w-]+)$", text, re.MULTILINE)}

PAPER = ROOT / "book" / "paper" / "paper.md"

each_page = pytest.mark.parametrize("page", PAGES)
each_chapter = pytest.mark.parametrize("stem", NOTEBOOKS)


def cards() -> dict[str, str]:
    """Return the text of each card by its label."""
    parts = re.split(r"^\(teach-(\d\d)\)=$", PAGES["cards"], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def terms(text: str) -> dict[str, list[str]]:
    """Return the definitions of each term of the definition lists in a text."""
    found = {}
    for term, definitions in re.findall(r"^(\S.*)\n((?:: .*\n(?:  .*\n)*)+)", text, re.MULTILINE):
        found[term] = re.split(r"^: ", definitions, flags=re.MULTILINE)[1:]
    return found


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text as rows of cells, without the line below the head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]
    return [[row for row in table if set("".join(row)) != {"-"}] for table in rows]


def test_the_order_names_each_page_once():
    order = yaml.safe_load((GUIDE / "toc.yml").read_text(encoding="utf-8"))
    assert order[0] == "index"
    assert len(set(order)) == len(order)
    assert set(PAGES) <= set(order)
    assert {path.stem for path in GUIDE.glob("*.md")} <= set(order)


# Links --------------------------------------------------------------------------------------------------


@each_page
def test_links_lead_to_pages_figures_and_exercises(page):
    text, order = PAGES[page], yaml.safe_load((GUIDE / "toc.yml").read_text(encoding="utf-8"))
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text):
        there = target.removeprefix("/") in contents() if target.startswith("/") else target in order
        assert there, target
    assert set(re.findall(r"\{numref\}`([^`]+)`", text)) <= FIGURES
    labels = {
        *EXERCISES,
        *(label for other in PAGES.values() for label in re.findall(r"^\(([\w-]+)\)=$", other, re.MULTILINE)),
    }
    assert set(re.findall(r"\{ref\}`(?:[^`<]*<)?([^`>]+)>?`", text)) <= labels
    assert set(re.findall(r"\]\(([\w-]+)\)", text)) <= labels


@each_page
def test_numbers_come_from_records(page):
    for text in re.findall(r"\{metric\}`([^`]+)`", PAGES[page]):
        assert records.metric(text)


@each_page
def test_what_is_computed_by_hand_is_right(page):
    """``$10 \\cdot 2 = 20$`` and the like; what holds a symbol is left to the reader."""
    simple = re.compile(r"[\d\s./=+-]+(?:\\cdot[\d\s./=+-]+)*")
    for formula in filter(simple.fullmatch, re.findall(r"\$([^$\n]+)\$", PAGES[page])):
        sides = [eval(side, {}) for side in formula.replace("\\cdot", "*").split("=")]
        assert all(math.isclose(side, sides[0]) for side in sides), formula


# Cards --------------------------------------------------------------------------------------------------


def test_every_chapter_has_a_card_and_nothing_else_has():
    assert list(cards()) == [stem[:2] for stem in NOTEBOOKS]


@each_chapter
def test_a_card_has_all_fields(stem):
    card, notebook = cards()[stem[:2]], Notebook.load(ROOT / "notebooks" / f"{stem}.ipynb")
    assert f"\n## Chapter {int(stem[:2])}: {notebook.title}\n" in card
    head = re.search(rf"^```\{{teach-chapter\}} {stem}\n:aim: \S.*\.\n:discuss: \d+\n```$", card, re.MULTILINE)
    assert head, "the head of the card"
    questions = terms(card)
    assert len(questions) == 3
    for question, (expected, *wrong) in questions.items():
        assert question.endswith(("?", ".")), question
        assert expected.startswith("**Expected.** "), question
        assert [text.startswith("**A likely wrong answer.** ") for text in wrong] == [True], question
    broken, examined = re.search(
        r"^\*\*What breaks\.\*\* (.+)\n\n\*\*Examine\.\*\* (.+)", card, re.MULTILINE | re.DOTALL
    ).groups()
    assert f"`epim run {stem[:2]} " in broken
    assert f"{{ref}}`ex-{stem[:2]}-" in examined


def test_commands_of_the_cards_run_or_are_refused_as_they_say():
    command = r"`epim run (\d\d) ((?:-p \w+=\S+ ?|--profile \w+ ?)+)`"
    by_number = {path.stem[:2]: Notebook.load(path) for path in CHAPTERS}
    refused = 0
    for number, options, after in re.findall(command + r"([^.]*)", PAGES["cards"]):
        parameters = by_number[number].parameters
        given = dict(re.findall(r"-p (\w+)=(\S+)", options)) | dict(re.findall(r"--(profile) (\w+)", options))

        def values(parameters=parameters, given=given):
            return resolve(parameters, {name: named(parameters, name).parse(text) for name, text in given.items()})

        if not after.startswith(" is refused: "):
            assert values() != resolve(parameters, {}), (number, options)
            continue
        refused += 1
        with pytest.raises(ParameterError) as error:
            values()
        assert f"refused: `{error.value}`" in PAGES["cards"], (number, options, str(error.value))
    assert refused >= 10


def test_what_a_chapter_itself_refuses_is_in_its_code():
    """Sentences of ``require``, of which a card quotes a part without numbers."""
    found = re.findall(r"`epim run (\d\d) [^`]+`[^.`]*starts and is refused: `([^`]+)`", PAGES["cards"])
    assert found
    for number, sentence in found:
        (text,) = (text for stem, text in TEXTS.items() if stem.startswith(number))
        assert sentence in text, sentence


# Syllabi ------------------------------------------------------------------------------------------------


def test_every_syllabus_has_all_columns():
    plans = tables(PAGES["syllabi"])
    assert len(plans) == 5
    for head, *rows in plans:
        assert head[2:] == ["page and figure", "ask first", "exercise", "skip"]
        for row in rows:
            assert len(row) == len(head)
            assert all(row[:3]), row
        for column in (3, 4, 5):
            assert any(row[column] for row in rows)


def test_the_minutes_of_the_lecture_ascend_to_ninety():
    minutes = [int(row[0]) for row in tables(PAGES["syllabi"])[0][1:]]
    assert minutes == sorted(set(minutes))
    assert minutes[-1] < 90


# Rubrics ------------------------------------------------------------------------------------------------


def test_every_open_exercise_has_samples_and_no_other_has():
    answers = terms(PAGES["rubrics"])
    opened = [label for label, body in EXERCISES.items() if "*Open.*" in body]
    assert len(opened) == len(NOTEBOOKS)
    assert sorted(re.findall(r"^\{ref\}`(ex-[\d-]+)`: \S", "\n".join(answers), re.MULTILINE)) == opened
    for term, definitions in answers.items():
        kinds = [re.match(r"\*\*(\w+)\.\*\* ", text)[1] for text in definitions]
        assert kinds in (["Good", "Weak", "Difference"], ["Good", "Weak"]), term
        assert len(set(definitions)) == len(definitions)


def test_each_group_has_criteria_with_four_levels():
    levels, *groups = tables(PAGES["rubrics"])
    names = [row[0] for row in levels[1:]]
    assert len(names) == 4
    assert len(groups) == 5
    for head, *criteria in groups:
        assert head == ["criterion", *names]
        assert len(criteria) >= 4
        assert all(all(row) for row in criteria)


# The paper ----------------------------------------------------------------------------------------------


def paper() -> tuple[dict, str]:
    _, header, body = PAPER.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_header_of_the_paper_agrees_with_the_project():
    header, _ = paper()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert header["title"] == citation["title"]
    assert [author["name"] for author in header["authors"]] == [author["name"] for author in citation["authors"]]
    assert {author["affiliation"] for author in header["authors"]} <= {
        place["index"] for place in header["affiliations"]
    }
    assert {"tags", "date", "bibliography"} <= set(header)


def test_the_paper_cites_what_the_bibliography_holds():
    header, body = paper()
    bibliography = (PAPER.parent / header["bibliography"]).read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{(\w+),", bibliography, re.MULTILINE))
    cited = set(re.findall(r"@(\w+)", body))
    assert "epim" in cited
    assert cited <= keys


def test_the_paper_has_the_sections_and_the_length_that_are_asked_for():
    _, body = paper()
    sections = re.findall(r"^# (.+)$", body, re.MULTILINE)
    wanted = ["Summary", "Statement of need", "Learning objectives", "Content", "Instructional design"]
    wanted += ["Experience of use", "Story of the project", "Acknowledgements", "References"]
    assert sections == wanted
    assert 700 <= len(body.split()) <= 1200
    assert not re.search(r"\d+ (?:chapters|notebooks|exercises|questions|figures)", body)


# The extension ------------------------------------------------------------------------------------------


def test_prerequisites_are_links_from_the_root():
    notebook = Notebook.load(ROOT / "notebooks" / "04_epitome.ipynb")
    needed = teach.items(notebook, "You need")
    assert needed[0].startswith("{doc}`/notebooks/03_mapping`")
    assert needed[1].startswith("{doc}`/book/notation`")
    with pytest.raises(ValueError, match="'You owe'"):
        teach.items(notebook, "You owe")


@each_chapter
def test_every_card_has_prerequisites_and_times(stem):
    notebook = Notebook.load(ROOT / "notebooks" / f"{stem}.ipynb")
    assert teach.items(notebook, "You need")
    run = r"(?:\d+ (?:seconds|minutes) to run|no record says how long to run)"
    assert re.fullmatch(rf"\d+ minutes to read, {run}, about 7 minutes to discuss", teach.minutes(notebook, 7))
