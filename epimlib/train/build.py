"""Networks as a configuration wants them: dense, with epitomes, shrunk, quantized, or with mixed precision.

`build` composes them; below it is one function for each way.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epimlib._checks import keys, known_layers, line, nearest, positive
from epimlib.epitome.design import Design
from epimlib.epitome.layers import epitomize
from epimlib.epitome.trace import trace
from epimlib.epitome.workload import Workload
from epimlib.pim.evaluate import evaluate
from epimlib.pim.mapping import map_crossbars
from epimlib.pim.report import CostReport
from epimlib.quant.grid import QuantConfig
from epimlib.quant.precision import hessian_traces, sensitivities
from epimlib.quant.quantize import quantizable, quantize
from epimlib.rivals.pruning import crossbars_of, dense_blocks, fit_width, shrink
from epimlib.search.bits import assign_bits, bit_crossbars
from epimlib.train.config import DENSE_BITS, TrainConfig
from epimlib.train.data import DATASETS

Bits = Mapping[str, int]
"""Of the weights, by layer."""


@dataclass(frozen=True)
class Network:
    """A network to train, and what it takes on crossbars."""

    model: nn.Module
    teacher: nn.Module | None
    """The network of ``start``, whose outputs are to be met."""
    about: dict[str, Any]
    """Plain data: ``design``, ``bits`` by layer, ``crossbars``, ``crossbars_dense`` and ``parameters``."""


@dataclass(frozen=True)
class _Float:
    """A network before it is quantized."""

    model: nn.Module
    design: Design
    crossbars: Callable[[Bits | None], int]
    """How many it takes with weights of these bits; None: of `DENSE_BITS`."""


def build(
    config: TrainConfig,
    start: Mapping[str, Tensor] | None = None,
    batch: tuple[Tensor, Tensor] | None = None,
    bits: Bits | None = None,
) -> Network:
    """Return the network of a configuration.

    Args:
        config: what is wanted.
        start: state dict of the network of this configuration, dense, or smaller but not quantized; None keeps new
            weights.
        batch: training images and labels, for the sensitivities of mixed precision.
        bits: known from an earlier call, so that mixed precision need not be decided once more.

    Raises:
        ValueError: if the configuration does not fit its network, or ``start`` is of another network.
    """
    dense = create(config)
    from_dense = start is not None and _shapes(start) == _shapes(dense.state_dict())
    if from_dense:
        _load(dense, start, config)
    workload = _workload(config, dense)
    reference = map_crossbars(workload, config.on_hardware(), bits=DENSE_BITS).crossbars
    small = _shrunk(config, dense) if config.shrink is not None else _epitomes(config, dense, workload, from_dense)
    if start is not None and not from_dense:
        _load(small.model, start, config)
    learned = dense if from_dense else small.model
    teacher = deepcopy(learned).eval().requires_grad_(False) if config.distillation else None
    if bits is None and config.quantize is not None:
        bits = _named_bits(config, small.model)
        if config.mixed is not None:
            bits |= _mixed_bits(config, small, workload, batch, reference)
    model = small.model if bits is None else quantize(small.model, _quantizer(config), bits)
    about = {
        "design": small.design.to_dict(),
        "bits": bits,
        "crossbars": small.crossbars(bits),
        "crossbars_dense": reference,
        "parameters": sum(p.numel() for p in model.parameters() if p.ndim > 1),
    }
    return Network(model, teacher, about)


def priced(config: TrainConfig) -> tuple[dict[str, Any], CostReport]:
    """Return ``about`` of a configuration's network, with new weights, and what an image costs it.

    Raises:
        ValueError: as `build` does; a network that is shrunk by its weights has no structure without them.
    """
    config = dataclasses.replace(config, start=None)
    about = build(config).about
    plain = build(dataclasses.replace(config, quantize=None, layer_bits={}, design=None)).model
    design = Design.from_dict(about["design"])
    workload = trace(plain, config.input_size)  # which shrink made narrower
    return about, evaluate(workload, config.on_hardware(), design, bits=about["bits"])


def create(config: TrainConfig) -> nn.Module:
    """Return the dense network of a configuration, with new weights drawn from its seed."""
    from epimlib.train import resnet9, resnet20  # noqa: F401  (they register themselves with timm)

    import timm

    torch.manual_seed(config.seed)
    options = {"num_classes": DATASETS[config.data].classes, "in_chans": config.input_size[0], **config.model_options}
    if not timm.is_model(config.model):
        hint = nearest(config.model, timm.list_models())
        raise ValueError(f"model must be one that timm knows, got {config.model!r}; {hint}")
    try:
        return timm.create_model(config.model, **options)
    except Exception as error:  # a model raises anything at an option that it does not know
        model = f"model {config.model!r} with model_options {dict(config.model_options)}"
        raise ValueError(f"{model} cannot be made: {line(error)}") from error


def _epitomes(config: TrainConfig, dense: nn.Module, workload: Workload, keep: bool) -> _Float:
    """Return the network with the epitomes of ``design``, fitted to the dense weights or new; without any: dense."""
    design, hardware = _design(config, workload), config.on_hardware()
    model, _ = epitomize(dense, design, "dense" if keep else "random")
    return _Float(model, design, lambda bits: map_crossbars(workload, hardware, design, bits or DENSE_BITS).crossbars)


def _design(config: TrainConfig, workload: Workload) -> Design:
    if config.design is None:
        return Design()
    if "layers" in config.design:
        return Design.from_dict(config.design).check(workload)
    names = ["rows", "cols", "wrap", "family", "coefficients", "dense"]
    arguments = dict(keys("design of a training configuration", config.design, names[:2], names[2:]))
    dense = arguments.pop("dense", [])
    if not isinstance(dense, list | tuple):
        raise TypeError(f"dense of a design must be a list of layers, got {dense!r}")
    design = Design.uniform(workload, **arguments)
    for name in dense:
        if name not in (known := [layer.name for layer in workload.weighted]):
            raise ValueError(f"design leaves layer {name!r} dense, which the network lacks; {nearest(name, known)}")
    return Design({name: spec for name, spec in design.items() if name not in dense})


def _shrunk(config: TrainConfig, dense: nn.Module) -> _Float:
    """Return a smaller network without epitomes; its crossbars are those of the blocks of its layers."""
    hardware = config.on_hardware()
    arguments = keys("shrink of a training configuration", config.shrink, ["method", "blocks"])
    if arguments["method"] == "width":
        model = _narrow(config, dense, arguments["blocks"])
        blocks = dense_blocks(model, hardware.crossbar)
    else:
        model, report = shrink(dense, hardware=hardware, input_size=config.input_size, **arguments)
        blocks = report.blocks
    return _Float(model, Design(), lambda bits: crossbars_of(blocks, bits or DENSE_BITS, hardware.crossbar))


def _narrow(config: TrainConfig, dense: nn.Module, blocks: int) -> nn.Module:
    """Return the same network with as many channels as ``blocks`` hold, with new weights."""

    def narrow(width: tuple[int, ...]) -> nn.Module:
        return create(dataclasses.replace(config, model_options={**config.model_options, "width": width[0]}))

    hardware = config.on_hardware()
    if "width" not in config.model_options:
        raise ValueError(f"shrink by width is for a model with the option 'width', got {config.model_options}")
    most = sum(dense_blocks(dense, hardware.crossbar).values())
    if positive("blocks", blocks) > most:
        raise ValueError(f"blocks must be at most {most}, what the model needs, got {blocks}")
    return narrow(fit_width(narrow, [config.model_options["width"]], blocks, hardware, multiple=1))


def _quantizer(config: TrainConfig) -> QuantConfig:
    names = [f.name for f in dataclasses.fields(QuantConfig) if f.name != "crossbar"]
    return QuantConfig(**keys("quantize", config.quantize, [], names), crossbar=config.on_hardware().crossbar)


def _named_bits(config: TrainConfig, model: nn.Module) -> dict[str, int]:
    """Return the bits of every layer: those of ``layer_bits``, the others those of ``quantize``."""
    bits = dict.fromkeys(quantizable(model), _quantizer(config).bits)
    known_layers("layer_bits names", config.layer_bits, bits, "the network")
    return bits | config.layer_bits


def _mixed_bits(
    config: TrainConfig, small: _Float, workload: Workload, batch: tuple[Tensor, Tensor] | None, reference: int
) -> dict[str, int]:
    """Return the bits of least sensitivity for the layers that ``layer_bits`` does not name."""
    if batch is None:
        raise ValueError("mixed precision needs a batch of training images, for the sensitivities")
    fixed, choices, factor = config.layer_bits, config.mixed["bits"], config.mixed["factor"]
    crossbars = bit_crossbars(workload, config.on_hardware(), small.design, {*choices, *fixed.values()})
    taken = sum(crossbars[name][b] for name, b in fixed.items())
    free = [name for name in quantizable(small.model) if name not in fixed]
    if not free:
        raise ValueError("mixed needs a layer that layer_bits does not name, for which it may choose")
    needed = {name: {b: crossbars[name][b] for b in choices} for name in free}
    least = taken + sum(min(by_bits.values()) for by_bits in needed.values())
    if int(reference / factor) < least:  # before the hour that the Hessian takes
        raise ValueError(f"mixed.factor must be at most {reference / least:.6g} for these bits, got {factor}")
    traces = hessian_traces(small.model.eval(), [batch], probes=config.mixed.get("probes", 20), seed=config.seed)
    sensitivity = sensitivities(small.model.train(), traces, _quantizer(config), choices)
    budget = int(reference / factor) - taken
    return assign_bits({name: sensitivity[name] for name in free}, needed, budget).bits


_workloads: dict[str, Workload] = {}


def _workload(config: TrainConfig, dense: nn.Module) -> Workload:
    """Return the workload of the dense network, traced once for all runs that begin with it: that takes a second."""
    key = json.dumps([config.model, config.model_options, config.data, config.input_size], sort_keys=True)
    if key not in _workloads:
        _workloads[key] = trace(dense, config.input_size)
    return _workloads[key]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict into a model.

    Raises:
        ValueError: if its names, shapes or types are not those of the model.
    """
    for name, own in model.state_dict().items():
        if name in state and state[name].dtype != own.dtype:
            raise ValueError(f"{name} must be {own.dtype}, got {state[name].dtype}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(line(error)) from error


def _load(model: nn.Module, state: Mapping[str, Tensor], config: TrainConfig) -> None:
    try:
        load_weights(model, state)
    except ValueError as error:
        raise ValueError(f"the start {config.start!r} is another network than this run's: {error}") from error
