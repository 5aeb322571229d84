"""Mixed precision: which layer gets how many bits.

Quantizing a layer's weight from ``w`` to ``w + d`` raises the loss by about ``d' H d / 2`` with its Hessian ``H``.
HAWQ-V2 (Dong et al., NeurIPS 2020) replaces ``H`` by its mean eigenvalue and calls ``mean trace * |d|^2`` the
*sensitivity* of a layer at some bits. An epitome has no single curvature: an element that is sampled ``n(e)`` times
collects the curvature of ``n(e)`` weights. So its trace is shared among its elements in proportion to ``n(e)``::

    sensitivity = tr(H) / |W| * sum n(e) * (Q(e) - e)^2                                  |W| = sum n(e)

where ``H`` is the Hessian with respect to the epitome. A dense layer has ``n = 1``, which is HAWQ-V2's formula.

The bits are then chosen for the least total sensitivity within a budget of crossbars, to proven optimality.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from epimlib._checks import positive
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import map_crossbars
from epimlib.plan import EpitomeSpec
from epimlib.workload import Workload, check_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from epimlib.quantize import QuantConfig

_SCALE = 1e4
"""Largest coefficient that the solver sees; it stops at an absolute gap of 1e-6."""


def hessian_traces(
    model: "nn.Module",
    batches: "Iterable[tuple[Tensor, Tensor]]",
    loss: "Callable[[Tensor, Tensor], Tensor] | None" = None,
    probes: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Return the trace of the loss's Hessian with respect to every layer's weight or epitome, by layer.

    Hutchinson's estimator: ``v' H v`` has the expectation ``tr(H)`` for a random vector of signs ``v`` (Rademacher).
    One probe serves all layers at once: the products between layers have the expectation zero.

    Args:
        model: float, in the mode in which the loss is meant (``eval()``: normalisation with fixed statistics).
        batches: of inputs and targets; the loss is their mean, each batch weighted by its size.
        loss: mean over a batch, of outputs and targets; None is cross-entropy.
        probes: random vectors.
        seed: of these; the same on every device.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if there is no batch, or the model is quantized already.
    """
    import torch
    from torch.nn.utils import parametrize
    from tqdm.auto import tqdm

    from epimlib.quantize import quantizable, weight_name

    loss = loss or torch.nn.functional.cross_entropy
    layers = quantizable(model)
    batches = list(batches)
    if not batches:
        raise ValueError("batches must hold at least one batch, got none")
    samples = sum(len(inputs) for inputs, _ in batches)
    traces = torch.zeros(len(layers), dtype=torch.float64, device="cpu")
    bar = tqdm(total=len(batches) * positive("probes", probes), desc="Hessian", disable=not progress)
    with bar, parametrize.cached():  # of a pruned layer the loss sees, like us, one masked weight
        weights = [getattr(module, weight_name(module)) for module in layers.values()]
        for inputs, targets in batches:
            draw = torch.Generator().manual_seed(seed)  # the same vectors for every batch: one Hessian, of the mean
            gradients = torch.autograd.grad(loss(model(inputs), targets), weights, create_graph=True)
            for _ in range(probes):
                signs = [(torch.randint(0, 2, w.shape, generator=draw, device="cpu") * 2 - 1).to(w) for w in weights]
                products = torch.autograd.grad(gradients, weights, signs, retain_graph=True, materialize_grads=True)
                values = [(sign * product).sum() for sign, product in zip(signs, products, strict=True)]
                # float64 on the CPU only: Apple's GPUs have none
                traces += torch.stack(values).cpu().double() * (len(inputs) / samples / probes)
                bar.update()
    return dict(zip(layers, traces.tolist(), strict=True))


def sensitivities(
    model: "nn.Module", traces: Mapping[str, float], config: "QuantConfig", bits: Iterable[int]
) -> dict[str, dict[int, float]]:
    """Return the sensitivity of every layer at every number of bits.

    Args:
        model: float, of which the traces are.
        traces: of `hessian_traces`. A negative trace (the loss is not at a minimum) counts as zero.
        config: how weights are quantized, apart from ``bits``.
        bits: the choices.
    """
    import dataclasses

    from epimlib.quantize import quantizable, weight_name, weight_quantizer

    bits = list(bits)
    result: dict[str, dict[int, float]] = {}
    for name, module in quantizable(model).items():
        weight = getattr(module, weight_name(module))
        size = math.prod(module.spec.shape) if hasattr(module, "spec") else weight.numel()
        mean = max(traces[name], 0.0) / size
        quantizers = {b: weight_quantizer(module, dataclasses.replace(config, bits=b)) for b in bits}
        result[name] = {b: mean * quantizer.error(weight) for b, quantizer in quantizers.items()}
    return result


def bit_crossbars(
    workload: Workload, hardware: Hardware, design: Mapping[str, EpitomeSpec] | None, bits: Iterable[int]
) -> dict[str, dict[int, int]]:
    """Return the crossbars that every layer needs at every number of bits; arguments as in `map_crossbars`."""
    result: dict[str, dict[int, int]] = {layer.name: {} for layer in check_workload(workload).weighted}
    for b in bits:
        for layer in map_crossbars(workload, hardware, design, b).layers:
            result[layer.name][b] = layer.crossbars
    return result


@dataclass(frozen=True)
class Assignment:
    """Bits of every layer, and what they amount to."""

    bits: Mapping[str, int]
    """By layer; what `quantize` and `map_crossbars` take."""
    sensitivity: float
    """Sum over the layers."""
    crossbars: int
    """Sum over the layers, at most ``budget``."""
    budget: int

    def __str__(self) -> str:
        counts = Counter(self.bits.values())
        kinds = ", ".join(f"{counts[b]} with {b} bits" for b in sorted(counts))
        return f"{self.crossbars:,} of {self.budget:,} crossbars, sensitivity {self.sensitivity:.4g}: {kinds}"


def assign_bits(
    sensitivity: Mapping[str, Mapping[int, float]], crossbars: Mapping[str, Mapping[int, int]], budget: int
) -> Assignment:
    """Return the bits of least total sensitivity that need at most ``budget`` crossbars.

    One binary variable for every choice, one choice for every layer: a multiple-choice knapsack, solved to proven
    optimality by HiGHS (``scipy.optimize.milp``).

    Args:
        sensitivity: by layer and bits, as `sensitivities` returns it.
        crossbars: by layer and bits, as `bit_crossbars` returns it; layers and bits must be the same.
        budget: crossbars.

    Raises:
        ValueError: if layers or choices differ, or not even the cheapest choices fit the budget.
        RuntimeError: if the solver gives up.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = [(name, b) for name, by_bits in sensitivity.items() for b in by_bits]
    if sorted(choices) != sorted((name, b) for name, by_bits in crossbars.items() for b in by_bits):
        raise ValueError("sensitivity and crossbars must have the same layers with the same choices of bits")
    least = sum(min(by_bits.values()) for by_bits in crossbars.values())
    if positive("budget", budget) < least:
        raise ValueError(
            f"budget must be at least {least}, what the cheapest choice of every layer needs, got {budget}"
        )
    # Only differences within a layer matter.
    loss = np.array([sensitivity[name][b] - min(sensitivity[name].values()) for name, b in choices])
    cost = np.array([crossbars[name][b] for name, b in choices])
    one = np.array([[name == layer for name, _ in choices] for layer in sensitivity], dtype=float)
    # The solver stops at an absolute gap. So its first solution only bounds the loss: no choice beyond the bound can be
    # part of a better one, and the second solve, scaled by the bound, is exact.
    bound = loss.max()
    for _ in range(2):
        allowed = loss <= bound
        found = milp(
            np.where(allowed, loss, 0) / (bound or 1.0) * _SCALE,
            integrality=1,
            bounds=Bounds(0, allowed),
            constraints=[LinearConstraint(one, 1, 1), LinearConstraint(cost[None], ub=budget)],
            options={"mip_rel_gap": 0.0},
        )
        if not found.success:
            raise RuntimeError(f"the solver found no proven optimum: {found.message}")
        bound = loss @ np.round(found.x)
    bits = {name: b for (name, b), taken in zip(choices, found.x > 0.5, strict=True) if taken}
    return Assignment(
        bits=bits,
        sensitivity=math.fsum(sensitivity[name][b] for name, b in bits.items()),
        crossbars=sum(crossbars[name][b] for name, b in bits.items()),
        budget=budget,
    )


def front(
    sensitivity: Mapping[str, Mapping[int, float]], crossbars: Mapping[str, Mapping[int, int]], points: int = 20
) -> tuple[Assignment, ...]:
    """Return the optimum for budgets from the least that is possible to the most that is of use, evenly spaced."""
    least, most = (sum(pick(by_bits.values()) for by_bits in crossbars.values()) for pick in (min, max))
    budgets = np.unique(np.linspace(least, most, positive("points", points, 2)).astype(int)).tolist()
    return tuple(assign_bits(sensitivity, crossbars, budget) for budget in budgets)
