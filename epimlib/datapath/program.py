"""A program: one layer on crossbars, as `compile` programs it and as `run` and `trace_rounds` execute it.

::

    program = compile(plan, epitome, hardware, bits=8, activation_bits=8, padding=1)
    output, events = run(program, feature_map)

`compile` works out, from the index tables, which cells are read in which round; a `Program` holds the rounds, the
cells and what follows from both. With an ADC wide enough the output equals an integer convolution by the sampled
weight, bit by bit, on every backend: all sums are products of matrices of whole numbers that their type holds. What
the hardware is assumed to do is said in `epimlib.pim.events`, and how its analog part errs in
`epimlib.datapath.analog`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from epimlib.datapath import analog
from epimlib.datapath.analog import NonIdealities
from epimlib.datapath.layout import Layout, Read, Round
from epimlib.datapath.whole import EXACT, exact_float32
from epimlib.epitome.plan import COEFFICIENT_MOST
from epimlib.epitome.workload import Layer
from epimlib.pim.hardware import Hardware
from epimlib.pim.tables import Tables
from epimlib.quant.grid import input_limits


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """Programmed crossbars and what to do with them. `compile` makes it."""

    layer: Layer
    """The layer; the sizes of its feature maps are left open."""
    hardware: Hardware
    bits: int
    activation_bits: int
    signed: bool
    errors: NonIdealities
    layout: Layout
    tables: Tables | None
    """Index tables; None for a grouped convolution, which has one round and nothing to look up."""
    rounds: tuple[Round, ...]
    weight: Tensor
    """The integers ``(C_out, C_in / groups, k_h, k_w)`` that the rounds amount to, int64."""
    weight_scale: Tensor
    """Value of one step of each, float64: a number, or of the weight's shape."""
    scale: Tensor
    """The same by ``(row blocks, columns)`` of the layer's matrix."""
    coefficients: Tensor | None
    """Integers by which the joint module weighs column sums, float64 ``(C_out, n_in)``; None: as they are."""
    conductance: Tensor
    """Of every cell, in levels, float32: ``(polarity, slices, rows, columns of one group)``."""
    adc_step: Tensor
    """Current of one ADC step for every bit slice, or analog sum, float64."""
    adc_error: Tensor | None
    """Relative gain error and offset (in steps): ``(2, row blocks, slices, column blocks, ADCs)``."""
    adc_noise: Tensor | None = None
    """Standard deviation of the noise of what an ADC converts, for every bit slice, or analog sum."""

    @exact_float32()
    def cells(self, read: Read) -> Tensor:
        """Return the cells that a read uses, in levels, ``(k, slices, columns)``; pairs are subtracted."""
        layout, crossbar = self.layout, self.hardware.crossbar
        cells = self.conductance[:, :, read.lines]
        if layout.groups == 1:
            cells = cells[..., read.columns]
        else:
            cells = (cells[..., None, :] * self.owners(read)[:, :, None]).flatten(-2)
        if self.errors.wire:
            places, bit_lines = torch.from_numpy(read.places), torch.from_numpy(layout.bit_lines(read.columns))
            cells = analog.ir_drop(cells, places, bit_lines, crossbar.rows, crossbar.cols, self.errors.wire)
        cells = cells[0] - cells[1] if crossbar.polarity == 2 else cells[0]
        return cells.transpose(0, 1).to(self.dtype)

    def owners(self, read: Read) -> Tensor:
        """Return which of the groups that a read senses owns which word line, 0 or 1, ``(k, groups)``."""
        group = torch.from_numpy(read.lines // self.layout.rows)
        columns = read.columns.stop - read.columns.start
        count = columns // self.layout.cols if self.layout.groups > 1 else 1
        return F.one_hot(group - group[0], count).to(self.dtype)

    @cached_property
    def sums(self) -> analog.Sums | None:
        """The analog sums of a column in one row group; None if every read is converted."""
        cycles, slices = [int(value) for value in self.cycle_values[0]], self.conductance.shape[1]
        return analog.analog_sums(self.hardware.adc.accumulate, cycles, slices, self.hardware.crossbar.cell_bits)

    @cached_property
    def codes(self) -> tuple[int, int]:
        """The first and the last ADC code."""
        return analog.code_limits(self.hardware, self.sums)

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Least and largest current, or analog sum, that any input can cause, were the devices ideal."""
        low, high = 0, 0
        for read in (read for round in self.rounds for read in round.reads):
            for cells in self._counted(self.cells(read)):
                low = min(low, int(cells.clamp(max=0).sum(0).min()))
                high = max(high, int(cells.clamp(min=0).sum(0).max()))
        return low, high

    def _counted(self, cells: Tensor) -> Iterator[Tensor]:
        """Yield what cells ``(k, slices, columns)`` add to a conversion at most, for every kind of conversion."""
        if self.sums is None:
            yield cells * self.drive_limits.max()
            return
        for share in self.sums.shares:  # (cycles, slices)
            levels = torch.tensordot(share, cells.double(), dims=([1], [1]))  # (cycles, k, columns)
            yield (levels * self.drive_limits[:, None, None]).flatten(0, 1)

    @cached_property
    def unit_step(self) -> bool:
        """Whether an ADC step is one unit of current in every bit slice."""
        return bool((self.adc_step == 1).all())

    @cached_property
    def rounding(self) -> bool:
        """Whether the ADC meets anything else than whole steps."""
        return self.errors != NonIdealities() or not self.unit_step

    @cached_property
    def exact(self) -> bool:
        """Whether every output provably equals the integer convolution, times the scale.

        The devices are ideal, no ADC can clip, and float64 holds every sum. Scales that are not the same for all
        columns and row blocks are multiplied and added in float64, in an order that `run` leaves open.
        """
        if self.rounding or self.largest_sum >= EXACT[torch.float64]:
            return False
        return self.codes[0] <= self.reach[0] and self.reach[1] <= self.codes[1]

    @cached_property
    def largest_sum(self) -> int:
        """What no sum of products can exceed, in weight steps, whatever the input."""
        largest = max(map(abs, input_limits(self.activation_bits, self.signed)))
        if self.hardware.crossbar.polarity == 1:  # the sums of stored weights, before the offset is subtracted
            kind = self.tables.spec.coefficients if self.tables else "none"
            return math.prod(self.weight.shape[1:]) * largest * COEFFICIENT_MOST[kind] << self.bits
        return int(self.weight.double().abs().sum((1, 2, 3)).max()) * largest

    @cached_property
    def dtype(self) -> torch.dtype:
        """float32 where it holds every current, and every sum of its shifted conversions, exactly."""
        largest = analog.full_scale(self.hardware) << self.activation_bits
        return torch.float32 if largest < EXACT[torch.float32] else torch.float64

    @cached_property
    def sum_dtype(self) -> torch.dtype:
        """float32 where it holds the sums of the slices too."""
        largest = analog.full_scale(self.hardware) << (self.activation_bits + self.bits)
        return torch.float32 if largest < EXACT[torch.float32] and not self.rounding else torch.float64

    @cached_property
    def cycle_values(self) -> Tensor:
        """What a unit is worth in each cycle, ``(1, cycles)``. Sign bits go last and count negative."""
        magnitude = self.activation_bits - self.signed
        values = [1 << shift for shift in range(0, magnitude, self.hardware.dac.bits)]
        return torch.tensor([values + [-1 << magnitude] * self.signed], dtype=self.dtype)

    @cached_property
    def drive_limits(self) -> Tensor:
        """The largest input of a word line in each cycle, ``(cycles,)``."""
        magnitude, width = self.activation_bits - self.signed, self.hardware.dac.bits
        most = [(1 << min(width, magnitude - shift)) - 1 for shift in range(0, magnitude, width)]
        return torch.tensor(most + [1] * self.signed)

    @cached_property
    def slice_values(self) -> list[float]:
        """What an ADC step is worth in each bit slice, or analog sum."""
        width, steps = self.hardware.crossbar.cell_bits, self.adc_step.tolist()
        worth = self.sums.worth if self.sums else [1 << width * number for number in range(len(steps))]
        return [step * value for step, value in zip(steps, worth, strict=True)]

    @cached_property
    def kernel(self) -> Tensor:
        """The weight for the fast path, float64 ``(groups, C_out / groups, C_in / groups * k_h * k_w)``."""
        weight = self.weight * self.weight_scale if self.scale.ndim else self.weight.double()
        return weight.reshape(self.layer.groups, -1, math.prod(weight.shape[1:]))

    def __repr__(self) -> str:
        polarity, slices, rows, _ = self.conductance.shape
        reads = sum(len(round.reads) for round in self.rounds)
        return (
            f"Program of {self.layer.name!r}: weight {self.layer.weight_shape} from {rows} x {self.layout.cols} "
            f"cells in {slices} bit slices of polarity {polarity}; {len(self.rounds)} rounds, {reads} reads"
        )
