"""Whole numbers in floating point: how large they may be, how products stay exact, and several of them in one."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}
"""Whole numbers up to here are exact."""
_LOCK = threading.RLock()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let products of float32 matrices be float32's: autocast and oneDNN may take bfloat16 or TF32 instead."""
    with _LOCK, torch.autocast("cpu", enabled=False):  # oneDNN's setting is of the whole process
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before


def check_whole(what: str, values: Tensor, least: int, largest: int, why: str) -> Tensor:
    """Return values if they are integers within these limits.

    Raises:
        ValueError: if they are not, or if there is none.
    """
    if not values.numel():
        raise ValueError(f"{what} must not be empty, got shape {tuple(values.shape)}")
    low, high = (bound.item() for bound in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{what} must hold whole numbers, got NaN or infinity")
    if values.is_floating_point() and not torch.equal(values, values.round()):
        raise ValueError(f"{what} must hold whole numbers; quantize it first")
    if low < least or high > largest:
        raise ValueError(f"{what} must lie within {least} to {largest} ({why}), got {low:g} to {high:g}")
    return values


class Packed(NamedTuple):
    """Cells of several bit slices as the digits of one number each."""

    matrix: Tensor
    """``(k, slices * columns)``, of the slices of the first part: the sum of ``base**p`` times ``parts[p]``."""
    base: int
    parts: tuple[slice, ...]
    """The bit slices of every digit, the lowest first."""


def pack(cells: Tensor, drive: int, whole: bool = True) -> Packed:
    """Put as many bit slices into one number as its type can tell apart, so that one product serves them all.

    A column of two cells in two slices, (3, 1) and (0, 2), whose inputs are at most 1::

        base            16                              no current is beyond 4, and it may have either sign: 16 > 2 * 4
        packed cells    3 + 0 * 16, 1 + 2 * 16          = 3, 33
        one product     1 * 3 + 1 * 33 = 36             the inputs are 1, 1
        unpacked        round(36 / 16) = 2              of the second slice, and 36 - 2 * 16 = 4 of the first

    Args:
        cells: ``(k, slices, columns)``.
        drive: the largest input.
        whole: whether cells are whole numbers; if not, they are not packed.
    """
    slices = cells.shape[1]
    largest = int(cells.abs().sum(0).max()) * drive
    base = 1 << (2 * largest + 1).bit_length()
    digits = 1
    while whole and digits < slices and largest * (base ** (digits + 1) - 1) // (base - 1) < EXACT[cells.dtype]:
        digits += 1
    width = math.ceil(slices / digits)
    parts = tuple(slice(start, min(start + width, slices)) for start in range(0, slices, width))
    matrix = cells[:, parts[0]].clone()
    for digit, part in enumerate(parts[1:], start=1):
        matrix[:, : part.stop - part.start] += cells[:, part] * base**digit
    return Packed(matrix.flatten(1), base, parts)


def unpack(packed: Packed, currents: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield bit slices and their currents, the highest digit first.

    Args:
        packed: of `pack`.
        currents: inputs ``(n, k)`` times the packed matrix; they are used up.

    Yields:
        Which slices, and their currents ``(n, slices, columns)``.
    """
    columns = currents.shape[1] // (packed.parts[0].stop - packed.parts[0].start)
    for digit in reversed(range(1, len(packed.parts))):
        part, worth = packed.parts[digit], packed.base**digit
        low = currents[:, : (part.stop - part.start) * columns]
        high = (low * (1 / worth)).round_()
        low.sub_(high, alpha=worth)
        yield part, high.view(len(high), -1, columns)
    yield packed.parts[0], currents.view(len(currents), -1, columns)
