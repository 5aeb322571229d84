"""Layer-wise design: which epitome, and how many bits, for each layer of a network.

Every layer has a finite set of *candidates*, whose costs are tabulated once (`epimlib.pim.cost.tabulate`). A design
takes one candidate of each layer; its latency (layer after layer), energy and crossbars are sums over the layers. Two
searches work on the same table:

- `evolve`, the paper's way as far as its abstract tells (operators and settings are our reconstruction);
- `solve_exact`: for latency or energy under a budget of crossbars this is a multiple-choice knapsack, solved to proven
  optimality by HiGHS; the energy-delay product by sweeping the front of energy against latency.
"""

import contextlib
import heapq
import itertools
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from epimlib._checks import keys, one_of, positive, read_json, write_json
from epimlib.design import uniform_spec
from epimlib.pim.cost import Candidate, CostTable
from epimlib.plan import EpitomeSpec
from epimlib.workload import Workload

OBJECTIVES = {
    "latency": "seconds of one image, layer after layer",
    "energy": "joules of one image",
    "edp": "energy-delay product, joule seconds",
}
_SCALE = 1e4
"""Largest coefficient that the solver sees; its tolerances are absolute, 1e-6."""


def candidates(
    workload: Workload,
    rows: Iterable[int] = (256, 512, 1024, 2048),
    cols: Iterable[int] = (128, 256, 512),
    wraps: Iterable[int | str] = ("full", 2, 1),
    families: Iterable[str] = ("window", "channel"),
    bits: Iterable[int] = (3, 5),
) -> dict[str, tuple[Candidate, ...]]:
    """Return the candidates of every weighted layer: dense and each distinct epitome, at each number of bits.

    The arguments are those of `EpitomeSpec.for_crossbars`, each as the values to combine.

    Raises:
        TypeError, ValueError: if an argument is no list, or empty, or one of its values is not allowed.
    """
    given = {"rows": rows, "cols": cols, "wraps": wraps, "families": families, "bits": bits}
    for name, values in given.items():
        given[name] = _listed(name, values)
        for value in given[name]:
            if name == "families":
                one_of(name, value, ["window", "channel"])
            elif name != "wraps" or value != "full":
                positive(name, value)
    *shape, bits = given.values()
    choices = list(itertools.product(*shape))
    found = {}
    for layer in workload.weighted:
        specs = dict.fromkeys([None, *(uniform_spec(layer, *choice) for choice in choices)])
        found[layer.name] = tuple(Candidate(spec, b) for spec in specs for b in bits)
    return found


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise TypeError(f"{name} must be a list of values, got {values!r}")
    values = list(values)
    if not values:
        raise ValueError(f"{name} must have at least one value, got none")
    return values


def _number(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def fit_error(weight: np.ndarray, spec: EpitomeSpec) -> float:
    """Return the share of a dense weight that its least-squares epitome misses, ``|W - W_E|^2 / |W|^2``.

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
    index = plan.index.reshape(-1)
    mean = np.bincount(index, weight.reshape(-1), plan.usage.size) / np.maximum(plan.usage.reshape(-1), 1)
    return float(((weight.reshape(-1) - mean[index]) ** 2).sum() / (weight**2).sum())


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
        return {**vars(self), "choice": list(self.choice), "history": _to_json(self.history)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchResult":
        """Return the result of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        keys("a search result", data, cls.__dataclass_fields__)
        return cls(**{**data, "choice": tuple(data["choice"]), "history": tuple(_from_json(data["history"]))})

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


def _to_json(history: Iterable[float]) -> list[float | None]:
    return [None if math.isinf(value) else value for value in history]  # JSON has no infinity


def _from_json(history: Iterable[float | None]) -> list[float]:
    return [math.inf if value is None else value for value in history]


class CannotBeMet(ValueError):
    """No design of the candidates meets the budget and the limit."""


class _Problem:
    """The candidates worth considering: per layer, those that no other beats in everything that counts."""

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
        self.columns = {"latency": [0], "energy": [1], "edp": [0, 1]}[objective]
        self.kept, self.values = [], []
        for name, values in zip(table.layers, table.values, strict=True):
            if proxy is not None:
                values = np.column_stack([values, _proxy_of(name, proxy, len(values))])
            kept = _undominated(values[:, [*self.columns, 3, *range(4, values.shape[1])]])
            self.kept.append(kept)
            self.values.append(values[kept])
        self.least = np.array([values.min(axis=0) for values in self.values])  # of every layer
        self.limits = {}
        for column, allowed in [(3, budget - table.rest[3]), *([] if limit is None else [(4, float(limit))])]:
            self.limits[column] = self.loosened(column, allowed)
            least = self.least[:, column].sum()
            if not least <= self.limits[column]:
                what = "budget" if column == 3 else "limit of the proxy"
                raise CannotBeMet(
                    f"{what} must be at least {least:g}, what the smallest candidates need, got {allowed:g}"
                )

    def loosened(self, column: int, allowed: float) -> float:
        """Return a limit with room for rounding: a sum that exceeds ``allowed`` in its last digits meets it.

        Where terms cancel these are the last digits of the terms, whose magnitudes in a design that meets the limit
        add up to no more than about those of the limit and of the least terms.
        """
        return allowed + 1e-12 * (abs(allowed) + np.abs(self.least[:, column]).sum())

    def result(self, genes: Sequence[int], method: str, **known: Any) -> SearchResult:
        """Return the result for one design, ``genes`` indexing the kept candidates."""
        choice = tuple(int(kept[gene]) for kept, gene in zip(self.kept, genes, strict=True))
        costs = self.table.evaluate(np.array([choice]))
        totals = {name: getattr(costs, name)[0].item() for name in ("latency", "energy", "area", "crossbars")}
        value = totals["latency"] * totals["energy"] if self.objective == "edp" else totals[self.objective]
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


def solve_exact(
    table: CostTable,
    objective: str = "latency",
    *,
    budget: int,
    proxy: Mapping[str, Sequence[float]] | None = None,
    limit: float | None = None,
    time_limit: float = 60.0,
    tolerance: float = 1e-6,
) -> SearchResult:
    """Return the best design under a budget of crossbars, with a proof.

    Args:
        table: costs of the candidates.
        objective: ``"latency"``, ``"energy"`` or ``"edp"``.
        budget: crossbars allowed.
        proxy: for every layer a number for each candidate (fit error, sensitivity, copied channels); their sum is
            kept to ``limit``.
        limit: of the proxy.
        time_limit: seconds, at least 0.001; a search that ends there returns its best design and an honest bound.
        tolerance: relative gap at which the energy-delay product counts as solved (other objectives: zero),
            1e-9 to 1: the bounds of the solver are not closer.

    Raises:
        CannotBeMet: a ValueError, if no design meets the budget and the limit.
        ValueError: if an argument is not allowed.
        RuntimeError: if the solver finds no design in time.
    """
    _number("time_limit", time_limit, 1e-3, math.inf)
    _number("tolerance", tolerance, 1e-9, 1)
    problem = _Problem(table, objective, budget, proxy, limit)
    column = 1 if objective == "energy" else 0
    end = time.monotonic() + time_limit
    found = _knapsack(problem, column, {}, end)
    if found is None:  # each can be met, but not both
        raise CannotBeMet(f"no design meets both budget {budget} and limit {limit:g}; allow more")
    genes, bound, message = found
    if objective == "edp":
        return _solve_product(problem, genes, bound, end, tolerance)
    return problem.result(genes, "exact", bound=bound + float(table.rest[column]), message=message)


def _knapsack(
    problem: _Problem, column: int, limits: Mapping[int, float], end: float
) -> tuple[list[int], float, str] | None:
    """Minimise the sum of one column under limits on others: genes, proven bound, message; None if none fits.

    The design meets the limits of the problem, the further ``limits`` but for the solver's tolerance.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    sizes = [len(own) for own in problem.values]
    first = np.cumsum([0, *sizes[:-1]])
    # Only differences within a layer matter.
    above = np.concatenate(problem.values) - np.repeat(problem.least, sizes, axis=0)
    least = problem.least.sum(axis=0)
    room = {limited: allowed - least[limited] for limited, allowed in {**problem.limits, **limits}.items()}
    fits = np.all([above[:, limited] <= most for limited, most in room.items()], axis=0)
    rows = [LinearConstraint(block_diag([np.ones((1, size)) for size in sizes], "csr"), 1, 1)]
    for limited, most in room.items():
        share = np.where(fits, above[:, limited], 0) / (most or 1.0)
        rows.append(LinearConstraint(share[None] * _SCALE, -np.inf, _SCALE))
    cost = above[:, column]
    unit, best = cost[fits].max(initial=0), None
    while True:
        # Presolve can call a problem infeasible in which a design exceeds a limit by a millionth and others do not.
        options = {"time_limit": max(end - time.monotonic(), 0.0), "mip_rel_gap": 0.0, "presolve": False}
        taken = fits & (cost <= unit)
        found = milp(
            np.where(taken, cost, 0) / (unit or 1.0) * _SCALE,
            constraints=rows,
            integrality=1,
            bounds=Bounds(0, taken),
            options=options,
        )
        if found.status == 2:
            return best
        if found.x is None and best is None:
            raise RuntimeError(f"HiGHS found no design: {found.message}")
        if found.x is None:
            return *best[:2], found.message
        genes = [int(part.argmax()) for part in np.split(found.x, first[1:])]
        chosen = above[first + genes]
        broken = [limited for limited in problem.limits if chosen[:, limited].sum() > room[limited]]
        if broken:
            # To the solver 0.999999 of a candidate is a candidate, which can hide that a design breaks a limit. Every
            # design that needs at least as much in every layer breaks it too: one row excludes them all.
            as_much = [above[:, limited] >= np.repeat(chosen[:, limited], sizes) for limited in broken]
            rows.append(LinearConstraint(np.array(as_much, dtype=float), -np.inf, len(sizes) - 1))
            continue
        # The solver stops at an absolute gap. A design far below the unit only bounds the cost: no candidate beyond it
        # can be part of a better one, and with it as the unit the next solution is exact.
        total = float(chosen[:, column].sum())
        exact = total == 0 or total >= unit / 10
        bound = total if found.mip_dual_bound is None else found.mip_dual_bound * unit / _SCALE
        bound = max(0.0, min(total, bound if exact else bound - 1e-6 * unit / _SCALE))
        best = genes, float(least[column] + bound), found.message
        if exact:
            return best
        unit = total


def _solve_product(problem: _Problem, fastest: list[int], low: float, end: float, tolerance: float) -> SearchResult:
    """Energy-delay product: intervals of latency, split where their lower bound is lowest.

    They begin at ``low``, below which no latency is; ``fastest`` is the design that was found with it. In an interval
    from ``low`` to ``high`` no product is below ``low`` times the least energy at a latency of at most ``high``.
    Splitting stops when the lowest of these bounds is within the tolerance of the best design.
    """
    rest_latency, rest_energy = (float(problem.table.rest[column]) for column in (0, 1))

    def sums(genes: Sequence[int]) -> np.ndarray:
        return sum(own[gene, :2] for own, gene in zip(problem.values, genes, strict=True)) + problem.table.rest[:2]

    low += rest_latency
    best, message = fastest, "Solved to the tolerance."
    queue = [(low * float(problem.least[:, 1].sum() + rest_energy), low, math.inf)]
    try:
        frugal, energy, _ = _knapsack(problem, 1, {}, end)
        best = min(fastest, frugal, key=lambda genes: sums(genes).prod())
        queue = [(low * (energy + rest_energy), low, float(sums(frugal)[0]))]
        while queue[0][0] < sums(best).prod() * (1 - tolerance):
            if time.monotonic() >= end:
                raise RuntimeError("the time is over")
            _, low, high = queue[0]
            halves = []
            for start, stop in ((low, (low + high) / 2), ((low + high) / 2, high)):
                found = _knapsack(problem, 1, {0: problem.loosened(0, stop - rest_latency)}, end)
                if found is not None:
                    genes, energy, _ = found
                    best = min(best, genes, key=lambda genes: sums(genes).prod())
                    halves.append((start * (energy + rest_energy), start, stop))
            heapq.heappop(queue)
            for half in halves:
                heapq.heappush(queue, half)
    except RuntimeError as error:  # most often the time is over; what is still in the queue bounds the product
        message = f"Stopped before the tolerance: {error}"
    return problem.result(best, "exact", bound=min(queue[0][0], float(sums(best).prod())), message=message)


def pareto(
    table: CostTable, objective: str = "latency", *, budgets: Iterable[int], **options: Any
) -> list[SearchResult]:
    """Return the exact optimum at every budget of crossbars that can be met: the front of crossbars and objective.

    ``options`` are those of `solve_exact`. Budgets that no design can meet are left out.
    """
    front = []
    for budget in sorted(positive("budgets", budget) for budget in _listed("budgets", budgets)):
        with contextlib.suppress(CannotBeMet):
            front.append(solve_exact(table, objective, budget=budget, **options))
    return front


def evolve(
    table: CostTable,
    objective: str = "latency",
    *,
    budget: int,
    proxy: Mapping[str, Sequence[float]] | None = None,
    limit: float | None = None,
    population: int = 1024,
    generations: int = 500,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> SearchResult:
    """Return the best design that an evolution finds under a budget of crossbars.

    Every generation keeps the best eighth and fills up with children: parents win tournaments of two, every gene comes
    from either parent, about one gene in a child mutates (to a neighbour in the order of crossbars, or to any), and a
    child over a limit is repaired by moving layers to smaller candidates, those that lose least per crossbar first.
    With two limits a repair can fail; such a child ranks behind all that meet both.

    Args:
        table, objective, budget, proxy, limit: as in `solve_exact`.
        population: designs of a generation.
        generations: how many.
        seed: of all random choices; equal arguments give equal results.
        checkpoint: a file that keeps the state every 50 generations; a search that finds its own file there goes on
            from it, with the same result as if it had not been interrupted.
        progress: whether to show a progress bar.

    Raises:
        CannotBeMet: a ValueError, if the smallest candidates exceed the budget or the limit.
        ValueError: if an argument is not allowed, or the checkpoint belongs to another search or has more generations.
        RuntimeError: if no design of the last generation meets both limits.
    """
    population = positive("population", population, 8)
    positive("generations", generations)
    seed = positive("seed", seed, 0)
    problem = _Problem(table, objective, budget, proxy, limit)
    search = _Evolution(problem, population, seed)
    identity = {"objective": objective, "budget": problem.budget, "population": population, "seed": seed}
    identity["limit"] = None if limit is None else str(float(limit))  # infinity is no number of JSON
    layers = repr([(name, len(own)) for name, own in zip(table.layers, problem.values, strict=True)])
    identity["table"] = zlib.crc32(
        b"".join([layers.encode(), table.rest.tobytes(), *(own.tobytes() for own in problem.values)])
    )
    if checkpoint is not None and Path(checkpoint).is_file():
        search.restore(keys("the checkpoint", read_json(checkpoint, "checkpoint"), ["search", "state"]), identity)
        if len(search.history) > generations:
            raise ValueError(
                f"generations must be at least {len(search.history)}, those of the checkpoint, got {generations}"
            )
    with tqdm(total=generations, initial=len(search.history), disable=not progress, unit="generation") as bar:
        while len(search.history) < generations:
            search.step()
            bar.update()
            bar.set_postfix_str(f"best {search.history[-1]:.6g}, {search.evaluations:,} designs", refresh=False)
            if checkpoint is not None and (len(search.history) % 50 == 0 or len(search.history) == generations):
                write_json(checkpoint, {"search": identity, "state": search.state()})
    if math.isinf(search.scores[0]):
        raise RuntimeError(f"the evolution found no design within budget {budget} and limit {limit}; allow more")
    return problem.result(
        search.genes[0],
        "evolution",
        evaluations=search.evaluations,
        seed=seed,
        history=tuple(search.history),
        message=f"{len(search.history)} generations of {population} designs.",
    )


class _Evolution:
    """Population, random state and history.

    A gene is the place of a candidate in the columns of costs, where every layer has its own, sorted by crossbars.
    """

    def __init__(self, problem: _Problem, population: int, seed: int) -> None:
        self.problem, self.population = problem, population
        self.rng = np.random.default_rng(seed)
        self.order = [np.lexsort((own[:, 0], own[:, 3])) for own in problem.values]
        self.sizes = np.array([len(own) for own in problem.values])
        self.first = np.cumsum([0, *self.sizes[:-1]])
        self.flat = np.concatenate([own[order] for own, order in zip(problem.values, self.order, strict=True)])
        self.costs = np.ascontiguousarray(self.flat.T)  # whole columns stay in the cache
        self.scale = np.abs(self.costs).mean(axis=1) + 1e-300  # what is zero everywhere counts nothing
        self.moves = {column: self._moves(column) for column in problem.limits}
        self.history: list[float] = []
        self.evaluations = 0
        layers = np.tile(np.arange(len(self.sizes)), (population, 1))
        self.places, self.scores = self._survivors(self._repair(self._any(layers)), population)

    @property
    def genes(self) -> list[list[int]]:
        """Designs, best first, as indices into the problem's candidates."""
        ranks = self.places - self.first
        return [[int(order[rank]) for order, rank in zip(self.order, row, strict=True)] for row in ranks]

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on as if nothing had happened."""
        known = {"history": _to_json(self.history), "evaluations": self.evaluations, "places": self.places.tolist()}
        return {**known, "random": self.rng.bit_generator.state}

    def restore(self, data: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same search.

        Raises:
            ValueError: if it is of another search, or no checkpoint at all.
        """
        keys("search of the checkpoint", data["search"], identity)
        differs = [name for name, value in identity.items() if data["search"].get(name) != value]
        if differs:
            raise ValueError(f"the checkpoint belongs to another search: {', '.join(differs)} differs")
        state = keys("the checkpoint", data["state"], ["history", "evaluations", "places", "random"])
        last = self.first + self.sizes - 1
        try:
            places = np.array(state["places"])
            whole = places.dtype.kind == "i" and places.shape == self.places.shape
            if not whole or (places < self.first).any() or (places > last).any():
                raise ValueError(f"places must be candidates of {self.places.shape} genes")
            history = [float(value) for value in _from_json(state["history"])]
            self.evaluations = positive("evaluations", state["evaluations"])
            self.rng.bit_generator.state = state["random"]
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint is damaged: {error}") from error
        self.history = history
        self.places, self.scores = self._survivors(places, 0)

    def step(self) -> None:
        """One generation."""
        elite = self.population // 8
        count = self.population - elite
        rivals = self.rng.integers(0, self.population, (2, 2, count))
        mothers, fathers = self.places[rivals.min(axis=1)]  # ranked best first: the smaller number wins
        children = np.where(self.rng.integers(0, 2, mothers.shape, dtype=bool), mothers, fathers)
        self._mutate(children.reshape(-1), self.rng.integers(0, children.size, count))
        children = np.concatenate([self.places[:elite], self._repair(children)])
        self.places, self.scores = self._survivors(children, count)
        self.history.append(float(self.scores[0]))

    def _mutate(self, genes: np.ndarray, chosen: np.ndarray) -> None:
        """Move the chosen ones of a flat array of genes to a neighbour, or to any candidate of their layer."""
        layers = chosen % len(self.sizes)
        near = genes[chosen] + self.rng.choice([-1, 1], chosen.shape)
        near = np.clip(near, self.first[layers], self.first[layers] + self.sizes[layers] - 1)
        genes[chosen] = np.where(self.rng.random(chosen.shape) < 0.7, near, self._any(layers))

    def _any(self, layers: np.ndarray) -> np.ndarray:
        """Return for each of an array of layers a gene, all of its candidates equally likely."""
        return self.first[layers] + (self.rng.random(layers.shape) * self.sizes[layers]).astype(np.int64)

    def _survivors(self, places: np.ndarray, new: int) -> tuple[np.ndarray, np.ndarray]:
        self.evaluations += new
        rest = self.problem.table.rest
        scores = math.prod(self._sum(places, column) + rest[column] for column in self.problem.columns)
        # Two limits can be at odds. Designs over one come last, those that exceed it least before others.
        over = sum(np.maximum(self._excess(places, c), 0) / self.scale[c] for c in self.problem.limits)
        scores[over > 0] = np.inf
        best = np.lexsort((scores, over))
        return places[best], scores[best]

    def _repair(self, places: np.ndarray) -> np.ndarray:
        """Move layers of designs over a limit to smaller candidates until they meet it or none is smaller."""
        for column in self.problem.limits:
            over = np.flatnonzero(self._excess(places, column) > 0)
            while len(over):
                before = places[over]
                places[over] = self._shrink(places[over], column)
                moved = (places[over] != before).any(axis=1)
                over = over[moved & (self._excess(places[over], column) > 0)]
        return places

    def _sum(self, places: np.ndarray, column: int) -> np.ndarray:
        return self.costs[column].take(places).sum(axis=1)

    def _excess(self, places: np.ndarray, column: int) -> np.ndarray:
        """By how much designs exceed a limit."""
        return self._sum(places, column) - self.problem.limits[column]

    def _shrink(self, places: np.ndarray, column: int) -> np.ndarray:
        """One move for as many layers of each design as it is over the limit, the cheapest moves first."""
        target, saved, price = (move[places] for move in self.moves[column])
        order = np.argsort(price * self.rng.lognormal(0, 0.5, price.shape), axis=1)
        saved = np.take_along_axis(saved, order, axis=1)
        before = np.cumsum(saved, axis=1) - saved
        needed = before < self._excess(places, column)[:, None]
        moved = np.where(needed, np.take_along_axis(target, order, axis=1), np.take_along_axis(places, order, axis=1))
        np.put_along_axis(places, order, moved, axis=1)
        return places

    def _moves(self, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every candidate the smaller one that loses least per unit saved: its place, the saving, the price."""
        targets, savings, prices = [], [], []
        goals = [*self.problem.columns, *(self.problem.limits.keys() - {column})]
        for first, size in zip(self.first, self.sizes, strict=True):
            own = self.flat[first : first + size]
            saved = own[:, None, column] - own[None, :, column]
            goal = own[:, goals] @ (1 / self.scale[goals])
            price = np.where(saved > 0, (goal[None] - goal[:, None]) / np.where(saved > 0, saved, 1), np.inf)
            best = price.argmin(axis=1)
            here = np.arange(size)
            stuck = np.isinf(price[here, best])
            targets.append(first + np.where(stuck, here, best))
            savings.append(np.where(stuck, 0, saved[here, best]))
            prices.append(np.where(stuck, np.inf, price[here, best]))
        return np.concatenate(targets), np.concatenate(savings), np.concatenate(prices)
