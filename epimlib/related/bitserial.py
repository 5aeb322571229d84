"""Arithmetic by NOR gates inside a memory: what one exact sum or product costs in cycles.

A digital processing-in-memory machine has no converters. Numbers lie bit by bit in the columns of a crossbar, and one
operation acts on all rows at once: the cells of one column become the NOR of other columns. A gate takes two cycles,
one that initialises its output column and one that switches it. The counts of integer operations are found by
executing them on a `Machine`; those of floating-point operations are the public ones of AritPIM (Leitersdorf et al.,
2022), which a `Machine` is not asked to execute.
"""

import numpy as np

from epimlib._checks import one_of, positive

GATE = 2
"""Cycles of a gate: initialise, switch."""
FORMATS = {"bfloat16": (8, 7), "float16": (5, 10), "float32": (8, 23), "float64": (11, 52)}
"""Exponent and mantissa bits of a floating-point format (IEEE 754; bfloat16: the upper half of a float32)."""
SERIAL = {
    "multiply": {"bfloat16": 1742, "float16": 2780, "float32": 11586, "float64": 46204},
    "divide": {"bfloat16": 3749, "float16": 5639, "float32": 19909, "float64": 83255},
}
"""Cycles of AritPIM's bit-serial floating-point operations that have no closed form here."""


class Machine:
    """Columns of bits with one operation, the NOR of some columns, on all rows at once.

    Numbers are tuples of columns, the lowest bit first; a column is a boolean array of shape (rows,). Every operation
    counts its `cycles`; writing operands and reading results count nothing.

    Example: 3 + 6 in four bits, on one row::

        machine = Machine(1)
        total = machine.add(machine.write([3], 4), machine.write([6], 4))
        machine.read(total)        # [9]
        machine.cycles             # 18 * 4 + 1 = 73
    """

    def __init__(self, rows: int) -> None:
        """Make an empty machine.

        Raises:
            TypeError, ValueError: if ``rows`` is not a positive integer.
        """
        self.rows = positive("rows", rows)
        self.cycles = 0

    def write(self, values: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
        """Return the columns of one unsigned integer for each row; ``values`` has shape (rows,).

        Raises:
            ValueError: if the values are not one integer for each row, or do not fit ``bits`` (at most 31, so that
                products fit 64).
        """
        positive("bits", bits, maximum=31)
        values = np.asarray(values)
        if values.shape != (self.rows,) or values.dtype.kind not in "iu":
            given = f"{values.dtype} of shape {values.shape}"
            raise ValueError(f"values must be one integer for each of {self.rows} rows, got {given}")
        if values.min() < 0 or values.max() >= 1 << bits:
            raise ValueError(f"values must fit {bits} bits, got {values.min()} to {values.max()}")
        return tuple((values >> bit) & 1 == 1 for bit in range(bits))

    @staticmethod
    def read(columns: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return the integers, shape (rows,), that columns hold."""
        return sum(column.astype(np.int64) << bit for bit, column in enumerate(columns))

    def constant(self, value: bool) -> np.ndarray:
        """Return a column of one value, which takes the cycle of an initialisation."""
        self.cycles += 1
        return np.full(self.rows, value)

    def nor(self, *columns: np.ndarray) -> np.ndarray:
        """Return, row by row, whether all columns are 0."""
        self.cycles += GATE
        return ~np.logical_or.reduce(columns)

    def full_adder(self, a: np.ndarray, b: np.ndarray, carry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sum and carry of three bits: nine gates."""
        neither = self.nor(a, b)
        same = self.nor(self.nor(a, neither), self.nor(b, neither))  # XNOR of a and b
        lacks_carry = self.nor(same, carry)
        total = self.nor(self.nor(lacks_carry, carry), self.nor(same, lacks_carry))
        return total, self.nor(neither, lacks_carry)

    def add(self, a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Return the sum of two numbers of N bits, with N + 1 bits, in 18 N + 1 cycles."""
        return self._add(a, b, self.constant(False))

    def subtract(self, a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Return a - b modulo 2^N and, as the highest column, whether a >= b, in 20 N + 1 cycles."""
        return self._add(a, tuple(self.nor(bit) for bit in b), self.constant(True))

    def multiply(self, a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Return the product of two numbers of N bits, with 2 N bits, by N - 1 additions of N bits."""
        absent, present = [self.nor(bit) for bit in a], [self.nor(bit) for bit in b]
        product, high = [], (self.constant(False),) * len(a)
        for row, bit in enumerate(present):
            partial = tuple(self.nor(other, bit) for other in absent)  # the AND of both
            high = self.add(high, partial) if row else (*partial, high[0])
            product.append(high[0])
            high = high[1:]
        return *product, *high

    def _add(self, a: tuple, b: tuple, carry: np.ndarray) -> tuple[np.ndarray, ...]:
        if len(a) != len(b):
            raise ValueError(f"both numbers must have as many bits, got {len(a)} and {len(b)}")
        total = []
        for pair in zip(a, b, strict=True):
            bit, carry = self.full_adder(*pair, carry)
            total.append(bit)
        return *total, carry


def float_cycles(operation: str, format: str = "float32") -> int:
    """Return the cycles of one floating-point operation, bit-serial, all rows at once.

    With m mantissa and e exponent bits, an addition takes, of operands of one sign (``"add unsigned"``) and of any
    sign (``"add"``), and with L(x) = ceil(log2 x)::

        47 m + 57 e + 102 + ( 6 m + 21) L(m + 2) - 4 * 2^L(m + 2)
        74 m + 79 e + 299 + (12 m + 48) L(m + 3) - 8 * 2^L(m + 3)

    Source: repository of AritPIM; ``"multiply"`` and ``"divide"`` are its table, for the four `FORMATS`.

    Raises:
        ValueError: if an operation or a format is unknown.
    """
    one_of("operation", operation, ["add", "add unsigned", *SERIAL])
    one_of("format", format, FORMATS)
    if operation in SERIAL:
        return SERIAL[operation][format]
    return float_add_cycles(*FORMATS[format], signed=operation == "add")


def float_add_cycles(exponent: int, mantissa: int, signed: bool = True) -> int:
    """Return the cycles of an addition of any floating-point format, by the forms of `float_cycles`.

    Raises:
        TypeError, ValueError: if a number of bits is not a positive integer.
    """
    e, m = positive("exponent", exponent), positive("mantissa", mantissa)
    if signed:
        level = (m + 2).bit_length()  # ceil(log2(m + 3))
        return 74 * m + 79 * e + 299 + (12 * m + 48) * level - (8 << level)
    level = (m + 1).bit_length()  # ceil(log2(m + 2))
    return 47 * m + 57 * e + 102 + (6 * m + 21) * level - (4 << level)
