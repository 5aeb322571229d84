"""One round of a program: input windows drive word lines, columns are converted, shifted and added.

Integers that fit are exact in every floating-point type used here, whatever kernel a backend chooses.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epimlib.datapath.layout import Read, Round
from epimlib.datapath.program import Program
from epimlib.datapath.whole import Packed, check_whole, exact_float32, pack, unpack
from epimlib.epitome.plan import COEFFICIENT_SHIFTS
from epimlib.epitome.workload import Layer
from epimlib.pim.events import Events
from epimlib.quant.grid import input_limits

Observer = Callable[[Read, slice, Tensor, Tensor], None]
"""Called with a read, some of its bit slices, their currents and their ADC codes, ``(cycles, N, slices, columns)``;
with analog sums once, with all of these and their codes, ``(1, N, sums, columns)``."""


def checked_images(program: Program, feature_map: Tensor) -> Tensor:
    """Return a feature map as float ``(N, C_in, H, W)``; arguments and errors as for `run`."""
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
    if min(out_size(layer, images)) < 1:
        raise ValueError(f"feature_map must be at least as large as the kernel's window, got {shape}")
    limits = input_limits(program.activation_bits, program.signed)
    kind = "signed" if program.signed else "unsigned"
    return check_whole("feature_map", images, *limits, f"{program.activation_bits} bits, {kind}").float().cpu()


def out_size(layer: Layer, images: Tensor) -> tuple[int, int]:
    """Return height and width of what a layer makes of images ``(N, C_in, H, W)``."""
    sizes = zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return height, width


def input_windows(program: Program, images: Tensor) -> Tensor:
    """Return the input window of every output position, int ``(N * positions, C_in * k_h * k_w)``."""
    layer = program.layer
    windows = F.unfold(images, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    narrow = torch.int16 if program.activation_bits < 16 else torch.int32
    return windows.transpose(1, 2).to(narrow).reshape(-1, windows.shape[1])


def packed_cells(program: Program, round: Round) -> list[Packed]:
    """Return the cells of every read of a round, as `column_sums` takes them."""
    drive = (1 << program.hardware.dac.bits) - 1
    whole = not program.errors.variation and not program.errors.wire
    return [pack(program.cells(read), drive, whole) for read in round.reads]


@exact_float32()
def column_sums(
    program: Program,
    round: Round,
    cells: list[Packed],
    windows: Tensor,
    noise: torch.Generator,
    observe: Observer | None = None,
) -> Tensor:
    """Return the column sums of one round, float64 ``(N, columns)``.

    They are in weight steps; scales that are not the same for all columns and row blocks are applied.

    Args:
        program: of `compile`.
        round: of the program.
        cells: of `packed_cells`.
        windows: ``(N, C_in * k_h * k_w)``, of `input_windows`.
        noise: what draws the read noise.
        observe: sees every conversion.
    """
    layout = program.layout
    drive = _drive(program, windows[:, round.inputs].contiguous())
    total = torch.zeros(len(windows), round.outputs.stop - round.outputs.start, dtype=torch.float64)
    for read, packed in zip(round.reads, cells, strict=True):
        here = slice(read.inputs.start - round.inputs.start, read.inputs.stop - round.inputs.start)
        sums = _converted_sums(program, read, packed, drive[:, :, here], noise, observe)
        if program.hardware.crossbar.polarity == 1:
            fetched = windows[:, read.inputs].double() @ program.owners(read).double()
            fetched = fetched.repeat_interleave(layout.cols, 1) if layout.groups > 1 else fetched
            sums = sums - fetched * (1 << program.bits - 1)
        if program.scale.ndim:
            sums = sums * program.scale[read.block % layout.packing.row_blocks, read.columns]
        total[:, read.outputs.start - round.outputs.start :][:, : sums.shape[1]] += sums
    return total


def join(program: Program, round: Round, sums: Tensor, results: Tensor) -> None:
    """Let the joint module add the column sums of one round to the partial sums of all that receive them.

    Args:
        program: of `compile`.
        round: of the program.
        sums: ``(N, columns)``, of `column_sums`.
        results: ``(N, C_out)``, changed in place; what a first round finds there is overwritten.
    """
    for outputs in round.receivers:
        own = sums[:, : outputs.stop - outputs.start]
        if program.coefficients is not None:
            own = own * program.coefficients[outputs, round.input_block]
        if round.extends:
            results[:, outputs] += own
        else:
            results[:, outputs] = own


def round_events(program: Program, round: Round) -> Events:
    """Return what one round takes at one output position, without what it fetches from the input buffer."""
    layout, (polarity, slices) = program.layout, program.conductance.shape[:2]
    cycles, outputs = program.cycle_values.numel(), round.outputs.stop - round.outputs.start
    kind = program.tables.spec.coefficients if program.tables else "none"
    received = sum(channels.stop - channels.start for channels in round.receivers)
    events = Events(
        rounds=1,
        steps=cycles * round.steps,
        offset_adds=outputs * (polarity == 1),
        joins=received * round.extends,
        output_reads=outputs * round.extends,
        output_writes=outputs,
        negations=received * (kind != "none"),
        shifts=received * COEFFICIENT_SHIFTS[kind],
    )
    for read in round.reads:
        lines, columns = len(read.lines), read.columns.stop - read.columns.start
        times = cycles * slices
        converted = len(program.sums.worth) if program.sums else times
        events += Events(
            dac_conversions=times * lines * read.crossbars,
            word_lines=times * lines * read.crossbars * polarity,
            crossbar_reads=times * read.crossbars * polarity,
            cell_reads=times * lines * polarity * (columns if layout.groups == 1 else layout.cols),
            adc_conversions=converted * columns,
            shift_adds=converted * columns,
            analog_adds=times * columns * bool(program.sums),
            tree_adds=columns * read.tree,
            offset_adds=lines * (polarity == 1),
        )
    return events


def _drive(program: Program, windows: Tensor) -> Tensor:
    """Return what the DACs put on the word lines, cycle by cycle, ``(cycles, N, k)``.

    The magnitude bits go first, ``dac.bits`` at a time; a sign bit (two's complement) goes last, alone.
    """
    magnitude = program.activation_bits - program.signed
    shifts = [*range(0, magnitude, program.hardware.dac.bits)] + [magnitude] * program.signed
    drive = torch.empty(len(shifts), *windows.shape, dtype=program.dtype)
    for cycle, (shift, most) in enumerate(zip(shifts, program.drive_limits.tolist(), strict=True)):
        drive[cycle] = windows >> shift & most
    return drive


def _converted_sums(
    program: Program, read: Read, packed: Packed, drive: Tensor, noise: torch.Generator, observe: Observer | None
) -> Tensor:
    """Return the sums of the ADC codes of one read, each shifted to its place, ``(N, columns)``.

    An input of 3 (two cycles of a 1-bit DAC) on a cell of 6 (two slices of 2 bits: 2 + 1 * 4)::

        cycle           0       1
        slice 0         2       2       2 * 1 + 2 * 2 = 6
        slice 1         1       1       1 * 1 + 1 * 2 = 3       `shifted`: cycles times their values 1, 2
                                        6 * 1 + 3 * 4 = 18      `sums`: slices times their values 1, 4

    Analog sums are formed before the conversion: 18 itself is converted, once, or by powers of two the amounts 2, 2, 1
    and 1, which are worth 1, 2, 4 and 8.
    """
    (cycles, n, _), columns = drive.shape, read.columns.stop - read.columns.start
    sums = torch.zeros(n, columns, dtype=program.sum_dtype)
    drive = drive.flatten(0, 1)
    deviation = _deviation(program, read, drive)
    if program.sums:
        held = _held(program, packed, drive, n, deviation, noise)
        before = held.clone() if observe else None
        everything = slice(0, held.shape[1])
        codes = _convert(program, read, everything, held, noise)
        if observe:
            observe(read, everything, before[None], codes[None])
        return codes.transpose(1, 2) @ torch.tensor(program.slice_values, dtype=torch.float64)
    for part, currents in unpack(packed, drive @ packed.matrix):
        before = currents.clone() if observe else None
        codes = _convert(program, read, part, _noisy(program, currents, deviation, noise), noise)
        if observe:
            observe(read, part, before.unflatten(0, (cycles, n)), codes.unflatten(0, (cycles, n)))
        shifted = (program.cycle_values @ codes.view(cycles, -1)).view(n, -1, columns)
        for number, value in enumerate(program.slice_values[part]):
            sums.add_(shifted[:, number], alpha=value)
    return sums


def _deviation(program: Program, read: Read, drive: Tensor) -> Tensor | None:
    """Return the standard deviation of the read noise of every current, ``(cycles * N, 1, columns or 1)``."""
    if not program.errors.read_noise:
        return None
    cells = program.hardware.crossbar.polarity * drive.square() @ program.owners(read)  # that conduct, by group
    deviation = program.errors.read_noise * cells.sqrt()[:, None]
    return deviation.repeat_interleave(program.layout.cols, 2) if deviation.shape[2] > 1 else deviation


def _noisy(program: Program, currents: Tensor, deviation: Tensor | None, noise: torch.Generator) -> Tensor:
    """Add read noise to currents, in place."""
    if deviation is not None:
        currents += torch.randn(currents.shape, generator=noise, dtype=program.dtype).mul_(deviation)
    return currents


def _held(
    program: Program, packed: Packed, drive: Tensor, n: int, deviation: Tensor | None, noise: torch.Generator
) -> Tensor:
    """Return the analog sums of one read, float64 ``(N, sums, columns)``."""
    shares = program.sums.shares
    total = torch.zeros(len(shares), 1, dtype=torch.float64)
    for part, currents in unpack(packed, drive @ packed.matrix):
        currents = _noisy(program, currents, deviation, noise).view(shares.shape[1], n, *currents.shape[1:])
        total = total + shares[:, :, part].flatten(1) @ currents.double().transpose(1, 2).flatten(0, 1).flatten(1)
    return total.view(len(shares), n, -1).transpose(0, 1).contiguous()


def _convert(program: Program, read: Read, part: slice, currents: Tensor, noise: torch.Generator) -> Tensor:
    """Turn currents ``(cycles * N, slices, columns)`` of some bit slices, or analog sums, into ADC codes, in place."""
    if program.adc_noise is not None:
        drawn = torch.randn(currents.shape, generator=noise, dtype=currents.dtype)
        currents += drawn.mul_(program.adc_noise[part, None].to(currents.dtype))
    if program.rounding:
        if not program.unit_step:
            currents /= program.adc_step[part, None].to(currents.dtype)
        if program.adc_error is not None:
            side, place = np.divmod(program.layout.bit_lines(read.columns), program.hardware.crossbar.cols)
            adcs = torch.arange(part.start, part.stop) % program.adc_error.shape[2]  # slices share the analog sums
            error = program.adc_error[:, read.block, adcs]
            gain, offset = error[:, :, side, place % error.shape[-1]]
            currents *= 1 + gain
            currents += offset
        currents.round_()
    return currents.clamp_(*program.codes)
