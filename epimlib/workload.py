"""A network as plain data: layers, shapes and edges, without torch.

`trace` makes a workload from any torch model; `Workload.load` reads a stored one. Only layers that the hardware
treats as a step of their own appear; normalisation and activation functions belong to the layer before them.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from epimlib._checks import integers, keys, one_of, positive, read_json, write_json

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent.parent / "data" / "workloads"

KINDS = {
    "conv": "convolution; its weight lies on crossbars",
    "linear": "fully connected layer, applied at every position; its weight lies on crossbars",
    "pool": "maximum or average over a window",
    "add": "sum of two feature maps (a residual connection)",
    "multiply": "product of two feature maps (a gate)",
    "matmul": "product of two activations (attention); no weight, so no crossbars",
    "concat": "concatenation of feature maps",
}


@dataclass(frozen=True)
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
            least = 0 if field == "padding" else 1
            value = integers(f"{field} of {self.name!r}", getattr(self, field), 2, least)
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
    def macs(self) -> int:
        """Multiply-accumulate operations for one image; zero for a layer without a weight."""
        return self.positions * math.prod(self.weight_shape) if self.weighted else 0


@dataclass(frozen=True)
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
        layers = tuple(changed if layer is head else layer for layer in self.layers)
        return dataclasses.replace(self, layers=layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        layers = [dataclasses.asdict(layer) for layer in self.layers]
        for layer in layers:
            layer.update({key: list(value) for key, value in layer.items() if isinstance(value, tuple)})
        return {"name": self.name, "input_size": list(self.input_size), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Workload":
        """Return the workload of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        keys("a workload", data, ["name", "input_size", "layers"])
        if not isinstance(data["layers"], list | tuple):
            raise ValueError(f"layers of a workload must be a list, got {type(data['layers']).__name__}")
        fields = [field.name for field in dataclasses.fields(Layer)]
        layers = [Layer(**keys("a layer", layer, fields[:4], fields[4:])) for layer in data["layers"]]
        return cls(data["name"], data["input_size"], layers)

    @classmethod
    def load(cls, name: str) -> "Workload":
        """Return a stored workload: ``"resnet50"``, or ``"resnet50@96"`` for another input size.

        Raises:
            FileNotFoundError: if it is not stored; the message names those that are.
            ValueError: if the file is truncated or not a workload.
        """
        path = FOLDER / f"{name}.json"
        if not path.is_file():
            stored = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json")))
            raise FileNotFoundError(f"no stored workload {name!r}; stored are {stored}")
        return cls.from_dict(read_json(path, "workload"))

    def save(self, path: str | Path | None = None) -> Path:
        """Store the workload, by default where ``load(name)`` finds it, and return the path."""
        path = Path(path) if path is not None else FOLDER / f"{self.name}.json"
        write_json(path, self.to_dict())
        return path

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


def check_workload(workload: Any) -> Workload:
    """Return the workload, or raise ``TypeError`` if it is something else, such as a model or a name."""
    if not isinstance(workload, Workload):
        given = type(workload).__name__
        if isinstance(workload, str):
            given = f"{workload!r}; did you mean Workload.load({workload!r})?"
        elif hasattr(workload, "named_modules"):
            given += "; epimlib.workload.trace makes one of a model"
        raise TypeError(f"workload must be a Workload, got {given}")
    return workload


def trace(
    model: "torch.nn.Module", input_size: tuple[int, int, int] | None = None, name: str | None = None
) -> Workload:
    """Return the workload of a torch model, without running it.

    Args:
        model: any model that ``torch.export`` understands, which includes timm's; its weights are not read.
        input_size: ``(channels, height, width)`` of one image. None is the size that a timm model declares, as long
            as it has the classes that it declares; the workload says which.
        name: of the workload; by default timm's own name for the model, or its class.

    Raises:
        TypeError: if the model is no torch module.
        ValueError: if ``input_size`` is None and cannot be known; if the model has epitome layers, cannot be
            exported at this size, joins feature maps in a way unknown here, or has a layer with a weight of a kind that
            `KINDS` lacks (a transposed or 1D convolution, a recurrent layer).
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    for path, module in model.named_modules():
        if hasattr(module, "epitome"):  # its weight is sampled, in part: the graph does not show the layer's shape
            raise ValueError(f"layer {path!r} is an epitome; trace the dense model, and say with a design what is not")
    declared = getattr(model, "pretrained_cfg", None) or {}
    if name is None:
        name = declared.get("architecture") or type(model).__name__.lower()
    if input_size is None:
        if "input_size" not in declared or declared.get("num_classes") != getattr(model, "num_classes", None):
            raise ValueError(
                f"input_size must be given, (channels, height, width) of one image: model {name!r} "
                + ("is for other classes than it declares" if declared else "does not say it")
            )
        input_size = declared["input_size"]
    input_size = integers("input_size", input_size, 3)
    training = {module: module.training for module in model.modules()}
    reference = next(model.parameters(), torch.empty(0))
    try:
        program = torch.export.export(model.eval(), (reference.new_zeros(1, *input_size),))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"model {name!r} cannot be traced at input_size={input_size}: {reason}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
    signature = program.graph_signature
    parameters = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    tracer = _Tracer({node: parameters[node.name] for node in program.graph.nodes if node.name in parameters})
    for node in program.graph.nodes:
        tracer.visit(node, node.name in signature.user_inputs)
    return Workload(name, input_size, tuple(tracer.layers.values()))


class _Tracer:
    """Walks an exported graph and keeps, for every value, the layer that it comes from."""

    POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax")
    JOINS = MappingProxyType({"add": "add", "sub": "add", "mul": "multiply", "cat": "concat"})
    PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention")
    # Operations that have a weight, if they begin so and one of their operands alone is an activation.
    WEIGHTED = ("conv", "bilinear", "lstm", "gru", "rnn", *PRODUCTS)

    def __init__(self, parameters: Mapping[Any, str]) -> None:
        self.parameters = parameters
        self.layers: dict[str, Layer] = {}
        self.source: dict[Any, str | None] = {}

    def visit(self, node: Any, is_input: bool) -> None:
        if node.op == "placeholder":
            self.source[node] = "input" if is_input else None
        if node.op == "get_attr":  # the body of a condition, or of a block under autocast
            operation = next(iter(node.users)).target
            raise ValueError(f"operation {operation!s} has a graph of its own, which cannot be traced")
        if node.op != "call_function":
            return
        operation = str(getattr(node.target, "__name__", node.target)).split(".")[0].removesuffix("_")
        operands = [child for child in node.all_input_nodes if self.source[child] is not None]
        sources = tuple(dict.fromkeys(self.source[child] for child in operands))
        by_weight = operation in ("matmul", "mm") and operands == [node.args[0]]
        if (operation in ("conv2d", "linear") and sources) or by_weight:
            self.source[node] = self._weighted(node, operation, sources)
        elif operation in self.POOLS and sources and self._pools(node):
            self.source[node] = self._pool(node, sources)
        elif operation in self.PRODUCTS and len(operands) > 1:
            *windows, heads, tokens, width = (1, 1, *_shape(node))
            size = (math.prod(windows) * tokens, 1)
            self.source[node] = self._join("matmul", sources, heads * width, size)
        elif operation.startswith(self.WEIGHTED) and sources:
            raise ValueError(f"operation {operation!r} after {sources[0]!r} has a weight, of a kind unknown here")
        elif len(sources) > 1:
            if operation not in self.JOINS:
                raise ValueError(f"operation {operation!r} joins {' and '.join(sources)} in a way unknown here")
            self.source[node] = self._join(self.JOINS[operation], sources, *self._map(node, operands))
        else:
            self.source[node] = sources[0] if sources else None

    def _add(self, name: str, **fields: Any) -> str:
        count = 2
        unique = name
        while unique in self.layers:  # a module that is called twice
            unique, count = f"{name}#{count}", count + 1
        self.layers[unique] = Layer(name=unique, **fields)
        return unique

    def _map(self, node: Any, operands: list[Any]) -> tuple[int, tuple[int, int]]:
        """Channels and size of a joined feature map: its channel axis is its largest operand's."""
        operand = max(operands, key=lambda child: math.prod(_shape(child)))
        source = self.source[operand]
        given, shape = _shape(operand)[1:], _shape(node)[1:]
        channels = self.layers[source].out_channels if source in self.layers else given[0]
        last = given[-1] == channels and (len(given) < 3 or given[0] != channels)
        space = shape[:-1] if last else shape[1:]
        return shape[-1] if last else shape[0], space if len(space) == 2 else (math.prod(space), 1)

    def _weighted(self, node: Any, operation: str, sources: tuple[str, ...]) -> str:
        weight = self._parameter(node.args[1])
        x, y = _shape(node.args[0]), _shape(node)
        name = weight.removesuffix(".weight").removesuffix("_weight")
        if operation != "conv2d":
            size = x[1:-1] if len(x) == 4 and x[0] == 1 else (math.prod(x[:-1]), 1)
            shape = {"kernel_size": (1, 1), "in_size": size, "out_size": size}
            return self._add(name, kind="linear", in_channels=x[-1], out_channels=y[-1], inputs=sources, **shape)
        defaults = (None, None, None, (1, 1), (0, 0), (1, 1), 1)
        arguments = (*node.args, *defaults[len(node.args) :])
        stride, padding, dilation, groups = (node.kwargs.get(k, v) for k, v in zip(
            ("stride", "padding", "dilation", "groups"), arguments[3:], strict=True))  # fmt: skip
        kernel = _shape(node.args[1])[2:]
        if isinstance(padding, str):  # "same" or "valid"
            padding = [d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        return self._add(
            name, kind="conv", in_channels=x[1], out_channels=y[1], kernel_size=kernel, stride=tuple(stride),
            padding=tuple(padding), dilation=tuple(dilation), groups=groups,
            in_size=(x[0] * x[2], x[3]), out_size=(y[0] * y[2], y[3]), inputs=sources,
        )  # fmt: skip

    def _parameter(self, node: Any) -> str:
        """Name of the parameter that a weight is, or is computed from (weight standardisation)."""
        if node in self.parameters:
            return self.parameters[node]
        names = [self._parameter(child) for child in node.all_input_nodes]
        return next((name for name in names if name.endswith("weight")), names[0] if names else node.name)

    @staticmethod
    def _pools(node: Any) -> bool:
        """Whether the operation reduces a feature map's area (a mean over channels does not)."""
        x, y = _shape(node.args[0]), _shape(node)
        return len(x) == 4 and len(y) in (2, 4) and x[1] == y[1]

    def _pool(self, node: Any, sources: tuple[str, ...]) -> str:
        x, y = _shape(node.args[0]), _shape(node)
        size = (*y[2:], 1, 1)[:2]
        kernel = stride = tuple(-(-a // b) for a, b in zip(x[2:], size, strict=True))
        padding = (0, 0)
        if str(node.target).split(".")[1] in ("max_pool2d", "avg_pool2d"):
            kernel = integers("kernel_size", node.args[1], 2)
            stride = integers("stride", node.args[2], 2) if len(node.args) > 2 and node.args[2] else kernel
            padding = integers("padding", node.args[3], 2, 0) if len(node.args) > 3 else padding
        number = 1 + sum(layer.kind == "pool" for layer in self.layers.values())
        return self._add(
            f"pool{number}", kind="pool", in_channels=x[1], out_channels=x[1], kernel_size=kernel, stride=stride,
            padding=padding, in_size=x[2:], out_size=size, inputs=sources,
        )  # fmt: skip

    def _join(self, kind: str, sources: tuple[str, ...], channels: int, size: tuple[int, int]) -> str:
        number = 1 + sum(layer.kind == kind for layer in self.layers.values())
        return self._add(
            f"{kind}{number}", kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size,
            inputs=sources,
        )  # fmt: skip


def _shape(node: Any) -> tuple[int, ...]:
    """Shape of a value of an exported graph, of the first one where an operation returns several."""
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)
