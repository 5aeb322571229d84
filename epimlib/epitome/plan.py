"""Epitome specification and sampling plan.

An epitome ``E`` of shape ``(E_out, E_in, E_h, E_w)`` stands for a convolution weight ``W`` of shape
``(C_out, C_in, k_h, k_w)``. ``W`` is cut into a grid of blocks of ``B_out x B_in`` channels, and every
block is a copy of a *patch* of ``E``::

    W[o*B_out + j, i*B_in + l, u, v] = E[a + j, b + l, y + u, x + v]

where the offset ``(a, b, y, x)`` belongs to block ``(o, i)``. The plan is the list of these offsets. It is a
pure function of the specification, and everybody who must know how ``W`` comes from ``E`` (the layer, the
quantizer, the cost model, the datapath) reads it here.

With *round coefficients* ``S``, one for each output channel and input block, the patch is weighed as it is copied::

    W[o*B_out + j, i*B_in + l, u, v] = S[o*B_out + j, i] * E[a + j, b + l, y + u, x + v]

The same partial sums then serve output blocks that differ. Coefficients are no part of the paper; they are ours.

The paper's own rule is not available to us; this one is our reconstruction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from epimlib._checks import integers, keys, one_of, positive

COEFFICIENTS = {
    "none": "the joint module adds the partial sums of the rounds as they are",
    "sign": "it adds or subtracts them: 1 or -1, one bit each",
    "power": "it shifts them before: a sign and a power of two from 1/4 to 2, three bits each",
    "free": "it multiplies them by any number; quantized, by integers of eight bits",
}
COEFFICIENT_BITS = {"none": 0, "sign": 1, "power": 3, "free": 8}
"""Bits that a coefficient of each kind takes in the index tables, sign included."""
COEFFICIENT_SHIFTS = {"none": 0, "sign": 0, "power": 1, "free": 7}
"""Shifts that weighing one partial sum takes: one for each bit that multiplies it."""
COEFFICIENT_MOST = {"none": 1, "sign": 1, "power": 8, "free": 127}
"""Largest magnitude of a coefficient as an integer."""


@dataclass(frozen=True)
class EpitomeSpec:
    """Shape of an epitome and of the weight that is sampled from it.

    Args:
        out_channels: ``C_out`` of the weight.
        in_channels: ``C_in`` of the weight.
        kernel_size: ``(k_h, k_w)`` of the weight; one int stands for a square kernel.
        epitome: ``(E_out, E_in, E_h, E_w)``: at most as many channels as the weight, a window at least as
            large as the kernel, and in total at most as many elements as the weight.
        block: ``(B_out, B_in)``, channels of one block of the weight; ``None`` is as large as the epitome
            allows, ``(E_out, E_in)``.
        wrap: how many consecutive output blocks share one patch, ``1`` to ``n_out``; ``"full"`` is ``n_out``.
            Blocks that share a patch have equal outputs, which the datapath computes once and copies.
        coefficients: what the joint module does to a partial sum before it adds it: ``"none"``, ``"sign"``,
            ``"power"`` or ``"free"``; see `COEFFICIENTS`. Blocks that share a patch then share partial sums only.

    After construction ``kernel_size`` and ``block`` are pairs and ``wrap`` is an int.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size is out of range; the message names the argument, its value and what is allowed.

    >>> spec = EpitomeSpec(256, 256, (3, 3), epitome=(256, 64, 4, 4))
    >>> spec.rows, spec.cols, spec.compression
    (1024, 256, 2.25)
    """

    out_channels: int
    in_channels: int
    kernel_size: tuple[int, int]
    epitome: tuple[int, int, int, int]
    block: tuple[int, int] | None = None
    wrap: int | str = 1
    coefficients: str = "none"

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("out_channels", positive("out_channels", self.out_channels))
        put("in_channels", positive("in_channels", self.in_channels))
        put("kernel_size", integers("kernel_size", self.kernel_size, 2))
        put("epitome", integers("epitome", self.epitome, 4))
        if self.block is None:
            put("block", self.epitome[:2])
        put("block", integers("block", self.block, 2))

        e_out, e_in, e_h, e_w = self.epitome
        if e_out > self.out_channels or e_in > self.in_channels:
            raise ValueError(
                f"epitome must have at most (out_channels, in_channels) = {(self.out_channels, self.in_channels)} "
                f"channels, got epitome={self.epitome}"
            )
        if e_h < self.kernel_size[0] or e_w < self.kernel_size[1]:
            raise ValueError(f"kernel_size must fit into the epitome's window {(e_h, e_w)}, got {self.kernel_size}")
        if math.prod(self.epitome) > math.prod(self.shape):
            raise ValueError(
                f"epitome must not be larger than the weight, which has {math.prod(self.shape)} elements, "
                f"got epitome={self.epitome} with {math.prod(self.epitome)}"
            )
        if self.block[0] > e_out or self.block[1] > e_in:
            raise ValueError(f"block must be at most (E_out, E_in) = {(e_out, e_in)}, got {self.block}")

        put("wrap", self.grid[0] if self.wrap == "full" else positive("wrap (if not 'full')", self.wrap))
        if self.wrap > self.grid[0]:
            raise ValueError(f"wrap must be at most {self.grid[0]}, the number of output blocks, got {self.wrap}")
        one_of("coefficients", self.coefficients, COEFFICIENTS)

    @classmethod
    def dense(cls, out_channels: int, in_channels: int, kernel_size: int | tuple[int, int]) -> "EpitomeSpec":
        """Return the identity: an epitome of the shape of the weight, so that ``W = E``."""
        kernel = integers("kernel_size", kernel_size, 2)
        return cls(out_channels, in_channels, kernel, (out_channels, in_channels, *kernel))

    @classmethod
    def for_crossbars(
        cls,
        out_channels: int,
        in_channels: int,
        kernel_size: int | tuple[int, int],
        rows: int,
        cols: int,
        wrap: int | str = "full",
        family: str = "window",
        coefficients: str = "none",
    ) -> "EpitomeSpec":
        """Return the largest epitome of at most ``rows`` word lines and ``cols`` logical columns.

        Args:
            out_channels: ``C_out`` of the weight.
            in_channels: ``C_in`` of the weight.
            kernel_size: ``(k_h, k_w)`` of the weight.
            rows: word lines that the epitome may use, ``E_in * E_h * E_w <= rows``.
            cols: logical columns that it may use, ``E_out <= cols``.
            wrap: as in the class; an int beyond the number of output blocks means all of them here, since
                one ``wrap`` is applied to layers of many sizes.
            family: ``"window"`` takes a window one larger than the kernel, so that patches differ by a spatial
                shift; ``"channel"`` takes the kernel's own window and blocks of half the epitome's input
                channels, so that patches differ by a channel offset.
            coefficients: as in the class; the identity has none.

        Where such an epitome would not be smaller than the weight, the identity is returned. Where there are too
        few blocks to sample all of it (few input channels, much wrapping), the window shrinks to the kernel's.

        Raises:
            ValueError: if not even one input channel fits into ``rows``.
        """
        kernel = integers("kernel_size", kernel_size, 2)
        one_of("family", family, ["window", "channel"])
        one_of("coefficients", coefficients, COEFFICIENTS)
        weight = (positive("out_channels", out_channels), positive("in_channels", in_channels), *kernel)
        e_out = min(out_channels, positive("cols", cols))
        n_out = math.ceil(out_channels / e_out)
        wrap = wrap if wrap == "full" else min(positive("wrap (if not 'full')", wrap), n_out)
        groups = 1 if wrap == "full" else math.ceil(out_channels // e_out / wrap)  # that hold a full block
        grow = 1 if family == "window" else 0
        for window in ((kernel[0] + dy, kernel[1] + dx) for dy, dx in ((grow, grow), (0, grow), (0, 0))):
            e_in = min(in_channels, positive("rows", rows) // math.prod(window))
            if e_in == 0:
                raise ValueError(
                    f"rows must be at least {math.prod(window)}, one channel of the {window} window, got {rows}"
                )
            epitome = (e_out, e_in, *window)
            if math.prod(epitome) >= math.prod(weight):
                return cls.dense(out_channels, in_channels, kernel)
            one_patch = family == "window" or (e_in == in_channels and groups == 1)
            block = (e_out, e_in if one_patch else math.ceil(e_in / 2))
            covering = math.prod(math.ceil(e / p) for e, p in zip(epitome, (*block, *kernel), strict=True))
            if groups * (in_channels // block[1]) >= covering:
                break  # else a part of the epitome would never be sampled: take a smaller window
        return cls(out_channels, in_channels, kernel, epitome, block, wrap, coefficients)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the logical weight, ``(C_out, C_in, k_h, k_w)``."""
        return (self.out_channels, self.in_channels, *self.kernel_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of output and input blocks, ``(n_out, n_in)``."""
        return (math.ceil(self.out_channels / self.block[0]), math.ceil(self.in_channels / self.block[1]))

    @property
    def rows(self) -> int:
        """Word lines of the epitome matrix, ``E_in * E_h * E_w``."""
        return math.prod(self.epitome[1:])

    @property
    def cols(self) -> int:
        """Logical columns of the epitome matrix, ``E_out``."""
        return self.epitome[0]

    @property
    def compression(self) -> float:
        """Elements of the weight over elements of the epitome, ``|W| / |E|``."""
        return math.prod(self.shape) / math.prod(self.epitome)

    @property
    def weighed(self) -> bool:
        """Whether there are round coefficients."""
        return self.coefficients != "none"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (lists and numbers) that ``from_dict`` reads; coefficients only where there are some."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        if not self.weighed:
            del plain["coefficients"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EpitomeSpec":
        """Return the specification of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        required = ["out_channels", "in_channels", "kernel_size", "epitome"]
        return cls(**keys("an epitome specification", data, required, ["block", "wrap", "coefficients"]))

    def plan(self) -> "Plan":
        """Return the sampling plan."""
        return Plan(self)


def check_fit(what: str, spec: Any, shape: tuple[int, ...], groups: int = 1) -> None:
    """Raise unless ``spec`` is an epitome for a layer whose weight has this shape.

    Raises:
        TypeError: naming ``what``, if it is no `EpitomeSpec`.
        ValueError: naming ``what``, if the layer is a grouped convolution or its weight has another shape.
    """
    if not isinstance(spec, EpitomeSpec):
        raise TypeError(f"{what} must be an EpitomeSpec, got {spec!r}")
    if groups != 1:
        raise ValueError(f"{what} is for a grouped convolution; groups must be 1 for an epitome, got {groups}")
    if spec.shape != shape:
        raise ValueError(f"{what} is for a weight {spec.shape}, but the layer has {shape}")


class Patch(NamedTuple):
    """One block of the weight and the patch of the epitome that it is a copy of."""

    out: range
    """Output channels of the weight that the block covers."""
    inp: range
    """Input channels of the weight that the block covers."""
    offset: tuple[int, int, int, int]
    """``(a, b, y, x)``: where the patch starts in the epitome."""
    copy_of: int | None
    """Index of the earlier patch whose result this block repeats, or None if it must be computed. With coefficients
    the result is that of the round, before it is weighed."""


@dataclass(frozen=True)
class Plan:
    """How a weight is sampled from an epitome. Two plans are equal when their specifications are.

    Derived quantities are computed when first read:

    - ``offsets``, int64 ``(n_out, n_in, 4)``: the offset ``(a, b, y, x)`` of every block.
    - ``source``, tuple of ``n_out`` ints: for every output block the first one that it equals (itself, if none).
      Output blocks are equal as a whole: they use the same patch for each of their input blocks. With coefficients it
      is their partial sums that are equal.
    - ``index``, int64 ``(C_out, C_in, k_h, k_w)``: flat index into the epitome, ``W = E.reshape(-1)[index]``.
    - ``usage``, int64 ``(E_out, E_in, E_h, E_w)``: how often each element is sampled, ``n(e)``.
    - ``patches``: all blocks, row by row, as `Patch`.
    """

    spec: EpitomeSpec

    @cached_property
    def _assignment(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions in use, ``(distinct, 4)``, and for every block the one that it uses, ``(n_out, n_in)``.

        Successive blocks of a row take successive positions. The short block that may end a row takes the
        position with which the next row starts, so that no position is left to a short block alone. When the
        positions run out the next row starts over, shifted by one after each full cycle: two rows are then equal
        only if there are more rows than positions; otherwise they differ in every block. When the positions run out
        within a row they start over, in the row of the first position where they began, in the other rows one place
        further than before: so blocks that share a patch in one row have different ones in another, and their
        inputs are told apart, at no cost. Rows of eight blocks and four positions::

            row 0    0 1 2 3  0 1 2 3    starts over where it began
            row 1    1 2 3 0  2 3 0 1    8 blocks were placed, a full cycle: starts at 8 + 1; starts over at 2
            row 2    2 3 0 1  3 0 1 2    starts at 16 + 2; starts over at 3
            row 3    3 0 1 2  1 2 3 0    starts at 24 + 3; starts over at 1, for 0 is that of row 0
        """
        spec = self.spec
        n_out, n_in = spec.grid
        full = spec.in_channels // spec.block[1]  # blocks of a row that are not short
        groups = math.ceil(n_out / spec.wrap)  # rows that differ: wrapped ones are one
        positions = _positions(spec, groups * full + (n_in - full))
        count = len(positions)
        placed = np.arange(groups, dtype=np.int64) * full  # blocks before the row
        start = (placed + placed // math.lcm(full, count)) % count
        block = np.arange(n_in)
        further = (start[:, None] - 1 + block // count) % max(count - 1, 1)  # places 1 to count - 1, one by one
        begin = np.where(start[:, None] > 0, 1 + further, 0)
        rows = (begin + block) % count
        return positions, rows[np.arange(n_out) // spec.wrap]

    @cached_property
    def offsets(self) -> np.ndarray:
        positions, use = self._assignment
        return positions[use]

    @cached_property
    def source(self) -> tuple[int, ...]:
        seen: dict[int, int] = {}
        start = self._assignment[1][:, 0].tolist()  # rows that start alike are alike
        return tuple(seen.setdefault(position, o) for o, position in enumerate(start))

    @property
    def _first(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat index of the first element that an output block samples for each input, ``(n_out, C_in)``; strides."""
        spec = self.spec
        strides = np.cumprod([1, *spec.epitome[:0:-1]])[::-1]
        first = (self.offsets @ strides)[:, :, None] + np.arange(spec.block[1]) * strides[1]
        return first.reshape(spec.grid[0], -1)[:, : spec.in_channels], strides  # the last block may be short

    @cached_property
    def index(self) -> np.ndarray:
        spec = self.spec
        first, strides = self._first
        kernel = np.arange(spec.kernel_size[0])[:, None] * strides[2] + np.arange(spec.kernel_size[1])
        inp = first[:, None, :, None, None] + kernel
        index = inp + np.arange(spec.block[0])[:, None, None, None] * strides[0]
        return index.reshape(spec.grid[0] * spec.block[0], *spec.shape[1:])[: spec.out_channels]

    @cached_property
    def usage(self) -> np.ndarray:
        count = np.bincount(self.index.reshape(-1), minlength=math.prod(self.spec.epitome))
        return count.reshape(self.spec.epitome)

    @cached_property
    def patches(self) -> tuple[Patch, ...]:
        spec = self.spec
        n_out, n_in = spec.grid
        out = [range(o * spec.block[0], min((o + 1) * spec.block[0], spec.out_channels)) for o in range(n_out)]
        inp = [range(i * spec.block[1], min((i + 1) * spec.block[1], spec.in_channels)) for i in range(n_in)]
        offsets = self.offsets.tolist()
        return tuple(
            Patch(out[o], inp[i], tuple(offsets[o][i]), None if source == o else source * n_in + i)
            for o, source in enumerate(self.source)
            for i in range(n_in)
        )

    @property
    def applications(self) -> int:
        """Blocks of the weight, ``n_out * n_in``: rounds of a datapath without feature-map reuse."""
        return math.prod(self.spec.grid)

    @property
    def rounds(self) -> int:
        """Applications that are not copies, one after the other for every output position."""
        return len(set(self.source)) * self.spec.grid[1]

    @property
    def shares(self) -> int:
        """Output blocks that share the partial sums of a round, at most; one without coefficients."""
        return max(map(self.source.count, set(self.source))) if self.spec.weighed else 1

    @property
    def folded_rounds(self) -> int:
        """Rounds that remain when input blocks that use the same patch are added first (folding).

        Coefficients differ from one output channel to the next, so that with them nothing can be added first.
        """
        if self.spec.weighed:
            return self.rounds
        return len(set(self.source)) * min(self.spec.grid[1], self.distinct)

    @property
    def own_channels(self) -> int:
        """Output channels that are computed; the others are copies of them. With coefficients none is a copy."""
        spec = self.spec
        if spec.weighed:
            return spec.out_channels
        starts = (o * spec.block[0] for o in set(self.source))
        return sum(min(spec.block[0], spec.out_channels - start) for start in starts)

    @property
    def own_inputs(self) -> int:
        """Input channels that are told apart: of several that meet equal weights for every output, one is counted.

        The layer depends on the sum of such inputs alone, whether or not the datapath adds them first (folding).
        With coefficients all are told apart.
        """
        if self.spec.weighed:
            return self.spec.in_channels
        return np.unique(self._first[0], axis=1).shape[1]

    @property
    def period(self) -> int:
        """Input channels after which the weight repeats in every output block; ``C_in`` if it never does."""
        if self.spec.weighed:
            return self.spec.in_channels
        rows, count = self._assignment[1], self.distinct
        for blocks in range(count, self.spec.grid[1], count):
            if np.array_equal(rows[:, blocks:], rows[:, :-blocks]):
                return blocks * self.spec.block[1]
        return self.spec.in_channels

    @property
    def distinct(self) -> int:
        """Distinct patches in use."""
        return len(self._assignment[0])

    def to_text(self, limit: int = 32) -> str:
        """Return a table of the blocks (the first ``limit``): which patch of the epitome feeds which."""
        spec, copied = self.spec, "sums of" if self.spec.weighed else "copy of"
        lines = [
            f"W {spec.shape} from E {spec.epitome}, {spec.rows} x {spec.cols} on crossbars, "
            f"{spec.compression:.4g} times smaller",
            f"{self.applications} applications, {self.rounds} rounds, {self.distinct} distinct patches"
            + (f", coefficients {spec.coefficients!r}" if spec.weighed else ""),
            f"{'block':>5}  {'output channels':>15}  {'input channels':>14}  {'offset (a, b, y, x)':<22}  {copied}",
        ]
        for number, patch in enumerate(self.patches[:limit]):
            out, inp = (f"{r.start}..{r.stop - 1}" for r in (patch.out, patch.inp))
            copy = "" if patch.copy_of is None else str(patch.copy_of)
            lines.append(f"{number:>5}  {out:>15}  {inp:>14}  {patch.offset!s:<22}  {copy}".rstrip())
        if len(self.patches) > limit:
            lines.append(f"... and {len(self.patches) - limit} more blocks")
        return "\n".join(lines)

    __str__ = to_text


def _positions(spec: EpitomeSpec, wanted: int) -> np.ndarray:
    """Return ``min(wanted, all)`` admissible offsets, ``(count, 4)``, evenly spaced, spatial ones first.

    A grid of offsets is grown, first until patches at its points would cover the whole epitome, then further,
    and in both steps along x, y, input and output channels in this order (a spatial shift costs no extra rows).
    The covering points come first, so that they are used whenever there are enough blocks. Eight patches of 2 channels
    and 3 columns in an epitome of 4 channels and 6 columns, where b may be 0 to 2 and x 0 to 3::

        to cover      2 places along x, 2 along b      x = 0, 3 and b = 0, 2
        further       4 along x: 8 points suffice      x = 0, 3, 1, 2 and b = 0, 2
        (b, x)        (0, 0) (0, 3) (2, 0) (2, 3), which cover it, then (0, 1) (0, 2) (2, 1) (2, 2)
    """
    patch = np.array([*spec.block, *spec.kernel_size])
    admissible = np.array(spec.epitome) - patch + 1
    cover = -(-np.array(spec.epitome) // patch)
    count = np.ones(4, dtype=np.int64)  # places along each axis
    for target in (cover, admissible):
        for axis in (3, 2, 1, 0):
            others = count.prod() // count[axis]
            count[axis] = min(target[axis], max(count[axis], -(-wanted // others)))
    first = np.minimum(cover, count)
    axes = [_offsets(*sizes) for sizes in zip(admissible.tolist(), first.tolist(), count.tolist(), strict=True)]
    points = np.stack(np.unravel_index(np.arange(count.prod()), count), axis=1)
    covering = (points < first).all(axis=1)
    kept = _evenly(np.flatnonzero(covering), wanted)
    kept = np.concatenate([kept, _evenly(np.flatnonzero(~covering), wanted - len(kept))])
    return np.stack([axis[points[kept, d]] for d, axis in enumerate(axes)], axis=1)


def _offsets(admissible: int, first: int, count: int) -> np.ndarray:
    """Return ``count`` of the offsets along one axis: ``first`` of them from end to end, then some between."""
    ends = np.arange(first) * (admissible - 1) // max(first - 1, 1)
    between = np.delete(np.arange(admissible), ends)
    return np.concatenate([ends, _evenly(between, count - first)])


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` of the values, spread evenly."""
    count = min(count, len(values))
    return values[np.arange(count) * len(values) // max(count, 1)]
