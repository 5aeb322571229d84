"""The uniform grids that weights and inputs are rounded to, and how their steps are found.

A weight ``w`` becomes ``s * clamp(round(w / s), -q, q)`` with ``q = 2^(bits-1) - 1``. One *step* ``s`` serves a *tile*
of the layer's matrix: all of it, a column, or what lies on one crossbar.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epimlib._checks import fields_of, one_of, positive
from epimlib.pim.hardware import Crossbar
from epimlib.pim.mapping import pack


def weight_limits(bits: int, crossbar: Crossbar) -> tuple[int, int]:
    """Return the least and the largest integer weight: sign and magnitude with polarity 2, else two's complement."""
    half = 1 << (bits - 1)
    return (1 - half if crossbar.polarity == 2 else -half), half - 1


def input_limits(bits: int, signed: bool) -> tuple[int, int]:
    """Return the least and the largest integer input; a signed one is in two's complement."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """The integers of one layer and what they are worth: what `simulate` needs of a quantizer."""

    weight: Tensor
    """Integers, of the shape of the layer's weight or epitome."""
    scale: float | Tensor
    """Value of one weight step, as `compile` takes it."""
    bits: int
    """Of a weight, sign included."""
    input_scale: float
    """Value of one input step."""
    input_bits: int
    """Of an input, sign included if it has one."""
    signed: bool
    """Whether inputs are signed."""
    coefficients: Tensor | None = None
    """Integers ``(C_out, n_in)`` by which partial sums are weighed; None: as they are."""
    coefficient_scale: float = 1.0
    """Value of one step of these."""

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return the nearest integers, clipped to the input's bits; of a half-precision input in float32."""
        return (_wide(x) / self.input_scale).round().clamp(*input_limits(self.input_bits, self.signed))


GRANULARITIES = {
    "tensor": "one step for the layer, 1 in all",
    "channel": "one step for each column of the matrix, E_out in all (C_out of a dense layer)",
    "crossbar": "one step for each physical tile, row blocks x column blocks of the matrix",
}
RANGES = {
    "max": "the largest magnitude is the last level",
    "overlap": "the last level is w * (largest magnitude of the elements that are sampled more often than the "
    "layer's mean) + (1 - w) * (largest of the rest), with w = overlap_weight",
    "mse": "least sum of n(e) * (e - Q(e))^2 over the elements, n(e) how often e is sampled; round coefficients count "
    "by their squares, as they are when the layer is quantized",
}
MOMENTUM = 0.1
"""Weight of a new batch in the running range of activations, as in batch normalisation."""
NUDGE = 1.02
"""Ratio of the steps that are compared in training, for range ``"mse"``."""
_BREAKPOINTS = 1 << 18
"""Breakpoints of the squared error that are sorted at once; more elements than that allows are merged."""


@dataclass(frozen=True)
class QuantConfig:
    """How layers are quantized.

    Args:
        bits: of a weight, sign included, 2 to 16.
        granularity: which weights share a step: ``"tensor"``, ``"channel"`` or ``"crossbar"``; see `GRANULARITIES`.
        range: how the step is found: ``"max"``, ``"overlap"`` or ``"mse"``; see `RANGES`.
        learned: whether the step is a parameter, trained by the gradient of LSQ (Esser et al., ICLR 2020) from the
            start that ``range`` gives it.
        overlap_weight: ``w`` of the overlap-weighted range, 0.5 to 1.
        activation_bits: of a layer's input, 2 to 16.
        activation_signed: whether inputs are signed (two's complement); None is found out for each layer: signed
            if a negative input has been seen.
        crossbar: the crossbars on which the matrix lies (``hardware.crossbar``); needed by ``"crossbar"`` only.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if a value is not allowed, or the granularity lacks its crossbar.
    """

    bits: int = 9
    granularity: str = "tensor"
    range: str = "max"
    learned: bool = False
    overlap_weight: float = 0.75
    activation_bits: int = 9
    activation_signed: bool | None = None
    crossbar: Crossbar | None = None

    def __post_init__(self) -> None:
        for name in ("bits", "activation_bits"):
            positive(name, getattr(self, name), 2, maximum=16)
        one_of("granularity", self.granularity, GRANULARITIES)
        one_of("range", self.range, RANGES)
        one_of("learned", self.learned, [False, True])
        one_of("activation_signed", self.activation_signed, [None, False, True])
        if not isinstance(self.overlap_weight, int | float) or not 0.5 <= self.overlap_weight <= 1:
            raise ValueError(f"overlap_weight must be a number from 0.5 to 1, got {self.overlap_weight!r}")
        if self.crossbar is not None and not isinstance(self.crossbar, Crossbar):
            raise TypeError(f"crossbar must be a Crossbar, as hardware.crossbar is, got {self.crossbar!r}")
        if self.granularity == "crossbar" and self.crossbar is None:
            raise ValueError("crossbar must be given for granularity 'crossbar', got None")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "QuantConfig":
        """Return the config of ``to_dict``; keys that are left out have their defaults, unknown ones are errors."""
        data = dict(fields_of("a quantization config", data, cls))
        if data.get("crossbar") is not None:
            data["crossbar"] = Crossbar(**fields_of("crossbar", data["crossbar"], Crossbar))
        return cls(**data)


def _wide(t: Tensor) -> Tensor:
    """Return half precision in float32: it has fewer digits than a grid has levels."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _damped(t: Tensor, factor: float) -> Tensor:
    """Return ``t`` to the last digit, with a gradient that is multiplied by ``factor``.

    What is added to the constant ``t.detach()`` is zero, and its gradient that of ``factor * t``.
    """
    scaled = t * factor
    return t.detach() + (scaled - scaled.detach())


class _Round(torch.autograd.Function):
    """Round to the nearest integer; the gradient passes straight through."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _OnGrid(torch.autograd.Function):
    """``scale * round(clamp(x / scale, low, high))`` with the gradient of the clamp, in few passes over ``x``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (_wide(x) / scale).clamp_min_(low).clamp_max_(high).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        x, scale, low, high = inputs
        ctx.save_for_backward(x, low * scale, high * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, low, high = ctx.saved_tensors
        return torch.where((x >= low) & (x <= high), gradient, 0), None, None, None


class WeightQuantizer(nn.Module):
    """The grid of one layer's weight or epitome; `quantize` registers it as the parametrization of that tensor.

    The layer's matrix is cut into tiles that share a step. In training the step follows the weight: the largest
    magnitudes are looked up again each time; a least-squares step is found exactly once, and then compared with one
    slightly smaller and one slightly larger each time. A learned step is left to the optimizer. In eval mode no step
    changes.

    Args:
        weight: the float tensor ``(columns, ...)``, a weight or an epitome.
        config: see `QuantConfig`.
        groups: of a grouped convolution.
        usage: how often each element is sampled, of the weight's shape; None is once.

    Attributes:
        scale: the steps, ``(tiles,)``; a parameter if learned, else a buffer. (One-dimensional, so that optimizers
            that spare vectors from weight decay, as timm's do, spare it.)
        levels: ``q``, the largest integer.
    """

    def __init__(self, weight: Tensor, config: QuantConfig, groups: int = 1, usage: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.levels = (1 << (config.bits - 1)) - 1
        self._shape = weight.shape
        arrays, *self._tile = _tile(weight.shape, groups, config)
        self._matrix = (arrays, len(weight) // arrays, math.prod(weight.shape[1:]))  # arrays, columns, rows of each
        self._blocks = [math.ceil(size / tile) for size, tile in zip(self._matrix[1:], self._tile, strict=True)]
        usage = torch.ones(1, 1, 1, 1, 1) if usage is None else usage.float()
        self._mean_usage = usage.mean().item()
        self._usage = (usage if usage.ndim == 5 else self._tiles(usage)).to(weight.device)
        scale = self.fit(weight.detach())
        if config.learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on its grid.

        Two bits, so the levels are -1, 0 and 1, and a step of 0.5::

            weight                          0.8     -0.3    0.1
            quotient: / step, clamped       1       -0.6    0.2
            rounded, * step                 0.5     -0.5    0
            gradient of the weight          0       1       1       rounding lets it pass, the clamp does not
        """
        scale = self.scale
        if self.config.learned:
            scale = _damped(scale, (self.levels * self._shape.numel() / len(scale)) ** -0.5).abs()  # as LSQ does
        elif self.training:
            scale = self._follow(weight.detach())
            self.scale.copy_(scale)
        scale = self._per_tile(scale)
        quotient = (_wide(self._tiles(weight)) / scale).clamp(-self.levels, self.levels)
        return self._untile(_Round.apply(quotient) * scale).to(weight.dtype)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """Return the integers of a weight, int32, of its shape.

        Raises:
            ValueError: if the weight is not finite.
        """
        if not weight.isfinite().all():
            raise ValueError("weight must be finite to become integers, got NaN or infinity")
        quotient = _wide(self._tiles(weight)) / self._per_tile(self.scale.abs())
        return self._untile(quotient.clamp(-self.levels, self.levels).round()).int()

    @torch.no_grad()
    def values(self, integers: Tensor) -> Tensor:
        """Return what integers of the weight's shape are worth."""
        step = self._per_tile(self.scale.abs())
        return self._untile(self._tiles(integers.to(_wide(step))) * step).to(step.dtype)

    def error(self, weight: Tensor) -> float:
        """Return ``sum n(e) * (e - Q(e))^2``: the squared error of the weight that is sampled."""
        magnitude = self._tiles(weight.detach().abs())
        return self._errors(magnitude, self.scale.detach().abs()).sum().item()

    def column_scale(self) -> Tensor:
        """Return the step of every column by row block, ``(row blocks, columns)``, or one for all, ``()``."""
        scale = self.scale.detach().abs()
        if self.config.granularity == "tensor":
            return scale[0]
        scale = scale.view(self._matrix[0], *self._blocks).repeat_interleave(self._tile[0], dim=1)
        return scale[:, : self._matrix[1]].flatten(0, 1).T

    @torch.no_grad()
    def fit(self, weight: Tensor) -> Tensor:
        """Return the steps that the config's range gives a weight, ``(tiles,)``."""
        magnitude = self._tiles(weight.abs())
        largest = magnitude.amax((2, 4))
        if self.config.range == "mse":
            pair = (magnitude, self._usage.expand_as(magnitude))
            pair = (t.movedim(3, 2).flatten(0, 2).flatten(1).cpu().double().numpy() for t in pair)
            scale = magnitude.new_tensor([least_squares_step(m, n, self.levels) for m, n in zip(*pair, strict=True)])
        else:
            peak = largest
            if self.config.range == "overlap":
                often, some = self._usage > self._mean_usage, self._usage > 0
                high, rest = ((magnitude * part).amax((2, 4)) for part in (often, some & ~often))
                both = often.any(4).any(2) & (some & ~often).any(4).any(2)
                share = self.config.overlap_weight
                peak = torch.where(both, share * high + (1 - share) * rest, torch.maximum(high, rest))
            scale = peak.flatten() / self.levels
        scale = torch.where(scale > 0, scale, largest.flatten() / self.levels)  # nothing of the tile is sampled
        return torch.where(scale > 0, scale, 1)  # zeros have no range; any step will do

    def _follow(self, weight: Tensor) -> Tensor:
        """Return the steps for a weight that training has changed a little."""
        if self.config.range != "mse":
            return self.fit(weight)
        magnitude = self._tiles(weight.abs())
        candidates = torch.stack([self.scale, self.scale / NUDGE, self.scale * NUDGE])
        errors = torch.stack([self._errors(magnitude, scale) for scale in candidates])
        scale = candidates.gather(0, errors.argmin(0, keepdim=True))[0]
        peak = magnitude.amax((2, 4)).flatten()
        scale = torch.where(peak < scale / 2, peak / self.levels, scale)  # everything is zero: start anew
        return torch.where(scale > 0, scale, 1)

    def _errors(self, magnitude: Tensor, scale: Tensor) -> Tensor:
        """Return ``sum n * (m - Q(m))^2`` of every tile."""
        scale, magnitude = self._per_tile(scale), _wide(magnitude)
        difference = (magnitude / scale).round_().clamp_(max=self.levels).mul_(scale).sub_(magnitude)
        return difference.square_().mul_(self._usage).sum((2, 4)).flatten()

    def _tiles(self, t: Tensor) -> Tensor:
        """Return a tensor of the weight's shape as ``(arrays, column blocks, columns, row blocks, rows)``."""
        t = t.reshape(self._matrix)
        short = [-size % tile for size, tile in zip(self._matrix[1:], self._tile, strict=True)]
        t = F.pad(t, (0, short[1], 0, short[0])) if any(short) else t
        return t.view(-1, self._blocks[0], self._tile[0], self._blocks[1], self._tile[1])

    def _untile(self, t: Tensor) -> Tensor:
        _, columns, rows = self._matrix
        return t.flatten(3).flatten(1, 2)[:, :columns, :rows].reshape(self._shape)

    def _per_tile(self, scale: Tensor) -> Tensor:
        return scale.view(-1, self._blocks[0], 1, self._blocks[1], 1)

    def _apply(self, fn: Any, recurse: bool = True) -> "WeightQuantizer":
        super()._apply(fn, recurse)
        self._usage = self._usage.to(self.scale.device)
        return self

    def extra_repr(self) -> str:
        config = self.config
        learned = ", learned" if config.learned else ""
        return f"{config.bits} bits, {len(self.scale)} steps ({config.granularity}), range={config.range!r}{learned}"


class InputQuantizer(nn.Module):
    """The grid of one layer's input, with a running range: it is observed in training mode and fixed in eval mode.

    Unsigned inputs have the integers ``0 .. 2^bits - 1``, signed ones ``-2^(bits-1) .. 2^(bits-1) - 1``.

    Attributes:
        low, high: the running least (at most 0) and largest (at least 0) input.

    Raises:
        ValueError: in eval mode, if no input but zero has been observed. What cannot raise (a compiled or traced
            graph, a batch of models under ``vmap``) computes NaN instead.
    """

    def __init__(self, config: QuantConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._observe(x.detach())
            return _OnGrid.apply(x, *self.grid())
        known, (step, first, last) = self.low < self.high, self.grid()
        graph = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._functorch.is_batchedtensor(known)
        if not graph and not known:
            raise ValueError("the range of a layer's input is not known yet; calibrate or train the model first")
        return _OnGrid.apply(x, torch.where(known, step, torch.nan), first, last)

    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the step, the least and the largest integer."""
        half, signed = 1 << (self.config.activation_bits - 1), self.config.activation_signed
        signed = self.low < 0 if signed is None else torch.full_like(self.low, signed, dtype=torch.bool)
        first, last = torch.where(signed, -half, 0), torch.where(signed, half - 1, 2 * half - 1)
        peak = torch.where(signed, torch.maximum(self.high, -self.low), self.high)
        return torch.where(peak > 0, peak / last, 1), first, last

    def _observe(self, x: Tensor) -> None:
        low, high = x.aminmax()
        unseen = self.low == self.high
        for running, new in ((self.low, low.clamp(max=0)), (self.high, high.clamp(min=0))):
            new = new.to(running.dtype)
            running.copy_(torch.where(unseen, new, running.lerp(new, MOMENTUM)))

    def extra_repr(self) -> str:
        return f"{self.config.activation_bits} bits"


def least_squares_step(magnitude: np.ndarray, usage: np.ndarray, levels: int) -> float:
    """Return the step ``s`` of least ``sum n * (m - s * min(round(m / s), q))^2``.

    For fixed integers ``k`` the sum is a parabola in ``s`` with minimum ``sum n m^2 - (sum n m k)^2 / sum n k^2``.
    The integers change where ``s`` falls below ``m / (k + 1/2)``. So both sums are followed over all these
    breakpoints, from large steps to small ones, and the best of the parabolas is the best step: the global minimum,
    found by one sort. Magnitudes 1 and 2 and a single level, ``q = 1``::

        s above 4       both round to 0         error 1 + 4
        s from 2 to 4   2 rounds to 1           the parabola's minimum is s = 2, error 1
        s below 2       both round to 1         s = (1 + 2) / 2, error 1/2: the least

    Args:
        magnitude: ``m``, absolute values, ``(elements,)``. Beyond about 260,000 breakpoints, neighbouring magnitudes
            are merged into their mean first. At many bits the bins are then too coarse to tell how elements are
            rounded, so the step is the better one of this and ``max(m) / q``, judged by the elements themselves.
        usage: ``n``, how much each counts.
        levels: ``q``, the largest integer.

    Returns:
        The step, never worse than ``max(m) / q``; 0 where everything is zero or counts nothing.
    """
    m, n = np.asarray(magnitude, np.float64), np.asarray(usage, np.float64)
    m, n = (t[(m > 0) & (n > 0)] for t in (m, n))
    if not len(m):
        return 0.0
    elements, peak = (m, n), m.max() / levels
    bins = _BREAKPOINTS // levels
    if len(m) > bins:
        place = np.minimum((m * (bins / m.max())).astype(np.int64), bins - 1)
        merged, weighted = np.bincount(place, n, bins), np.bincount(place, n * m, bins)
        n = merged[merged > 0]
        m = weighted[merged > 0] / n
    # A step so small that clipping the largest alone costs more than clipping nothing does in total is out.
    step = m.max() / levels
    error = (n * (m - step * np.round(m / step)) ** 2).sum()
    lowest = (m.max() - np.sqrt(error / n[m.argmax()])) / levels
    half = np.arange(levels) + 0.5
    crossing = m[:, None] / half
    element, k = np.nonzero(crossing >= lowest)
    order = np.argsort(-crossing[element, k])
    element, k = element[order], k[order]
    above = np.cumsum((n * m)[element])
    below = np.cumsum(n[element] * (2 * half)[k])  # (k + 1)^2 - k^2 = 2 (k + 1/2)
    best = np.argmax(above**2 / below)
    best = above[best] / below[best]
    m, n = elements
    return float(min(best, peak, key=lambda s: (n * (m - s * np.minimum(np.round(m / s), levels)) ** 2).sum()))


def _tile(shape: tuple[int, ...], groups: int, config: QuantConfig) -> tuple[int, int, int]:
    """Return in how many arrays the matrix lies, and the columns and rows of it that share a step."""
    cols, rows = shape[0] // groups, math.prod(shape[1:])
    if config.granularity == "tensor":
        return 1, shape[0], rows
    if config.granularity == "channel":
        return 1, 1, rows
    packing = pack(groups, rows, cols, math.prod(shape[2:]), config.crossbar)
    if packing.together > 1:
        return 1, packing.together * cols, rows
    return groups, min(cols, config.crossbar.cols), min(rows, packing.usable)
