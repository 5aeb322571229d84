"""The page of related systems: what ten abstracts claim, and what became of it."""

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from epimlib.lab.claims import STATUSES, Check, judge, read_claims
from epimlib.lab.records import RunRecord
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))  # its files import each other, as Sphinx lets them
related = load("book/_ext/related.py")
CLAIMS = read_claims(ROOT / "data" / "related.yaml")
VERDICTS = judge(CLAIMS)
CHAPTERS = ("22_training_in_memory", "23_packing", "24_conversions", "25_quantize_or_prune", "26_spiking")
CONFRONTED = 45
"""The only number of an abstract that public data can confront."""


@pytest.fixture(scope="module")
def page() -> str:
    source = ["# Title\n\n"]
    related.append_tables(SimpleNamespace(), "book/related", source)
    return source[0]


def rows(page: str) -> list[list[str]]:
    """Return the cells of the first table, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", page, re.MULTILINE)[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_every_system_has_a_row_with_its_citation_and_its_status(page):
    assert {claim.statement for claim in CLAIMS} == set(range(1, 11))
    assert len({claim.cite for claim in CLAIMS}) == 10
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for verdict, row in zip(VERDICTS, rows(page), strict=True):
        assert re.search(rf"^@\w+\{{{verdict.claim.cite},$", bibliography, re.MULTILINE)
        assert row[:3] == [f"{verdict.claim.name} {{cite}}`{verdict.claim.cite}`", verdict.claim.text, verdict.status]
        assert verdict.status in STATUSES
        assert row[3] == verdict.why != ""


def test_every_system_has_a_chapter_or_the_page(page):
    for claim, row in zip(CLAIMS, rows(page), strict=True):
        name = claim.page.removeprefix("notebooks/")
        assert name in CHAPTERS
        there = (ROOT / "notebooks" / f"{name}.ipynb").is_file()
        assert row[4] == (f"{{doc}}`../notebooks/{name}`" if there else "this page only")


def test_claims_of_one_paper_stand_together_and_in_the_order_of_the_chapters():
    order = [(claim.page, claim.statement) for claim in CLAIMS]
    assert order == sorted(order)
    assert all(len({claim.cite for claim in CLAIMS if claim.statement == number}) == 1 for number in range(1, 11))


def test_a_status_follows_the_records(tmp_path):
    (claim,) = (claim for claim in CLAIMS if claim.value == CONFRONTED)
    check = Check("more energy [%]", "more", "a/quick.json", "notebooks/a.ipynb", "equal to", CONFRONTED, 1)
    why = {status: sentence for status, sentence in claim.why.items() if status != "cannot be checked"}
    checked = replace(claim, checks=(check,), why=why)
    assert judge([checked], tmp_path)[0].status == "not run"
    for more, status in ((45.7, "reproduced"), (33.0, "differs")):
        record = RunRecord("a", {}, {}, None, None, {}, "2026-01-01T00:00:00+00:00", 1.0, {"more": more})
        record.save(tmp_path / "a" / "quick.json")
        (verdict,) = judge([checked], tmp_path)
        assert verdict.status == status
        assert related.claims([verdict])[1][2] == status
        assert claim.why[status] in verdict.why


def test_numbers_of_records_stand_on_the_page(page):
    shown = page.split("## Numbers behind the table")[1]
    found = [finding for verdict in VERDICTS for finding in verdict.related]
    assert len(found) >= 5
    for finding in found:
        assert finding.holds
        assert f"| {finding.check.what} | {finding} | {finding.check.demand} |" in shown


def test_no_number_of_an_abstract_is_a_limit_or_a_result_of_ours():
    numbers = {float(n) for claim in CLAIMS for n in re.findall(r"\d+(?:\.\d+)?", claim.text)}
    assert numbers >= {5.36, 1.73, 3.43, 1.59, 37, 82.5, 4.5, 40, 215, 13, 28, 78, 3.3, 1.8, 2.5, CONFRONTED}
    checks = [check for claim in CLAIMS for check in (*claim.checks, *claim.related)]
    assert numbers & {check.value for check in checks} <= {CONFRONTED}
    assert {claim.value for claim in CLAIMS} == {None, CONFRONTED}
    factors = {
        5.36,
        1.73,
        3.43,
        1.59,
        3.3,
    }  # that nothing else is by chance, as 40 layers or an accuracy of 82.5% may be
    for chapter in CHAPTERS:
        for path in (ROOT / "data" / "results" / chapter).glob("*.json"):
            values = {v for v in RunRecord.load(path).metrics.values() if isinstance(v, int | float)}
            assert not values & factors, path


def test_the_scoreboard_of_the_paper_itself_is_as_it_was():
    own = read_claims()
    assert {claim.cite for claim in own} == {"epim"}
    assert not {claim.name for claim in own} & {claim.name for claim in CLAIMS}
    recorded = RunRecord.load(ROOT / "data/results/21_claims/quick.json").metrics
    counts = Counter(verdict.status for verdict in judge(own))
    assert recorded["claims_total"] == len(own) == 8
    assert recorded["claims_reproduced"] == counts["reproduced"]
    assert recorded["claims_consistent"] == counts["consistent, sign only"]
    assert recorded["claims_not_run"] == counts["not run"]
    assert recorded["claims_uncheckable"] == counts["cannot be checked"]


def test_every_line_of_a_table_has_as_many_cells_and_other_pages_are_left_alone(page):
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1
    source = ["# Other\n"]
    related.append_tables(SimpleNamespace(), "book/other", source)
    assert source == ["# Other\n"]


def test_the_glossary_has_the_terms_of_the_part():
    glossary = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    for term in ("accumulation", "bit operation", "packing", "placement", "spike", "time step"):
        assert glossary.count(f"\n\n{term}\n  ") == 1
