"""Published tables of related systems: what their own texts conclude follows from their rows."""

import math

import pytest

from epimlib._checks import PROJECT, read_yaml

TABLE = read_yaml(PROJECT / "data" / "related" / "snn_quant_prune.yaml", "published energies")
ROWS = {(row["bits"], row["sparsity"]): row for row in TABLE["rows"]}
ENERGY = {key: row["energy"] for key, row in ROWS.items()}


@pytest.mark.parametrize(
    ("larger", "smaller", "ratio"),
    [
        ((8, 0.0), (2, 0.0), 2.4268),
        ((8, 0.8), (2, 0.0), 1.4570),
        ((8, 0.0), (8, 0.8), 1.6656),
        ((3, 0.8), (2, 0.0), 1.1406),
    ],
)
def test_ratios_of_energies(larger, smaller, ratio):
    assert ENERGY[larger] / ENERGY[smaller] == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(
    ("coding", "pruned", "dense"),
    [("coordinate payload", 1.4566, 2.4201), ("offset pairs", 1.3430, 1.8393), ("bitmap", 1.3871, 1.8540)],
)
def test_ratios_of_other_codings(coding, pruned, dense):
    eight, ternary, zeros = TABLE["codings"][coding]
    assert zeros / ternary == pytest.approx(pruned, abs=1e-4)  # the table has three decimals
    assert eight / ternary == pytest.approx(dense, abs=1e-4)


def test_two_of_four_codings_have_the_45_percent_of_the_abstract():
    ratios = [zeros / ternary for _, ternary, zeros in TABLE["codings"].values()] + [1.4570]
    assert sorted(math.floor(100 * ratio) - 100 for ratio in ratios) == [34, 38, 45, 45]


def test_energy_times_cycles_of_ternary_weights():
    row = ROWS[2, 0.0]
    assert row["energy"] * row["cycles"] / 1000 == pytest.approx(85_171_997.3, abs=0.05)  # mJ times cycles


def test_accuracies_are_whole_numbers_of_tests():
    assert round(281 / 288, 4) == ROWS[8, 0.0]["accuracy"]
    for row in TABLE["rows"]:
        if "accuracy" in row:
            right = row["accuracy"] * TABLE["tests"]
            assert round(round(right) / TABLE["tests"], 4) == row["accuracy"]


def test_more_zeros_cost_less_and_lose_more():
    pruned = sorted((zeros, row["energy"], row["accuracy"]) for (bits, zeros), row in ROWS.items() if bits == 8)
    assert [energy for _, energy, _ in pruned] == sorted((energy for _, energy, _ in pruned), reverse=True)
    assert [right for *_, right in pruned] == sorted((right for *_, right in pruned), reverse=True)
    assert len(pruned) == 8
