"""Executing a program: word lines driven, columns converted and added, round by round, and everything counted.

Integers that fit are exact in every floating-point type used here, whatever kernel a backend chooses.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epimlib.datapath import analog
from epimlib.datapath.layout import Read, Round
from epimlib.datapath.program import _EXACT, _EXACT_DOUBLE, Program, _matrix, _owner, _whole, _whole_float32
from epimlib.epitome.workload import Layer
from epimlib.pim.events import Events, layer_events
from epimlib.quant.grid import input_limits

# Currents computed at once: few enough to stay in the processor's cache.
_CHUNK = 1 << 20
# Elements of input windows laid out at once.
_WINDOWS = 1 << 25


class Run(NamedTuple):
    """What `run` returns."""

    output: Tensor
    """float64, ``(N, C_out, out_h, out_w)``, of a linear layer ``(..., C_out)``, in input steps times the scale
    of `compile`."""
    events: Events
    """Of all images together."""


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


def _images(program: Program, feature_map: Tensor) -> Tensor:
    """Return a feature map as float ``(N, C_in, H, W)``, checked."""
    layer = program.layer
    if not isinstance(feature_map, Tensor):
        raise TypeError(f"feature_map must be a tensor, got {type(feature_map).__name__}")
    shape = tuple(feature_map.shape)
    if layer.kind == "linear":
        if not shape or shape[-1] != layer.in_channels:
            raise ValueError(f"feature_map must have shape (..., {layer.in_channels}), got {shape}")
        images = feature_map.detach().reshape(-1, layer.in_channels, 1, 1)
    else:
        if len(shape) not in (3, 4) or shape[-3] != layer.in_channels:
            raise ValueError(f"feature_map must have shape (N, {layer.in_channels}, H, W), got {shape}")
        images = feature_map.detach().reshape(-1, *shape[-3:])
    if min(_out_size(layer, images)) < 1:
        raise ValueError(f"feature_map must be at least as large as the kernel's window, got {shape}")
    limits = input_limits(program.activation_bits, program.signed)
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
