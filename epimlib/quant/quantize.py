"""Quantization that knows the epitome.

`quantize` puts the weights and the inputs of a network's layers on uniform grids, for training (straight-through)
and for the hardware, which executes the integers::

    config = QuantConfig(bits=3, granularity="crossbar", range="mse", crossbar=hardware.crossbar)
    model = quantize(model, config)
    calibrate(model, images)                        # or train it
    simulate(model, hardware, images, quantized=integer_weights(model))

An epitome is quantized itself, each element once, so that the weight sampled from it lies on the same grid, that of
`epimlib.quant.grid`. Its integers are sign and magnitude, what a pair of crossbars stores (polarity 2); the offset
encoding of a single crossbar (polarity 1) stores the same integers and leaves its lowest code, ``-q - 1``, unused.

The paper's quantizer is known to us by its name only ("epitome-aware"); the definitions here are our reconstruction.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from epimlib._checks import nearest
from epimlib.epitome.coefficients import COEFFICIENT_STEPS, weights_of
from epimlib.epitome.layers import EpitomeConv2d, EpitomeLinear
from epimlib.epitome.plan import COEFFICIENT_BITS, COEFFICIENT_MOST
from epimlib.epitome.trace import evaluating
from epimlib.quant.grid import InputQuantizer, QuantConfig, QuantizedLayer, WeightQuantizer

LAYERS = (nn.Conv2d, nn.Linear, EpitomeConv2d, EpitomeLinear)
"""Layers whose weights are quantized, and lie on crossbars."""


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

    Under autocast to bfloat16, or in a model of that type, the values of a grid of more than 8 significant bits are
    rounded to bfloat16's own (float16: 11); the integers are not.

    Raises:
        TypeError: if ``config`` is no `QuantConfig`.
        ValueError: if ``bits`` names a layer that is not quantized; if a layer is quantized already, derives its
            weight in its own way, or has a window that does not fit the crossbar (channel packing).
    """
    if not isinstance(config, QuantConfig):
        raise TypeError(f"config must be a QuantConfig, got {config!r}")
    model = copy.deepcopy(model)
    layers, bits = quantizable(model, filter_fn), bits or {}
    for name in bits:
        if name not in layers:
            raise ValueError(f"bits name layer {name!r}, which is not to be quantized; {nearest(name, layers)}")
    for name, module in layers.items():
        try:
            attach(module, dataclasses.replace(config, bits=bits.get(name, config.bits)))
        except ValueError as error:
            raise ValueError(f"layer {name!r} cannot be quantized: {error}") from error
    return model


def quantizable(model: nn.Module, filter_fn: Callable[[nn.Module, str], bool] | None = None) -> dict[str, nn.Module]:
    """Return the float layers of a model that `quantize` quantizes, by name; arguments and errors as there."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and (filter_fn is None or filter_fn(module, name))
    }
    for name, module in layers.items():
        if hasattr(module, "input_quantizer"):
            raise ValueError(f"layer {name!r} is quantized already; leave it out by filter_fn")
        parametrized = parametrize.is_parametrized(module, weight_name(module))
        several = parametrized and not hasattr(module.parametrizations[weight_name(module)], "original")
        if parametrize.type_before_parametrizations(module) not in LAYERS or several:
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
    layers, batch = quantized_layers(model), None
    with evaluating(model):
        for module in layers.values():
            module.input_quantizer.train()
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            if not isinstance(batch, Tensor):
                what = f"a {type(batch).__name__}"
                raise TypeError(f"batches must be tensors of inputs, without targets (x of every (x, y)), got {what}")
            model(batch)
    if batch is None:
        raise ValueError("batches must hold at least one batch, got none")


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

    With these, `epimlib.datapath.simulate` computes what the model in eval mode computes: both multiply and add
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
            weight=integer_weight(module),
            scale=quantizer.column_scale(),
            bits=quantizer.config.bits,
            input_scale=step.item(),
            input_bits=inputs.config.activation_bits,
            signed=bool(first < 0),
            **integer_coefficients(module),
        )
    return layers


def attach(module: nn.Module, config: QuantConfig) -> None:
    """Quantize a float layer in place: its weight or epitome becomes parametrized, its input passes a quantizer.

    Free coefficients become parametrized as well, with one step; those of the other kinds have their grid already.
    """
    quantizer = weight_quantizer(module, config).eval()  # registration calls it once, which is no training step
    parametrize.register_parametrization(module, weight_name(module), quantizer)
    if weight_name(module) == "epitome" and module.spec.coefficients == "free":
        grid = dataclasses.replace(config, bits=COEFFICIENT_BITS["free"], granularity="tensor")
        coefficients = WeightQuantizer(module.coefficients.detach(), grid).eval()
        parametrize.register_parametrization(module, "coefficients", coefficients)
    module.input_quantizer = InputQuantizer(config).to(quantizer.scale.device)
    module.register_forward_pre_hook(_quantize_input)
    module.train(module.training)


def weight_name(module: nn.Module) -> str:
    """Return the name of a layer's tensor that is quantized."""
    return "epitome" if isinstance(module, EpitomeConv2d | EpitomeLinear) else "weight"


def weight_quantizer(module: nn.Module, config: QuantConfig) -> WeightQuantizer:
    """Return a quantizer for a float layer's weight or epitome; the layer is not changed."""
    name = weight_name(module)
    usage = usage_of(module) if name == "epitome" else None
    return WeightQuantizer(getattr(module, name).detach(), config, getattr(module, "groups", 1), usage)


@torch.no_grad()
def usage_of(module: EpitomeConv2d | EpitomeLinear) -> Tensor:
    """Return how often each element of a layer's epitome is sampled, each time by the square of its coefficient."""
    plan = module.spec.plan()
    if module.spec.coefficients in ("none", "sign"):
        return torch.from_numpy(plan.usage)
    squares = weights_of(module.round_coefficients().cpu().double().numpy() ** 2, plan)
    squares = np.broadcast_to(squares, plan.index.shape).reshape(-1)
    return torch.from_numpy(np.bincount(plan.index.reshape(-1), squares, plan.usage.size).reshape(module.spec.epitome))


def parametrization(module: nn.Module) -> tuple[WeightQuantizer, nn.Parameter]:
    """Return the weight quantizer of a quantized layer, and the float parameter behind it.

    Other parametrizations may lie between the two, such as the mask of a pruned layer.
    """
    parametrized = module.parametrizations[weight_name(module)]
    return parametrized[-1], parametrized.original


@torch.no_grad()
def integer_weight(module: nn.Module) -> Tensor:
    """Return the integers of a quantized layer, int32, of the shape of its weight or epitome."""
    *others, quantizer = module.parametrizations[weight_name(module)]
    _, weight = parametrization(module)
    for other in others:
        weight = other(weight)
    return quantizer.integers(weight)


def weighed(module: nn.Module) -> bool:
    """Return whether a layer has round coefficients."""
    return hasattr(module, "spec") and module.spec.weighed


def coefficient_latent(module: nn.Module) -> nn.Parameter:
    """Return the float parameter behind a layer's coefficients."""
    if parametrize.is_parametrized(module, "coefficients"):
        return module.parametrizations["coefficients"].original
    return module.coefficients


@torch.no_grad()
def coefficient_step(module: nn.Module) -> float:
    """Return what the integer coefficient 1 of a layer is worth.

    Free coefficients that are on no grid yet get one of `COEFFICIENT_BITS`, with the largest as the last level.
    """
    if module.spec.coefficients != "free":
        return COEFFICIENT_STEPS[module.spec.coefficients]
    if parametrize.is_parametrized(module, "coefficients"):
        return module.parametrizations["coefficients"][0].scale.abs().item()
    return module.coefficients.abs().max().item() / COEFFICIENT_MOST["free"] or 1.0


@torch.no_grad()
def integer_coefficients(module: nn.Module) -> dict[str, Any]:
    """Return ``coefficients`` and ``coefficient_scale`` of a layer, as `QuantizedLayer` has them; {} if it has none."""
    if not weighed(module):
        return {}
    step = coefficient_step(module)
    whole = (module.round_coefficients().cpu().double() / step).round()
    return {"coefficients": whole.int(), "coefficient_scale": step}


def _quantize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.input_quantizer(inputs[0]), *inputs[1:])
