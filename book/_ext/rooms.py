"""Sphinx extension: the directive ``rooms`` draws the rooms of the library and which of them imports which.

It reads the files as they are when the book is built, so the picture cannot go stale.
"""

import ast
import html
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

LIBRARY = Path(__file__).parents[2] / "epimlib"
WIDTH, HEIGHT, GAP, SIDE = 520, 48, 14, 120  # [px] of a room, between rooms, for the arrows beside them


def rooms() -> dict[str, str]:
    """Return the rooms and the first sentence that each says of itself."""
    files = sorted(LIBRARY.glob("*/__init__.py"))
    return {path.parent.name: ast.get_docstring(ast.parse(path.read_text("utf-8"))).split(".")[0] for path in files}


def imports() -> dict[str, set[str]]:
    """Return for each room the other rooms that any of its files imports, anywhere in the file."""
    known, found = rooms(), {}
    for room in known:
        trees = [ast.parse(path.read_text("utf-8")) for path in (LIBRARY / room).rglob("*.py")]
        modules = [node.module for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {module.split(".")[1] for module in modules if module and module.startswith("epimlib.")}
        found[room] = names & set(known) - {room}
    return found


def floors(below: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: one above the highest room that it imports."""
    floor: dict[str, int] = {}
    while len(floor) < len(below):
        ready = [room for room in below if room not in floor and below[room] <= set(floor)]
        if not ready:
            raise ValueError(f"rooms import each other: {sorted(set(below) - set(floor))}")
        floor |= {room: 1 + max((floor[other] for other in below[room]), default=-1) for room in ready}
    return floor


def svg() -> str:
    """Return the picture, in the colour of the text around it; arrows that follow from others are left out."""
    below, says = imports(), rooms()
    floor = floors(below)
    order = sorted(below, key=floor.get, reverse=True)
    middle = {room: number * (HEIGHT + GAP) + HEIGHT / 2 for number, room in enumerate(order)}
    parts = []
    for room in order:
        y = middle[room]
        parts.append(
            f'<rect y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="none" stroke="currentColor"/>'
            f'<text x="12" y="{y - 4:g}" font-weight="bold">{room}</text>'
            f'<text x="12" y="{y + 14:g}" font-size="13">{html.escape(says[room])}</text>'
        )
        implied = set().union(*(reach(below, other) for other in below[room]))
        for other in below[room] - implied:
            end = middle[other] - 8  # arrows come in above the middle and go out below it
            bend = WIDTH + 24 * (order.index(other) - order.index(room))
            parts.append(
                f'<path d="M{WIDTH} {y + 8:g}C{bend} {y + 8:g} {bend} {end:g} {WIDTH + 2} {end:g}" fill="none" '
                'stroke="currentColor" stroke-width="1.5" marker-end="url(#rooms-arrow)"/>'
            )
    told = "; ".join(f"{room} imports {', '.join(sorted(below[room])) or 'none'}" for room in order)
    width, height = WIDTH + SIDE, len(order) * (HEIGHT + GAP) - GAP
    return (
        f'<svg role="img" viewBox="-2 -2 {width + 4} {height + 4}" '
        f'style="max-width: {width}px; width: 100%; margin-bottom: 1.5em" '
        f'fill="currentColor" font-size="15"><title>Rooms of the library: {told}.</title>'
        '<defs><marker id="rooms-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>' + "".join(parts) + "</svg>"
    )


def reach(below: dict[str, set[str]], room: str) -> set[str]:
    """Return every room below a room."""
    return below[room].union(*(reach(below, other) for other in below[room]))


class Rooms(SphinxDirective):
    """``{rooms}``: the picture."""

    def run(self) -> list[nodes.Node]:
        for path in LIBRARY.rglob("*.py"):
            self.env.note_dependency(str(path))
        return [nodes.raw("", svg(), format="html")]


def setup(app):
    app.add_directive("rooms", Rooms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
