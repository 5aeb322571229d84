"""Executing a program: round by round as the hardware does, or as one convolution where that is the same."""

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from epimlib.datapath.program import Program
from epimlib.datapath.rounds import (
    checked_images,
    column_sums,
    input_windows,
    join,
    out_size,
    packed_cells,
    round_events,
)
from epimlib.pim.events import Events, layer_events

# Currents computed at once: few enough to stay in the processor's cache.
_CHUNK = 1 << 20
# Elements of input windows laid out at once.
_WINDOWS = 1 << 25


class Execution(NamedTuple):
    """What `run` returns."""

    output: Tensor
    """float64, ``(N, C_out, out_h, out_w)``, of a linear layer ``(..., C_out)``, in input steps times the scale
    of `compile`."""
    events: Events
    """Of all images together."""


def run(program: Program, feature_map: Tensor, fast: bool | None = None, seed: int = 0) -> Execution:
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
    images = checked_images(program, feature_map)
    if fast and not program.exact:
        first, last = program.codes
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
    return Execution(output, events)


def _execute(program: Program, images: Tensor, noise: torch.Generator) -> tuple[Tensor, Events]:
    """Drive every word line: all images, all positions, all rounds, all reads."""
    layer, tables = program.layer, program.tables
    height, width = out_size(layer, images)
    inside = torch.ones(1, 1, *images.shape[2:])  # padding is not fetched
    taps = int(F.unfold(inside, layer.kernel_size, layer.dilation, layer.padding, layer.stride).sum())
    size = math.prod(layer.kernel_size)
    at_once = max(1, _WINDOWS // (height * width * layer.in_channels * size))
    events = Events(input_writes=images.numel())
    outputs = []
    for part in images.split(at_once):
        windows = input_windows(program, part)
        output = torch.empty(len(windows), layer.out_channels, dtype=torch.float64)
        for round in program.rounds:
            cells = packed_cells(program, round)
            fetched = round.inputs.stop - round.inputs.start
            widest = max(fetched, *(packed.matrix.shape[1] for packed in cells))
            chunk = max(1, _CHUNK // (program.cycle_values.numel() * widest))
            for first in range(0, len(windows), chunk):
                sums = column_sums(program, round, cells, windows[first : first + chunk], noise)
                join(program, round, sums, output[first : first + chunk])
            events += len(windows) * round_events(program, round)
            events += Events(input_reads=len(part) * taps * (fetched // size))
        for source, copy, channels in tables.copies.tolist() if tables else []:
            if program.coefficients is None:  # else it has its own results
                output[:, copy : copy + channels] = output[:, source : source + channels]
            events += len(windows) * Events(copies=channels, output_writes=channels)
        events += Events(table_bits=len(windows) * tables.bits if tables else 0)
        outputs.append(output.reshape(len(part), height * width, -1).transpose(1, 2))
    return torch.cat(outputs).reshape(len(images), -1, height, width), events


def _convolve(program: Program, images: Tensor) -> Tensor:
    """Return the integer convolution by the weight that the rounds amount to, float64: a product of matrices.

    Not torch's convolution: which algorithm that takes, and how far it rounds, is the backend's choice.
    """
    layer, kernel = program.layer, program.kernel
    geometry = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    images = images.double().transpose(0, 2) if layer.kind == "linear" else images.double()  # all vectors at once
    height, width = out_size(layer, images)
    output = torch.empty(len(images), *kernel.shape[:2], height * width, dtype=torch.float64)
    for image, result in zip(images, output, strict=True):
        torch.bmm(kernel, F.unfold(image, *geometry).view(len(kernel), -1, height * width), out=result)
    output = output.view(len(images), -1, height, width)
    return output.transpose(0, 2) if layer.kind == "linear" else output
