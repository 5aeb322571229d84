"""Quantized models in files.

A model of `epimlib.quant.quantize` becomes two files: ``name.safetensors`` holds the integers, their steps, the
ranges of the inputs and the float rest; ``name.json`` beside it holds the design, the config of every layer, and the
checksum that ties the two together.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils import parametrize

from epimlib._checks import keys, known_layers, one_of, read_json, write_bytes, write_json
from epimlib.epitome.design import Design
from epimlib.epitome.layers import epitomize
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import (
    attach,
    coefficient_latent,
    coefficient_step,
    integer_coefficients,
    integer_weight,
    parametrization,
    quantizable,
    quantized_layers,
    weighed,
    weight_name,
)

FORMAT = "epimlib quantized model, version 1"


def save_quantized(model: nn.Module, path: str | Path) -> None:
    """Write a quantized model to ``path`` and to the JSON file beside it, each whole or not at all.

    Args:
        model: of `quantize`. Integers take one byte up to 8 bits, else two.
        path: ends in ``.safetensors``.

    Raises:
        ValueError: if the model has no quantized layer, or ``path`` another ending.
    """
    path, about = _paths(path)
    layers = quantized_layers(model)
    state = model.state_dict()
    for name, module in model.named_modules(remove_duplicate=False):  # the state has every name of a shared layer
        if module in layers.values():
            narrow = torch.int8 if parametrization(module)[0].config.bits <= 8 else torch.int16
            state[_key(name, module)] = integer_weight(module).to(narrow)
            if weighed(module):
                whole = integer_coefficients(module)["coefficients"].to(torch.int8)
                state[_key(name, module, "coefficients")] = whole.reshape(-1)
    data = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()})
    write_bytes(path, data)
    description = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "design": Design({name: m.spec for name, m in model.named_modules() if hasattr(m, "spec")}).to_dict(),
        "layers": {name: parametrization(module)[0].config.to_dict() for name, module in layers.items()},
    }
    write_json(about, description)


def load_quantized(path: str | Path, model: nn.Module) -> nn.Module:
    """Return the quantized model of `save_quantized`, in eval mode; it computes the same logits.

    Args:
        path: of the safetensors file; the JSON file lies beside it.
        model: a float model of the same architecture, without epitomes; it is not changed.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if a file is truncated or foreign, the two do not belong together, or the model is another one.
    """
    path, about = _paths(path)
    what = "description of a quantized model"
    description = keys(f"{about}, a {what},", read_json(about, what), ["format", "sha256", "design", "layers"])
    one_of(f"format of {about}", description["format"], [FORMAT])
    if not path.is_file():
        raise FileNotFoundError(f"no quantized model at {path}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise ValueError(f"{path} is not the file that {about} describes: its checksum is another one")
    if not isinstance(description["layers"], Mapping):
        raise ValueError(f"layers of {about} must be a mapping, got {type(description['layers']).__name__}")
    try:
        state = load(data)
        design = Design.from_dict(description["design"])
        configs = {name: QuantConfig.from_dict(config) for name, config in description["layers"].items()}
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path} and {about} are no readable quantized model: {error}") from error
    model, _ = epitomize(model, design, init="random")
    modules = dict(model.named_modules())
    layers = quantizable(model, lambda _, name: name in configs)
    known_layers(f"{about} names", configs, modules, "the model")
    for name, config in configs.items():
        if name not in layers:
            kind = type(modules[name]).__name__
            raise ValueError(f"{about} names layer {name!r}, which must be a convolution or linear layer, got a {kind}")
        getattr(layers[name], weight_name(layers[name])).data.zero_()  # so that no step is looked for
        attach(layers[name], config)
    _check(path, state, model.state_dict())
    model.load_state_dict(state)
    for module in quantized_layers(model).values():
        quantizer, original = parametrization(module)
        original.data.copy_(quantizer.values(original))
        if weighed(module):
            latent = coefficient_latent(module)
            latent.data.mul_(coefficient_step(module))
    return model.eval()


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    return path, path.with_suffix(".json")


def _key(name: str, module: nn.Module, tensor: str | None = None) -> str:
    """Return the state dict's key of a quantized layer's weight, or of its coefficients."""
    tensor = tensor or weight_name(module)
    if parametrize.is_parametrized(module, tensor):
        tensor = f"parametrizations.{tensor}.original"
    return f"{name}.{tensor}".removeprefix(".")


def _check(path: Path, state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for key in sorted({*state, *expected}):
        if key not in state or key not in expected:
            which = "the model lacks" if key in state else "is not in the file"
            raise ValueError(f"{path} is for another model: {key!r} {which}")
        given, wanted, other = state[key], expected[key], f"{path} is for another model: {key!r}"
        if given.shape != wanted.shape:
            raise ValueError(f"{other} has shape {tuple(given.shape)} in the file, {tuple(wanted.shape)} in the model")
        if given.is_floating_point() and given.dtype != wanted.dtype:  # loading would round, and the logits be others
            raise ValueError(f"{other} is {given.dtype} in the file, {wanted.dtype} in the model")
