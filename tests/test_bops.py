"""Bit operations against the numbers that the formula of the public code gives, and against a count by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib import Workload
from epimlib.epitome.workload import Layer
from epimlib.related.bops import bops


def chain(*sizes):
    names = ["input", *(f"fc{number}" for number in range(1, len(sizes)))]
    layers = [Layer(names[k], "linear", sizes[k - 1], sizes[k], inputs=(names[k - 1],)) for k in range(1, len(sizes))]
    return Workload("chain", (sizes[0], 1, 1), tuple(layers))


PAPER = chain(16, 64, 32, 32, 5)


def total(*args, **options):
    return sum(bops(*args, **options).values())


def test_the_four_layers_of_the_published_network():
    assert list(bops(PAPER, 32).values()) == [1_118_208, 2_240_512, 1_119_232, 174_880]
    assert total(PAPER, 32) == 4_652_832


@pytest.mark.parametrize(("bits", "expected"), [(12, 1_003_552), (8, 583_968), (6, 412_960), (4, 267_808)])
def test_quantized(bits, expected):
    assert total(PAPER, bits) == expected


@pytest.mark.parametrize(
    ("bits", "kept", "expected"),
    [(32, 0.2, 1_166_316.8), (6, 0.2, 162_592), (4, 0.2, 121_580.8), (32, 0, 294_688), (6, 0.05, 115_648)],
)
def test_pruned(bits, kept, expected):
    assert total(PAPER, bits, kept=kept) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("bits", "hidden", "expected"),
    [
        (32, (46, 10, 17), 1_585_085.0),
        (12, (61, 7, 23), 543_240.6),
        (6, (32, 11, 21), 155_852.3),
        (4, (56, 19, 31), 203_369.0),
    ],
)
def test_sizes_that_a_search_found(bits, hidden, expected):
    assert total(chain(16, *hidden, 5), bits) == pytest.approx(expected, abs=0.05)


def test_a_convolution_counts_its_window_at_every_position():
    conv = Layer("conv", "conv", 4, 8, (3, 3), (1, 1), (1, 1), (1, 1), 2, (5, 5), (5, 5), ("input",))
    pool = Layer("pool", "pool", 8, 8, (5, 5), (5, 5), in_size=(5, 5), inputs=("conv",))
    head = Layer("head", "linear", 8, 3, inputs=("pool",))
    found = bops(Workload("net", (4, 5, 5), (conv, pool, head)), {"conv": 5, "head": 3}, first=1, kept=0.5)
    assert found == pytest.approx(
        {"conv": 25 * 8 * 18 * (0.5 * 5 + 1 + 5 + math.log2(18)), "head": 3 * 8 * (0.5 * 15 + 5 + 3 + 3)}
    )


@given(st.integers(1, 32), st.integers(1, 32), st.floats(0, 1), st.floats(0, 1))
def test_kept_weights_cost_their_products_and_nothing_else(bits, first, kept, other):
    """The difference between two shares is that of the products, layer by layer."""
    products = 16 * 64 * first * bits + (64 * 32 + 32 * 32 + 32 * 5) * bits**2
    difference = total(PAPER, bits, first, kept) - total(PAPER, bits, first, other)
    assert difference == pytest.approx((kept - other) * products, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bops(PAPER, 4, kept=1.5), "kept must be a number from 0 to 1, got 1.5"),
        (lambda: bops(PAPER, 4, kept="all"), "kept must be a number from 0 to 1, got 'all'"),
        (lambda: bops(PAPER, 4, first=0), "first must be at least 1, got 0"),
        (lambda: bops(PAPER, 0), "bits.* must be at least 1, got 0"),
        (lambda: bops(PAPER, {"fc1": 4}), "fc2"),
    ],
)
def test_refusals_name_the_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
