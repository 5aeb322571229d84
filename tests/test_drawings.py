"""The drawings of the book that show numbers, read back: each number follows from the others, or from the library."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from epimlib import EpitomeSpec
from epimlib.lab.pictures import COLOURS
from epimlib.pim.tables import Tables

FIGURES = Path(__file__).parents[1] / "book" / "figures"
SVG = "{http://www.w3.org/2000/svg}"


def drawing(name):
    return ET.parse(FIGURES / f"{name}.svg").getroot()


def numbers(root, name, shape=-1):
    """Numbers of the elements of a class, in the order of the drawing."""
    return np.array([int(e.text) for e in root.iter() if e.get("class") == name]).reshape(shape)


def texts(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def test_folding_adds_before_it_multiplies():
    found = [int(n) for line in texts(drawing("folding")) for n in re.findall(r"(?<!X)\b\d+$", line)]
    x_1, x_2, _, _, k, again, once, y, folded, first, second, added = found
    assert k == again == once
    assert (first, second, added) == (k * x_1, k * x_2, x_1 + x_2)
    assert y == folded == first + second == k * added


def test_slices_and_pulses_make_the_product():
    root = drawing("slices")
    x, w = numbers(root, "x"), numbers(root, "w", (2, 2))
    slices = [numbers(root, f"s{k}", (2, 2)) for k in range(2)]
    pulses = [numbers(root, f"p{t}") for t in range(2)]
    assert (slices[0] + 4 * slices[1] == w).all()
    assert (pulses[0] + 2 * pulses[1] == x).all()
    y = 0
    for t, pulse in enumerate(pulses):
        for k, part in enumerate(slices):
            sums = numbers(root, f"p{t}s{k}")
            assert (sums == pulse @ part).all()
            y = y + 2**t * 4**k * sums
    assert (numbers(root, "y") == y).all()
    assert (y == x @ w).all()
    for line, terms in zip((line for line in texts(root) if line.startswith("Y")), y, strict=True):
        _, product, parts, result = line.replace("·", "*").split(" = ")
        assert eval(product) == eval(parts) == int(result) == terms


def test_a_window_and_two_kernels_make_two_outputs():
    root = drawing("im2col")
    image, vector = numbers(root, "x", (3, 3)), numbers(root, "v")
    kernels = np.array([numbers(root, "k0"), numbers(root, "k1")])
    matrix = np.array([numbers(root, "m0"), numbers(root, "m1")])
    assert (image[:2, :2].ravel() == vector).all()
    assert (kernels == matrix).all()
    assert (numbers(root, "y") == matrix @ vector).all()
    for line, terms in zip((line for line in texts(root) if line.startswith("Y")), matrix * vector, strict=True):
        assert [int(n) for n in line.split(" = ")[1].split("+")] == terms.tolist()


def test_the_page_of_how_it_works_shows_a_plan_of_the_library():
    root = drawing("how")
    spec = EpitomeSpec(12, 4, 3, epitome=(4, 2, 4, 4), wrap=2)
    plan, tables = spec.plan(), Tables.from_plan(spec.plan())
    offsets = list(dict.fromkeys(patch.offset for patch in plan.patches))
    names = [f"p{offsets.index(patch.offset)}" for patch in plan.patches]
    shown = {name: numbers(root, name)[0] for name in ("elements", "weights", "lines", "columns", "blocks", "rounds")}
    assert shown == {
        "elements": np.prod(spec.epitome),
        "weights": np.prod(spec.shape),
        "lines": spec.rows,
        "columns": spec.cols,
        "blocks": plan.applications,
        "rounds": plan.rounds,
    }
    assert (numbers(root, "dense"), numbers(root, "matrix")) == (4 * 3 * 3, 12)
    assert [e.text for e in root.iter() if e.get("class") == "block"] == names
    ranges = [e.text for e in root.iter() if e.get("class") == "range"]
    assert ranges == [f"{p.out.start} to {p.out.stop - 1}" for p in plan.patches if p.inp.start == 0]
    for patch, (*_, y, x) in zip((e for e in root.iter() if e.get("class") == "patch"), offsets, strict=True):
        left, top = 8 + 66 * offsets.index((0, 0, y, x)), 54
        assert (float(patch.get("x")), float(patch.get("y"))) == (left + 13 * x, top + 13 * y)
        assert float(patch.get("width")) == float(patch.get("height")) == 3 * 13
    for n, group in enumerate(e for e in root.iter() if e.get("class") == "round"):
        number, patch, what = (e.text for e in group.iter(f"{SVG}text"))
        fills = [e.get("fill") for e in group.iter(f"{SVG}rect")]
        inputs, driven, outputs = fills[:4], fills[4], fills[5:]
        first, count = tables.ifat[n]
        _, start, channels, extends = tables.ofat[n]
        assert (int(number), what) == (n, "added" if extends else "new")
        assert driven == COLOURS[int(patch[1])]
        assert [c for c, fill in enumerate(inputs) if fill == driven] == list(range(first, first + count))
        assert [c for c, fill in enumerate(outputs) if fill == driven] == list(range(start, start + channels))
