"""What is analog in the datapath: cells, the currents that they add up to, sums of these, and the ADC. Ideal or not.

Currents are in units of one cell of level 1 on a word line driven by one DAC step, so an ideal current is a
whole number.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from epimlib._checks import one_of, positive
from epimlib.pim.hardware import Crossbar, Hardware

ADC_RANGES = {
    "lossless": "one ADC step for one unit of current: exact, unless the current is beyond the last code",
    "max": "the last code is the largest current of a full crossbar: nothing saturates, small currents round",
    "calibrated": "for each bit slice the power of two that gives calibration data the least squared error",
}


@dataclass(frozen=True)
class NonIdealities:
    """What real devices add. Everything is off by default, and all of it is Gaussian except stuck cells.

    What belongs to a device (variation, stuck cells, ADC errors) is drawn once, when the crossbars are
    programmed; read noise is drawn for every read. Cells that hold no part of a weight are switched off and
    add nothing.

    Raises:
        ValueError: if a value is negative, or the shares of stuck cells exceed one.
    """

    variation: float = 0.0
    """Standard deviation of a programmed conductance, relative to the conductance itself."""
    stuck_off: float = 0.0
    """Share of cells that stay at the lowest level, whatever is programmed."""
    stuck_on: float = 0.0
    """Share of cells that stay at the highest level."""
    read_noise: float = 0.0
    """Standard deviation of a cell's conductance from read to read, in levels, for every level alike. The noise of the
    cells of one column adds up in quadrature, so it is drawn per column."""
    wire: float = 0.0
    """Resistance of the wire between two neighbouring cells, times the conductance of level 1. First order: the voltage
    that a cell loses is computed with the currents of a crossbar without wire resistance."""
    adc_offset: float = 0.0
    """Standard deviation of an ADC's offset, in its steps."""
    adc_gain: float = 0.0
    """Standard deviation of an ADC's gain, relative."""
    adc_noise: float = 0.0
    """Standard deviation of the noise of what an ADC converts, drawn for every conversion, relative to the root mean
    square of what it converts of calibration data: 1 / 316 is a ratio of signal to noise of 50 dB."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{field.name} must be a number of at least 0, got {value!r}")
        if self.stuck_off + self.stuck_on > 1:
            raise ValueError(f"stuck_off + stuck_on must be at most 1, got {self.stuck_off} + {self.stuck_on}")


class Sums(NamedTuple):
    """What analog circuits behind a column add before a conversion."""

    shares: Tensor
    """How often each read counts in each sum, float64 ``(sums, cycles, slices)``."""
    worth: list[int]
    """What a unit of each sum is worth."""


def analog_sums(accumulate: str, cycles: list[int], slices: int, cell_bits: int) -> Sums | None:
    """Return the analog sums of a column in one row group, or None if every read is converted.

    Two cycles of a 1-bit DAC and two slices of 1-bit cells give reads worth 1, 2 (of cycle 0) and 2, 4 (of cycle 1)::

        "power"     three sums, worth 1, 2 and 4, of one, two and one read, which count once each
        "output"    one sum worth 1; the reads count 1, 2, 2 and 4 times

    Args:
        accumulate: of `epimlib.pim.hardware.Adc`.
        cycles: what a unit is worth in each cycle; that of a sign is negative.
        slices: of a weight.
        cell_bits: bits of one.
    """
    if accumulate == "read":
        return None
    values = torch.tensor([[cycle << number * cell_bits for number in range(slices)] for cycle in cycles])
    if accumulate == "output":
        return Sums(values[None].double(), [1])
    worth = values.unique()
    return Sums((values == worth[:, None, None]).double(), worth.tolist())


def code_limits(hardware: Hardware, sums: Sums | None = None) -> tuple[int, int]:
    """Return the first and the last ADC code. Zero is a code; it is the middle one where currents may be negative.

    They may with polarity 2, and in analog sums of which some reads count negative.

    Raises:
        ValueError: if the ADC has so few bits that no code is above zero.
    """
    signed = hardware.crossbar.polarity == 2 or (sums is not None and bool((sums.shares < 0).any()))
    bits = positive("adc.bits", hardware.adc.bits, 1 + signed)
    first = -(1 << (bits - 1)) if signed else 0
    return first, first + (1 << bits) - 1


def full_scale(hardware: Hardware) -> int:
    """Return the largest current of a column of a full crossbar."""
    rows = min(hardware.crossbar.rows, hardware.dac.per_crossbar)
    return rows * ((1 << hardware.crossbar.cell_bits) - 1) * ((1 << hardware.dac.bits) - 1)


def adc_step(rule: str, hardware: Hardware) -> float:
    """Return the current of one ADC step under a range rule, at least 1 (calibration starts from 1)."""
    last = code_limits(hardware)[1]
    return max(1.0, full_scale(hardware) / last) if one_of("adc_range", rule, ADC_RANGES) == "max" else 1.0


def sum_steps(rule: str, hardware: Hardware, sums: Sums) -> list[float]:
    """Return the amount of one ADC step for each analog sum, as `adc_step` does for a current."""
    last = code_limits(hardware, sums)[1]
    if one_of("adc_range", rule, ADC_RANGES) != "max":
        return [1.0] * len(sums.worth)
    sides = torch.stack([sums.shares.clamp(min=0), -sums.shares.clamp(max=0)])  # reads that count negative pull back
    return [max(1.0, full_scale(hardware) * times / last) for times in sides.sum((2, 3)).amax(0).tolist()]


def cell_levels(matrix: Tensor, bits: int, crossbar: Crossbar, slices: int) -> Tensor:
    """Return the level of every cell, float32 ``(polarity, slices, rows, cols)``, least significant slice first.

    Args:
        matrix: integer weights, ``(rows, cols)``.
        bits: of a weight, sign included.
        crossbar: with polarity 2 positive weights lie on the first crossbar of a pair and negative ones on
            the second; with polarity 1 every weight is stored plus ``2^(bits-1)``.
        slices: bit slices of a weight.
    """
    matrix = matrix.int() if bits < 32 else matrix
    if crossbar.polarity == 2:
        stored = torch.stack([matrix.clamp(min=0), (-matrix).clamp(min=0)])
    else:
        stored = (matrix + (1 << (bits - 1)))[None]
    levels = torch.empty(len(stored), slices, *matrix.shape)
    for number in range(slices):
        levels[:, number] = stored >> number * crossbar.cell_bits & (1 << crossbar.cell_bits) - 1
    return levels


def program_cells(levels: Tensor, cell_bits: int, errors: NonIdealities, generator: torch.Generator) -> Tensor:
    """Return the conductance of every cell, in levels, as programming leaves it."""
    conductance = levels
    if errors.variation:
        factor = 1 + errors.variation * torch.randn(levels.shape, generator=generator)
        conductance = levels * factor.clamp(min=0)
    if errors.stuck_off or errors.stuck_on:
        draw = torch.rand(levels.shape, generator=generator)
        conductance = conductance.masked_fill(draw < errors.stuck_off, 0)
        conductance = conductance.masked_fill(draw >= 1 - errors.stuck_on, (1 << cell_bits) - 1)
    return conductance


def adc_errors(shape: tuple[int, ...], errors: NonIdealities, generator: torch.Generator) -> Tensor | None:
    """Return the relative gain error and the offset (in steps) of ADCs, ``(2, *shape)``, or None without any."""
    if not errors.adc_gain and not errors.adc_offset:
        return None
    deviation = torch.tensor([errors.adc_gain, errors.adc_offset]).reshape(2, *(1,) * len(shape))
    return deviation * torch.randn(2, *shape, generator=generator)


def ir_drop(conductance: Tensor, line: Tensor, column: Tensor, rows: int, cols: int, wire: float) -> Tensor:
    """Return the conductances that, without wire resistance, give the currents that wires leave (first order).

    Word lines are driven beside column 0, bit lines are sensed beyond the last row. A cell loses the voltage
    that the currents of its word line drop on the way to it, and the voltage that its bit line has risen by;
    both are linear in the input voltages, so that the loss is a factor of the conductance.

    Args:
        conductance: of the cells that conduct, ``(..., lines, columns)``.
        line: word line of each, within its crossbar.
        column: bit line of each, counted through all column blocks.
        rows: of a crossbar.
        cols: of a crossbar.
        wire: as in `NonIdealities`.

    Raises:
        ValueError: if a cell would lose all of its voltage, far beyond the first order.
    """
    crossbar, place = column // cols, column % cols
    same = crossbar[:, None] == crossbar
    on_word_line = (torch.minimum(place[:, None], place) + 1) * same  # wire segments that two cells share
    on_bit_line = rows - torch.maximum(line[:, None], line)
    loss = wire * (conductance @ on_word_line.to(conductance) + on_bit_line.to(conductance) @ conductance)
    if loss.max() >= 1:
        raise ValueError(
            f"wire must be small enough for first-order IR drop, got {wire}: a cell would lose "
            f"{loss.max():.2g} times its voltage"
        )
    return conductance * (1 - loss)
