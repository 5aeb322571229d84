"""What a question of an exam is, and the bank that questions register in.

A question draws its numbers, takes the key from the library (or from a committed record), and works the answer out a
second time by hand: a formula, a list of cases. Both must agree, which a test holds for many seeds.
"""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from epimlib.epitome.workload import Layer, Workload
from epimlib.pim.hardware import Hardware


class Drawn(NamedTuple):
    """A question with numbers."""

    text: str
    key: Mapping[str, Any]
    """What is asked for, by name: numbers, lists of numbers or words."""
    steps: str
    """The worked answer."""


@dataclass(frozen=True)
class Question:
    """A question of the bank."""

    name: str
    chapter: int
    points: int
    title: str
    make: Callable[[random.Random], Drawn]

    def draw(self, seed: int) -> Drawn:
        """Return the question with the numbers of a seed, which do not depend on other questions."""
        return self.make(random.Random(seed << 32 | zlib.crc32(self.name.encode())))


BANK: dict[str, Question] = {}
"""Every question by its name."""


def question(chapter: int, points: int, title: str) -> Callable:
    """Register a function that draws a question, under the function's name."""

    def register(make: Callable[[random.Random], Drawn]) -> Callable[[random.Random], Drawn]:
        if make.__name__ in BANK:
            raise ValueError(f"two questions are called {make.__name__!r}")
        BANK[make.__name__] = Question(make.__name__, chapter, points, title, make)
        return make

    return register


def shown(value: Any) -> str:
    """Return a value as sheets and keys show it: whole numbers in full, others to four digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(map(shown, value))
    if isinstance(value, int) or value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def terms(values: Sequence[Any], sign: str = " + ") -> str:
    """Return values as a sum, or with another sign between them; negative ones in brackets."""
    return sign.join(f"({shown(value)})" if value < 0 else shown(value) for value in values)


def up(number: int, by: int) -> int:
    """Return ``number / by``, rounded up."""
    return -(-number // by)


def hardware(size: int = 256, **changes: Any) -> Hardware:
    """Return the preset ``default`` with square crossbars, and changes ``section_field=value``."""
    named = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return Hardware.preset("default").replace({"crossbar.rows": size, "crossbar.cols": size} | named)


def conv(inp: int, out: int, kernel: int = 1, size: int = 1, stride: int = 1, **more: Any) -> Layer:
    """Return a convolution on a square feature map of ``size``, padded by half of its kernel."""
    sizes = {"in_size": (size, size), "out_size": (up(size, stride),) * 2, "padding": (kernel // 2,) * 2}
    return Layer("layer", "conv", inp, out, (kernel, kernel), (stride, stride), **sizes | more)


def alone(layer: Layer) -> Workload:
    """Return a network of one layer."""
    return Workload("one layer", (layer.in_channels, *layer.in_size), (layer,))
