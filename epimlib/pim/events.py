"""What happens in the datapath when a layer is computed, counted.

The same counts exist twice: here in closed form, for the cost model, and in `epimlib.datapath.simulate`, which
counts while it executes. They must be equal. Energy is then counts times the energy of each action.

What is assumed of the hardware (our reconstruction, after ISAAC and MNSIM):

- Every output position is computed on its own: each round fetches its whole input window, and nothing is kept
  from one position to the next. Positions outside the feature map are zero; they are not fetched, but driven
  like others.
- An input word goes through the DACs in *cycles* of ``dac.bits`` bits. The sign of a signed input (two's
  complement) takes a cycle of its own, whose result is subtracted.
- A crossbar with fewer DACs than rows is read in *row groups*, one after the other: as many word lines at a time
  as it has DACs, from the first on.
- With polarity 2 the currents of the two crossbars of a pair are subtracted before the ADC (analog
  subtraction): a pair shares its DACs and takes one conversion per column. Bit slices and column blocks have
  DACs of their own.
- An ADC converts every read, and the codes are shifted and added digitally. If ``adc.accumulate`` says so, reads are
  added before, by analog circuits behind every column: those that are worth the same power of two, or all cycles and
  slices, weighed by what they are worth. A sum is one of the reads of one row group; slices share its conversion.
- With polarity 1 the weights are stored with an offset. The inputs of a round are added up digitally as they
  are fetched, and this sum times the offset is subtracted from every column sum.
- With round coefficients the joint module weighs a column sum before it adds it. A sign negates or not; a power of
  two is a shift besides; a free coefficient is a shifted addition for each of its seven magnitude bits, all at once.
  Where several output blocks share the sums of their rounds, these are stored as they are. In the last round they are
  read once, and as many adders as there are blocks, side by side, weigh them and the last sums each for its own block.
- Groups of a grouped convolution that share a crossbar are read together; each column is converted only in
  the row groups that hold its own rows.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from epimlib._checks import positive
from epimlib.epitome.plan import COEFFICIENT_SHIFTS, EpitomeSpec, check_fit
from epimlib.epitome.workload import Layer
from epimlib.pim.hardware import Crossbar, Hardware
from epimlib.pim.mapping import bit_slices, pack, rows_in_use
from epimlib.pim.tables import Tables


@dataclass(frozen=True)
class Events:
    """Numbers of actions. They add up (``a + b``, ``sum(all, Events())``) and multiply (``images * a``)."""

    rounds: int = 0
    """Rounds, over all output positions."""
    steps: int = 0
    """Analog steps that follow one another: rounds x cycles x row groups x columns that share an ADC."""
    input_writes: int = 0
    """Words (of activation_bits) written to the input buffer: every input of the layer, once."""
    input_reads: int = 0
    """Such words fetched from it, once per round however many crossbars they feed."""
    word_lines: int = 0
    """Word lines driven, per cycle and crossbar (both of a pair)."""
    dac_conversions: int = 0
    """DAC conversions: word lines driven per cycle and crossbar or pair."""
    crossbar_reads: int = 0
    """Analog reads of one crossbar (both of a pair): one per cycle and row group."""
    cell_reads: int = 0
    """Cells that hold a part of a weight and conduct in these reads: on a driven word line and a sensed
    column."""
    adc_conversions: int = 0
    """ADC conversions: one per cycle, row group, bit slice and sensed column; with analog sums one per sum, that is
    `epimlib.pim.hardware.Adc.conversions` per row group and sensed column."""
    shift_adds: int = 0
    """Additions of a shifted conversion result to the register of its column: one per conversion."""
    tree_adds: int = 0
    """Additions of column sums of different row blocks in the adder tree."""
    offset_adds: int = 0
    """Additions for the offset of polarity 1: one per driven word line of a round, and one per column sum."""
    joins: int = 0
    """Additions of a round's column sum to a partial sum, by the joint module; with coefficients for every output block
    that shares it."""
    copies: int = 0
    """Output words that are copies of others (feature-map reuse); with coefficients, that share the sums of others."""
    output_reads: int = 0
    """Words (partial sums) read from the output buffer: one per join, or, with coefficients, for all that share it."""
    output_writes: int = 0
    """Words written to the output buffer: the column sums of every round, joined or not, and the copies."""
    table_bits: int = 0
    """Bits read from the index tables: every entry, once per output position."""
    negations: int = 0
    """Column sums that the joint module weighs by a coefficient's sign, for every output block that shares them."""
    shifts: int = 0
    """Shifts of a column sum by a coefficient: one for a power of two, seven for a free coefficient."""
    analog_adds: int = 0
    """Additions of a read to an analog sum: one per cycle, row group, bit slice and sensed column."""

    def __add__(self, other: "Events") -> "Events":
        if not isinstance(other, Events):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Events(*(a + b for a, b in pairs))

    def __mul__(self, times: int) -> "Events":
        if isinstance(times, bool) or not isinstance(times, int):
            return NotImplemented
        return Events(*(times * a for a in vars(self).values()))

    __rmul__ = __mul__

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name; those of round coefficients and analog sums only where there are some."""
        return {name: count for name, count in vars(self).items() if count or name not in _OPTIONAL}

    def __str__(self) -> str:
        counts = self.to_dict()
        width = max(len(f"{count:,}") for count in counts.values())
        return "\n".join(f"{name:<16} {count:>{width},}" for name, count in counts.items())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{count:,}</td></tr>" for name, count in self.to_dict().items())
        return f"<table><thead><tr><th>event</th><th>count</th></tr></thead><tbody>{rows}</tbody></table>"


_OPTIONAL = ("negations", "shifts", "analog_adds")


def layer_events(
    layer: Layer,
    spec: EpitomeSpec | None,
    hardware: Hardware,
    bits: int,
    activation_bits: int,
    signed: bool = False,
) -> Events:
    """Return the events of one layer for one image, in closed form.

    Args:
        layer: convolution or linear layer.
        spec: its epitome, or None for a dense layer.
        hardware: crossbar, DACs, ADCs and ``reuse`` are read.
        bits: of a weight, sign included.
        activation_bits: of an input, sign included if it has one.
        signed: whether inputs are signed.

    Raises:
        ValueError: if the layer has no weight, the epitome is for another weight, or a crossbar is smaller
            than one channel's window.
    """
    one, _ = position_events(layer, spec, hardware)
    cycles, positions = input_cycles(activation_bits, hardware.dac.bits, signed), layer.positions
    crossbar, adc, slices = hardware.crossbar, hardware.adc, bit_slices(bits, hardware.crossbar)
    analog = positions * cycles * slices
    converted = positions * adc.conversions(cycles, slices, hardware.dac.bits, crossbar.cell_bits, signed)
    both = analog * crossbar.polarity
    return Events(
        rounds=positions * one.rounds,
        steps=positions * cycles * one.steps,
        input_writes=layer.in_channels * math.prod(layer.in_size),
        input_reads=math.prod(_taps(*axis) for axis in layer.axes) * one.input_reads,
        word_lines=both * one.word_lines,
        dac_conversions=analog * one.dac_conversions,
        crossbar_reads=both * one.crossbar_reads,
        cell_reads=both * one.cell_reads,
        adc_conversions=converted * one.adc_conversions,
        shift_adds=converted * one.shift_adds,
        tree_adds=positions * one.tree_adds,
        offset_adds=positions * one.offset_adds,
        joins=positions * one.joins,
        copies=positions * one.copies,
        output_reads=positions * one.output_reads,
        output_writes=positions * one.output_writes,
        table_bits=positions * one.table_bits,
        negations=positions * one.negations,
        shifts=positions * one.shifts,
        analog_adds=analog * one.adc_conversions * (adc.accumulate != "read"),
    )


def input_cycles(activation_bits: int, dac_bits: int, signed: bool = False) -> int:
    """Return the DAC cycles of one input: ``ceil(bits / dac_bits)``; a sign bit takes a cycle of its own."""
    positive("activation_bits", activation_bits, 1 + signed)
    return math.ceil((activation_bits - signed) / positive("dac.bits", dac_bits)) + signed


def _taps(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return how many of the ``out * kernel`` window elements along one axis lie inside the feature map."""
    total = 0
    for start in range(-padding, -padding + kernel * dilation, dilation):  # of position 0, for every window element
        first = max(0, -(start // stride))
        total += max(0, min(out - 1, (size - 1 - start) // stride) - first + 1)
    return total


def position_events(layer: Layer, spec: EpitomeSpec | None, hardware: Hardware) -> tuple[Events, int]:
    """Return what one output position takes, and how many row groups are read one after the other.

    The events are those of one cycle, one bit slice and one sign, summed over the rounds; an input channel counts as
    one ``input_reads``. Row groups are those of the crossbar that takes longest of each round. Arguments and errors as
    for `layer_events`.
    """
    if not layer.weighted:
        raise ValueError(f"layer must have a weight, got {layer.name!r} of kind {layer.kind!r}")
    crossbar = hardware.crossbar
    converters = min(hardware.dac.per_crossbar, crossbar.rows), min(hardware.adc.per_crossbar, crossbar.cols)
    if spec is None:
        return _dense(layer.weight_shape, layer.groups, crossbar, *converters)
    check_fit(f"epitome of {layer.name!r}", spec, layer.weight_shape, layer.groups)
    return _sampled(spec, hardware.reuse, crossbar, *converters)


@lru_cache(maxsize=4096)
def _dense(
    shape: tuple[int, int, int, int], groups: int, crossbar: Crossbar, dacs: int, adcs: int
) -> tuple[Events, int]:
    """Return what a dense layer takes: as the epitome that is its own weight.

    Groups of a grouped convolution are layers side by side: they work at the same time, and all else adds up. Those
    that share a crossbar are read together, and each column is sensed in the row groups that hold its rows.
    """
    out, inp, *kernel = shape
    rows, cols = inp * math.prod(kernel), out // groups
    one, turns = _sampled(EpitomeSpec.dense(cols, inp, kernel), False, crossbar, dacs, adcs)
    side_by_side = replace(groups * one, rounds=1, steps=one.steps)
    together = pack(groups, rows, cols, math.prod(kernel), crossbar).together
    if together == 1:
        return side_by_side, turns

    def sensed(groups: int) -> list[int]:
        """Groups that are sensed in each row group of a crossbar that ``groups`` share."""
        starts = range(0, groups * rows, dacs)
        return [min(groups - 1, (start + dacs - 1) // rows) - start // rows + 1 for start in starts]

    full, rest = divmod(groups, together)
    everywhere = full * sensed(together) + sensed(rest)
    conversions = cols * sum(everywhere)
    shared = replace(
        side_by_side,
        steps=sum(math.ceil(number * cols / adcs) for number in sensed(together)),
        crossbar_reads=len(everywhere),
        adc_conversions=conversions,
        shift_adds=conversions,
    )
    return shared, len(sensed(together))


@lru_cache(maxsize=4096)
def _sampled(spec: EpitomeSpec, reuse: bool, crossbar: Crossbar, dacs: int, adcs: int) -> tuple[Events, int]:
    """Return what the rounds of an epitome's index tables take."""
    tables = Tables.from_plan(spec.plan(), reuse)
    column, _, columns, extends = tables.ofat.T
    rows = tables.ifat[:, 1] * math.prod(spec.kernel_size)
    driven = _row_groups(tables, rows_in_use(math.prod(spec.epitome[2:]), crossbar), dacs)
    turns, row_groups, row_blocks = driven.max(axis=1), driven.sum(axis=1), (driven > 0).sum(axis=1)
    col_blocks, widest = _column_blocks(column, columns, crossbar.cols)
    lines, conversions = (rows * col_blocks).sum(), (row_groups * columns).sum()
    received, copies = tables.received, tables.copies[:, 2].sum()
    counts = {
        "rounds": tables.rounds,
        "steps": (turns * -(-widest // adcs)).sum(),
        "input_reads": tables.ifat[:, 1].sum(),
        "word_lines": lines,
        "dac_conversions": lines,
        "crossbar_reads": (row_groups * col_blocks).sum(),
        "cell_reads": (rows * columns).sum(),
        "adc_conversions": conversions,
        "shift_adds": conversions,
        "tree_adds": ((row_blocks - 1) * columns).sum(),
        "offset_adds": (rows + columns).sum() * (crossbar.polarity == 1),
        "joins": (received * extends).sum(),
        "copies": copies,
        "output_reads": (columns * extends).sum(),
        "output_writes": columns.sum() + copies,
        "table_bits": tables.bits,
        "negations": received.sum() * spec.weighed,
        "shifts": received.sum() * COEFFICIENT_SHIFTS[spec.coefficients],
    }
    return Events(**{name: int(count) for name, count in counts.items()}), int(turns.sum())


def _row_groups(tables: Tables, usable: int, dacs: int) -> np.ndarray:
    """Return how many row groups each round drives in every row block, ``(rounds, row blocks)``.

    Row groups are numbered through all row blocks. The first that a run of driven word lines touches is marked with 1,
    the one after its last with -1; the running sum is positive where a run lies. With row blocks of 4 word lines,
    2 DACs, and runs of the word lines 1 to 2 and 6 to 7 of 10::

        row group     0  1 |  2  3 |  4  5 |
        marks         1  0   -1  1   -1  0    0
        running sum   1  1    0  1    0  0          driven: two row groups of the first row block, one of the second
    """
    per_block, blocks = math.ceil(usable / dacs), math.ceil(tables.spec.rows / usable)
    round, run = np.nonzero(tables.runs >= 0)
    first = tables.runs[round, run]
    last = first + tables.spec.kernel_size[1] - 1
    mark = np.zeros((tables.rounds, blocks * per_block + 1), dtype=np.int64)
    np.add.at(mark, (round, first // usable * per_block + first % usable // dacs), 1)
    np.add.at(mark, (round, last // usable * per_block + last % usable // dacs + 1), -1)
    return (mark.cumsum(axis=1)[:, :-1] > 0).reshape(tables.rounds, blocks, per_block).sum(axis=2)


def _column_blocks(column: np.ndarray, columns: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how many column blocks the columns of each round lie in, and how many columns at most in one of them."""
    blocks = (column + columns - 1) // size - column // size + 1
    left = np.minimum(columns, size - column % size)
    right = columns - left - np.maximum(blocks - 2, 0) * size
    return blocks, np.where(blocks > 2, size, np.maximum(left, right))
