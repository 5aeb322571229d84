"""Where a layer's matrix lies on crossbars, and what one round of the index tables reads there.

This is the layout of one bit slice and one sign; all others are alike. The closed form of
`epimlib.pim.events` counts the same reads without listing them.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import Packing, pack
from epimlib.pim.tables import Tables


class Read(NamedTuple):
    """One row group of one row block: word lines that are driven together, and columns that are sensed."""

    inputs: slice
    """What drives the word lines: a part of the input window of an output position, channel by channel."""
    lines: np.ndarray
    """Rows of the layer's matrix that are driven, ascending, ``(k,)``."""
    places: np.ndarray
    """Their word lines on the crossbar, ``(k,)``."""
    block: int
    """Row block, counted through the layer."""
    group: int
    """Row group within the row block."""
    columns: slice
    """Columns of the layer's matrix that are sensed."""
    crossbars: int
    """Column blocks that these columns span."""
    outputs: slice
    """Output channels that receive the sums."""
    tree: bool
    """Whether the adder tree has to add it: the first read of every row block but the first."""


class Round(NamedTuple):
    """One round of the index tables."""

    inputs: slice
    """The part of the input window that is fetched."""
    outputs: slice
    """Output channels that receive the sums."""
    extends: bool
    """Whether the sums extend a partial sum."""
    receivers: tuple[slice, ...]
    """``outputs``; with coefficients also the output channels of the blocks that share the sums."""
    input_block: int
    """Which has coefficients of its own."""
    reads: tuple[Read, ...]
    steps: int
    """Reads one after the other, times columns that share an ADC, on the crossbar that takes longest."""


@dataclass(frozen=True)
class Layout:
    """A matrix on crossbars.

    A grouped convolution is block-diagonal: group ``g`` has ``rows`` rows from ``g * rows`` on and ``cols`` columns
    from ``g * cols`` on.
    """

    hardware: Hardware
    groups: int
    rows: int
    """Of one group."""
    cols: int
    """Of one group."""
    window: int
    """Rows of one channel."""

    @cached_property
    def packing(self) -> Packing:
        """Where the groups lie on crossbars."""
        return pack(self.groups, self.rows, self.cols, self.window, self.hardware.crossbar)

    def bit_lines(self, columns: slice) -> np.ndarray:
        """Return the bit line of every column, counted through the column blocks of its array."""
        return np.arange(columns.start, columns.stop) % (self.packing.together * self.cols)

    @property
    def adcs(self) -> tuple[int, int]:
        """Column blocks of one array, and ADCs of a crossbar. ADC ``a`` serves bit lines ``a, a + ADCs, ...``."""
        crossbar = self.hardware.crossbar
        return self.packing.col_blocks, min(self.hardware.adc.per_crossbar, crossbar.cols)

    def rounds(self, tables: Tables | None) -> tuple[Round, ...]:
        """Return the rounds of the tables; without any, the single round of a grouped convolution."""
        if tables is None:
            rows, cols = slice(0, self.groups * self.rows), slice(0, self.groups * self.cols)
            return (self._round(rows, np.arange(rows.stop), cols, cols, False, (cols,), 0),)
        taps = math.prod(tables.spec.kernel_size)
        sharing: dict[int, list[slice]] = {}
        for source, copy, channels in tables.copies.tolist() if tables.spec.weighed else []:
            sharing.setdefault(source, []).append(slice(copy, copy + channels))
        entries = zip(tables.ifat.tolist(), tables.ofat.tolist(), strict=True)
        return tuple(
            self._round(
                slice(channel * taps, (channel + channels) * taps),
                tables.word_lines(number),
                slice(column, column + outputs),
                slice(output, output + outputs),
                bool(extends),
                (slice(output, output + outputs), *sharing.get(output, [])),
                channel // tables.spec.block[1],
            )
            for number, ((channel, channels), (column, output, outputs, extends)) in enumerate(entries)
        )

    def _round(
        self,
        inputs: slice,
        lines: np.ndarray,
        columns: slice,
        outputs: slice,
        extends: bool,
        receivers: tuple[slice, ...],
        input_block: int,
    ) -> Round:
        packing = self.packing
        array, row = np.divmod(lines, packing.together * self.rows)
        block, place = array * packing.row_blocks + row // packing.usable, row % packing.usable
        group = place // self.hardware.dac.per_crossbar
        cuts = np.flatnonzero((np.diff(block) != 0) | (np.diff(group) != 0)) + 1
        reads: list[Read] = []
        steps: dict[int, int] = {}
        for part in np.split(np.arange(len(lines)), cuts):
            first, last = part[0], part[-1]
            sensed, sums = columns, outputs
            if self.groups > 1:  # only columns that have cells on these word lines
                start, stop = lines[first] // self.rows, lines[last] // self.rows + 1
                sensed = sums = slice(int(start) * self.cols, int(stop) * self.cols)
            columns_of = np.bincount(self.bit_lines(sensed) // self.hardware.crossbar.cols)  # every column block
            tree = first > 0 and array[first] == array[first - 1] and block[first] != block[first - 1]
            reads.append(
                Read(
                    inputs=slice(inputs.start + int(first), inputs.start + int(last) + 1),
                    lines=lines[part],
                    places=place[part],
                    block=int(block[first]),
                    group=int(group[first]),
                    columns=sensed,
                    crossbars=int((columns_of > 0).sum()),
                    outputs=sums,
                    tree=bool(tree),
                )
            )
            taken = math.ceil(int(columns_of.max()) / self.adcs[1])
            steps[int(block[first])] = steps.get(int(block[first]), 0) + taken
        return Round(inputs, outputs, extends, receivers, input_block, tuple(reads), max(steps.values()))
