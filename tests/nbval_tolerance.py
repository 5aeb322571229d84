"""nbval compares the text of outputs; this plugin lets the decimals in it differ in their last digits.

Words, integers and the number of numbers must agree exactly. A number written with a decimal point or an
exponent may differ by ``RELATIVE`` of the larger one: another processor, or another release of a numerical
library, adds in another order. The width of the blank space between words is not compared, because a table
moves when a number changes its length.
"""

import math
import re

from nbval.plugin import IPyNbCell

RELATIVE = 1e-4
ABSOLUTE = 1e-9

# A number stands alone: the 3 of "conv3" and the 50 of "resnet50" belong to words.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]*\w)")


def same(left: str, right: str) -> bool:
    """Return whether two printed texts agree within the tolerance."""
    words = [NUMBER.sub(" # ", text).replace("-", " ").split() for text in (left, right)]
    numbers = [NUMBER.findall(text) for text in (left, right)]
    if words[0] != words[1] or len(numbers[0]) != len(numbers[1]):
        return False
    return all(a == b or close(a, b) for a, b in zip(*numbers, strict=True))


def close(a: str, b: str) -> bool:
    """Return whether two printed numbers agree; whole numbers never do unless they are equal."""
    decimal = any(sign in a.lower() + b.lower() for sign in ".e")
    return decimal and math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE)


class Text(str):
    """Printed text that equals another one within the tolerance."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or (isinstance(other, str) and same(self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other


def pytest_configure() -> None:
    """Make nbval compare by this rule; it offers no hook for that, so its cells' last step is wrapped."""
    exact = IPyNbCell.sanitize

    def sanitize(cell: IPyNbCell, output: object) -> object:
        output = exact(cell, output)
        return Text(output) if isinstance(output, str) else output

    IPyNbCell.sanitize = sanitize
