"""Bits of every layer: least total sensitivity within a budget of crossbars."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from epimlib._checks import positive
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload, check_workload
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import map_crossbars
from epimlib.search.knapsack import choose


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
    """Return the bits of least total sensitivity that need at most ``budget`` crossbars, proven by `choose`.

    Args:
        sensitivity: by layer and bits, as `sensitivities` returns it.
        crossbars: by layer and bits, as `bit_crossbars` returns it; layers and bits must be the same.
        budget: crossbars.

    Raises:
        ValueError: if layers or choices differ, or not even the cheapest choices fit the budget.
        RuntimeError: if the solver gives up.
    """
    choices = [(name, b) for name, by_bits in sensitivity.items() for b in by_bits]
    if sorted(choices) != sorted((name, b) for name, by_bits in crossbars.items() for b in by_bits):
        raise ValueError("sensitivity and crossbars must have the same layers with the same choices of bits")
    least = sum(min(by_bits.values()) for by_bits in crossbars.values())
    if positive("budget", budget) < least:
        raise ValueError(
            f"budget must be at least {least}, what the cheapest choice of every layer needs, got {budget}"
        )
    costs = [
        {"sensitivity": list(own.values()), "crossbars": [crossbars[name][b] for b in own]}
        for name, own in sensitivity.items()
    ]
    found = choose(costs, "sensitivity", {"crossbars": budget})
    bits = {name: list(own)[gene] for (name, own), gene in zip(sensitivity.items(), found.taken, strict=True)}
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
