"""The datapath, executed: whole networks, all their convolutions and linear layers, on crossbars.

`simulate` quantizes a network, or takes the integers that training left, and runs every layer as a program of
`epimlib.datapath.program`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from epimlib._checks import positive, same_layers
from epimlib.datapath.analog import NonIdealities
from epimlib.datapath.compile import compile
from epimlib.datapath.execute import run
from epimlib.datapath.program import Program
from epimlib.epitome.layers import EpitomeConv2d
from epimlib.epitome.trace import evaluating
from epimlib.pim.events import Events
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.quant.grid import QuantizedLayer, input_limits
from epimlib.quant.quantize import LAYERS, integer_coefficients, weight_name


class Simulation(NamedTuple):
    """What `simulate` returns."""

    logits: Tensor
    """The model's output."""
    events: dict[str, Events]
    """By layer, of all images together; ``sum(events.values(), Events())`` is the network's."""


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose weights lie on crossbars, by name.

    Raises:
        ValueError: if there is none; if one computes something else than a convolution padded with zeros, or a linear
            map; if the model is compiled.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") or module._compiled_call_impl:
            what = f"its part {name!r}" if name else f"a {type(module).__name__}"
            raise ValueError(f"model must not be compiled, so that its layers can be replaced; {what} is")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    known = [kind.forward for kind in LAYERS]
    for name, module in layers.items():
        replaced = "forward" in vars(module)
        if replaced or type(module).forward not in known or getattr(module, "padding_mode", "zeros") != "zeros":
            raise ValueError(
                f"layer {name!r} cannot be simulated: it must be plain and padded with zeros, got {module}"
            )
    if not layers:
        raise ValueError("model must have a convolution or a linear layer, which could lie on crossbars")
    return layers


def quantize_max(
    model: nn.Module, images: Tensor, bits: int | Mapping[str, int] = 9, activation_bits: int = 9
) -> dict[str, QuantizedLayer]:
    """Quantize every weighted layer, symmetric and per tensor, with the largest magnitude as the range.

    Args:
        model: with epitome or dense layers; it is not changed.
        images: on which the range and the sign of every layer's input are observed.
        bits: of a weight, sign included; one number, or one for each layer by name.
        activation_bits: of an input, sign included if some of its values are negative.

    Raises:
        ValueError: if a layer has no bits, is not called when the model runs, or gets no finite input; if one is
            quantized already.
    """
    layers = weighted_layers(model)
    bits = bits if isinstance(bits, Mapping) else dict.fromkeys(layers, bits)
    for name, module in layers.items():
        if hasattr(module, "input_quantizer"):
            raise ValueError(
                f"layer {name!r} is quantized already and would be quantized anew; "
                "give its own integers, quantized=integer_weights(model)"
            )
    ranges: dict[str, tuple[float, float]] = {}

    def observed(name: str, x: Tensor) -> Tensor:
        least, most = (bound.item() for bound in x.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError(f"layer {name!r} gets an input that is not finite")
        before = ranges.get(name, (0.0, 0.0))
        ranges[name] = min(least, before[0]), max(abs(least), abs(most), before[1])
        return type(layers[name]).forward(layers[name], x)

    with evaluating(model), _replaced(layers, observed):
        model(images)
    same_layers("bits", bits, layers, "the model")
    same_layers("inputs", ranges, layers, "the model")
    quantized = {}
    for name, module in layers.items():
        least, most = ranges[name]
        signed = least < 0
        positive("activation_bits", activation_bits, 1 + signed)
        weight = getattr(module, weight_name(module)).detach().cpu()  # other devices may have no float64
        # A layer that is all zeros has no range; any step will do.
        scale = weight.abs().max().item() / ((1 << (positive("bits", bits[name], 2) - 1)) - 1) or 1.0
        input_scale = most / input_limits(activation_bits, signed)[1] or 1.0
        integer = (weight.double() / scale).round()
        own = (integer, scale, bits[name], input_scale, activation_bits, signed)
        quantized[name] = QuantizedLayer(*own, **integer_coefficients(module))
    return quantized


def simulate(
    model: nn.Module,
    hardware: Hardware,
    images: Tensor,
    bits: int | Mapping[str, int] = 9,
    activation_bits: int = 9,
    *,
    quantized: Mapping[str, QuantizedLayer] | None = None,
    adc_range: str = "lossless",
    calibration: Tensor | None = None,
    errors: NonIdealities | None = None,
    fast: bool | None = None,
    seed: int = 0,
    batch: int = 32,
    progress: bool = False,
) -> Simulation:
    """Run a network with all its convolutions and linear layers on crossbars.

    Everything else (normalisation, activation functions, pooling, sums, biases) is digital and runs in torch.

    With the integers of a quantized model, and ADCs that cannot clip, every layer computes what the model's own layer
    computes, but adds in another order. In float32 this moves, now and then, a value across the boundary between two
    levels of the next layer's input, which shows in the logits. To compare the two exactly, compare in float64::

        model = model.double()                          # before its integers are taken
        simulate(model, hardware, images.double(), quantized=integer_weights(model)).logits
        model(images.double())                          # the same, to the rounding of float64

    Args:
        model: with epitome or dense layers; it is not changed. One that is quantized already needs ``quantized``.
        hardware: crossbar, DACs, ADCs and ``reuse`` are read.
        images: ``(N, ...)``, what the model takes.
        bits, activation_bits: for `quantize_max`, where ``quantized`` is None.
        quantized: the integers of every weighted layer, by name; None is `quantize_max` on the calibration images.
        adc_range: as in `compile`.
        calibration: images for the ranges of activations and of calibrated ADCs; None is the first batch.
        errors: non-idealities, as in `compile`.
        fast: as in `run`.
        seed: of all non-idealities.
        batch: images that go through the network at once.
        progress: whether to show a progress bar.

    Raises:
        TypeError: if the hardware or the images are something else.
        ValueError: if the model has a layer that cannot be simulated, is quantized and ``quantized`` is None, or does
            not call one of its layers; if ``quantized`` names other layers than the model has, or as `compile` and
            `run`.
    """
    layers = weighted_layers(model)
    check_hardware(hardware)
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of inputs, without targets, got {type(images).__name__}")
    if not len(images):
        raise ValueError(f"images must hold at least one image, got shape {tuple(images.shape)}")
    batches = images.split(positive("batch", batch))
    calibration = batches[0] if calibration is None else calibration
    if quantized is None:
        quantized = quantize_max(model, calibration, bits, activation_bits)
    same_layers("quantized", quantized, layers, "the model")
    draw = torch.Generator().manual_seed(seed)
    seeds = {name: _seed(draw) for name in layers}
    programs: dict[str, Program] = {}
    events: dict[str, Events] = {}

    def forward(name: str, x: Tensor) -> Tensor:
        layer, module = quantized[name], layers[name]
        integer = layer.quantize_input(x)
        if name not in programs:
            programs[name] = compile_layer(
                name, module, layer, hardware, adc_range=adc_range, calibration=integer, errors=errors,
                seed=seeds[name],
            )  # fmt: skip
        output, counted = run(programs[name], integer, fast, _seed(draw))
        events[name] = events.get(name, Events()) + counted
        output = (output * layer.input_scale).to(x)
        if module.bias is None:
            return output
        return output + module.bias.reshape(-1, *(1,) * (0 if programs[name].layer.kind == "linear" else 2))

    with evaluating(model), _replaced(layers, forward):
        if adc_range == "calibrated":
            model(calibration)
            events.clear()
        if progress:
            from tqdm.auto import tqdm

            batches = tqdm(batches, desc="simulating", unit="batch")
        logits = torch.cat([model(part) for part in batches])
    idle = [name for name in layers if name not in events]
    if idle:
        raise ValueError(f"layer {idle[0]!r} is not called when the model runs, so it was not on crossbars")
    return Simulation(logits, events)


def compile_layer(name: str, module: nn.Module, layer: QuantizedLayer, hardware: Hardware, **options: Any) -> Program:
    """Return the program of a convolution or linear module with these integers; ``options`` as in `compile`."""
    convolution = isinstance(module, nn.Conv2d | EpitomeConv2d)
    if convolution:
        options |= {key: getattr(module, key) for key in ("stride", "dilation", "groups")}
        options["padding"] = _padding(name, module)
    return compile(
        module.spec.plan() if hasattr(module, "spec") else None,
        layer.weight,
        hardware,
        layer.bits,
        layer.input_bits,
        signed=layer.signed,
        kind="conv" if convolution else "linear",
        scale=layer.scale * layer.coefficient_scale,
        coefficients=layer.coefficients,
        name=name or type(module).__name__,  # a model may be a single layer
        **options,
    )


def _padding(name: str, module: nn.Module) -> tuple[int, int]:
    """Return torch's "same" and "valid" as numbers."""
    if module.padding == "valid":
        return (0, 0)
    if module.padding != "same":
        return module.padding
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError(f"layer {name!r} cannot be simulated: its padding is not the same on both sides")
    return total[0] // 2, total[1] // 2


def _seed(draw: torch.Generator) -> int:
    return int(torch.randint(1 << 62, (), generator=draw))


@contextmanager
def _replaced(layers: Mapping[str, nn.Module], forward: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let ``forward(name, x)`` stand for the layers' own."""
    for name, module in layers.items():
        module.forward = lambda x, name=name: forward(name, x)
    try:
        yield
    finally:
        for module in layers.values():
            del module.forward
