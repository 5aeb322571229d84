"""A step view of the datapath: one output position of a small layer, one picture for each round.

The view is HTML and CSS without a script, so that it works in a static page and in a notebook: a row of radio
buttons chooses the round (arrow keys move between them), and the last one plays all rounds.
"""

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from epimlib._checks import integers
from epimlib.lab.pictures import COLOURS, add, rect, write

if TYPE_CHECKING:
    from torch import Tensor

    from epimlib.datapath.program import Program

BLUE, GREEN, YELLOW = COLOURS[0], COLOURS[5], COLOURS[2]
TOP = 98  # [px] above the drawings
WIDTHS = (208, 130, 194)  # [px] of the drawings of inputs, matrix and outputs
PIXEL, LINE, COLUMN, BUFFER = 16, 14, 26, 22  # [px] cell of a feature map; word line; column; output word
LARGEST = {"channels": 8, "height": 8, "width": 8, "word lines": 64, "columns": 8, "output channels": 24}
"""What still fits into a picture."""
SECONDS = 3
"""How long the player shows a round."""

STYLE = """
.steps { border: 1px solid #808890; padding: 0.6em; margin: 0; }
.steps legend { font-size: inherit; width: auto; float: none; padding: 0 0.4em; margin: 0; }
.steps .choice { white-space: nowrap; display: inline-block; margin-right: 1em; }
.steps label { margin: 0 0 0 0.2em; }
.steps rect { stroke: currentColor; stroke-opacity: 0.35; }
.steps .panels { display: grid; margin-top: 0.6em; }
.steps .panels > * { grid-area: 1 / 1; visibility: hidden; }
.steps .round { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1em 0.6em; }
@keyframes one-of-%(rounds)d { from { visibility: visible; } %(share).4f%% { visibility: hidden; } }
.steps:has(.play:checked) .panels > * { animation: one-of-%(rounds)d %(total)ds step-end infinite; }
@media print { .steps .panels { display: block; } .steps .panels > * { visibility: visible; } }
"""


def step_view(program: "Program", feature_map: "Tensor", position: tuple[int, int] = (0, 0)) -> str:
    """Return the rounds of one output position as HTML.

    Each picture shows, from left to right, the words that the round fetches from the input feature map, the word
    lines that they drive in the layer's matrix with the cells that conduct, and what the output buffer then holds.

    Args:
        program: of `epimlib.datapath.compile`, with index tables.
        feature_map: integers of one image, ``(C_in, H, W)``.
        position: ``(y, x)`` of the output.

    Raises:
        ValueError: if the layer has no index tables, is too large to be drawn, or as `epimlib.datapath.trace_rounds`.
    """
    from epimlib.datapath.trace import trace_rounds

    if program.tables is None:
        raise ValueError(f"program must have index tables, but {program.layer.name!r} is a grouped convolution")
    if program.layer.kind == "linear":
        raise ValueError(f"program must be of a convolution to be drawn, but {program.layer.name!r} is linear")
    position = integers("position", position, 2, 0)
    states = list(trace_rounds(program, feature_map, position))
    layout = program.layout
    sizes = [*feature_map.shape[-3:], layout.rows, layout.cols, program.layer.out_channels]
    for (name, most), size in zip(LARGEST.items(), sizes, strict=True):
        if size > most:
            raise ValueError(f"{name} must be at most {most} to be drawn, got {size}")

    name = f"steps-{program.layer.name}-{position[0]}-{position[1]}"
    rounds = len(states)
    rules = [STYLE % {"rounds": rounds, "share": 100 / rounds, "total": SECONDS * rounds}]
    root = ET.Element("div")
    box = add(root, "fieldset", **{"class": "steps"})
    add(box, "legend", "Choose a round, or play them all")
    for number in range(rounds):
        _choice(box, name, str(number), f"round {number}", checked=not number)
        rules.append(
            f".steps:has(.choice:nth-of-type({number + 1}) input:checked) .panels > :nth-child({number + 1}) "
            f"{{ visibility: visible; }}"
        )
        rules.append(
            f".steps .panels > :nth-child({number + 1}) {{ animation-delay: {SECONDS * number}s !important; }}"
        )
    _choice(box, name, "play", "play", **{"class": "play"})
    panels = add(box, "div", **{"class": "panels"})
    held: dict[int, float] = {}
    for state in states:
        first, last = state["outputs"]
        held |= zip(range(first, last), state["results"], strict=True)
        for source, copy, channels in state["copies"]:
            held |= {copy + j: held[source + j] for j in range(channels)}
        for start, _, results in state.get("shares", []):
            held |= {start + j: value for j, value in enumerate(results)}
        panels.append(_picture(program, feature_map.reshape(feature_map.shape[-3:]).tolist(), state, held))
    return f"<style>{' '.join(rules)}</style>{ET.tostring(root, encoding='unicode', method='html')}"


def _choice(box: ET.Element, name: str, value: str, label: str, checked: bool = False, **attributes: Any) -> None:
    choice = add(box, "span", **{"class": "choice"})
    button = add(choice, "input", type="radio", name=name, id=f"{name}-{value}", value=value, **attributes)
    if checked:
        button.set("checked", "checked")
    add(choice, "label", label, **{"for": f"{name}-{value}"})


def _picture(program: "Program", image: list, state: dict[str, Any], held: dict[int, float]) -> ET.Element:
    """Draw one round: three drawings side by side, or below each other where the page is narrow."""
    spec = program.tables.spec
    channel, channels = program.tables.ifat[state["round"]].tolist()
    start = program.tables.ifrt[state["round"], 0].item()
    column = program.tables.ofat[state["round"], 0].item()
    first, last = state["outputs"]
    entries = [
        ("IFAT: fetch", f"input channels {_range(channel, channels)}"),
        ("IFRT: drive", f"from word line {start} on"),
        ("OFAT: deliver", f"columns {_range(column, last - first)}"),
    ]
    copied = [f"copied to channels {_range(copy, size)}" for _, copy, size in state["copies"]]
    action = "added to what is there" if state["extends"] else "a new result"
    if "shares" in state:
        action = "weighed and added" if state["extends"] else "weighed: a new result"
        copied = [f"and to channels {_range(start, len(factors))}" for start, factors, _ in state["shares"][1:]]
    root = ET.Element("div", {"class": "round", "role": "img"})
    held_by = state.get("shares", [[first, None, state["results"]]])
    then = [_held(start, factors, results) for start, factors, results in held_by]
    root.set(
        "aria-label",
        f"Round {state['round']}. Fetched: the window of input channels {_range(channel, channels)}. Driven: word "
        f"lines {', '.join(map(str, state['word_lines']))}. Columns {_range(column, last - first)} give the sums "
        f"{', '.join(f'{value:g}' for value in state['sums'])}, {'; '.join([action, *copied])}. "
        f"{'; '.join(then)}.",
    )
    parts = []
    for width, (head, entry) in zip(WIDTHS, entries, strict=True):
        svg = add(root, "svg", **{"class": "plot", "aria-hidden": "true", "xmlns": "http://www.w3.org/2000/svg"})
        svg.attrib |= {"font-family": "sans-serif", "font-size": "12", "width": str(width)}
        write(svg, 1, 14, head, font_weight="bold")
        write(svg, 1, 32, entry)
        parts.append(svg)
    inputs, matrix, outputs = parts
    for number, text in enumerate([f"to channels {_range(first, last - first)}", action, *copied]):
        write(outputs, 1, 48 + 16 * number, text)
    bottoms = [
        _draw_input(add(inputs, "g"), image, state, spec.kernel_size),
        _draw_matrix(add(matrix, "g"), program, state, column),
        _draw_output(add(outputs, "g", transform="translate(8,0)"), program, state, held),
    ]
    matrix.set("width", str(max(WIDTHS[1], 68 + COLUMN * program.layout.cols)))
    for svg, bottom in zip(parts, bottoms, strict=True):
        svg.attrib |= {"viewBox": f"0 0 {svg.get('width')} {bottom + 8:g}", "height": f"{bottom + 8:g}"}
    return root


def _held(start: int, factors: list[float] | None, results: list[float]) -> str:
    """Say in words what output channels hold after a round."""
    by = f", with the coefficients {_words(factors)}," if factors else ""
    return f"Output channels {_range(start, len(results))}{by} then hold {_words(results)}"


def _words(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _draw_input(group: ET.Element, image: list, state: dict[str, Any], kernel: tuple[int, int]) -> float:
    """Draw the feature map, channel by channel, with the fetched words coloured; return where it ends."""
    fetched = {tuple(place) for place in state["fetch"] if place}
    height, width = len(image[0]), len(image[0][0])
    across = 2 if 2 * width * PIXEL + 15 <= WIDTHS[0] else 1
    for c, rows in enumerate(image):
        left = c % across * (width * PIXEL + 13) + 1
        top = TOP + c // across * (height * PIXEL + 30)
        write(group, left, top - 5, f"channel {c}", font_size=11)
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                chosen = (c, y, x) in fetched
                place = (left + x * PIXEL, top + y * PIXEL, PIXEL, PIXEL)
                rect(group, *place, fill=BLUE if chosen else "none")
                ink = {"fill": "#000000"} if chosen else {}
                x_text, y_text = left + (x + 0.5) * PIXEL, top + (y + 0.72) * PIXEL
                write(group, x_text, y_text, f"{value:g}", font_size=10, text_anchor="middle", **ink)
    return TOP + -(-len(image) // across) * (height * PIXEL + 30)


def _draw_matrix(group: ET.Element, program: "Program", state: dict[str, Any], column: int) -> float:
    """Draw the layer's matrix, one crossbar below the other; return where it ends."""
    layout, matrix = program.layout, _stored(program)
    drive = dict(zip(state["word_lines"], state["inputs"], strict=True))
    sensed = range(column, column + len(state["sums"]))
    left, end = 66, 0.0
    for line, weights in enumerate(matrix):
        block = line // layout.packing.usable
        y = TOP + line * LINE + block * 24
        if line % layout.packing.usable == 0:
            write(group, left, y - 5, f"crossbar {block}", font_size=11)
        write(group, 18, y + 11, str(line), font_size=10, text_anchor="end")
        if line in drive:
            write(group, 44, y + 11, f"{drive[line]:g}", font_size=10, text_anchor="end", font_weight="bold")
            add(group, "path", d=f"M48,{y + 7} h{left - 52} m-4,-3 l4,3 l-4,3", stroke="currentColor", fill="none")
        for n, weight in enumerate(weights):
            chosen = line in drive and n in sensed
            place = (left + n * COLUMN, y, COLUMN, LINE)
            rect(group, *place, fill=BLUE if chosen else "none")
            ink = {"fill": "#000000"} if chosen else {"fill_opacity": 0.75}
            write(group, left + (n + 0.5) * COLUMN, y + 11, f"{weight:g}", font_size=10, text_anchor="middle", **ink)
        end = y + LINE
    for n, total in zip(sensed, state["sums"], strict=True):
        write(group, left + (n + 0.5) * COLUMN, end + 16, f"{total:g}", font_size=11, text_anchor="middle")
    write(group, left - 6, end + 16, "sums", font_size=11, text_anchor="end", font_weight="bold")
    return end + 20


def _stored(program: "Program") -> list[list[int]]:
    """Return the integers that the matrix of a layer holds, put together from the levels of ideal cells."""
    conductance = program.conductance.round().long()
    width = program.hardware.crossbar.cell_bits
    total = sum(part << width * k for k, part in enumerate(conductance.unbind(1)))
    offset = 1 << program.bits - 1
    return (total[0] - total[1] if len(total) == 2 else total[0] - offset).tolist()


def _draw_output(group: ET.Element, program: "Program", state: dict[str, Any], held: dict[int, float]) -> float:
    """Draw the output buffer after the round; return where it ends."""
    first, last = state["outputs"]
    copied = {copy + j: source + j for source, copy, size in state["copies"] for j in range(size)}
    added = {c: f"{total:g}" for c, total in zip(range(first, last), state["sums"], strict=True)}
    for start, factors, _ in state.get("shares", []):
        added |= {start + j: f"{factor:g} × {state['sums'][j]:g}" for j, factor in enumerate(factors)}
    for c in range(program.layer.out_channels):
        y = TOP + c * BUFFER
        written = c in added
        colour = GREEN if written else YELLOW if c in copied else "none"
        rect(group, 60, y, 60, BUFFER, fill=colour)
        write(group, 54, y + 15, f"channel {c}", font_size=11, text_anchor="end")
        ink = {} if colour == "none" else {"fill": "#000000"}
        write(group, 114, y + 15, f"{held[c]:g}" if c in held else "", font_size=11, text_anchor="end", **ink)
        if written:
            sign = "+" if state["extends"] and not added[c].startswith("-") else ""
            write(group, 126, y + 15, f"{sign}{added[c]}", font_size=11)
        elif c in copied:
            write(group, 126, y + 15, f"copy of {copied[c]}", font_size=11)
    return TOP + program.layer.out_channels * BUFFER


def _range(start: int, count: int) -> str:
    return f"{start} to {start + count - 1}" if count > 1 else str(start)
