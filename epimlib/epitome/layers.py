"""Layers whose weight is sampled from an epitome.

`EpitomeConv2d` takes ``nn.Conv2d``'s arguments in ``nn.Conv2d``'s order, and an `EpitomeSpec`. Its only large
parameter is the epitome. ``forward`` samples the *kernel*, the part of the logical weight that is worth
multiplying, calls one ``F.conv2d``, and restores the rest by two identities of the plan:

- *wrapping*: output blocks that equal an earlier one are not computed, their channels are copied;
- *folding*: where the patches repeat along the input channels, input channels that meet the same elements of
  the epitome are added first and multiplied once (NES, arXiv 1907.05642).
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epimlib._checks import known_layers, one_of
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec, Plan, check_fit


class _EpitomeLayer(nn.Module):
    """What both layers share: the epitome, the kernel sampled from it, folding before and copying after."""

    def __init__(self, spec: EpitomeSpec, bias: bool, device: Any, dtype: Any) -> None:
        super().__init__()
        self.spec = spec
        plan = spec.plan()
        kept = sorted(set(plan.source))
        # Output blocks in the order in which they are copied out of the computed ones.
        self._blocks = [kept.index(o) for o in plan.source] if len(kept) < len(plan.source) else None
        self._period = plan.period
        index = _kernel_index(plan)
        self._kernel_shape = index.shape
        self.epitome = nn.Parameter(torch.empty(spec.epitome, device=device, dtype=dtype))
        # Not a buffer: DistributedDataParallel would broadcast it in every step.
        self._index = index.reshape(-1).to(self.epitome.device)
        if bias:
            self.bias = nn.Parameter(torch.empty(spec.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as torch initialises the layer that this one stands for (by the weight's fan-in)."""
        bound = 1 / math.sqrt(math.prod(self.spec.shape[1:]))
        nn.init.uniform_(self.epitome, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Set the epitome to the least-squares fit of a logical weight ``(C_out, C_in, k_h, k_w)``.

        The best element is the mean of the weights that sample it; elements that none samples become zero.
        """
        if tuple(weight.shape) != self.spec.shape:
            raise ValueError(f"weight to fit must have shape {self.spec.shape}, got {tuple(weight.shape)}")
        plan = self.spec.plan()
        wide = torch.promote_types(self.epitome.dtype, torch.float32)  # half would not hold sums
        usage = torch.from_numpy(plan.usage).to(self.epitome.device, wide).clamp(min=1)
        index = torch.from_numpy(plan.index.reshape(-1)).to(self.epitome.device)
        total = torch.zeros_like(usage).reshape(-1)
        total.index_add_(0, index, weight.to(total).reshape(-1))
        self.epitome.copy_(total.reshape(usage.shape) / usage)

    def _sample(self) -> Tensor:
        """Return the kernel, sampled anew each time: no key tells reliably that a tensor has not changed."""
        return self.epitome.reshape(-1).index_select(0, self._index).reshape(self._kernel_shape)

    def _fold(self, x: Tensor, dim: int) -> Tensor:
        """Add input channels that meet the same elements of the epitome."""
        if self._period >= self.spec.in_channels:
            return x
        short = -self.spec.in_channels % self._period
        x = F.pad(x, (0, 0) * (-dim - 1) + (0, short)) if short else x
        return x.unflatten(dim, (-1, self._period)).sum(dim - 1)

    def _copy(self, y: Tensor, dim: int) -> Tensor:
        """Copy computed output blocks to those that equal them, and add the bias of each channel."""
        if self._blocks is None:
            return y
        blocks = y.split(self.spec.block[0], dim)
        y = torch.cat([blocks[number] for number in self._blocks], dim).narrow(dim, 0, self.spec.out_channels)
        return y if self.bias is None else y + self.bias.to(y.dtype).reshape(-1, *(1,) * (-dim - 1))

    @property
    def _kernel_bias(self) -> Tensor | None:
        return self.bias if self._blocks is None else None

    def _apply(self, fn: Any, recurse: bool = True) -> "_EpitomeLayer":
        super()._apply(fn, recurse)
        # Made anew where there is nothing to move: a meta tensor has no values.
        index = _kernel_index(self.spec.plan()).reshape(-1) if self._index.is_meta else self._index
        self._index = index.to(self.epitome.device)
        return self


class EpitomeConv2d(_EpitomeLayer):
    """A 2D convolution with a weight sampled from an epitome.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode, device, dtype: as in
            ``nn.Conv2d``.
        groups: must be 1.
        epitome: the specification; its shape must be the layer's.

    Shapes: input ``(N, C_in, H, W)`` or ``(C_in, H, W)``, output as ``nn.Conv2d``'s.

    Attributes:
        epitome: the parameter, ``(E_out, E_in, E_h, E_w)``.
        weight: the logical weight ``(C_out, C_in, k_h, k_w)``, computed when read; gradients flow through it.
        bias: ``(C_out,)`` or None.

    Raises:
        ValueError: if ``groups`` is not 1 or ``epitome`` is for another shape.

    >>> spec = EpitomeSpec.for_crossbars(512, 512, 3, rows=1024, cols=256)
    >>> layer = EpitomeConv2d(512, 512, 3, padding=1, bias=False, epitome=spec)
    >>> layer(torch.zeros(1, 512, 7, 7)).shape, layer.weight.numel() // layer.epitome.numel()
    (torch.Size([1, 512, 7, 7]), 9)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        epitome: EpitomeSpec,
    ) -> None:
        # nn.Conv2d checks and normalises its arguments; on the meta device it allocates nothing.
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 1, False, padding_mode, "meta"
        )
        check_fit("epitome", epitome, tuple(conv.weight.shape), groups)
        super().__init__(epitome, bias, device, dtype)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            setattr(self, name, getattr(conv, name))
        self.padding_mode = padding_mode
        self._pad = None if padding_mode == "zeros" else conv._reversed_padding_repeated_twice

    @property
    def weight(self) -> Tensor:
        index = torch.from_numpy(self.spec.plan().index).to(self.epitome.device)
        return self.epitome.reshape(-1)[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self._fold(x, -3)
        padding = self.padding
        if self._pad is not None:
            x, padding = F.pad(x, self._pad, self.padding_mode), 0
        y = F.conv2d(x, self._sample(), self._kernel_bias, self.stride, padding, self.dilation)
        return self._copy(y, -3)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, "
            f"epitome={self.spec.epitome}, wrap={self.spec.wrap}"
        )


class EpitomeLinear(_EpitomeLayer):
    """A linear layer with a weight sampled from an epitome: the 1x1 case of `EpitomeConv2d`.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        epitome: the specification, with ``kernel_size`` (1, 1).

    Attributes:
        epitome: the parameter, ``(E_out, E_in, E_h, E_w)``.
        weight: the logical weight ``(out_features, in_features)``, computed when read.
        bias: ``(out_features,)`` or None.

    Raises:
        ValueError: if ``epitome`` is for another shape.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        epitome: EpitomeSpec,
    ) -> None:
        check_fit("epitome", epitome, (out_features, in_features, 1, 1))
        super().__init__(epitome, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @property
    def weight(self) -> Tensor:
        index = torch.from_numpy(self.spec.plan().index).to(self.epitome.device)
        return self.epitome.reshape(-1)[index[:, :, 0, 0]]

    def forward(self, x: Tensor) -> Tensor:
        return self._copy(F.linear(self._fold(x, -1), self._sample().flatten(1), self._kernel_bias), -1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, "
            f"epitome={self.spec.epitome}, wrap={self.spec.wrap}"
        )


def _kernel_index(plan: Plan) -> Tensor:
    """Return where in the flat epitome each element of the kernel lies."""
    rows = [c for o in sorted(set(plan.source)) for c in plan.patches[o * plan.spec.grid[1]].out]
    return torch.from_numpy(plan.index[rows, : plan.period])


@dataclass(frozen=True)
class EpitomizeReport:
    """What `epitomize` did: layers converted, layers left dense and why, parameters before and after."""

    converted: Mapping[str, EpitomeSpec]
    dense: Mapping[str, str]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        names = [*self.converted, *self.dense]
        width = max(map(len, names), default=0)
        lines = [
            f"{len(self.converted)} of {len(names)} layers became epitomes; "
            f"{self.parameters_before:,} parameters became {self.parameters_after:,}"
        ]
        lines += [
            f"{name:<{width}}  E {spec.epitome}, wrap {spec.wrap}, {spec.compression:.4g} times smaller"
            for name, spec in self.converted.items()
        ]
        lines += [f"{name:<{width}}  dense: {reason}" for name, reason in self.dense.items()]
        return "\n".join(lines)


def epitomize(
    model: nn.Module, design: Mapping[str, EpitomeSpec], init: str = "dense"
) -> tuple[nn.Module, EpitomizeReport]:
    """Return a copy of a model in which layers are replaced as a design says, and a report.

    Args:
        model: any torch model, a single layer too; it is not changed. A layer that it uses under several names stays
            one layer, with the first of them.
        design: epitomes by layer name. Layers that it does not name stay dense, as do grouped convolutions
            and subclasses of ``nn.Conv2d`` and ``nn.Linear``; the report says why.
        init: ``"dense"`` fits each epitome to the weight that it replaces by least squares; ``"random"``
            draws it as a new layer's. Biases are kept in both cases.

    Raises:
        ValueError: if the design names a layer that the model lacks, or is for a weight of another shape.
    """
    one_of("init", init, ["dense", "random"])
    design = Design(design)
    before = sum(p.numel() for p in model.parameters())
    model = copy.deepcopy(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    known_layers("design names", design, layers, "the model")
    converted, dense, replaced = {}, {}, {}
    for name, module in layers.items():
        reason = _reason_to_stay(module, name in design)
        if reason:
            dense[name] = reason
            continue
        weight = module.weight if module.weight.ndim == 4 else module.weight[:, :, None, None]
        check_fit(f"design of layer {name!r}", design[name], tuple(weight.shape))
        layer = _replacement(module, design[name])
        if init == "dense":
            layer.fit(weight)
        if module.bias is not None:
            layer.bias.data.copy_(module.bias.data)
        replaced[module] = layer.train(module.training)
        converted[name] = design[name]
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and module in replaced:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replaced[module])
    model = replaced.get(model, model)
    after = sum(p.numel() for p in model.parameters())
    return model, EpitomizeReport(converted, dense, before, after)


def _reason_to_stay(module: nn.Module, named: bool) -> str | None:
    if type(module) not in (nn.Conv2d, nn.Linear):
        return f"{type(module).__name__} derives its weight or its input in its own way"
    if getattr(module, "groups", 1) != 1:
        return f"a grouped convolution with {module.groups} groups"
    return None if named else "the design leaves it dense"


def _replacement(module: nn.Conv2d | nn.Linear, spec: EpitomeSpec) -> _EpitomeLayer:
    options = {"device": module.weight.device, "dtype": module.weight.dtype, "epitome": spec}
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return EpitomeLinear(module.in_features, module.out_features, bias, **options)
    return EpitomeConv2d(
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
        module.dilation, 1, bias, module.padding_mode, **options,
    )  # fmt: skip
