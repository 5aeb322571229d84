"""Layer-wise design: which epitome, and how many bits, for each layer of a network.

Every layer has a finite set of *candidates*, whose costs are tabulated once (`epimlib.search.table`). A design takes
one candidate of each layer; its latency (layer after layer), energy and crossbars are sums over the layers. Two
searches work on the same table, `epimlib.search.evolve` and `epimlib.search.exact`. For latency or energy under a
budget of crossbars the latter is a multiple-choice knapsack; for the energy-delay product it sweeps the front of energy
against latency.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from epimlib._checks import keys, one_of, positive
from epimlib.epitome.coefficients import fit_coefficients, weights_of
from epimlib.epitome.design import uniform_spec
from epimlib.epitome.plan import COEFFICIENTS, EpitomeSpec
from epimlib.epitome.workload import Workload
from epimlib.search.table import Candidate, Costs, CostTable

OBJECTIVES = {
    "latency": "seconds of one image, layer after layer",
    "energy": "joules of one image",
    "edp": "energy-delay product, joule seconds",
}


def candidates(
    workload: Workload,
    rows: Iterable[int] = (256, 512, 1024, 2048),
    cols: Iterable[int] = (128, 256, 512),
    wraps: Iterable[int | str] = ("full", 2, 1),
    families: Iterable[str] = ("window", "channel"),
    bits: Iterable[int] = (3, 5),
    coefficients: Iterable[str] = ("none",),
) -> dict[str, tuple[Candidate, ...]]:
    """Return the candidates of every weighted layer: dense and each distinct epitome, at each number of bits.

    The arguments are those of `EpitomeSpec.for_crossbars`, each as the values to combine.

    Raises:
        TypeError, ValueError: if an argument is no list, or empty, or one of its values is not allowed.
    """
    given = {"rows": rows, "cols": cols, "wraps": wraps, "families": families}
    given |= {"coefficients": coefficients, "bits": bits}
    named = {"families": ["window", "channel"], "coefficients": COEFFICIENTS}
    for name, values in given.items():
        given[name] = listed(name, values)
        for value in given[name]:
            if name in named:
                one_of(name, value, named[name])
            elif name != "wraps" or value != "full":
                positive(name, value)
    *shape, bits = given.values()
    choices = list(itertools.product(*shape))
    found = {}
    for layer in workload.weighted:
        specs = dict.fromkeys([None, *(uniform_spec(layer, *choice) for choice in choices)])
        found[layer.name] = tuple(Candidate(spec, b) for spec in specs for b in bits)
    return found


def listed(name: str, values: Any) -> list[Any]:
    """Return the values of an argument as a list, or raise if they are none, or no list."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise TypeError(f"{name} must be a list of values, got {values!r}")
    values = list(values)
    if not values:
        raise ValueError(f"{name} must have at least one value, got none")
    return values


def number(name: str, value: Any, least: float, most: float) -> None:
    """Raise if an argument is no number within these ends."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def fit_error(weight: np.ndarray, spec: EpitomeSpec) -> float:
    """Return how far the least-squares epitome of a dense weight lies from it, ``|W - W_E| / |W|``.

    A proxy of accuracy that needs no data. ``weight`` has the shape ``(C_out, C_in, k_h, k_w)``.

    Raises:
        ValueError: if its shape is another one, or it is not of finite real numbers, or all zero.
    """
    weight = np.asarray(weight)
    if weight.shape != spec.shape:
        raise ValueError(f"weight must have shape {spec.shape}, got {weight.shape}")
    if weight.dtype.kind not in "iuf" or not np.isfinite(weight).all() or not weight.any():
        raise ValueError(
            f"weight must hold finite real numbers, not all zero, got {weight.dtype} {weight.reshape(-1)[:3]}"
        )
    plan = spec.plan()
    if spec.weighed:
        epitome, coefficients = fit_coefficients(weight, plan)
        fitted = epitome.reshape(-1)[plan.index] * weights_of(coefficients, plan)
        return float(np.linalg.norm(weight - fitted) / np.linalg.norm(weight.astype(float)))
    index = plan.index.reshape(-1)
    mean = np.bincount(index, weight.reshape(-1), plan.usage.size) / np.maximum(plan.usage.reshape(-1), 1)
    return float(np.linalg.norm(weight.reshape(-1) - mean[index]) / np.linalg.norm(weight.astype(float)))


def copied_channels(spec: EpitomeSpec) -> int:
    """Return how many output channels of the weight are copies of others: what wrapping gives up.

    As a proxy it says nothing of accuracy, but keeps a search from buying cheap layers with copies alone.
    """
    return spec.out_channels - spec.plan().own_channels


@dataclass(frozen=True)
class SearchResult:
    """The best design that a search found, and how good it is known to be."""

    method: str
    objective: str
    budget: int
    """Crossbars allowed."""
    choice: tuple[int, ...]
    """For every layer of the table, the index of its candidate."""
    value: float
    """The objective."""
    latency: float
    """[s], layer after layer."""
    energy: float
    """[J]"""
    area: float
    """[m^2]"""
    crossbars: int
    bound: float | None = None
    """No design has a smaller objective than this; None if the method proves nothing."""
    evaluations: int = 0
    """Designs evaluated."""
    seed: int | None = None
    history: tuple[float, ...] = ()
    """Best objective after every generation; infinite before the first design that meets the limits."""
    message: str = ""

    @property
    def gap(self) -> float | None:
        """How far the value may be above the optimum, relative to the bound."""
        return None if self.bound is None else self.value / self.bound - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads; what is infinite in the history is None."""
        return {**vars(self), "choice": list(self.choice), "history": to_json(self.history)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchResult":
        """Return the result of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        keys("a search result", data, cls.__dataclass_fields__)
        return cls(**{**data, "choice": tuple(data["choice"]), "history": tuple(from_json(data["history"]))})

    def __str__(self) -> str:
        rows = [
            ("method", self.method),
            ("objective", f"{self.objective}, {self.value:.6g}"),
            ("gap to the bound", "not proven" if self.gap is None else f"{self.gap:.3%}"),
            ("crossbars", f"{self.crossbars:,} of {self.budget:,}"),
            ("latency", f"{self.latency * 1e3:.6g} ms"),
            ("energy", f"{self.energy * 1e3:.6g} mJ"),
            ("evaluations", f"{self.evaluations:,}"),
            ("message", self.message),
        ]
        return "\n".join(f"{name:>16}: {text}" for name, text in rows)


def to_json(history: Iterable[float]) -> list[float | None]:
    """Return a history as JSON can hold it, which has no infinity."""
    return [None if math.isinf(value) else value for value in history]


def from_json(history: Iterable[float | None]) -> list[float]:
    """Return the history that `to_json` was given."""
    return [math.inf if value is None else value for value in history]


class CannotBeMet(ValueError):
    """No design of the candidates meets the budget and the limit."""


class Problem:
    """The candidates worth considering: per layer, those that no other beats in everything that counts.

    Costs have names, those of `Costs` and ``proxy``. A gene is the place of a candidate among those of its layer that
    are worth considering.
    """

    def __init__(
        self,
        table: CostTable,
        objective: str,
        budget: int,
        proxy: Mapping[str, Sequence[float]] | None,
        limit: float | None,
    ) -> None:
        one_of("objective", objective, OBJECTIVES)
        budget = positive("budget", budget)
        if (proxy is None) != (limit is None):
            raise ValueError(f"proxy and limit go together, got proxy={proxy!r} and limit={limit!r}")
        if proxy is not None and not isinstance(proxy, Mapping):
            raise TypeError(f"proxy must be a mapping from layer name to numbers, got {proxy!r}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Real)):
            raise TypeError(f"limit must be a number, got {limit!r}")
        self.table, self.objective, self.budget = table, objective, budget
        self.columns = ["latency", "energy"] if objective == "edp" else [objective]
        self.rest = {**dict(zip(Costs._fields, table.rest.tolist(), strict=True)), "proxy": 0.0}
        asked = {"crossbars": budget} | ({} if limit is None else {"proxy": float(limit)})
        self.kept, self.costs = [], []
        for name, values in zip(table.layers, table.values, strict=True):
            costs = dict(zip(Costs._fields, values.T, strict=True))
            if proxy is not None:
                costs["proxy"] = _proxy_of(name, proxy, len(values))
            kept = _undominated(np.column_stack([costs[column] for column in [*self.columns, *asked]]))
            self.kept.append(kept)
            self.costs.append({column: values[kept] for column, values in costs.items()})
        self.least = {c: np.array([own[c].min() for own in self.costs]) for c in [*self.columns, *asked]}
        """Of every layer."""
        self.limits = {c: self.loosened(c, most - self.rest[c]) for c, most in asked.items()}
        for column, most in self.limits.items():
            least = self.least[column].sum()
            if not least <= most:
                what = "budget" if column == "crossbars" else "limit of the proxy"
                raise CannotBeMet(
                    f"{what} must be at least {least:g}, what the smallest candidates need, "
                    f"got {asked[column] - self.rest[column]:g}"
                )

    def loosened(self, column: str, allowed: float) -> float:
        """Return a limit with room for rounding: a sum that exceeds ``allowed`` in its last digits meets it.

        Where terms cancel these are the last digits of the terms, whose magnitudes in a design that meets the limit
        add up to no more than about those of the limit and of the least terms.
        """
        return allowed + 1e-12 * (abs(allowed) + np.abs(self.least[column]).sum())

    def total(self, column: str, genes: Sequence[int]) -> float:
        """Return a cost of a whole design, the layers without a weight included."""
        return sum(float(own[column][gene]) for own, gene in zip(self.costs, genes, strict=True)) + self.rest[column]

    def result(self, genes: Sequence[int], method: str, **known: Any) -> SearchResult:
        """Return the result for one design."""
        choice = tuple(int(kept[gene]) for kept, gene in zip(self.kept, genes, strict=True))
        costs = self.table.evaluate(np.array([choice]))
        totals = {name: values[0].item() for name, values in costs._asdict().items()}
        value = math.prod(totals[column] for column in self.columns)
        if known.get("bound") is not None:  # two sums of the same numbers may differ in the last digit
            known["bound"] = min(known["bound"], value)
        return SearchResult(method, self.objective, self.budget, choice, value, **totals, **known)


def _proxy_of(name: str, proxy: Mapping[str, Sequence[float]], count: int) -> np.ndarray:
    values = np.asarray(proxy.get(name, []), dtype=float)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(
            f"proxy of layer {name!r} must be {count} finite numbers, one for each candidate, got {values}"
        )
    return values


def _undominated(costs: np.ndarray) -> np.ndarray:
    """Indices of the rows that no other row equals or beats in every column; of equal rows the first."""
    costs, first = np.unique(costs, axis=0, return_index=True)
    beaten = (costs[:, None] >= costs[None]).all(axis=2)
    np.fill_diagonal(beaten, False)
    return np.sort(first[~beaten.any(axis=1)])
