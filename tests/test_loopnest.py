"""Energies of loop nests against the public example outputs of the tool that the rules are from (pJ)."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib._checks import PROJECT, read_yaml
from epimlib.epitome.workload import Layer
from epimlib.related.loopnest import Level, Nest, dimensions, draw, packed

PICO = 1e-12
WIDTHS = {"native": (8, 8, 8), "four": (4, 4, 4), "weights 3": (3, 8, 8)}


def layer(out, inp, kernel, size, stride=1, groups=1):
    in_size = (size - 1) * stride + kernel
    return Layer(
        "conv", "conv", inp, out, (kernel, kernel), (stride, stride), (0, 0), (1, 1), groups,
        (in_size, in_size), (size, size), ("input",),
    )  # fmt: skip


def widths(name):
    return dict(zip("WIO", WIDTHS[name], strict=True))


FILE = Level("RF", 0.42018 * PICO, 0.42018 * PICO)
BUFFER = Level("GB", 102.865 * PICO, 96.3011 * PICO, vector=32)
DRAM = Level("DRAM", 2048 * PICO, 2048 * PICO, vector=32)
MAC = 0.5608 * PICO
ONE = Nest(layer(1, 1, 3, 4), (FILE,), ((("P", 4), ("Q", 4), ("R", 3), ("S", 3)),), MAC)
ALEXNET = Nest(
    layer(96, 3, 11, 55, stride=4),
    (DRAM, BUFFER, FILE),
    ((("P", 55),), (("Q", 11), ("R", 11), ("C", 3), ("M", 96)), (("Q", 5), ("S", 11))),
    MAC,
)


@pytest.mark.parametrize(
    ("name", "parts", "total"),
    [
        ("native", (60.51, 60.51, 114.29), 316),
        ("four", (30.25, 30.25, 57.14), 198),
        ("weights 3", (30.25, 60.51, 114.29), 286),
    ],
)
def test_one_level(name, parts, total):
    energy = {key: value / PICO for key, value in ONE.energy(widths(name)).items()}
    assert [energy["RF", tensor] for tensor in "WIO"] == pytest.approx(parts, abs=0.01)
    assert energy["MAC", ""] == pytest.approx(80.76, abs=0.01)
    assert sum(energy.values()) == pytest.approx(total, abs=0.5)


@pytest.mark.parametrize(("name", "words"), [("native", (9, 36, 16)), ("four", (5, 18, 8)), ("weights 3", (5, 36, 16))])
def test_capacity_of_one_level(name, words):
    found = [packed(ONE.tile(tensor, 0), 8, bits) for tensor, bits in widths(name).items()]
    assert tuple(found) == words
    fitting = dataclasses.replace(FILE, capacity=sum(words))
    assert dataclasses.replace(ONE, levels=(fitting,)).fits(widths(name))
    small = dataclasses.replace(FILE, capacity=sum(words) - 1)
    assert not dataclasses.replace(ONE, levels=(small,)).fits(widths(name))


NATIVE = {
    ("RF", "W"): 53_152_030.48, ("RF", "I"): 44_519_858.87, ("RF", "O"): 92_491_366.18,
    ("GB", "W"): 67_876_962.82, ("GB", "I"): 2_198_094.40, ("GB", "O"): 59_585_700.41,
    ("DRAM", "W"): 2_230_272, ("DRAM", "I"): 9_893_888, ("DRAM", "O"): 18_585_600, ("MAC", ""): 59_116_844.16,
}  # fmt: skip
FOUR = {
    ("RF", "W"): 26_576_015.24, ("RF", "I"): 22_259_929.64, ("RF", "O"): 46_245_683.09,
    ("GB", "W"): 33_938_580.99, ("GB", "I"): 1_099_095.35, ("GB", "O"): 29_792_946.50,
    ("DRAM", "W"): 1_116_160, ("DRAM", "I"): 4_947_968, ("DRAM", "O"): 9_293_824, ("MAC", ""): 59_116_844.16,
}  # fmt: skip


@pytest.mark.parametrize(("name", "parts", "total"), [("native", NATIVE, 410), ("four", FOUR, 234)])
def test_three_levels(name, parts, total):
    energy = {key: value / PICO for key, value in ALEXNET.energy(widths(name)).items()}
    assert energy.keys() == parts.keys()
    assert {key: energy[key] for key in parts} == pytest.approx(parts, abs=0.01)
    assert sum(energy.values()) / 1e6 == pytest.approx(total, abs=0.5)


def test_three_levels_with_narrow_weights():
    energy = {key: value / PICO for key, value in ALEXNET.energy(widths("weights 3")).items()}
    expected = {key: (FOUR if key[1] == "W" else NATIVE)[key] for key in NATIVE}
    assert energy == pytest.approx(expected, abs=0.01)
    assert sum(energy.values()) / 1e6 == pytest.approx(348, abs=0.5)


def test_words_of_numbers():
    assert [16 // bits for bits in range(2, 9)] == [8, 5, 4, 3, 2, 2, 2]
    assert [packed(240, 16, bits) for bits in range(2, 9)] == [30, 48, 60, 80, 120, 120, 120]
    assert [packed(8, 8, bits) for bits in range(2, 9)] == [2, 4, 4, 8, 8, 8, 8]
    assert packed(400, 36, 5) == 58


def brute(nest, tensor, level):
    """Count what a level fetches by walking through the loops above it and remembering the last tile."""
    inner = {}
    for loops in nest.loops[level:]:
        for name, count in loops:
            inner[name] = inner.get(name, 1) * count
    above = [loop for loops in nest.loops[:level] for loop in loops]
    indexed = {"W": "CMRS", "O": "MPQ"}[tensor]
    size = int(np.prod([inner.get(name, 1) for name in indexed]))
    fetched, last = 0, None
    for place in np.ndindex(*(count for _, count in above)):
        tile = tuple(i for (name, count), i in zip(above, place, strict=True) if name in indexed and count > 1)
        fetched += size * (tile != last)
        last = tile
    return fetched


@given(st.integers(0, 10**6))
def test_fills_of_weights_and_outputs_are_those_of_a_walk(seed):
    rng = np.random.default_rng(seed)
    (nest,) = draw(layer(4, 2, 2, 3), (DRAM, BUFFER, FILE), MAC, rng, widths("native"), 1)
    for level in (1, 2):
        for tensor in "WO":
            used = [
                tuple((name, count) for name, count in loops if count > 1) for loops in nest.loops
            ]  # loops of one step do not exist
            walked = dataclasses.replace(nest, loops=tuple(used))
            assert walked.fills(tensor, level) == brute(walked, tensor, level)
            assert nest.fills(tensor, level) == walked.fills(tensor, level)


def test_random_nests_are_of_the_layer_and_fit():
    levels = (DRAM, dataclasses.replace(BUFFER, capacity=64), dataclasses.replace(FILE, capacity=8))
    found = draw(layer(8, 8, 3, 4, groups=8), levels, MAC, np.random.default_rng(0), widths("native"), 200)
    assert 0 < len(found) < 200
    assert all(nest.macs == 8 * 9 * 16 and nest.fits(widths("native")) for nest in found)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: packed(3, 8, 9), "bits must be at most 8, got 9"),
        (lambda: packed(3, 8, 0), "bits must be at least 1, got 0"),
        (lambda: ALEXNET.energy({"W": 8, "I": 8}), "bits"),
        (lambda: ALEXNET.energy({"W": 8, "I": 9, "O": 8}), "bits must be at most 8, got 9"),
        (lambda: dataclasses.replace(ONE, loops=((("P", 4),),)), "loops of conv must multiply to"),
        (lambda: dataclasses.replace(ONE, loops=()), "each of 1 levels, got 0"),
        (lambda: dimensions(layer(4, 4, 3, 4, groups=2)), "dense or depthwise, got 2 groups of 2"),
    ],
)
def test_refusals_name_the_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_published_energies_step_where_words_hold_one_number_less():
    data = read_yaml(PROJECT / "data" / "related" / "mapping_synergy.yaml", "energies")
    fits = []
    for row in data["rows"]:
        held = np.array([row["word"] // bits for bits in data["bits"]])
        energy = np.array(row["energy"])
        assert ((held[1:] == held[:-1]) == (energy[1:] == energy[:-1])).all()
        (part, fixed), *_ = np.linalg.lstsq(np.stack([1 / held, np.ones(7)]).T, energy, rcond=None)
        fits.append((round(fixed), round(part), np.abs(fixed + part / held - energy).max() / energy.min()))
    assert np.allclose([fit[:2] for fit in fits], [(12733, 8721), (5714, 4420), (24752, 5452)], rtol=0, atol=1)
    assert max(fit[2] for fit in fits) < 0.005
