"""A workload from a torch model: its exported graph is walked, and every operation that is a layer is kept.

After ``import epimlib.epitome.trace``, or ``layers``, also ``import timm`` works beside a CPU torch.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from epimlib._checks import integers
from epimlib._torchvision import ensure_torchvision
from epimlib.epitome.workload import Layer, Workload

ensure_torchvision()


def trace(model: torch.nn.Module, input_size: tuple[int, int, int] | None = None, name: str | None = None) -> Workload:
    """Return the workload of a torch model, without running it.

    Args:
        model: any model that ``torch.export`` understands, which includes timm's; its weights are not read.
        input_size: ``(channels, height, width)`` of one image. None is the size that a timm model declares, as long
            as it has the classes that it declares; the workload says which.
        name: of the workload; by default timm's own name for the model, or its class.

    Raises:
        TypeError: if the model is no torch module.
        ValueError: if ``input_size`` is None and cannot be known; if the model has epitome layers or spiking
            neurons (of snntorch), cannot be exported at this size, joins feature maps in a way unknown here, or has a
            layer with a weight of a kind that `KINDS` lacks (a transposed or 1D convolution, a recurrent layer).
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    for path, module in model.named_modules():
        if hasattr(module, "epitome"):  # its weight is sampled, in part: the graph does not show the layer's shape
            raise ValueError(f"layer {path!r} is an epitome; trace the dense model, and say with a design what is not")
        if any(kind.__module__.startswith("snntorch.") for kind in type(module).__mro__):  # its charge outlives a call
            raise ValueError(f"layer {path!r} is a spiking neuron; trace the model that has nn.ReLU in its place")
    declared = getattr(model, "pretrained_cfg", None) or {}
    name = declared.get("architecture") or type(model).__name__.lower() if name is None else name
    if input_size is None:
        if "input_size" not in declared or declared.get("num_classes") != getattr(model, "num_classes", None):
            raise ValueError(
                f"input_size must be given, (channels, height, width) of one image: model {name!r} "
                + ("is for other classes than it declares" if declared else "does not say it")
            )
        input_size = declared["input_size"]
    input_size = integers("input_size", input_size, 3)
    image = next(model.parameters(), torch.empty(0)).new_zeros(1, *input_size)
    try:
        with evaluating(model):
            program = torch.export.export(model, (image,))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"model {name!r} cannot be traced at input_size={input_size}: {reason}") from error
    signature = program.graph_signature
    parameters = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    tracer = _Tracer({node: parameters[node.name] for node in program.graph.nodes if node.name in parameters})
    for node in program.graph.nodes:
        tracer.visit(node, node.name in signature.user_inputs)
    return Workload(name, input_size, tuple(tracer.layers.values()))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch a model to eval mode without gradients, and every part of it back to the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


_JOINS = {"add": "add", "sub": "add", "mul": "multiply", "cat": "concat"}


class _Tracer:
    """Walks an exported graph and keeps, for every value, the layer that it comes from."""

    POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax")
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
            if operation not in _JOINS:
                raise ValueError(f"operation {operation!r} joins {' and '.join(sources)} in a way unknown here")
            self.source[node] = self._join(_JOINS[operation], sources, *self._map(node, operands))
        else:
            self.source[node] = sources[0] if sources else None

    def _add(self, name: str, **fields: Any) -> str:
        unique, count = name, 2
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
        weight = re.sub(r"(^|\.)parametrizations\.(\w+)\.original\d*$", r"\1\2", weight)  # masked, or quantized
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
        return self._add(
            self._numbered("pool"), kind="pool", in_channels=x[1], out_channels=x[1], kernel_size=kernel, stride=stride,
            padding=padding, in_size=x[2:], out_size=size, inputs=sources,
        )  # fmt: skip

    def _join(self, kind: str, sources: tuple[str, ...], channels: int, size: tuple[int, int]) -> str:
        shape = {"in_channels": channels, "out_channels": channels, "in_size": size, "out_size": size}
        return self._add(self._numbered(kind), kind=kind, inputs=sources, **shape)

    def _numbered(self, kind: str) -> str:
        """Return the name of a layer that no module stands for: how many of its kind there are with it."""
        return f"{kind}{1 + sum(layer.kind == kind for layer in self.layers.values())}"


def _shape(node: Any) -> tuple[int, ...]:
    """Shape of a value of an exported graph, of the first one where an operation returns several."""
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)
