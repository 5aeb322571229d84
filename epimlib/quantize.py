"""Quantization that knows the epitome.

`quantize` puts the weights and the inputs of a network's layers on uniform grids, for training (straight-through)
and for the hardware, which executes the integers::

    config = QuantConfig(bits=3, granularity="crossbar", range="mse", crossbar=hardware.crossbar)
    model = quantize(model, config)
    calibrate(model, images)                        # or train it
    simulate(model, hardware, images, quantized=integer_weights(model))

An epitome is quantized itself, each element once, so that the weight sampled from it lies on the same grid. A weight
``e`` becomes ``s * clamp(round(e / s), -q, q)`` with ``q = 2^(bits-1) - 1``. That is sign and magnitude, what a pair
of crossbars stores (polarity 2); the offset encoding of a single crossbar (polarity 1) stores the same integers and
leaves its lowest code, ``-q - 1``, unused. One *step* ``s`` serves a *tile* of the layer's matrix: all of it, a
column, or what lies on one crossbar.

The paper's quantizer is known to us by its name only ("epitome-aware"); the definitions here are our reconstruction.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from epimlib._checks import keys, nearest, one_of, positive
from epimlib.layers import EpitomeConv2d, EpitomeLinear
from epimlib.pim.datapath import QuantizedLayer
from epimlib.pim.hardware import Crossbar
from epimlib.pim.layout import groups_per_crossbar, rows_in_use

GRANULARITIES = {
    "tensor": "one step for the layer, 1 in all",
    "channel": "one step for each column of the matrix, E_out in all (C_out of a dense layer)",
    "crossbar": "one step for each physical tile, row blocks x column blocks of the matrix",
}
RANGES = {
    "max": "the largest magnitude is the last level",
    "overlap": "the last level is w * (largest magnitude of the elements that are sampled more often than the "
    "layer's mean) + (1 - w) * (largest of the rest), with w = overlap_weight",
    "mse": "least sum of n(e) * (e - Q(e))^2 over the elements, n(e) how often e is sampled",
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
            if positive(name, getattr(self, name), 2) > 16:
                raise ValueError(f"{name} must be at most 16, got {getattr(self, name)}")
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
        data = dict(keys("a quantization config", data, [], [field.name for field in dataclasses.fields(cls)]))
        if data.get("crossbar") is not None:
            names = [field.name for field in dataclasses.fields(Crossbar)]
            data["crossbar"] = Crossbar(**keys("crossbar", data["crossbar"], names))
        return cls(**data)


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
        return (x / scale).clamp_min_(low).clamp_max_(high).round_().mul_(scale)

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
        """Return the weight on its grid."""
        scale = self.scale
        if self.config.learned:
            # LSQ: the gradient of a step times 1 / sqrt(q * weights per step). Its value stays what it is.
            damped = scale * (self.levels * self._shape.numel() / len(scale)) ** -0.5
            scale = (scale.detach() + (damped - damped.detach())).abs()
        elif self.training:
            scale = self._follow(weight.detach())
            self.scale.copy_(scale)
        scale = self._per_tile(scale)
        quotient = (self._tiles(weight) / scale).clamp(-self.levels, self.levels)
        return self._untile(_Round.apply(quotient) * scale)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """Return the integers of a weight, int32, of its shape."""
        quotient = self._tiles(weight) / self._per_tile(self.scale.abs())
        return self._untile(quotient.clamp(-self.levels, self.levels).round()).int()

    @torch.no_grad()
    def values(self, integers: Tensor) -> Tensor:
        """Return what integers of the weight's shape are worth."""
        return self._untile(self._tiles(integers.to(self.scale)) * self._per_tile(self.scale.abs()))

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
        scale = self._per_tile(scale)
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
    found by one sort.

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
    window = math.prod(shape[2:])
    together = groups_per_crossbar(rows, cols, window, config.crossbar) if groups > 1 else 1
    if together > 1:
        return 1, together * cols, rows
    return groups, min(cols, config.crossbar.cols), min(rows, rows_in_use(window, config.crossbar))


def quantize(
    model: nn.Module,
    config: QuantConfig,
    bits: Mapping[str, int] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
) -> nn.Module:
    """Return a copy of a model whose convolution and linear layers compute with quantized weights and inputs.

    The float weights stay its parameters, for training. Weight steps are found at once, input ranges by training or
    by `calibrate`. Biases and everything else stay float.

    Args:
        model: with ``nn.Conv2d``, ``nn.Linear``, `EpitomeConv2d` or `EpitomeLinear` layers; it is not changed.
        config: how; call again with another filter for layers that differ.
        bits: of the weights of the layers that it names, in place of ``config.bits``.
        filter_fn: called with a layer and its name; only layers for which it is true are quantized. None is all.

    Under autocast to bfloat16 a grid of more than 8 significant bits is rounded to bfloat16's own.

    Raises:
        TypeError: if ``config`` is no `QuantConfig`.
        ValueError: if ``bits`` names a layer that is not quantized; if a layer is quantized already, derives its
            weight in its own way, or has a window that does not fit the crossbar (channel packing).
    """
    if not isinstance(config, QuantConfig):
        raise TypeError(f"config must be a QuantConfig, got {config!r}")
    model = copy.deepcopy(model)
    layers = quantizable(model, filter_fn)
    for name in bits or {}:
        if name not in layers:
            raise ValueError(f"bits name layer {name!r}, which is not to be quantized; {nearest(name, layers)}")
    for name, module in layers.items():
        try:
            attach(module, dataclasses.replace(config, bits=(bits or {}).get(name, config.bits)))
        except ValueError as error:
            raise ValueError(f"layer {name!r} cannot be quantized: {error}") from error
    return model


def quantizable(model: nn.Module, filter_fn: Callable[[nn.Module, str], bool] | None = None) -> dict[str, nn.Module]:
    """Return the float layers of a model that `quantize` quantizes, by name; arguments and errors as there."""
    kinds = (nn.Conv2d, nn.Linear, EpitomeConv2d, EpitomeLinear)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and (filter_fn is None or filter_fn(module, name))
    }
    for name, module in layers.items():
        if hasattr(module, "input_quantizer"):
            raise ValueError(f"layer {name!r} is quantized already; leave it out by filter_fn")
        parametrized = parametrize.is_parametrized(module, weight_name(module))
        several = parametrized and not hasattr(module.parametrizations[weight_name(module)], "original")
        if parametrize.type_before_parametrizations(module) not in kinds or several:
            raise ValueError(
                f"layer {name!r} is a {type(module).__name__}, which derives its weight or its input in its own way; "
                "leave it out by filter_fn"
            )
    return layers


def calibrate(model: nn.Module, batches: Tensor | Iterable[Tensor]) -> None:
    """Observe the ranges of the inputs of a quantized model's layers; nothing else of it changes.

    Args:
        model: of `quantize`.
        batches: one or several batches of the model's input, without targets. The first that a layer ever sees sets
            its range, later ones move it.

    Raises:
        TypeError: if a batch is no tensor.
        ValueError: if the model has no quantized layer, or there is no batch.
    """
    layers = quantized_layers(model)
    batches = [batches] if isinstance(batches, Tensor) else batches
    training = [module for module in model.modules() if module.training]
    model.eval()
    for module in layers.values():
        module.input_quantizer.train()
    try:
        with torch.no_grad():
            batch = None
            for batch in batches:
                if not isinstance(batch, Tensor):
                    what = f"a {type(batch).__name__}"
                    raise TypeError(
                        f"batches must be tensors of inputs, without targets (x of every (x, y)), got {what}"
                    )
                model(batch)
        if batch is None:
            raise ValueError("batches must hold at least one batch, got none")
    finally:
        model.eval()
        for module in training:
            module.training = True


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the quantized layers of a model by name.

    Raises:
        ValueError: if there is none.
    """
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "input_quantizer")}
    if not layers:
        raise ValueError("model must have a quantized layer; quantize it first")
    return layers


def integer_weights(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return what the hardware executes: the integers of every quantized layer, their steps, and its input's grid.

    With these, `epimlib.pim.datapath.simulate` computes what the model in eval mode computes: both multiply and add
    the same numbers. Only the order of floating-point sums differs, so that a value in the middle between two
    activation levels may fall to either side: often enough to be seen in float32, and next to never in float64.

    Raises:
        ValueError: if the model has no quantized layer, or the range of an input is not known yet.
    """
    layers = {}
    for name, module in quantized_layers(model).items():
        inputs = module.input_quantizer
        if not inputs.low < inputs.high:
            raise ValueError(f"the range of the input of layer {name!r} is not known yet; calibrate or train first")
        step, first, _ = inputs.grid()
        quantizer, _ = parametrization(module)
        layers[name] = QuantizedLayer(
            weight=integers(module),
            scale=quantizer.column_scale(),
            bits=quantizer.config.bits,
            input_scale=step.item(),
            input_bits=inputs.config.activation_bits,
            signed=bool(first < 0),
        )
    return layers


def attach(module: nn.Module, config: QuantConfig) -> None:
    """Quantize a float layer in place: its weight or epitome becomes parametrized, its input passes a quantizer."""
    quantizer = weight_quantizer(module, config).eval()  # registration calls it once, which is no training step
    parametrize.register_parametrization(module, weight_name(module), quantizer)
    module.input_quantizer = InputQuantizer(config).to(quantizer.scale.device)
    module.register_forward_pre_hook(_quantize_input)
    module.train(module.training)


def weight_name(module: nn.Module) -> str:
    """Return the name of a layer's tensor that is quantized."""
    return "epitome" if isinstance(module, EpitomeConv2d | EpitomeLinear) else "weight"


def weight_quantizer(module: nn.Module, config: QuantConfig) -> WeightQuantizer:
    """Return a quantizer for a float layer's weight or epitome; the layer is not changed."""
    name = weight_name(module)
    usage = torch.from_numpy(module.spec.plan().usage) if name == "epitome" else None
    return WeightQuantizer(getattr(module, name).detach(), config, getattr(module, "groups", 1), usage)


def parametrization(module: nn.Module) -> tuple[WeightQuantizer, nn.Parameter]:
    """Return the weight quantizer of a quantized layer, and the float parameter behind it.

    Other parametrizations may lie between the two, such as the mask of a pruned layer.
    """
    parametrized = module.parametrizations[weight_name(module)]
    return parametrized[-1], parametrized.original


@torch.no_grad()
def integers(module: nn.Module) -> Tensor:
    """Return the integers of a quantized layer, int32, of the shape of its weight or epitome."""
    *others, quantizer = module.parametrizations[weight_name(module)]
    _, weight = parametrization(module)
    for other in others:
        weight = other(weight)
    return quantizer.integers(weight)


def _quantize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.input_quantizer(inputs[0]), *inputs[1:])
