"""What the page of findings says of its numbers in words is true of the committed records."""

import re
from io import StringIO
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from epimlib.lab import results
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "findings.md").read_text(encoding="utf-8")
SENTENCES = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^## )", PAGE, re.MULTILINE | re.DOTALL)
STUDIES = ("cifar10", "fashion-mnist")
metric = load("book/_ext/metric.py").metric


def number(text: str) -> float:
    """Return a metric of a record as a number."""
    return float(metric(text))


def test_the_page_has_ten_sentences_each_with_a_number_and_a_link():
    assert len(SENTENCES) == 10
    for sentence in SENTENCES:
        assert "{metric}`" in sentence
        assert "{doc}`../notebooks/" in sentence


def test_every_number_of_the_page_is_in_a_record():
    asked = re.findall(r"\{metric\}`([^`]+)`", PAGE)
    assert len(asked) > 40
    assert all(metric(text) for text in asked)


def test_no_measured_number_is_typed():
    """Numbers that are left name networks, bits, statements and what the abstract says."""
    text = re.sub(r"\{(metric|doc|cite)\}`[^`]+`|^\d+\. ", "", PAGE, flags=re.MULTILINE)
    left = set(re.findall(r"\d+(?:\.\d+)?%?", text))
    assert left <= {"1", "50", "9", "18", "10", "3", "5", "32", "6", "7", "30.65", "71.59%"}, left


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("13_headline no_such_name", "metric must be one of the record 13_headline, got 'no_such_name'"),
        ("99_nothing headline_factor", "record must be one of data/results, got '99_nothing'"),
        ("13_headline headline_network .2f", "format"),
    ],
)
def test_a_role_that_has_no_number_is_refused_in_a_sentence(text, reason):
    with pytest.raises(ValueError, match=reason):
        metric(text)


def test_a_profile_and_a_format_can_be_asked_for():
    assert metric("13_headline/full headline_dense ,") == "13,120"
    assert metric("13_headline headline_network") == "ResNet-50"


class TestWords:
    def test_the_factor_is_reached_with_two_kinds_of_bits(self):
        assert number("13_headline/full headline_factor") >= 30.65
        kinds = [number(f"13_headline/full headline_{name}") for name in ("three", "five")]
        assert min(kinds) > 0
        assert sum(kinds) == number("13_headline/full headline_layers")
        assert metric("13_headline/full headline_network") == "ResNet-50"

    def test_most_of_it_is_bits(self):
        assert number("13_headline/full headline_by_bits") > number("13_headline/full headline_by_epitomes") > 1

    def test_plain_epitomes_cost_more_and_copies_win_a_part_back(self):
        assert number("06_cost cost_serial") > 1
        assert number("06_cost cost_energy") > 1
        assert 0 < number("08_reuse reuse_won_energy") < 1 < number("08_reuse reuse_energy")
        assert metric("06_cost cost_size") == metric("08_reuse reuse_size") == metric("11_search search_size")

    def test_a_design_for_each_layer_is_better_and_evolution_finds_it(self):
        assert number("11_search search_latency") < 1
        assert number("11_search search_energy") < 1
        assert 0 <= number("12_optimum/full optimum_worst_both") < 0.02
        assert number("12_optimum/full optimum_worst_both") >= number("12_optimum/full optimum_worst_budget")

    def test_accuracy_depends_on_the_images(self):
        names = ("cifar_quantized", "cifar_scratch_quantized", "fashion_quantized", "fashion_fair_gap")
        cifar, scratch, fashion, fair = (number(f"14_training training_{name}") for name in names)
        assert cifar > scratch > fashion > 0
        assert cifar > fair > fashion

    def test_pruning_leads_at_both_sizes(self):
        runs = {study: results(study).pivot(index="seed", columns="run", values="accuracy") for study in STUDIES}
        assert metric("15_pruning pruning_cifar_best") == metric("15_pruning pruning_fashion_best") == "pim-prune"
        for name, study in (("cifar", "cifar10"), ("fashion", "fashion-mnist")):
            lead = (runs[study]["q3-pim-prune-30"] - runs[study]["q3"]).dropna()
            assert lead.mean() == pytest.approx(number(f"15_pruning pruning_{name}_gap"))
            assert lead.mean() > 0
            assert len(lead) == 3
        assert number("15_pruning pruning_twentieth_squeezed") > 0
        assert 2 <= number("15_pruning pruning_twentieth_squeezed_seeds") <= 3

    def test_a_narrower_network_is_cheaper_and_less_accurate(self):
        for cost in ("latency", "energy", "crossbars"):
            assert number(f"13_headline/full headline_narrow_{cost}") < number(f"13_headline/full headline_{cost}")
        assert number("15_pruning pruning_cifar_narrower") > 0
        assert number("15_pruning pruning_cifar_narrow") < number("15_pruning pruning_cifar_epitomes")

    def test_depthwise_networks_have_little_to_save(self):
        smallest = number("18_networks networks_depthwise_largest")
        assert 1 < smallest < number("18_networks networks_vit_largest") < number("18_networks networks_18_largest")

    def test_most_conclusions_hold_and_the_factor_does_not(self):
        assert number("19_sensitivity sens_conclusions") / 2 < number("19_sensitivity sens_firm")
        assert number("19_sensitivity sens_firm") < number("19_sensitivity sens_conclusions")
        assert number("19_sensitivity sens_polarity") < 30.65

    def test_the_differences_from_the_abstract(self):
        assert number("13_headline/full headline_area_factor") < number("13_headline/full headline_factor")
        assert number("05_epitome_network network_factor_256_lines") > 30.65
        counts = [number(f"21_claims claims_{name}") for name in ("reproduced", "consistent", "not_run", "uncheckable")]
        assert sum(counts) == number("21_claims claims_total")
        assert counts[0] == counts[2] == 1  # "is" and "was"


def test_a_missing_number_is_a_warning_of_the_build(tmp_path):
    said = StringIO()
    page = "Page\n====\n\n:metric:`13_headline/full headline_dense ,` and :metric:`13_headline nothing`\n"
    (tmp_path / "index.rst").write_text(page, encoding="utf-8")
    with patch_docutils(), docutils_namespace(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "book" / "_ext"))
        settings = {"extensions": ["metric"]}
        Sphinx(tmp_path, None, tmp_path / "text", tmp_path / "trees", "text", settings, None, said).build()
    assert "13,120 and" in (tmp_path / "text" / "index.txt").read_text(encoding="utf-8")
    assert "metric must be one of the record 13_headline, got 'nothing'" in said.getvalue()
