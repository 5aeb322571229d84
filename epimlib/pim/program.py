"""One layer on crossbars: programmed, executed round by round, and traced.

`compile` programs the crossbars with the integers of an epitome (or of a dense weight) and works out, from
the index tables, what is read in which round. `run` executes this on a feature map and counts what it does::

    program = compile(plan, epitome, hardware, bits=8, activation_bits=8, padding=1)
    output, events = run(program, feature_map)

With an ADC wide enough the output equals an integer convolution by the sampled weight, bit by bit, on every backend:
all sums are products of matrices of whole numbers that their type holds. `trace` shows one output position round by
round. What the hardware is assumed to do is said in `epimlib.pim.events`, and how its analog part errs in
`epimlib.pim.analog`.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epimlib._checks import integers, one_of, positive
from epimlib.pim import analog
from epimlib.pim.analog import NonIdealities
from epimlib.pim.events import Events, layer_events
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.pim.layout import Layout, Read, Round
from epimlib.pim.mapping import bit_slices
from epimlib.pim.tables import Tables
from epimlib.plan import EpitomeSpec, Plan
from epimlib.workload import Layer

# Currents computed at once: few enough to stay in the processor's cache.
_CHUNK = 1 << 20
# Elements of input windows laid out at once.
_WINDOWS = 1 << 25
# Whole numbers up to here are exact in float32 and in float64.
_EXACT, _EXACT_DOUBLE = 1 << 24, 1 << 53


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Let products of float32 matrices be float32's: autocast and oneDNN may take bfloat16 or TF32 instead."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.mkldnn.enabled = before


class Run(NamedTuple):
    """What `run` returns."""

    output: Tensor
    """float64, ``(N, C_out, out_h, out_w)``, of a linear layer ``(..., C_out)``, in input steps times the scale
    of `compile`."""
    events: Events
    """Of all images together."""


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
    conductance: Tensor
    """Of every cell, in levels, float32: ``(polarity, slices, rows, columns of one group)``."""
    adc_step: Tensor
    """Current of one ADC step for every bit slice, float64."""
    adc_error: Tensor | None
    """Relative gain error and offset (in steps): ``(2, row blocks, slices, column blocks, ADCs)``."""

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Least and largest current that any input can cause, were the devices ideal."""
        low, high = 0, 0
        for read in (read for round in self.rounds for read in round.reads):
            matrix = _matrix(self, read)
            low = min(low, int(matrix.clamp(max=0).sum(0).min()))
            high = max(high, int(matrix.clamp(min=0).sum(0).max()))
        drive = (1 << self.hardware.dac.bits) - 1
        return drive * low, drive * high

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
        first, last = analog.code_limits(self.hardware)
        fits = first <= self.reach[0] and self.reach[1] <= last
        return not self.rounding and fits and self.largest_sum < _EXACT_DOUBLE

    @cached_property
    def largest_sum(self) -> int:
        """What no sum of products can exceed, in weight steps, whatever the input."""
        largest = max(map(abs, analog.input_limits(self.activation_bits, self.signed)))
        if self.hardware.crossbar.polarity == 1:  # the sums of stored weights, before the offset is subtracted
            return math.prod(self.weight.shape[1:]) * largest << self.bits
        return int(self.weight.double().abs().sum((1, 2, 3)).max()) * largest

    @cached_property
    def dtype(self) -> torch.dtype:
        """float32 where it holds every current, and every sum of its shifted conversions, exactly."""
        largest = analog.full_scale(self.hardware) << self.activation_bits
        return torch.float32 if largest < _EXACT else torch.float64

    @cached_property
    def sum_dtype(self) -> torch.dtype:
        """float32 where it holds the sums of the slices too."""
        largest = analog.full_scale(self.hardware) << (self.activation_bits + self.bits)
        return torch.float32 if largest < _EXACT and not self.rounding else torch.float64

    @cached_property
    def cycle_values(self) -> Tensor:
        """What a unit is worth in each cycle, ``(1, cycles)``. Sign bits go last and count negative."""
        magnitude = self.activation_bits - self.signed
        values = [1 << shift for shift in range(0, magnitude, self.hardware.dac.bits)]
        return torch.tensor([values + [-1 << magnitude] * self.signed], dtype=self.dtype)

    @cached_property
    def slice_values(self) -> list[float]:
        """What an ADC step is worth in each bit slice."""
        width = self.hardware.crossbar.cell_bits
        return [step * (1 << width * number) for number, step in enumerate(self.adc_step.tolist())]

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


def compile(
    plan: Plan | None,
    weight: Tensor,
    hardware: Hardware,
    bits: int = 9,
    activation_bits: int = 9,
    *,
    signed: bool = False,
    kind: str = "conv",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    scale: float | Tensor = 1.0,
    adc_range: str = "lossless",
    calibration: Tensor | None = None,
    errors: NonIdealities | None = None,
    seed: int = 0,
    name: str = "layer",
) -> Program:
    """Program the crossbars of one layer.

    Args:
        plan: of the epitome, or None for a dense layer.
        weight: integers. With a plan the epitome ``(E_out, E_in, E_h, E_w)``; else the weight
            ``(C_out, C_in / groups, k_h, k_w)``, or ``(C_out, C_in)`` of a linear layer.
        hardware: crossbar, DACs, ADCs and ``reuse`` are read.
        bits: of a weight, sign included.
        activation_bits: of an input, sign included if it has one; at most 16.
        signed: whether inputs are signed.
        kind: ``"conv"``, or ``"linear"``: then feature maps are ``(..., C_in)``.
        stride, padding, dilation, groups: as in ``nn.Conv2d``; padding is with zeros.
        scale: value of one weight step: a number, or a tensor that broadcasts to ``(row blocks, columns)`` of
            the layer's matrix. ``(columns,)`` is a scale per column; a scale per crossbar varies in both.
        adc_range: ``"lossless"``, ``"max"`` or ``"calibrated"``; see `epimlib.pim.analog.RANGES`.
        calibration: the feature map from which ``"calibrated"`` finds the ADC steps.
        errors: non-idealities of the devices; None is ideal.
        seed: of what these draw when the crossbars are programmed.
        name: of the layer, for messages.

    Raises:
        TypeError: if the weight is no tensor, or the hardware something else, such as a preset's name.
        ValueError: if the weight has another shape than the plan's epitome, is not whole or is beyond
            ``bits``; if a crossbar is smaller than one channel's window (channel packing), or the ADC has no
            code above zero; if another argument is out of range.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {type(weight).__name__}")
    if plan is None and weight.ndim == 2:
        weight, kind = weight[:, :, None, None], "linear"
    if plan is not None and tuple(weight.shape) != plan.spec.epitome:
        raise ValueError(f"weight must have the shape of the epitome {plan.spec.epitome}, got {_shape(weight)}")
    if weight.ndim != 4:
        raise ValueError(f"weight must have 4 dimensions, or 2 (linear layer), got shape {_shape(weight)}")
    if plan is not None and groups != 1:
        raise ValueError(f"groups must be 1 for an epitome, got {groups}")
    if positive("activation_bits", activation_bits, 1 + signed) > 16:
        raise ValueError(f"activation_bits must be at most 16, got {activation_bits}")
    if one_of("adc_range", adc_range, analog.RANGES) == "calibrated" and calibration is None:
        raise ValueError("calibration must be a feature map when adc_range is 'calibrated', got None")
    crossbar = check_hardware(hardware).crossbar
    slices = bit_slices(bits, crossbar)
    step = analog.adc_step(adc_range, hardware)
    weight = _whole("weight", weight, *analog.weight_limits(bits, crossbar), f"{bits} bits").long().cpu()

    out, inp, *kernel = plan.spec.shape if plan else weight.shape
    layer = Layer(
        name, one_of("kind", kind, ["conv", "linear"]), inp * groups, out, tuple(kernel),
        stride=integers("stride", stride, 2), padding=integers("padding", padding, 2, 0),
        dilation=integers("dilation", dilation, 2), groups=groups,
    )  # fmt: skip
    rows = math.prod(weight.shape[1:])
    layout = Layout(hardware, groups, rows, len(weight) // groups, math.prod(weight.shape[2:]))
    spec = plan.spec if plan else EpitomeSpec.dense(out, inp, tuple(kernel))
    tables = Tables.from_plan(plan or spec.plan(), hardware.reuse) if groups == 1 else None

    matrix = weight.reshape(groups, layout.cols, rows).transpose(1, 2).reshape(groups * rows, layout.cols)
    generator = torch.Generator().manual_seed(seed)
    errors = errors or NonIdealities()
    levels = analog.cell_levels(matrix, bits, crossbar, slices)
    conductance = analog.program_cells(levels, crossbar.cell_bits, errors, generator)
    adcs = layout.row_blocks * math.ceil(groups / layout.together), slices, *layout.adcs

    scale = _scale(scale, layout)
    weight_scale = scale
    if scale.ndim:
        weight_scale = scale[torch.arange(rows) // layout.usable].T.reshape(weight.shape)
    if plan is not None:
        index = torch.from_numpy(plan.index)
        weight = weight.reshape(-1)[index]
        weight_scale = weight_scale.reshape(-1)[index] if scale.ndim else scale

    program = Program(
        layer=layer,
        hardware=hardware,
        bits=bits,
        activation_bits=activation_bits,
        signed=signed,
        errors=errors,
        layout=layout,
        tables=tables,
        rounds=layout.rounds(tables),
        weight=weight,
        weight_scale=weight_scale,
        scale=scale,
        conductance=conductance,
        adc_step=torch.full((slices,), step, dtype=torch.float64),
        adc_error=analog.adc_errors(adcs, errors, generator),
    )
    return _calibrate(program, calibration) if adc_range == "calibrated" else program


def run(program: Program, feature_map: Tensor, fast: bool | None = None, seed: int = 0) -> Run:
    """Execute a program.

    Args:
        program: of `compile`.
        feature_map: integers, ``(N, C_in, H, W)`` or ``(C_in, H, W)``; of a linear layer ``(..., C_in)``.
        fast: True computes one integer convolution, which is the same where no ADC can clip, and takes the
            events from their closed form; False drives every word line; None takes the fast path where it is
            exact.
        seed: of the read noise.

    Raises:
        TypeError: if the feature map is no tensor.
        ValueError: if it has another shape than the layer takes, is not whole or is beyond
            ``activation_bits``; if ``fast`` is True where the fast path would not be exact.
    """
    images = _images(program, feature_map)
    if fast and not program.exact:
        first, last = analog.code_limits(program.hardware)
        raise ValueError(
            f"fast must not be True for {program.layer.name!r}: its devices are not ideal, or its currents, "
            f"which reach {program.reach}, may not fit the ADC codes {first} to {last}"
        )
    if program.exact if fast is None else fast:
        output = _convolve(program, images)
        sizes = tuple(images.shape[2:]), tuple(output.shape[2:])
        layer = dataclasses.replace(program.layer, in_size=sizes[0], out_size=sizes[1])
        spec = program.tables.spec if program.tables else None
        events = len(images) * layer_events(
            layer, spec, program.hardware, program.bits, program.activation_bits, program.signed
        )
    else:
        output, events = _execute(program, images, torch.Generator().manual_seed(seed))
    if program.scale.ndim == 0:
        output = output * program.scale
    output = output.contiguous()  # so that later sums over it have one order
    if program.layer.kind == "linear":
        output = output.reshape(*feature_map.shape[:-1], -1)
    elif feature_map.ndim == 3:
        output = output[0]
    return Run(output, events)


def trace(program: Program, feature_map: Tensor, position: tuple[int, int] = (0, 0)) -> Iterator[dict[str, Any]]:
    """Yield the state of every round of one output position, as plain lists and numbers.

    Args:
        program: of `compile`.
        feature_map: of one image, as for `run`.
        position: ``(y, x)`` of the output.

    Yields:
        One dict per round: ``round``; ``fetch``, an address ``(channel, y, x)`` of the input buffer for every
        fetched word, or None where the window leaves the feature map; ``inputs``, these words; ``word_lines``
        of the layer's matrix that they drive; ``reads``, each with its ``row_block``, ``row_group``, the
        ``word_lines`` of that crossbar, the ``columns`` ``[first, end)`` sensed and the ADC ``codes`` by
        cycle, bit slice and column; ``outputs``, the output channels ``[first, end)`` that receive the
        ``sums``; ``extends``, whether the joint module adds them to a partial sum; ``results``, what the
        output buffer then holds for these channels; ``copies``, for results that are complete and reused:
        ``[first output channel, first of the copy, channels]``.

    Raises:
        ValueError: as `run`, or if there is no such position or more than one image.
    """
    images = _images(program, feature_map)
    layer = program.layer
    height, width = _out_size(layer, images)
    if len(images) != 1:
        raise ValueError(f"feature_map must be one image, got {len(images)}")
    y, x = integers("position", position, 2, 0)
    if y >= height or x >= width:
        raise ValueError(f"position must lie within the output of {(height, width)}, got {position}")
    window = _windows(program, images)[y * width + x][None]
    taps = torch.cartesian_prod(*(torch.arange(size) for size in (layer.in_channels, *layer.kernel_size)))
    start = torch.tensor([0, y * layer.stride[0] - layer.padding[0], x * layer.stride[1] - layer.padding[1]])
    address = start + taps.reshape(-1, 3) * torch.tensor([1, *layer.dilation])
    inside = (address >= 0).all(1) & (address < torch.tensor(images.shape[1:])).all(1)
    copies = program.tables.copies.tolist() if program.tables else []
    noise = torch.Generator().manual_seed(0)
    results = torch.zeros(layer.out_channels, dtype=torch.float64)
    for number, round in enumerate(program.rounds):
        codes: dict[int, dict[int, Tensor]] = defaultdict(dict)  # by read, by first bit slice of a part

        def observe(read: Read, part: slice, _: Tensor, converted: Tensor, codes: dict = codes) -> None:
            codes[read.inputs.start][part.start] = converted[:, 0]

        cells = [_pack(program, _matrix(program, read)) for read in round.reads]
        sums = _sums(program, round, cells, window, noise, Counter(), observe)[0]
        reads = [
            {
                "row_block": read.block,
                "row_group": read.group,
                "word_lines": read.places.tolist(),
                "columns": [read.columns.start, read.columns.stop],
                "codes": _plain(torch.cat([part for _, part in sorted(codes[read.inputs.start].items())], 1)),
            }
            for read in round.reads
        ]
        results[round.outputs] = sums + (results[round.outputs] if round.extends else 0)
        last = number + 1 == len(program.rounds) or not program.rounds[number + 1].extends
        fetched = zip(address[round.inputs].tolist(), inside[round.inputs].tolist(), strict=True)
        yield {
            "round": number,
            "fetch": [place if valid else None for place, valid in fetched],
            "inputs": window[0, round.inputs].tolist(),
            "word_lines": [line for read in round.reads for line in read.lines.tolist()],
            "reads": reads,
            "outputs": [round.outputs.start, round.outputs.stop],
            "sums": _plain(sums),
            "extends": round.extends,
            "results": _plain(results[round.outputs]),
            "copies": [copy for copy in copies if last and copy[0] == round.outputs.start],
        }


def _plain(values: Tensor) -> list:
    return (values.long() if bool((values == values.round()).all()) else values).tolist()


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _scale(scale: float | Tensor, layout: Layout) -> Tensor:
    """Return a number, or a scale for every ``(row block, column)`` of the matrix."""
    # First to the CPU: Apple's GPUs have no float64.
    scale = scale.cpu().double() if isinstance(scale, Tensor) else torch.tensor(scale, dtype=torch.float64)
    shape = (layout.row_blocks, layout.groups * layout.cols)
    if not bool(scale.isfinite().all()):
        raise ValueError("scale must be finite, got NaN or infinity")
    try:
        return scale.broadcast_to(shape) if scale.ndim else scale
    except RuntimeError:
        raise ValueError(
            f"scale must be a number or broadcast to (row blocks, columns) = {shape}, got shape {_shape(scale)}"
        ) from None


def _whole(what: str, values: Tensor, least: int, largest: int, why: str) -> Tensor:
    """Return values if they are integers within these limits."""
    if not values.numel():
        raise ValueError(f"{what} must not be empty, got shape {_shape(values)}")
    low, high = (bound.item() for bound in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{what} must hold whole numbers, got NaN or infinity")
    if values.is_floating_point() and not torch.equal(values, values.round()):
        raise ValueError(f"{what} must hold whole numbers; quantize it first")
    if low < least or high > largest:
        raise ValueError(f"{what} must lie within {least} to {largest} ({why}), got {low:g} to {high:g}")
    return values


def _images(program: Program, feature_map: Tensor) -> Tensor:
    """Return a feature map as float ``(N, C_in, H, W)``, checked."""
    layer = program.layer
    if not isinstance(feature_map, Tensor):
        raise TypeError(f"feature_map must be a tensor, got {type(feature_map).__name__}")
    shape = tuple(feature_map.shape)
    if layer.kind == "linear":
        if not shape or shape[-1] != layer.in_channels:
            raise ValueError(f"feature_map must have shape (..., {layer.in_channels}), got {shape}")
        images = feature_map.reshape(-1, layer.in_channels, 1, 1)
    else:
        if len(shape) not in (3, 4) or shape[-3] != layer.in_channels:
            raise ValueError(f"feature_map must have shape (N, {layer.in_channels}, H, W), got {shape}")
        images = feature_map.reshape(-1, *shape[-3:])
    if min(_out_size(layer, images)) < 1:
        raise ValueError(f"feature_map must be at least as large as the kernel's window, got {shape}")
    limits = analog.input_limits(program.activation_bits, program.signed)
    kind = "signed" if program.signed else "unsigned"
    return _whole("feature_map", images, *limits, f"{program.activation_bits} bits, {kind}").float().cpu()


def _out_size(layer: Layer, images: Tensor) -> tuple[int, int]:
    sizes = zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return height, width


def _windows(program: Program, images: Tensor) -> Tensor:
    """Return the input window of every output position, int ``(N * positions, C_in * k_h * k_w)``."""
    layer = program.layer
    windows = F.unfold(images, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    narrow = torch.int16 if program.activation_bits < 16 else torch.int32
    return windows.transpose(1, 2).to(narrow).reshape(-1, windows.shape[1])


def _drive(program: Program, windows: Tensor) -> Tensor:
    """Return what the DACs put on the word lines, cycle by cycle, ``(cycles, N, k)``.

    The magnitude bits go first, ``dac.bits`` at a time; a sign bit (two's complement) goes last, alone.
    """
    magnitude, width = program.activation_bits - program.signed, program.hardware.dac.bits
    drive = torch.empty(program.cycle_values.shape[1], *windows.shape, dtype=program.dtype)
    for cycle, shift in enumerate(range(0, magnitude, width)):
        drive[cycle] = windows >> shift & (1 << min(width, magnitude - shift)) - 1
    if program.signed:
        drive[-1] = windows >> magnitude & 1
    return drive


def _matrix(program: Program, read: Read) -> Tensor:
    """Return the cells that a read uses, ``(k, slices, columns)``; pairs are subtracted."""
    layout = program.layout
    cells = program.conductance[:, :, read.lines]
    if layout.groups == 1:
        cells = cells[..., read.columns]
    else:
        owner = _owner(program, read)
        cells = (cells[..., None, :] * owner[:, :, None]).flatten(-2)
    if program.errors.wire:
        bit_lines = torch.from_numpy(layout.bit_lines(read.columns))
        crossbar = program.hardware.crossbar
        places = torch.from_numpy(read.places)
        cells = analog.ir_drop(cells, places, bit_lines, crossbar.rows, crossbar.cols, program.errors.wire)
    cells = cells[0] - cells[1] if len(cells) == 2 else cells[0]
    return cells.transpose(0, 1).to(program.dtype)


class _Cells(NamedTuple):
    """The cells that a read uses, several bit slices in one number where that number stays exact."""

    matrix: Tensor
    """``(k, slices * columns)``, of the slices of the first part."""
    base: int
    parts: tuple[slice, ...]
    """The matrix is the sum of ``base**p`` times the bit slices ``parts[p]``."""


def _pack(program: Program, matrix: Tensor) -> _Cells:
    """Put as many bit slices into one number as the whole numbers of its type can tell apart.

    Currents of magnitude up to c are digits of a number to the base of a power of two above 2c. One product then
    gives the currents of several slices; the rest of the simulation does not notice.
    """
    slices = matrix.shape[1]
    largest = int(matrix.abs().sum(0).max()) * ((1 << program.hardware.dac.bits) - 1)
    base = 1 << (2 * largest + 1).bit_length()
    limit = _EXACT if program.dtype == torch.float32 else _EXACT_DOUBLE
    digits = 1
    if not program.errors.variation and not program.errors.wire:  # else currents are not whole
        while digits < slices and largest * (base ** (digits + 1) - 1) // (base - 1) < limit:
            digits += 1
    first = math.ceil(slices / digits)
    parts = tuple(slice(start, min(start + first, slices)) for start in range(0, slices, first))
    packed = matrix[:, parts[0]].clone()
    for number, part in enumerate(parts[1:], start=1):
        packed[:, : part.stop - part.start] += matrix[:, part] * base**number
    return _Cells(packed.flatten(1), base, parts)


def _unpack(cells: _Cells, currents: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield bit slices and their currents, ``(cycles * N, slices, columns)``; ``currents`` is used up."""
    columns = currents.shape[1] // (cells.parts[0].stop - cells.parts[0].start)
    for number in reversed(range(1, len(cells.parts))):
        part, worth = cells.parts[number], cells.base**number
        low = currents[:, : (part.stop - part.start) * columns]
        high = (low * (1 / worth)).round_()
        low.sub_(high, alpha=worth)
        yield part, high.view(len(high), -1, columns)
    yield cells.parts[0], currents.view(len(currents), -1, columns)


def _owner(program: Program, read: Read) -> Tensor:
    """Return which of the groups that a read senses owns which word line, 0 or 1, ``(k, groups)``."""
    layout = program.layout
    group = torch.from_numpy(read.lines // layout.rows)
    count = (read.columns.stop - read.columns.start) // layout.cols if layout.groups > 1 else 1
    return F.one_hot(group - group[0], count).to(program.dtype)


def _deviation(program: Program, read: Read, drive: Tensor) -> Tensor | None:
    """Return the standard deviation of the read noise of every current, ``(cycles * N, 1, columns or 1)``."""
    if not program.errors.read_noise:
        return None
    cells = program.hardware.crossbar.polarity * drive.square() @ _owner(program, read)  # that conduct, by group
    deviation = program.errors.read_noise * cells.sqrt()[:, None]
    return deviation.repeat_interleave(program.layout.cols, 2) if deviation.shape[2] > 1 else deviation


def _convert(
    program: Program,
    read: Read,
    part: slice,
    currents: Tensor,
    deviation: Tensor | None,
    noise: torch.Generator,
) -> Tensor:
    """Turn the currents ``(cycles * N, slices, columns)`` of some bit slices into ADC codes, in place."""
    if deviation is not None:
        currents += torch.randn(currents.shape, generator=noise, dtype=program.dtype).mul_(deviation)
    if program.rounding:
        if not program.unit_step:
            currents /= program.adc_step[part, None].to(program.dtype)
        if program.adc_error is not None:
            side, place = np.divmod(program.layout.bit_lines(read.columns), program.hardware.crossbar.cols)
            error = program.adc_error[:, read.block, part]
            gain, offset = error[:, :, side, place % error.shape[-1]]
            currents *= 1 + gain
            currents += offset
        currents.round_()
    return currents.clamp_(*analog.code_limits(program.hardware))


@_whole_float32()
def _sums(
    program: Program,
    round: Round,
    cells: list[_Cells],
    windows: Tensor,
    noise: torch.Generator,
    counts: Counter,
    observe: Callable[[Read, slice, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Return the column sums of one round, float64 ``(N, columns)``, and count what it takes.

    They are in weight steps; scales that are not the same for all columns and row blocks are applied.
    """
    layout, polarity, slices = program.layout, *program.conductance.shape[:2]
    n, cycles = len(windows), program.cycle_values.shape[1]
    drive = _drive(program, windows[:, round.inputs].contiguous()).flatten(0, 1)
    total = torch.zeros(n, round.outputs.stop - round.outputs.start, dtype=torch.float64)
    for read, packed in zip(round.reads, cells, strict=True):
        here = slice(read.inputs.start - round.inputs.start, read.inputs.stop - round.inputs.start)
        columns = read.columns.stop - read.columns.start
        sums = torch.zeros(n, columns, dtype=program.sum_dtype)
        deviation = _deviation(program, read, drive[:, here])
        for part, currents in _unpack(packed, drive[:, here] @ packed.matrix):
            before = currents.clone() if observe else None
            codes = _convert(program, read, part, currents, deviation, noise)
            if observe:
                observe(read, part, before.unflatten(0, (cycles, n)), codes.unflatten(0, (cycles, n)))
            shifted = (program.cycle_values @ codes.view(cycles, -1)).view(n, -1, columns)
            for number, value in enumerate(program.slice_values[part]):
                sums.add_(shifted[:, number], alpha=value)
        if polarity == 1:
            fetched = windows[:, read.inputs].double() @ _owner(program, read).double()
            fetched = fetched.repeat_interleave(layout.cols, 1) if layout.groups > 1 else fetched
            sums = sums - fetched * (1 << program.bits - 1)
        if program.scale.ndim:
            sums = sums * program.scale[read.block % layout.row_blocks, read.columns]
        total[:, read.outputs.start - round.outputs.start :][:, :columns] += sums

        converted = n * cycles * slices * columns
        lines = n * cycles * slices * len(read.lines)
        counts["dac_conversions"] += lines * read.crossbars
        counts["word_lines"] += lines * read.crossbars * polarity
        counts["crossbar_reads"] += n * cycles * slices * read.crossbars * polarity
        counts["cell_reads"] += lines * polarity * (columns if layout.groups == 1 else layout.cols)
        counts["adc_conversions"] += converted
        counts["shift_adds"] += converted
        counts["tree_adds"] += n * columns * read.tree
        counts["offset_adds"] += n * len(read.lines) * (polarity == 1)
    counts["offset_adds"] += total.numel() * (polarity == 1)
    counts["rounds"] += n
    counts["steps"] += n * cycles * round.steps
    counts["joins"] += total.numel() * round.extends
    counts["output_reads"] += total.numel() * round.extends
    counts["output_writes"] += total.numel()
    return total


def _execute(program: Program, images: Tensor, noise: torch.Generator) -> tuple[Tensor, Events]:
    """Drive every word line: all images, all positions, all rounds, all reads."""
    layer = program.layer
    height, width = _out_size(layer, images)
    inside = torch.ones(1, 1, *images.shape[2:])
    taps = int(F.unfold(inside, layer.kernel_size, layer.dilation, layer.padding, layer.stride).sum())
    size = math.prod(layer.kernel_size)
    at_once = max(1, _WINDOWS // (height * width * layer.in_channels * size))
    copies = program.tables.copies.tolist() if program.tables else []
    counts = Counter(input_writes=images.numel())
    outputs = []
    for part in images.split(at_once):
        windows = _windows(program, part)
        output = torch.empty(len(windows), layer.out_channels, dtype=torch.float64)
        for round in program.rounds:
            cells = [_pack(program, _matrix(program, read)) for read in round.reads]
            fetched = round.inputs.stop - round.inputs.start
            widest = max(fetched, *(packed.matrix.shape[1] for packed in cells))
            chunk = max(1, _CHUNK // (program.cycle_values.numel() * widest))
            for first in range(0, len(windows), chunk):
                sums = _sums(program, round, cells, windows[first : first + chunk], noise, counts)
                results = output[first : first + chunk, round.outputs]
                if round.extends:
                    results += sums
                else:
                    results.copy_(sums)
            counts["input_reads"] += len(part) * taps * (fetched // size)
        for source, copy, channels in copies:
            output[:, copy : copy + channels] = output[:, source : source + channels]
            counts["copies"] += len(output) * channels
            counts["output_writes"] += len(output) * channels
        counts["table_bits"] += len(output) * (program.tables.bits if program.tables else 0)
        outputs.append(output.reshape(len(part), height * width, -1).transpose(1, 2))
    return torch.cat(outputs).reshape(len(images), -1, height, width), Events(**counts)


def _convolve(program: Program, images: Tensor) -> Tensor:
    """Return the integer convolution by the weight that the rounds amount to, float64: a product of matrices.

    Not torch's convolution: which algorithm that takes, and how far it rounds, is the backend's choice.
    """
    layer, kernel = program.layer, program.kernel
    geometry = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    images = images.double().transpose(0, 2) if layer.kind == "linear" else images.double()  # all vectors at once
    height, width = _out_size(layer, images)
    output = torch.empty(len(images), *kernel.shape[:2], height * width, dtype=torch.float64)
    for image, result in zip(images, output, strict=True):
        torch.bmm(kernel, F.unfold(image, *geometry).view(len(kernel), -1, height * width), out=result)
    output = output.view(len(images), -1, height, width)
    return output.transpose(0, 2) if layer.kind == "linear" else output


def _calibrate(program: Program, feature_map: Tensor, positions: int = 512) -> Program:
    """Return the program with the ADC steps (powers of two) of least squared error on these inputs.

    An error counts as much as it is worth after shift-and-add. One step serves all conversions of a bit
    slice.
    """
    windows = _windows(program, _images(program, feature_map))
    windows = windows[torch.linspace(0, len(windows) - 1, min(positions, len(windows))).long()]
    codes = analog.code_limits(program.hardware)
    most = max(0, math.ceil(math.log2(analog.full_scale(program.hardware) / codes[1])))
    steps = 2.0 ** torch.arange(most + 1)
    worth = program.cycle_values[0].double() ** 2
    error = torch.zeros(len(steps), len(program.adc_step), dtype=torch.float64)

    def observe(_: Read, part: slice, currents: Tensor, __: Tensor) -> None:
        for number, step in enumerate(steps):
            wrong = (currents / step).round_().clamp_(*codes).mul_(step).sub_(currents).square_()
            error[number, part] += worth @ wrong.sum((1, 3), dtype=torch.float64)

    for round in program.rounds:
        cells = [_pack(program, _matrix(program, read)) for read in round.reads]
        _sums(program, round, cells, windows, torch.Generator().manual_seed(0), Counter(), observe)
    return dataclasses.replace(program, adc_step=steps[error.argmin(0)].double())
