"""Programming crossbars: from the integers of a layer to conductances, and what is read in which round."""

import dataclasses
import math

import torch
from torch import Tensor

from epimlib._checks import integers, one_of, positive
from epimlib.datapath import analog
from epimlib.datapath.analog import NonIdealities
from epimlib.datapath.layout import Layout, Read
from epimlib.datapath.program import Program
from epimlib.datapath.rounds import checked_images, column_sums, input_windows, packed_cells
from epimlib.datapath.whole import check_whole
from epimlib.epitome.coefficients import COEFFICIENT_STEPS, nearest_coefficients, weights_of
from epimlib.epitome.plan import COEFFICIENT_MOST, EpitomeSpec, Plan
from epimlib.epitome.workload import Layer
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.pim.mapping import bit_slices
from epimlib.pim.tables import Tables
from epimlib.quant.grid import weight_limits


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
    coefficients: Tensor | None = None,
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
        coefficients: integers ``(C_out, n_in)`` of a plan with round coefficients: signs 1 or -1, powers of two from
            1 to 8 and their negatives, or free ones from -127 to 127. What one step of them is worth belongs to
            ``scale``.
        adc_range: ``"lossless"``, ``"max"`` or ``"calibrated"``; see `epimlib.datapath.analog.ADC_RANGES`.
        calibration: the feature map from which ``"calibrated"`` finds the ADC steps, and ``errors.adc_noise`` its size.
        errors: non-idealities of the devices; None is ideal.
        seed: of what these draw when the crossbars are programmed.
        name: of the layer, for messages.

    Raises:
        TypeError: if the weight or the coefficients are no tensor, or the hardware something else, such as a name.
        ValueError: if the weight has another shape than the plan's epitome, is not whole or is beyond
            ``bits``; if coefficients are missing or not the plan's; if a crossbar is smaller than one channel's
            window (channel packing), or the ADC has no code above zero; if another argument is out of range.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {type(weight).__name__}")
    if plan is None and weight.ndim == 2:
        weight, kind = weight[:, :, None, None], "linear"
    if plan is not None and tuple(weight.shape) != plan.spec.epitome:
        raise ValueError(f"weight must have the shape of the epitome {plan.spec.epitome}, got {tuple(weight.shape)}")
    if weight.ndim != 4:
        raise ValueError(f"weight must have 4 dimensions, or 2 (linear layer), got shape {tuple(weight.shape)}")
    if plan is not None and groups != 1:
        raise ValueError(f"groups must be 1 for an epitome, got {groups}")
    positive("activation_bits", activation_bits, 1 + signed, maximum=16)
    errors = errors or NonIdealities()
    if one_of("adc_range", adc_range, analog.ADC_RANGES) == "calibrated" and calibration is None:
        raise ValueError("calibration must be a feature map when adc_range is 'calibrated', got None")
    if errors.adc_noise and calibration is None:
        raise ValueError("calibration must be a feature map when errors have adc_noise, got None")
    coefficients = _coefficients(coefficients, plan)
    crossbar = check_hardware(hardware).crossbar
    slices = bit_slices(bits, crossbar)
    step = analog.adc_step(adc_range, hardware)
    weight = check_whole("weight", weight, *weight_limits(bits, crossbar), f"{bits} bits").long().cpu()

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
    levels = analog.cell_levels(matrix, bits, crossbar, slices)
    conductance = analog.program_cells(levels, crossbar.cell_bits, errors, generator)
    adcs = layout.packing.row_blocks * layout.packing.arrays, slices, *layout.adcs

    scale = _scale(scale, layout)
    weight_scale = scale
    if scale.ndim:
        weight_scale = scale[torch.arange(rows) // layout.packing.usable].T.reshape(weight.shape)
    if plan is not None:
        index = torch.from_numpy(plan.index)
        weight = weight.reshape(-1)[index]
        weight_scale = weight_scale.reshape(-1)[index] if scale.ndim else scale
    if coefficients is not None:
        weight = weight * torch.from_numpy(weights_of(coefficients.long().numpy(), plan))

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
        coefficients=coefficients,
        conductance=conductance,
        adc_step=torch.full((slices,), step, dtype=torch.float64),
        adc_error=analog.adc_errors(adcs, errors, generator),
    )
    return _with_range(program, adc_range, calibration)


def _coefficients(coefficients: Tensor | None, plan: Plan | None) -> Tensor | None:
    """Return round coefficients in float64 if they are what the plan asks for."""
    kind = plan.spec.coefficients if plan else "none"
    if (coefficients is None) != (kind == "none"):
        raise ValueError(f"coefficients must be given for a plan with some, and for no other: the plan's are {kind!r}")
    if coefficients is None:
        return None
    if not isinstance(coefficients, Tensor):
        raise TypeError(f"coefficients must be a tensor, got {type(coefficients).__name__}")
    shape = (plan.spec.out_channels, plan.spec.grid[1])
    if tuple(coefficients.shape) != shape:
        raise ValueError(f"coefficients must have shape (C_out, n_in) = {shape}, got {tuple(coefficients.shape)}")
    most = COEFFICIENT_MOST[kind]
    values = check_whole("coefficients", coefficients.detach().cpu(), -most, most, repr(kind)).double()
    step = COEFFICIENT_STEPS.get(kind, 1.0)
    if not torch.equal(nearest_coefficients(values * step, kind) / step, values):
        allowed = "signs, -1 or 1" if kind == "sign" else "powers of two or their negatives"
        raise ValueError(f"coefficients of the kind {kind!r} must be {allowed}")
    return values


def _scale(scale: float | Tensor, layout: Layout) -> Tensor:
    """Return a number, or a scale for every ``(row block, column)`` of the matrix."""
    # First to the CPU: Apple's GPUs have no float64.
    scale = scale.detach().cpu().double() if isinstance(scale, Tensor) else torch.tensor(scale, dtype=torch.float64)
    shape = (layout.packing.row_blocks, layout.groups * layout.cols)
    if not bool(scale.isfinite().all()):
        raise ValueError("scale must be finite, got NaN or infinity")
    try:
        return scale.broadcast_to(shape) if scale.ndim else scale
    except RuntimeError:
        raise ValueError(
            f"scale must be a number or broadcast to (row blocks, columns) = {shape}, got shape {tuple(scale.shape)}"
        ) from None


def _with_range(program: Program, rule: str, calibration: Tensor | None) -> Program:
    """Return the program with the ADC steps of a range rule and, if there is any, ADC noise."""
    if program.sums:
        steps = analog.sum_steps(rule, program.hardware, program.sums)
        program = dataclasses.replace(program, adc_step=torch.tensor(steps, dtype=torch.float64))
    if rule != "calibrated" and not program.errors.adc_noise:
        return program
    return _calibrate(program, calibration, rule == "calibrated")


def _calibrate(program: Program, feature_map: Tensor, choose: bool, positions: int = 512) -> Program:
    """Return the program with its ADC noise and, if ``choose``, ADC steps of least squared error on these inputs.

    Steps are powers of two. An error counts as much as it is worth after shift-and-add. One step serves all conversions
    of a bit slice, or of an analog sum.
    """
    windows = input_windows(program, checked_images(program, feature_map))
    windows = windows[torch.linspace(0, len(windows) - 1, min(positions, len(windows))).long()]
    codes, full, worth = program.codes, analog.full_scale(program.hardware), program.cycle_values[0].double() ** 2
    if program.sums:
        full, worth = full * int(program.sums.shares.abs().sum((1, 2)).max()), torch.ones(1, dtype=torch.float64)
    most = max(0, math.ceil(math.log2(full / codes[1])))
    steps = 2.0 ** torch.arange(most + 1)
    error = torch.zeros(len(steps), len(program.adc_step), dtype=torch.float64)
    squares, conversions = torch.zeros(2, len(program.adc_step), dtype=torch.float64)

    def observe(_: Read, part: slice, currents: Tensor, __: Tensor) -> None:
        if program.errors.adc_noise:
            squares[part] += currents.double().square().sum((0, 1, 3))
            conversions[part] += currents[:, :, 0].numel()
        for number, step in enumerate(steps):
            wrong = (currents / step).round_().clamp_(*codes).mul_(step).sub_(currents).square_()
            error[number, part] += worth @ wrong.sum((1, 3), dtype=torch.float64)

    for round in program.rounds:
        noise = torch.Generator().manual_seed(0)
        column_sums(program, round, packed_cells(program, round), windows, noise, observe)
    noise = program.errors.adc_noise * (squares / conversions).sqrt() if program.errors.adc_noise else None
    step = steps[error.argmin(0)].double() if choose else program.adc_step
    return dataclasses.replace(program, adc_step=step, adc_noise=noise)
