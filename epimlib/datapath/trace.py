"""One output position of a program, round by round, as plain lists and numbers."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from epimlib._checks import integers
from epimlib.datapath.layout import Read, Round
from epimlib.datapath.program import Program
from epimlib.datapath.rounds import checked_images, column_sums, input_windows, join, out_size, packed_cells
from epimlib.epitome.workload import Layer


def trace_rounds(program: Program, feature_map: Tensor, position: tuple[int, int] = (0, 0)) -> Iterator[dict[str, Any]]:
    """Yield the state of every round of one output position, as plain lists and numbers.

    A linear layer of weights 3 and -1 in two slices of 1-bit cells gets the inputs 2 and 3, a bit in a cycle::

        {"round": 0, "inputs": [2, 3], "word_lines": [0, 1], "sums": [3], ...,
         "reads": [{"codes": [[[-1], [0]], [[0], [1]]], ...}]}
        cycle 0 drives line 1, cycle 1 both. Slice 0 holds 1, -1 and gives -1, 0; slice 1 holds 1, 0 and gives 0, 1.
        -1 * 1 + 0 * 2 = -1 in cycle 0, (0 * 1 + 1 * 2) * 2 = 4 in cycle 1: together 3 = 2 * 3 - 3 * 1.

    Args:
        program: of `compile`.
        feature_map: of one image, as for `run`.
        position: ``(y, x)`` of the output.

    Yields:
        One dict per round: ``round``; ``fetch``, an address ``(channel, y, x)`` of the input buffer for every fetched
        word, or None where the window leaves the feature map; ``inputs``, these words; ``word_lines`` of the layer's
        matrix that they drive; ``reads``, each with its ``row_block``, ``row_group``, the ``word_lines`` of that
        crossbar, the ``columns`` ``[first, end)`` sensed and the ADC ``codes`` by cycle, bit slice and column (of
        analog sums in one list for all cycles, by sum and column); ``outputs``, the output channels ``[first, end)``
        that receive the ``sums``; ``extends``, whether the joint module adds them to a partial sum; ``results``, what
        the output buffer then holds for these channels; ``copies``, for results that are complete and reused: ``[first
        output channel, first of the copy, channels]``. With coefficients there are no copies, but ``shares``, for all
        blocks that receive the sums: ``[first output channel, coefficients, results]``.

    Raises:
        ValueError: as `run`, or if there is no such position or more than one image.
    """
    images, layer = checked_images(program, feature_map), program.layer
    height, width = out_size(layer, images)
    if len(images) != 1:
        raise ValueError(f"feature_map must be one image, got {len(images)}")
    y, x = integers("position", position, 2, 0)
    if y >= height or x >= width:
        raise ValueError(f"position must lie within the output of {(height, width)}, got {position}")
    window = input_windows(program, images)[y * width + x]
    addresses = _addresses(layer, images, y, x)
    weighed = program.coefficients is not None
    copies = program.tables.copies.tolist() if program.tables and not weighed else []
    noise = torch.Generator().manual_seed(0)
    results = torch.zeros(layer.out_channels, dtype=torch.float64)
    for number, round in enumerate(program.rounds):
        sums, codes = _observed(program, round, window, noise)
        join(program, round, sums[None], results[None])
        complete = number + 1 == len(program.rounds) or not program.rounds[number + 1].extends
        yield {
            "round": number,
            "fetch": addresses[round.inputs],
            "inputs": window[round.inputs].tolist(),
            "word_lines": [line for read in round.reads for line in read.lines.tolist()],
            "reads": [
                {
                    "row_block": read.block,
                    "row_group": read.group,
                    "word_lines": read.places.tolist(),
                    "columns": [read.columns.start, read.columns.stop],
                    "codes": _plain(codes[read.inputs.start]),
                }
                for read in round.reads
            ],
            "outputs": [round.outputs.start, round.outputs.stop],
            "sums": _plain(sums),
            "extends": round.extends,
            "results": _plain(results[round.outputs]),
            "copies": [copy for copy in copies if complete and copy[0] == round.outputs.start],
        } | ({"shares": _shares(program, round, results)} if weighed else {})


def _shares(program: Program, round: Round, results: Tensor) -> list[list]:
    """Return by what the sums of a round are weighed for each block that receives them, and what it then holds."""
    factors = program.coefficients[:, round.input_block]
    return [[outputs.start, _plain(factors[outputs]), _plain(results[outputs])] for outputs in round.receivers]


def _addresses(layer: Layer, images: Tensor, y: int, x: int) -> list[list[int] | None]:
    """Return the address ``(channel, y, x)`` of every word of an input window, or None outside of the image."""
    taps = torch.cartesian_prod(*(torch.arange(size) for size in (layer.in_channels, *layer.kernel_size)))
    start = torch.tensor([0, y * layer.stride[0] - layer.padding[0], x * layer.stride[1] - layer.padding[1]])
    address = start + taps.reshape(-1, 3) * torch.tensor([1, *layer.dilation])
    inside = (address >= 0).all(1) & (address < torch.tensor(images.shape[1:])).all(1)
    return [place if valid else None for place, valid in zip(address.tolist(), inside.tolist(), strict=True)]


def _observed(
    program: Program, round: Round, window: Tensor, noise: torch.Generator
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the column sums of one window, and by first input of a read its ADC codes (cycle, slice, column)."""
    codes: dict[int, dict[int, Tensor]] = defaultdict(dict)  # by read, by first bit slice

    def observe(read: Read, part: slice, _: Tensor, converted: Tensor) -> None:
        codes[read.inputs.start][part.start] = converted[:, 0]

    sums = column_sums(program, round, packed_cells(program, round), window[None], noise, observe)
    return sums[0], {read: torch.cat([of[part] for part in sorted(of)], 1) for read, of in codes.items()}


def _plain(values: Tensor) -> list:
    return (values.long() if bool((values == values.round()).all()) else values).tolist()
