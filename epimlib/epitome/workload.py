"""A network as plain data: layers, shapes and edges, without torch.

`trace` makes a workload from any torch model; `Workload.load` reads a stored one. Only layers that the hardware
treats as a step of their own appear; normalisation and activation functions belong to the layer before them.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epimlib._checks import PROJECT, fields_of, instance, integers, is_file, keys, load, one_of, positive, write_json

FOLDER = PROJECT / "data" / "workloads"

KINDS = {
    "conv": "convolution; its weight lies on crossbars",
    "linear": "fully connected layer, applied at every position; its weight lies on crossbars",
    "pool": "maximum or average over a window",
    "add": "sum of two feature maps (a residual connection)",
    "multiply": "product of two feature maps (a gate)",
    "matmul": "product of two activations (attention); no weight, so no crossbars",
    "concat": "concatenation of feature maps",
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One step of a network.

    Sizes are ``(height, width)``; a linear layer on ``n`` tokens has size ``(n, 1)``, on one vector ``(1, 1)``.
    ``inputs`` names the layers whose outputs it reads; ``"input"`` is the network's own input.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size or the kind is not allowed.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    in_size: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    inputs: tuple[str, ...] = ("input",)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name == "input":
            raise ValueError(f"name of a layer must be a text other than 'input', got {self.name!r}")
        one_of(f"kind of {self.name!r}", self.kind, KINDS)
        for field in ("in_channels", "out_channels", "groups"):
            object.__setattr__(self, field, positive(f"{field} of {self.name!r}", getattr(self, field)))
        for field in ("kernel_size", "stride", "padding", "dilation", "in_size", "out_size"):
            value = integers(f"{field} of {self.name!r}", getattr(self, field), 2, int(field != "padding"))
            object.__setattr__(self, field, value)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups of {self.name!r} must divide its channels {self.in_channels} and {self.out_channels}, "
                f"got {self.groups}"
            )
        if not isinstance(self.inputs, list | tuple) or not all(isinstance(name, str) for name in self.inputs):
            raise ValueError(f"inputs of {self.name!r} must be a list of layer names, got {self.inputs!r}")
        object.__setattr__(self, "inputs", tuple(self.inputs))

    @property
    def weighted(self) -> bool:
        """Whether the layer has a weight that lies on crossbars."""
        return self.kind in ("conv", "linear")

    @property
    def positions(self) -> int:
        """Output positions, ``out_h * out_w``: how often the weight is applied to one image."""
        return math.prod(self.out_size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(C_out, C_in / groups, k_h, k_w)``; a linear layer is a 1x1 convolution."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """For height and for width ``(in_size, out_size, kernel_size, stride, padding, dilation)``."""
        fields = (self.in_size, self.out_size, self.kernel_size, self.stride, self.padding, self.dilation)
        return tuple(zip(*fields, strict=True))

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image; zero for a layer without a weight."""
        return self.positions * math.prod(self.weight_shape) if self.weighted else 0


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network: its name, the size of its input ``(channels, height, width)`` and its layers in order.

    Raises:
        ValueError: if it has no name, two layers share one, or a layer reads one that does not come before it.
    """

    name: str
    input_size: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name of a workload must be a text, got {self.name!r}")
        object.__setattr__(self, "input_size", integers("input_size", self.input_size, 3))
        object.__setattr__(self, "layers", tuple(self.layers))
        known = {"input"}
        for layer in self.layers:
            if layer.name in known:
                raise ValueError(f"two layers of {self.name!r} are called {layer.name!r}")
            for source in layer.inputs:
                if source not in known:
                    raise ValueError(f"layer {layer.name!r} reads {source!r}, which is no layer before it")
            known.add(layer.name)

    @property
    def weighted(self) -> tuple[Layer, ...]:
        """The layers whose weights lie on crossbars."""
        return tuple(layer for layer in self.layers if layer.weighted)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r} in {self.name!r}")

    def with_classes(self, classes: int) -> "Workload":
        """Return the same network with another number of classes: the last linear layer's output channels."""
        head = next((layer for layer in reversed(self.layers) if layer.kind == "linear"), None)
        if head is None:
            raise ValueError(f"{self.name!r} has no linear layer whose classes could be changed")
        changed = dataclasses.replace(head, out_channels=positive("classes", classes))
        return dataclasses.replace(self, layers=tuple(changed if layer is head else layer for layer in self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Workload":
        """Return the workload of ``to_dict``.

        Raises:
            ValueError: if a key is unknown or missing, or the channels or sizes of a layer do not follow from those of
                the layers that it reads.
        """
        keys("a workload", data, ["name", "input_size", "layers"])
        if not isinstance(data["layers"], list | tuple):
            raise ValueError(f"layers of a workload must be a list, got {type(data['layers']).__name__}")
        layers = [Layer(**fields_of("a layer", layer, Layer)) for layer in data["layers"]]
        return _check_edges(cls(data["name"], data["input_size"], layers))

    @classmethod
    def load(cls, name: str | Path) -> "Workload":
        """Return a stored workload, ``"resnet50"`` or ``"resnet50@96"`` for another input size, or that of a JSON file.

        Raises:
            FileNotFoundError: if it is not stored, and the message names those that are; if there is no such file.
            ValueError: if the file is truncated or not a workload.
        """
        if not is_file(name) and name not in stored():
            raise FileNotFoundError(f"no stored workload {name!r}; stored are {', '.join(stored())}")
        return load(name if is_file(name) else FOLDER / f"{name}.json", "workload", cls.from_dict)

    def save(self, path: str | Path) -> None:
        """Write the workload as a JSON file, whole or not at all; ``load`` reads it."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        size = " x ".join(map(str, self.input_size))
        macs = sum(layer.macs for layer in self.layers)
        lines = [f"{self.name} for images of {size}: {len(self.layers)} layers, {macs:,} MACs"]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.weight_shape)) if layer.weighted else ""
            size = f"{layer.out_size[0]} x {layer.out_size[1]}"
            lines.append(f"{layer.name:<{width}}  {layer.kind:<8}  {shape:<20}  {size:<9}  {', '.join(layer.inputs)}")
        return "\n".join(lines)


def stored() -> list[str]:
    """Return the names of the stored workloads."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def _check_edges(workload: Workload) -> Workload:
    """Return a workload, or raise if a layer does not fit what it reads.

    A linear layer may read a flattened map or some of the tokens, and tokens may be added to a map: their sizes are
    not compared.
    """
    maps = {"input": (workload.input_size[0], workload.input_size[1:])}
    for layer in workload.layers:
        read = [maps[name] for name in layer.inputs]
        channels = [count for count, _ in read]
        wrong = None
        if layer.kind in ("conv", "pool") and read != [(layer.in_channels, layer.in_size)]:
            wrong = f"must read one map of its {layer.in_channels} channels and size {layer.in_size}, got {read}"
        elif layer.kind == "conv" and layer.out_size not in _out_sizes(layer):
            wrong = f"must have an out_size of {' or '.join(map(str, _out_sizes(layer)))}, got {layer.out_size}"
        elif layer.kind in ("add", "multiply") and set(channels) != {layer.out_channels}:
            wrong = f"must read maps of {layer.out_channels} channels, got {channels}"
        elif layer.kind == "concat" and sum(channels) != layer.out_channels:
            wrong = f"must read maps of {layer.out_channels} channels together, got {channels}"
        if wrong:
            raise ValueError(f"layer {layer.name!r} of {workload.name!r} {wrong}")
        maps[layer.name] = layer.out_channels, layer.out_size
    return workload


def _out_sizes(layer: Layer) -> list[tuple[int, int]]:
    """Return the output sizes of a convolution: with its padding, and with what keeps the size at stride 1 ("same")."""
    padded = tuple(
        (size + 2 * pad - dil * (kernel - 1) - 1) // step + 1 for size, _, kernel, step, pad, dil in layer.axes
    )
    return list(dict.fromkeys([padded, tuple(-(-size // step) for size, _, _, step, *_ in layer.axes)]))


def check_workload(workload: Any) -> Workload:
    """Return the workload, or raise ``TypeError`` if it is something else, such as a model or a name."""
    hint = "; epimlib.epitome.trace.trace makes one of a model" if hasattr(workload, "named_modules") else ""
    return instance("workload", workload, Workload, "Workload.load", hint)
