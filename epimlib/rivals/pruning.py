"""Fewer crossbars without epitomes: the methods that an epitome network has to be compared with.

`shrink` makes a trained dense network need fewer *blocks*, crossbar-sized pieces of its layers' matrices::

    model, report = shrink(model, "pim-prune", blocks=300, hardware=hardware)
    train(model)                                    # what was removed stays removed
    model = quantize(model, config)                 # and stays so in the integers
    report.crossbars(bits=3)

Every method is one shot, before fine-tuning, and shares a budget out among the layers by one rule: the product over
the layers of the share of the squared norm that a layer keeps shall be as large as possible. So no layer vanishes,
and a block that is a hundredth of a layer goes before one that is half of another. For single weights, taking away
whatever lowers this product least is LAMP (Lee et al., ICLR 2021), which the channel method uses directly. (The
unstructured method is the exception: it compares magnitudes throughout the network, as is usual.)
"""

import bisect
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from epimlib._checks import integers, one_of, positive
from epimlib.epitome.workload import Layer
from epimlib.pim.hardware import Crossbar, Hardware, check_hardware
from epimlib.pim.mapping import bit_slices, map_layer, rows_in_use
from epimlib.search.knapsack import choose

METHODS = {
    "pim-prune": "rows or columns of crossbar-sized blocks are removed, and the rest is squeezed together; after "
    "PIM-Prune (Chu et al., DAC 2020), our reconstruction",
    "channels": "whole channels are removed, in every layer that they touch (torch-pruning)",
    "low-rank": "a k x k convolution becomes a k x k one to few channels and a 1x1 one, or the other way round, by SVD",
    "unstructured": "single weights are removed, as many as the same share of the blocks would hold",
}


@dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` did."""

    method: str
    budget: int
    """Blocks that were asked for."""
    crossbar: Crossbar
    blocks_before: Mapping[str, int]
    """Blocks by layer, under the names of the model before."""
    blocks: Mapping[str, int]
    """Blocks by layer that are left, under the names of the model after: a factorised layer has become two. Only
    unstructured pruning may leave more in total than the budget."""
    weights_before: int
    weights: int
    """Weights of convolutions and linear layers that are not zero, before and after."""

    def crossbars(self, bits: int | Mapping[str, int] = 32) -> int:
        """Return the crossbars that are left: blocks times bit slices times polarity.

        Args:
            bits: of a weight, sign included; one number, or one for each layer of ``blocks`` by name.
        """
        return crossbars_of(self.blocks, bits, self.crossbar)

    def __str__(self) -> str:
        before, after = (sum(blocks.values()) for blocks in (self.blocks_before, self.blocks))
        return (
            f"{self.method}: {before:,} blocks became {after:,} (budget {self.budget:,}), "
            f"{self.weights_before:,} weights became {self.weights:,}"
        )


class Mask(nn.Module):
    """Parametrization that holds removed weights at zero; they get no gradient."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def shrink(
    model: nn.Module, method: str, blocks: int, hardware: Hardware, input_size: tuple[int, int, int] = (3, 32, 32)
) -> tuple[nn.Module, ShrinkReport]:
    """Return a copy of a dense network that needs fewer blocks and can go on training, and a report.

    Grouped convolutions, and subclasses of ``nn.Conv2d`` and ``nn.Linear``, stay as they are (the channel method
    leaves that to torch-pruning, and keeps the outputs of the last layer). Masks are parametrizations of the weights
    (`Mask`) and part of the state dict. The shapes that the channel method and the low-rank method leave depend on the
    weights: a later state dict fits a model that was shrunk from the same ones.

    Args:
        model: dense, float; it is not changed.
        method: see `METHODS`.
        blocks: the most that may be left, for one bit slice of one sign; ``map_crossbars(...).blocks`` of an epitome
            design gives the number for a fair comparison.
        hardware: the size of its crossbars and their packing are read.
        input_size: ``(channels, height, width)`` of one image; read by the channel method, which traces the model.

    Raises:
        ValueError: if the method is unknown, the model is quantized, masked or has epitomes, or the blocks are more
            than the model needs or fewer than the method can reach.
    """
    one_of("method", method, METHODS)
    crossbar = check_hardware(hardware).crossbar
    for name, module in model.named_modules():
        if hasattr(module, "epitome") or hasattr(module, "parametrizations"):
            raise ValueError(f"layer {name!r} is an epitome, masked or quantized; model must be dense and float")
    before = used_blocks(model, crossbar)
    if positive("blocks", blocks) > sum(before.values()):
        raise ValueError(f"blocks must be at most {sum(before.values())}, what the model needs, got {blocks}")
    if method == "channels":
        shrunk = _prune_channels(model, blocks, crossbar, integers("input_size", input_size, 3))
    else:
        run = {"pim-prune": _prune_blocks, "low-rank": _factorize, "unstructured": _prune_weights}[method]
        shrunk = run(copy.deepcopy(model), blocks, crossbar)
    counts = [sum(int(m.weight.count_nonzero()) for m in _weighted(net).values()) for net in (model, shrunk)]
    return shrunk, ShrinkReport(method, blocks, crossbar, before, used_blocks(shrunk, crossbar), *counts)


# Counting ----------------------------------------------------------------------------------------------------


def crossbars_of(blocks: Mapping[str, int], bits: int | Mapping[str, int], crossbar: Crossbar) -> int:
    """Return blocks times bit slices times polarity; arguments as for `ShrinkReport.crossbars`."""
    widths = bits if isinstance(bits, Mapping) else dict.fromkeys(blocks, bits)
    missing = [name for name in blocks if name not in widths]
    if missing:
        raise ValueError(f"bits lack layer {missing[0]!r} (and {len(missing) - 1} more)")
    return sum(number * bit_slices(widths[name], crossbar) for name, number in blocks.items()) * crossbar.polarity


def dense_blocks(model: nn.Module, crossbar: Crossbar) -> dict[str, int]:
    """Return the blocks of every convolution and linear layer, zeros or not, as `map_crossbars` counts them."""
    return {name: _dense(module, crossbar) for name, module in _weighted(model).items()}


def used_blocks(model: nn.Module, crossbar: Crossbar) -> dict[str, int]:
    """Return the blocks of every convolution and linear layer after squeezing out zeros, see `squeezed_blocks`.

    Grouped convolutions are counted dense.
    """
    result = {}
    for name, module in _weighted(model).items():
        if getattr(module, "groups", 1) > 1:
            result[name] = _dense(module, crossbar)
        else:
            used = (_matrix(module.weight.detach()) != 0).cpu().numpy()
            result[name] = squeezed_blocks(used, module.weight[0, 0].numel(), crossbar)
    return result


def squeezed_blocks(used: np.ndarray, window: int, crossbar: Crossbar) -> int:
    """Return how many crossbars hold the cells in use of a layer's matrix (of one bit slice and one sign).

    The matrix is cut into column blocks. A crossbar takes its inputs from anywhere, so the rows of a column block may
    move: those in use are stacked without gaps, over the borders of row blocks. Or it is cut into row blocks, and in
    each of them the columns in use move together, since a bit line may send its sum anywhere. A layer is squeezed in
    the one way or the other, whichever needs fewer crossbars. Not in both ways at once: rows that share a crossbar
    must mean the same columns, and different blocks have lost different ones.

    With nothing to squeeze this is the count of `map_crossbars`: a crossbar holds no more rows than before
    (`epimlib.pim.mapping.rows_in_use`).

    Args:
        used: ``(rows, columns)``, whether a cell is in use.
        window: rows of one channel.
        crossbar: its size and packing are read.
    """
    rows, cols = rows_in_use(window, crossbar), crossbar.cols
    return min(_stacked(used, cols, rows), _stacked(used.T, rows, cols))


def _stacked(used: np.ndarray, width: int, depth: int) -> int:
    """Return the crossbars for strips of ``width`` columns whose rows in use are stacked, ``depth`` on each."""
    lengths = np.logical_or.reduceat(used, np.arange(0, used.shape[1], width), axis=1).sum(0)
    return int((-(-lengths // depth)).sum())


def _weighted(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def _plain(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that may be changed."""
    return {
        name: module
        for name, module in _weighted(model).items()
        if type(module) in (nn.Conv2d, nn.Linear) and getattr(module, "groups", 1) == 1
    }


def _matrix(weight: Tensor) -> Tensor:
    """Return a weight as it lies on crossbars: ``(C_in * k_h * k_w, C_out)``."""
    return weight.flatten(1).T


def _dense(module: nn.Module, crossbar: Crossbar) -> int:
    groups = getattr(module, "groups", 1)
    out, inp, *window = module.weight.shape
    return _blocks(inp * groups, out, window, crossbar, groups)


def _blocks(inp: int, out: int, window: Sequence[int], crossbar: Crossbar, groups: int = 1) -> int:
    layer = Layer("layer", "conv", inp, out, tuple(window) or (1, 1), groups=groups)
    return map_layer(layer, None, crossbar, slices=1).blocks


# Sharing out the budget --------------------------------------------------------------------------------------


def share_out(options: Mapping[str, Mapping[int, float]], budget: int) -> dict[str, int]:
    """Return the blocks of every layer that keep the largest product of shares within a budget, proven by `choose`.

    Args:
        options: by layer and blocks, the share of the squared norm that is kept, above zero.
        budget: of blocks, for all layers together; at least what the smallest options need.
    """
    costs = [{"loss": -np.log(list(shares.values())), "blocks": list(shares)} for shares in options.values()]
    found = choose(costs, "loss", {"blocks": budget})
    return {name: list(shares)[place] for (name, shares), place in zip(options.items(), found.taken, strict=True)}


def _check_budget(method: str, blocks: int, least: int) -> None:
    if blocks < least:
        raise ValueError(f"blocks must be at least {least} for method {method!r} and this model, got {blocks}")


# Rows and columns of blocks ----------------------------------------------------------------------------------


class _Strips:
    """One way to squeeze a layer: strips of ``width`` columns, of which the rows of least norm leave.

    The rows of every strip are ranked and cut into chunks that fill one crossbar each. The first chunks of all strips
    are worth most; so the best choice of ``n`` crossbars are the ``n`` chunks of largest squared norm.
    """

    def __init__(self, energy: np.ndarray, width: int, depth: int) -> None:
        rows, self.columns = energy.shape
        self.width, self.depth = width, depth
        strips = np.add.reduceat(energy, np.arange(0, self.columns, width), axis=1).T
        order = np.argsort(-strips, axis=1, kind="stable")
        self.rank = np.argsort(order, axis=1)
        chunks = np.add.reduceat(np.take_along_axis(strips, order, 1), np.arange(0, rows, depth), axis=1)
        self.strip = np.argsort(-chunks, axis=None, kind="stable") // chunks.shape[1]
        self.kept = np.cumsum(np.sort(chunks, axis=None)[::-1])
        """Squared norm that is left with 1, 2, ... crossbars."""

    def mask(self, crossbars: int) -> np.ndarray:
        """Return which weights stay, ``(rows, columns)``."""
        lengths = np.bincount(self.strip[:crossbars], minlength=len(self.rank)) * self.depth
        return np.repeat(self.rank < lengths[:, None], self.width, axis=0)[: self.columns].T


def _prune_blocks(model: nn.Module, blocks: int, crossbar: Crossbar) -> nn.Module:
    layers = _plain(model)
    fixed = sum(number for name, number in used_blocks(model, crossbar).items() if name not in layers)
    _check_budget("pim-prune", blocks, fixed + len(layers))
    ways: dict[str, tuple[_Strips, _Strips]] = {}
    options = {}
    for name, module in layers.items():
        rows, cols = rows_in_use(module.weight[0, 0].numel(), crossbar), crossbar.cols
        energy = _matrix(module.weight.detach()).double().square().cpu().numpy()
        ways[name] = _Strips(energy, cols, rows), _Strips(energy.T, rows, cols)
        kept = np.maximum(*(way.kept for way in ways[name])) / (energy.sum() or 1)
        options[name] = dict(enumerate(np.where(energy.any(), kept, 1).tolist(), 1))
    for name, number in share_out(options, blocks - fixed).items():
        by_rows, by_columns = ways[name]
        rows_win = by_rows.kept[number - 1] >= by_columns.kept[number - 1]
        mask = by_rows.mask(number) if rows_win else by_columns.mask(number).T
        weight = layers[name].weight
        _apply(layers[name], torch.from_numpy(mask.T.copy()).reshape(weight.shape).to(weight.device))
    return model


def _apply(module: nn.Module, mask: Tensor) -> None:
    module.weight.data.mul_(mask)
    parametrize.register_parametrization(module, "weight", Mask(mask))


# Single weights ----------------------------------------------------------------------------------------------


def _prune_weights(model: nn.Module, blocks: int, crossbar: Crossbar) -> nn.Module:
    layers = list(_plain(model).values())
    share = 1 - blocks / sum(used_blocks(model, crossbar).values())
    removed = round(share * sum(module.weight.numel() for module in layers))
    prune.global_unstructured([(module, "weight") for module in layers], prune.L1Unstructured, amount=removed)
    for module in layers:
        mask = module.weight_mask.bool()
        prune.remove(module, "weight")  # torch's own mask is a hook, which neither deepcopy nor quantize understands
        _apply(module, mask)
    return model


# Channels ----------------------------------------------------------------------------------------------------

_RATIOS = 1000
"""Steps of the pruning ratio."""


def _prune_channels(model: nn.Module, blocks: int, crossbar: Crossbar, input_size: tuple[int, int, int]) -> nn.Module:
    import torch_pruning

    example = next(model.parameters()).new_zeros(1, *input_size)
    importance = torch_pruning.importance.LAMPImportance()

    def pruner(candidate: nn.Module, ratio: float) -> torch_pruning.BasePruner:
        head = list(_weighted(candidate).values())[-1]
        return torch_pruning.BasePruner(
            candidate, example, importance, global_pruning=True, pruning_ratio=ratio, ignored_layers=[head]
        )

    def pruned(step: int) -> nn.Module:
        candidate = copy.deepcopy(model)
        pruner(candidate, step / _RATIOS).step()
        for module, original in zip(candidate.modules(), model.modules(), strict=True):
            module.training = original.training  # tracing has switched to eval mode
        return candidate

    def needed(step: int) -> int:
        return sum(dense_blocks(pruned(step), crossbar).values())

    whole = pruner(copy.deepcopy(model), 0.0)
    groups = sum(1 for _ in whole.DG.get_all_groups(whole.ignored_layers, whole.root_module_types))
    # With fewer channels than groups of channels torch-pruning would leave some groups as they are.
    last = max(int(_RATIOS * (1 - (groups + 1) / whole.initial_total_channels)), 0)
    _check_budget("channels", blocks, needed(last))
    return pruned(bisect.bisect_left(range(last), True, key=lambda step: needed(step) <= blocks))


# Low rank ----------------------------------------------------------------------------------------------------


def _factorize(model: nn.Module, blocks: int, crossbar: Crossbar) -> nn.Module:
    layers = _plain(model)
    fixed = sum(number for name, number in dense_blocks(model, crossbar).items() if name not in layers)
    ways, options = {}, {}
    for name, module in layers.items():
        dense = _dense(module, crossbar)
        ways[name], options[name] = {}, {dense: 1.0}
        for way in (_Factors(module, window_first) for window_first in (True, False)):
            for rank, share in enumerate(way.kept, 1):  # of the ranks that need equally many blocks the best stays
                number = way.blocks(rank, crossbar)
                if number < dense and share > options[name].get(number, 0):
                    ways[name][number], options[name][number] = (way, rank), share
    _check_budget("low-rank", blocks, fixed + sum(min(shares) for shares in options.values()))
    for name, number in share_out(options, blocks - fixed).items():
        if number in ways[name]:
            way, rank = ways[name][number]
            pair = way.pair(rank).train(layers[name].training)
            if not name:  # the model is a single layer
                return pair
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, pair)
    return model


class _Factors:
    """One way to factorise a layer of weight ``(C_out, C_in, k_h, k_w)`` by SVD.

    With the window first, a k x k convolution to few channels and a 1x1 one to ``C_out``; else a 1x1 convolution to few
    channels and a k x k one. Singular values are shared out evenly. A linear layer is the 1x1 case.
    """

    def __init__(self, module: nn.Conv2d | nn.Linear, window_first: bool) -> None:
        self.module, self.window_first = module, window_first
        weight = module.weight.detach().double()
        self.out, self.inp, *self.window = weight.shape
        few = weight if window_first else weight.transpose(0, 1)
        self.u, s, self.v = torch.linalg.svd(few.flatten(1), full_matrices=False)
        self.root = s.sqrt()
        kept = s.square().cumsum(0)
        self.kept = (kept / kept[-1]).nan_to_num(1).tolist()
        """Share of the squared norm that is left with rank 1, 2, ..."""

    def blocks(self, rank: int, crossbar: Crossbar) -> int:
        """Return the blocks of both layers."""
        first, second = (self.window, ()) if self.window_first else ((), self.window)
        return _blocks(self.inp, rank, first, crossbar) + _blocks(rank, self.out, second, crossbar)

    def pair(self, rank: int) -> nn.Sequential:
        """Return the two layers."""
        module, bias = self.module, self.module.bias is not None
        few = (self.u[:, :rank] * self.root[:rank]).T
        rest = (self.root[:rank, None] * self.v[:rank]).unflatten(1, (-1, *self.window))
        weights = (rest, few.T) if self.window_first else (few, rest.transpose(0, 1))
        options = {"device": module.weight.device, "dtype": module.weight.dtype}
        if isinstance(module, nn.Linear):
            layers = [nn.Linear(self.inp, rank, False, **options), nn.Linear(rank, self.out, bias, **options)]
        else:
            window = {
                name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            }
            kinds = (window, {"kernel_size": 1}) if self.window_first else ({"kernel_size": 1}, window)
            layers = [
                nn.Conv2d(self.inp, rank, bias=False, **kinds[0], **options),
                nn.Conv2d(rank, self.out, bias=bias, **kinds[1], **options),
            ]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data.copy_(weight.reshape(layer.weight.shape))
        if bias:
            layers[1].bias.data.copy_(module.bias.data)
        return nn.Sequential(*layers)


# Width -------------------------------------------------------------------------------------------------------


def fit_width(
    build: Callable[[tuple[int, ...]], nn.Module],
    channels: Sequence[int],
    blocks: int,
    hardware: Hardware,
    multiple: int = 8,
) -> tuple[int, ...]:
    """Return the channels of the widest network of the same form within a budget: the small network trained as it is.

    All stages are scaled by one factor and rounded to multiples.

    Args:
        build: returns the network for some channels; it is called on torch's meta device, which allocates nothing.
        channels: of the stages of the wide network, such as timm's ``channels`` of a ResNet.
        blocks: the most that the network may need.
        hardware: the size of its crossbars and their packing are read.
        multiple: of which all channels are.

    Raises:
        ValueError: if not even the narrowest network fits.
    """
    positive("blocks", blocks)
    check_hardware(hardware)
    widest = max(channels)

    def scaled(width: int) -> tuple[int, ...]:
        return tuple(max(multiple, round(c * width / widest / multiple) * multiple) for c in channels)

    def needed(width: int) -> int:
        with torch.device("meta"):
            return sum(dense_blocks(build(scaled(width)), hardware.crossbar).values())

    widths = range(multiple, widest + 1, multiple)
    fitting = bisect.bisect_right(widths, blocks, key=needed)
    if fitting == 0:
        raise ValueError(f"blocks must be at least {needed(multiple)} for channels {scaled(multiple)}, got {blocks}")
    return scaled(widths[fitting - 1])
