"""A picture of a sampling plan as SVG: which patch of the epitome feeds which block of the weight.

The picture takes the colour of the text around it, so that it can stand in a light or a dark page. Every patch has
a number besides its colour.
"""

import textwrap
import xml.etree.ElementTree as ET
import zlib
from typing import Any

from epimlib.epitome.plan import Plan

# Paul Tol's "light" scheme: told apart by colour-blind readers, and black text is readable on each of them.
COLOURS = ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00")
BLOCKS = 12
"""Most output blocks, and most input blocks, that are drawn."""
PATCHES = 12
"""Most patches that are drawn within the epitome."""

WIDTH, TOP, RIGHT = 760, 64, 320  # [px] of the whole at most; above the drawings; left of the weight
INK = "#22282f"  # of lines on what is coloured, in a light and in a dark page
CARD, WINDOW = 104, 56  # [px] pitch of the patches in a row; longest side of a window


def plan_svg(plan: Plan) -> str:
    """Return the picture of a plan as an SVG element, with its alternative text.

    Left: the patches of the epitome in use, in the order of their first use. In each the square is the epitome's
    window, with the part that is sampled coloured; the bar below it stands for the input channels, the bar beside
    it for the output channels. Right: the blocks of the weight, each with the number and colour of its patch;
    hatched blocks are copies, or with coefficients take the sums of another. Large plans are drawn in part, and the
    picture says so.
    """
    spec, (n_out, n_in) = plan.spec, plan.spec.grid
    numbers: dict[tuple[int, ...], int] = {}
    for patch in plan.patches:
        numbers.setdefault(patch.offset, len(numbers))

    hatch = f"hatch{zlib.crc32(repr(spec).encode()):08x}"  # ids of several pictures in one page must differ
    root = ET.Element("svg", {"class": "plot", "role": "img", "xmlns": "http://www.w3.org/2000/svg"})
    add(root, "title", _title(plan))
    add(root, "desc", _description(plan, numbers))
    add(root, "style", "@media (prefers-color-scheme: dark) { svg:root { color: #d8dee4 } }")
    pattern = add(root, "pattern", id=hatch, width=6, height=6, patternUnits="userSpaceOnUse")
    add(pattern, "path", d="M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2", stroke=INK, stroke_width=1)

    for x, head, below in (
        (0, f"Epitome E, {_shape(spec.epitome)}", f"patches in use: {len(numbers)}"),
        (RIGHT, f"Weight W, {_shape(spec.shape)}", f"{n_out} × {n_in} blocks, rounds: {plan.rounds}"),
    ):
        write(root, x, 14, head, font_weight="bold")
        write(root, x, 32, below)
    drawn = list(numbers)[:PATCHES]
    pitch = WINDOW * spec.epitome[2] / max(spec.epitome[2:]) + 60
    for number, offset in enumerate(drawn):
        row, column = divmod(number, 3)
        card = add(root, "g", transform=f"translate({column * CARD + 1},{TOP - 14 + row * pitch:.5g})")
        _draw_patch(card, plan, number, offset)
    end, bottom = _draw_weight(root, plan, numbers, hatch)
    bottom = max(bottom, TOP - 14 + -(-len(drawn) // 3) * pitch)

    notes = [
        "Left: each patch with its offset (a, b, y, x). Coloured is its part of the window, of the input channels "
        "(bar below) and of the output channels (bar beside).",
        "Right: the patch of every block; beside a row its first output channel, above a column its first input "
        "channel.",
    ]
    if plan.rounds < plan.applications:
        how = "the sums of the" if spec.weighed else "the copy of an"
        notes.append(f"Hatched: {how} equal block above it, not computed again.")
    if len(drawn) < len(numbers):
        notes.append(f"Only the first {len(drawn)} of {len(numbers)} patches are drawn.")
    if max(n_out, n_in) > BLOCKS:
        notes.append(f"Only the first {min(n_out, BLOCKS)} × {min(n_in, BLOCKS)} of {n_out} × {n_in} blocks are drawn.")
    width = max(end, 520)
    lines = [line for note in notes for line in textwrap.wrap(note, int(width / 6.5))]
    for number, line in enumerate(lines, start=1):
        write(root, 0, bottom + 18 * number, line)
    height = bottom + 18 * len(lines) + 8
    root.attrib |= {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    root.attrib |= {"font-family": "sans-serif", "font-size": "12"}
    return ET.tostring(root, encoding="unicode")


def _draw_patch(card: ET.Element, plan: Plan, number: int, offset: tuple[int, ...]) -> None:
    """Draw one patch: the window, and the two bars of channels."""
    spec, colour = plan.spec, COLOURS[number % len(COLOURS)]
    a, b, y, x = offset
    e_out, e_in, e_h, e_w = spec.epitome
    (block_out, block_in), (k_h, k_w) = spec.block, spec.kernel_size
    cell = WINDOW / max(e_h, e_w)
    left, width, height = 12, cell * e_w, cell * e_h
    if grid := e_h + e_w <= 32:
        _draw_grid(card, (left, 0), (e_h, e_w), cell, "currentColor")
    rect(card, left + cell * x, cell * y, cell * k_w, cell * k_h, fill=colour)
    if grid:
        _draw_grid(card, (left + cell * x, cell * y), (k_h, k_w), cell, INK)
    rect(card, 0, height * a / e_out, 6, height * block_out / e_out, fill=colour)
    rect(card, left + width * b / e_in, height + 6, width * block_in / e_in, 6, fill=colour)
    for frame in ((left, 0, width, height), (0, 0, 6, height), (left, height + 6, width, 6)):
        rect(card, *frame, fill="none", stroke="currentColor", stroke_opacity=0.7)
    write(card, left, height + 26, f"p{number}", font_weight="bold")
    write(card, left, height + 40, f"({a}, {b}, {y}, {x})", font_size=11)


def _draw_grid(
    card: ET.Element, corner: tuple[float, float], places: tuple[int, int], cell: float, colour: str
) -> None:
    """Draw the lines between the places of a window."""
    (left, top), (rows, columns) = corner, places
    lines = [f"M{left + cell * i:.5g},{top:.5g} v{cell * rows:.5g}" for i in range(1, columns)]
    lines += [f"M{left:.5g},{top + cell * i:.5g} h{cell * columns:.5g}" for i in range(1, rows)]
    if lines:
        add(card, "path", d=" ".join(lines), stroke=colour, stroke_opacity=0.45, fill="none")


def _draw_weight(root: ET.Element, plan: Plan, numbers: dict[tuple[int, ...], int], hatch: str) -> tuple[float, float]:
    """Draw the grid of blocks, short blocks narrower; return where it ends on the right and below."""
    spec, (n_out, n_in) = plan.spec, plan.spec.grid
    rows, columns = min(n_out, BLOCKS), min(n_in, BLOCKS)
    left, top = RIGHT + 40, TOP - 6
    width, height = min(72.0, (WIDTH - left - 1) / columns), 34.0
    patches = [plan.patches[o * n_in + i] for o in range(rows) for i in range(columns)]
    for number, patch in enumerate(patches):
        o, i = divmod(number, columns)
        x, y = left + width * i, top + height * o
        w, h = width * len(patch.inp) / spec.block[1], height * len(patch.out) / spec.block[0]
        if o == 0:
            write(root, x + 1, top - 6, str(patch.inp.start), font_size=11)
        if i == 0:
            write(root, left - 5, y + 10, str(patch.out.start), font_size=11, text_anchor="end")
        use = numbers[patch.offset]
        rect(root, x, y, w, h, fill=COLOURS[use % len(COLOURS)])
        if patch.copy_of is not None:
            rect(root, x, y, w, h, fill=f"url(#{hatch})", fill_opacity=0.5)
        rect(root, x, y, w, h, fill="none", stroke=INK, stroke_opacity=0.7)
        if w >= 24 and h >= 16:
            write(root, x + w / 2, y + h / 2 + 4, f"p{use}", text_anchor="middle", fill="#000000")
    return left + width * columns + 1, top + height * rows


def _title(plan: Plan) -> str:
    return f"Sampling plan of a weight {_shape(plan.spec.shape)} from an epitome {_shape(plan.spec.epitome)}"


def _description(plan: Plan, numbers: dict[tuple[int, ...], int]) -> str:
    """Say in words what the picture shows, at most the first four output blocks of it."""
    n_out, n_in = plan.spec.grid
    parts = [
        f"{n_out} output blocks times {n_in} input blocks, {plan.rounds} of them computed and "
        f"{plan.applications - plan.rounds} {'weighed anew' if plan.spec.weighed else 'copied'}, "
        f"from {len(numbers)} patches."
    ]
    for o in range(min(n_out, 4)):
        if plan.source[o] == o:
            row = plan.patches[o * n_in : o * n_in + min(n_in, BLOCKS)]
            names = ", ".join(f"p{numbers[patch.offset]}" for patch in row)
            parts.append(f"Output block {o} takes the patches {names}{' and so on' * (n_in > BLOCKS)}.")
        else:
            how = "takes the sums of" if plan.spec.weighed else "is a copy of"
            parts.append(f"Output block {o} {how} output block {plan.source[o]}.")
    shown = [f"p{number} starts at {offset}" for offset, number in list(numbers.items())[:PATCHES]]
    return " ".join(parts) + f" Offsets (a, b, y, x): {'; '.join(shown)}."


def _shape(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: Any) -> ET.Element:
    """Add an element and return it; ``stroke_width`` stands for the attribute ``stroke-width``."""
    names = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    element = ET.SubElement(parent, tag, names)
    element.text = text
    return element


def rect(parent: ET.Element, x: float, y: float, width: float, height: float, **attributes: Any) -> None:
    """Add a rectangle [px]."""
    place = {"x": x, "y": y, "width": width, "height": height}
    add(parent, "rect", **{name: f"{value:.5g}" for name, value in place.items()}, **attributes)


def write(parent: ET.Element, x: float, y: float, text: str, **attributes: Any) -> None:
    """Add a line of text [px], in the colour of the text around the picture."""
    add(parent, "text", text, x=f"{x:.5g}", y=f"{y:.5g}", **{"fill": "currentColor", **attributes})
