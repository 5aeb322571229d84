"""Layers whose weight is sampled from an epitome.

`EpitomeConv2d` takes ``nn.Conv2d``'s arguments in ``nn.Conv2d``'s order, and an `EpitomeSpec`. Its only large
parameter is the epitome. ``forward`` samples the *kernel*, the part of the logical weight that is worth
multiplying, calls one ``F.conv2d``, and restores the rest by two identities of the plan:

- *wrapping*: output blocks that equal an earlier one are not computed, their channels are copied;
- *folding*: where the patches repeat along the input channels, input channels that meet the same elements of
  the epitome are added first and multiplied once (NES, arXiv 1907.05642).

With round coefficients neither holds. Wrapped output blocks then share the partial sums of every input block, which are
computed once, by a grouped convolution, and combined with each block's own coefficients; where blocks are so small
that the combination would take longer than it saves, the weight is sampled as a whole.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epimlib._checks import known_layers, one_of
from epimlib._torchvision import ensure_torchvision
from epimlib.epitome.coefficients import fit_coefficients, nearest_coefficients
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec, Plan, check_fit

ensure_torchvision()


COMBINATION = 180
"""Multiplications of a convolution that take about as long as one of the combination of partial sums, which waits for
memory: on one processor core, as `benchmarks/layer.py` shows it."""


class _EpitomeLayer(nn.Module):
    """What both layers share: the epitome, the kernel sampled from it, folding before and copying after."""

    def __init__(self, spec: EpitomeSpec, bias: bool, device: Any, dtype: Any) -> None:
        super().__init__()
        self.spec = spec
        plan = spec.plan()
        kept = sorted(set(plan.source))
        # Output blocks in the order in which they are copied out of the computed ones.
        copied = len(kept) < len(plan.source) and not spec.weighed
        self._blocks = [kept.index(o) for o in plan.source] if copied else None
        self._period = plan.period
        self.epitome = nn.Parameter(torch.empty(spec.epitome, device=device, dtype=dtype))
        if spec.weighed:
            # One-dimensional, so that optimizers that spare vectors from weight decay, as timm's do, spare them.
            self.coefficients = nn.Parameter(torch.empty(spec.out_channels * spec.grid[1], device=device, dtype=dtype))
        self._set_indices(plan)
        if bias:
            self.bias = nn.Parameter(torch.empty(spec.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _set_indices(self, plan: Plan) -> None:
        """Make what a forward pass looks up. These are no buffers: DistributedDataParallel would broadcast them."""
        self._sharing = _Sharing(plan) if _Sharing.pays(plan) else None
        index = self._sharing.kernel if self._sharing else _kernel_index(plan)
        self._kernel_shape = index.shape
        self._index = index.reshape(-1).to(self.epitome.device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as torch initialises the layer that this one stands for (by the weight's fan-in)."""
        bound = 1 / math.sqrt(math.prod(self.spec.shape[1:]))
        nn.init.uniform_(self.epitome, -bound, bound)
        if self.spec.weighed:
            # Random signs. A sign has no size: its latent is drawn as the epitome's elements are, so that both change
            # sign after about as many steps.
            nn.init.uniform_(self.coefficients, -bound, bound)
            if self.spec.coefficients != "sign":
                self.coefficients.copy_(nearest_coefficients(self.coefficients, "sign"))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Set epitome and coefficients to the least-squares fit of a logical weight ``(C_out, C_in, k_h, k_w)``.

        The best element is the mean of the weights that sample it; elements that none samples become zero. With
        coefficients see `epimlib.epitome.coefficients.fit_coefficients`.
        """
        if tuple(weight.shape) != self.spec.shape:
            raise ValueError(f"weight to fit must have shape {self.spec.shape}, got {tuple(weight.shape)}")
        plan = self.spec.plan()
        wide = torch.promote_types(self.epitome.dtype, torch.float32)  # half would not hold sums
        weight = weight.to(self.epitome.device, wide)
        if self.spec.weighed:
            epitome, coefficients = map(torch.from_numpy, fit_coefficients(weight.cpu().numpy(), plan))
            self.epitome.copy_(epitome)
            self.coefficients.copy_(coefficients.reshape(-1))
            return
        usage = torch.from_numpy(plan.usage).to(weight).clamp(min=1)
        index = torch.from_numpy(plan.index.reshape(-1)).to(self.epitome.device)
        total = torch.zeros_like(usage).reshape(-1)
        total.index_add_(0, index, weight.reshape(-1))
        self.epitome.copy_(total.reshape(usage.shape) / usage)

    def round_coefficients(self) -> Tensor:
        """Return the coefficients that the layer computes with, ``(C_out, n_in)``; ones, if it has none."""
        if not self.spec.weighed:
            return self.epitome.new_ones(self.spec.out_channels, self.spec.grid[1])
        latent, kind = self.coefficients, self.spec.coefficients
        if kind != "free":  # the gradient passes straight through
            nearest = nearest_coefficients(latent.detach(), kind).to(latent.dtype)
            latent = nearest + (latent - latent.detach())
        return latent.reshape(-1, self.spec.grid[1])

    def _logical(self) -> Tensor:
        """Return the logical weight ``(C_out, C_in, k_h, k_w)``."""
        index = torch.from_numpy(self.spec.plan().index).to(self.epitome.device)
        weight = self.epitome.reshape(-1)[index]
        return weight * self._by_channel() if self.spec.weighed else weight

    def _by_channel(self) -> Tensor:
        """Return the coefficients by input channel, ``(C_out, C_in, 1, 1)``."""
        wide = self.round_coefficients()[:, :, None].expand(-1, -1, self.spec.block[1]).flatten(1)
        return wide[:, : self.spec.in_channels, None, None]

    def _sample(self) -> Tensor:
        """Return the kernel, sampled anew each time: no key tells reliably that a tensor has not changed."""
        kernel = self.epitome.reshape(-1).index_select(0, self._index).reshape(self._kernel_shape)
        return kernel * self._by_channel() if self.spec.weighed and self._sharing is None else kernel

    def _fold(self, x: Tensor, dim: int) -> Tensor:
        """Add input channels that meet the same elements of the epitome."""
        if self._period >= self.spec.in_channels:
            return x
        x = _padded(x, dim, self._period)
        return x.unflatten(dim, (-1, self._period)).sum(dim - 1)

    def _copy(self, y: Tensor, dim: int) -> Tensor:
        """Copy computed output blocks to those that equal them, and add the bias of each channel."""
        if self._blocks is None:
            return y
        blocks = y.split(self.spec.block[0], dim)
        y = torch.cat([blocks[number] for number in self._blocks], dim).narrow(dim, 0, self.spec.out_channels)
        return self._with_bias(y, dim)

    def _combine(self, sums: Tensor, dim: int) -> Tensor:
        """Weigh the partial sums of every input block, add them up, and add the bias of each channel."""
        return self._with_bias(self._sharing.combine(sums, self.round_coefficients(), dim), dim)

    def _with_bias(self, y: Tensor, dim: int) -> Tensor:
        return y if self.bias is None else y + self.bias.to(y.dtype).reshape(-1, *(1,) * (-dim - 1))

    @property
    def _kernel_bias(self) -> Tensor | None:
        return self.bias if self._blocks is None else None

    def _apply(self, fn: Any, recurse: bool = True) -> "_EpitomeLayer":
        super()._apply(fn, recurse)
        if self._index.is_meta:  # there is nothing to move: a meta tensor has no values
            self._set_indices(self.spec.plan())
        self._index = self._index.to(self.epitome.device)
        return self


class _Sharing:
    """How wrapped output blocks are computed from partial sums that they share, each with its own coefficients.

    Four output channels in blocks of two, wrapped, and two input blocks, so two rows of partial sums of each::

        partial sums    p00 p01 | p10 p11           of row 0 and 1, for input block 0 | 1: a grouped convolution
        channel 0, 2    S[0, 0] p00 + S[0, 1] p10, S[2, 0] p00 + S[2, 1] p10
        channel 1, 3    S[1, 0] p01 + S[1, 1] p11, S[3, 0] p01 + S[3, 1] p11
    """

    def __init__(self, plan: Plan) -> None:
        spec = plan.spec
        (n_out, n_in), (b_out, b_in) = spec.grid, spec.block
        kept = sorted(set(plan.source))
        number = [sum(s == source for s in plan.source[:o]) for o, source in enumerate(plan.source)]
        slots = max(number) + 1  # output blocks that share partial sums, at most
        padded = np.zeros((n_out * b_out, n_in * b_in, *spec.kernel_size), dtype=np.int64)
        padded[: spec.out_channels, : spec.in_channels] = plan.index  # what is padded is never used
        kernel = padded.reshape(n_out, b_out, n_in, b_in, *spec.kernel_size)[kept]
        self.kernel = torch.from_numpy(kernel.transpose(2, 0, 1, 3, 4, 5).reshape(-1, b_in, *spec.kernel_size).copy())
        """Where the elements of the grouped kernel lie, ``(n_in * rows, B_in, k_h, k_w)``."""
        self.sums = (n_in, len(kept), b_out)
        """How the partial sums are laid out."""
        place = [kept.index(source) * slots + n for source, n in zip(plan.source, number, strict=True)]
        self.place = [p * b_out + j for p in place for j in range(b_out)][: spec.out_channels]
        """Where each output channel lies among ``(kept, slots, B_out)``."""
        self.channel = [0] * (len(kept) * slots * b_out)
        """The output channel that lies in each of these places; any, if none does."""
        for channel, p in enumerate(self.place):
            self.channel[p] = channel
        self.shape = (len(kept), slots, b_out, n_in)
        self.ordered = self.place == list(range(spec.out_channels))
        self.full = self.ordered and len(self.channel) == spec.out_channels

    @staticmethod
    def pays(plan: Plan) -> bool:
        """Return whether that takes less time than a convolution by the logical weight."""
        spec = plan.spec
        window = spec.in_channels * math.prod(spec.kernel_size)
        rows = len(set(plan.source)) * spec.block[0]
        shared = rows * window + COMBINATION * spec.out_channels * spec.grid[1]
        return spec.weighed and shared < spec.out_channels * window

    def combine(self, sums: Tensor, coefficients: Tensor, dim: int) -> Tensor:
        """Return the outputs of the partial sums, whose channels are along ``dim``."""
        coefficients = (coefficients if self.full else coefficients[self.channel]).to(sums.dtype).view(self.shape)
        sums = sums.movedim(dim, -1).unflatten(-1, self.sums)
        outputs = torch.einsum("...ikb,ktbi->...ktb", sums, coefficients).flatten(-3)
        outputs = outputs[..., : len(self.place)] if self.ordered else outputs[..., self.place]
        return outputs.movedim(-1, dim)


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
        coefficients: with coefficients only, a float number (latent) behind each, ``(C_out * n_in,)``, channel by
            channel; ``round_coefficients()`` are the nearest that their kind allows.
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
        return self._logical()

    def forward(self, x: Tensor) -> Tensor:
        x = self._fold(x, -3)
        padding = self.padding
        if self._pad is not None:
            x, padding = F.pad(x, self._pad, self.padding_mode), 0
        if self._sharing is None:
            y = F.conv2d(x, self._sample(), self._kernel_bias, self.stride, padding, self.dilation)
            return self._copy(y, -3)
        x, n_in = _padded(x, -3, self.spec.block[1]), self.spec.grid[1]
        sums = F.conv2d(x, self._sample(), None, self.stride, padding, self.dilation, n_in)
        return self._combine(sums, -3)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, "
            f"epitome={self.spec.epitome}, wrap={self.spec.wrap}{_kind(self.spec)}"
        )


class EpitomeLinear(_EpitomeLayer):
    """A linear layer with a weight sampled from an epitome: the 1x1 case of `EpitomeConv2d`.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        epitome: the specification, with ``kernel_size`` (1, 1).

    Attributes:
        epitome: the parameter, ``(E_out, E_in, E_h, E_w)``.
        coefficients: with coefficients only, a float number (latent) behind each, ``(C_out * n_in,)``, channel by
            channel; ``round_coefficients()`` are the nearest that their kind allows.
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
        return self._logical()[:, :, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        if self._sharing is None:
            return self._copy(F.linear(self._fold(x, -1), self._sample().flatten(1), self._kernel_bias), -1)
        block, n_in = self.spec.block[1], self.spec.grid[1]
        blocks = _padded(x, -1, block).unflatten(-1, (n_in, 1, block))
        sums = blocks @ self._sample().view(n_in, -1, block).mT
        return self._combine(sums.flatten(-3), -1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, "
            f"epitome={self.spec.epitome}, wrap={self.spec.wrap}{_kind(self.spec)}"
        )


def _padded(x: Tensor, dim: int, block: int) -> Tensor:
    """Fill the channels up with zeros to a multiple of a block."""
    short = -x.shape[dim] % block
    return F.pad(x, (0, 0) * (-dim - 1) + (0, short)) if short else x


def _kernel_index(plan: Plan) -> Tensor:
    """Return where in the flat epitome each element of the kernel lies."""
    if plan.spec.weighed:
        return torch.from_numpy(plan.index)
    rows = [c for o in sorted(set(plan.source)) for c in plan.patches[o * plan.spec.grid[1]].out]
    return torch.from_numpy(plan.index[rows, : plan.period])


def _kind(spec: EpitomeSpec) -> str:
    return f", coefficients {spec.coefficients!r}" if spec.weighed else ""


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
            f"{name:<{width}}  E {spec.epitome}, wrap {spec.wrap}{_kind(spec)}, {spec.compression:.4g} times smaller"
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
