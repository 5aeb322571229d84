"""The picture of a plan, read back: valid XML that shows the plan's patches and blocks, and says what it leaves out."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epimlib import EpitomeSpec
from epimlib.lab.pictures import BLOCKS, COLOURS, INK, PATCHES, plan_svg

SVG = "{http://www.w3.org/2000/svg}"
SPECS = {
    "identity": EpitomeSpec.dense(64, 32, 3),
    "window": EpitomeSpec(512, 512, 3, (256, 64, 4, 4)),
    "wrapped": EpitomeSpec(512, 512, 3, (256, 64, 4, 4), wrap="full"),
    "channel": EpitomeSpec.for_crossbars(256, 256, 3, 1024, 256, wrap=1, family="channel"),
    "short": EpitomeSpec(10, 7, 1, (4, 3, 1, 2), block=(3, 2), wrap=2),
    "large": EpitomeSpec(512, 512, 3, (8, 8, 12, 12), wrap=2),
}


def parse(spec):
    return ET.fromstring(plan_svg(spec.plan()))


def number(element, name):
    return float(element.get(name))


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def blocks(root):
    """Coloured rectangles of the weight, in the order in which they were drawn, as (x, y, width, height, colour)."""
    return [
        (*(number(rect, name) for name in ("x", "y", "width", "height")), rect.get("fill"))
        for rect in root.findall(f"{SVG}rect")
        if rect.get("fill") in COLOURS
    ]


def hatched(root):
    return [
        tuple(number(rect, name) for name in ("x", "y"))
        for rect in root.findall(f"{SVG}rect")
        if rect.get("fill").startswith("url(#")
    ]


@pytest.mark.parametrize("name", SPECS)
def test_a_picture_is_an_image_with_a_text_for_those_who_cannot_see_it(name):
    plan = SPECS[name].plan()
    root = ET.fromstring(plan_svg(plan))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    title, desc = root[0], root[1]
    assert (title.tag, desc.tag) == (f"{SVG}title", f"{SVG}desc")
    assert " × ".join(map(str, plan.spec.epitome)) in title.text
    assert f"{plan.rounds} of them computed and {plan.applications - plan.rounds} copied" in desc.text
    assert f"from {plan.distinct} patches" in desc.text


def test_the_alternative_text_says_which_patch_feeds_which_block():
    desc = parse(SPECS["wrapped"])[1].text
    assert "Output block 0 takes the patches p0, p1, p2, p3, p0, p1, p2, p3." in desc
    assert "Output block 1 is a copy of output block 0." in desc
    assert "p2 starts at (0, 0, 1, 0)" in desc
    assert "and so on" in parse(SPECS["large"])[1].text


@pytest.mark.parametrize("name", SPECS)
def test_text_and_lines_take_the_colour_of_the_page(name):
    root = parse(SPECS[name])
    for element in root.iter(f"{SVG}text"):
        assert element.get("fill") == ("#000000" if re.fullmatch(r"p\d+", element.text) and in_a_block(element) else
                                       "currentColor")  # fmt: skip
    lines = [e.get("stroke") for e in root.iter() if e.get("stroke") and e.get("stroke-width") is None]
    assert set(lines) == {"currentColor", INK}  # ink on what is coloured


def in_a_block(element):
    return element.get("text-anchor") == "middle"


def luminance(colour):
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", COLOURS)
def test_black_text_is_readable_on_every_colour_and_every_colour_stands_out_on_a_dark_page(colour):
    assert (luminance(colour) + 0.05) / 0.05 >= 4.5  # WCAG AA for text
    assert (luminance(colour) + 0.05) / (luminance("#14181e") + 0.05) >= 3  # and for graphics


@pytest.mark.parametrize("name", SPECS)
def test_every_block_has_the_number_and_the_colour_of_its_patch(name):
    spec = SPECS[name]
    plan = spec.plan()
    n_out, n_in = spec.grid
    rows, columns = min(n_out, BLOCKS), min(n_in, BLOCKS)
    drawn = [plan.patches[o * n_in + i] for o in range(rows) for i in range(columns)]
    order = list(dict.fromkeys(patch.offset for patch in plan.patches))
    root = parse(spec)
    rectangles = blocks(root)
    assert [colour for *_, colour in rectangles] == [
        COLOURS[order.index(patch.offset) % len(COLOURS)] for patch in drawn
    ]
    labels = {(number(e, "x"), number(e, "y") - 4): e.text for e in root.iter(f"{SVG}text") if in_a_block(e)}
    for (x, y, width, height, _), patch in zip(rectangles, drawn, strict=True):
        near = [label for (at_x, at_y), label in labels.items() if x < at_x < x + width and y < at_y < y + height]
        assert near == ([f"p{order.index(patch.offset)}"] if width >= 24 and height >= 16 else [])
    copies = [r[:2] for r, patch in zip(rectangles, drawn, strict=True) if patch.copy_of is not None]
    assert hatched(root) == copies


def test_short_blocks_are_drawn_shorter_and_blocks_touch():
    """10 x 7 in blocks of 3 x 2: the last row has one channel of three, the last column one of two."""
    rectangles = blocks(parse(SPECS["short"]))
    widths, heights = [r[2] for r in rectangles], [r[3] for r in rectangles]
    assert widths[3] == pytest.approx(widths[0] / 2, rel=1e-3)
    assert heights[12] == pytest.approx(heights[0] / 3, rel=1e-3)
    for o in range(4):
        for i in range(3):
            left, right = rectangles[4 * o + i], rectangles[4 * o + i + 1]
            assert left[0] + left[2] == pytest.approx(right[0], rel=1e-3)
    for k in range(12):
        assert rectangles[k][1] + rectangles[k][3] == pytest.approx(rectangles[k + 4][1], rel=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_every_patch_lies_where_its_offset_says(name):
    spec = SPECS[name]
    order = list(dict.fromkeys(patch.offset for patch in spec.plan().patches))
    cards = parse(spec).findall(f"{SVG}g")
    assert len(cards) == min(len(order), PATCHES)
    for card, (a, b, y, x) in zip(cards, order, strict=False):
        window, out, inp, window_frame, out_frame, inp_frame = card.findall(f"{SVG}rect")
        for part, frame, axis, start, length, size in (
            (window, window_frame, "x", x, spec.kernel_size[1], spec.epitome[3]),
            (window, window_frame, "y", y, spec.kernel_size[0], spec.epitome[2]),
            (out, out_frame, "y", a, spec.block[0], spec.epitome[0]),
            (inp, inp_frame, "x", b, spec.block[1], spec.epitome[1]),
        ):
            extent = {"x": "width", "y": "height"}[axis]
            begin = (number(part, axis) - number(frame, axis)) / number(frame, extent)
            assert begin == pytest.approx(start / size, abs=1e-3)
            assert number(part, extent) / number(frame, extent) == pytest.approx(length / size, abs=1e-3)
        assert f"({a}, {b}, {y}, {x})" in texts(card)


def test_a_large_plan_is_drawn_in_part_and_says_so():
    """64 x 64 blocks from 100 places in a window of 12: a picture of all of them could not be read."""
    plan = SPECS["large"].plan()
    assert (plan.spec.grid, plan.distinct) == ((64, 64), 100)
    picture = plan_svg(plan)
    assert f"Only the first {PATCHES} of 100 patches are drawn." in picture
    assert f"Only the first {BLOCKS} × {BLOCKS} of 64 × 64 blocks are drawn." in picture
    assert len(picture) < 100_000
    for name in ("identity", "window", "wrapped", "channel", "short"):
        assert "Only" not in plan_svg(SPECS[name].plan())


def test_hatching_is_explained_where_there_is_a_copy():
    explained = {name: "Hatched: the copy" in plan_svg(spec.plan()) for name, spec in SPECS.items()}
    assert explained == {
        "identity": False, "window": False, "wrapped": True, "channel": False, "short": True, "large": True
    }  # fmt: skip


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_plan_gives_a_picture_that_stays_within_its_frame(c_out, c_in, kernel, e_out, e_in, data):
    e_out, e_in = min(e_out, c_out), min(e_in, c_in)
    window = kernel + (kernel**2 * c_out * c_in >= e_out * e_in * (kernel + 1) ** 2)
    block = (data.draw(st.integers(1, e_out)), data.draw(st.integers(1, e_in)))
    root = parse(EpitomeSpec(c_out, c_in, kernel, (e_out, e_in, window, window), block, "full"))
    _, _, width, height = map(float, root.get("viewBox").split())
    for rect in root.findall(f"{SVG}rect"):
        assert 0 <= number(rect, "x") <= number(rect, "x") + number(rect, "width") <= width
        assert 0 <= number(rect, "y") <= number(rect, "y") + number(rect, "height") <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 <= number(text, "y") <= height


def test_a_picture_is_a_pure_function_of_its_plan():
    pictures = {plan_svg(spec.plan()) for spec in SPECS.values()}
    assert pictures == {plan_svg(spec.plan()) for spec in SPECS.values()}
    ids = [element.get("id") for svg in pictures for element in ET.fromstring(svg).iter() if element.get("id")]
    assert len(ids) == len(set(ids)) == len(SPECS)
