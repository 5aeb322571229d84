"""Designs with a proof: the optimum under a budget of crossbars, and fronts of such optima."""

import contextlib
import heapq
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from epimlib._checks import positive
from epimlib.pim.candidates import CostTable
from epimlib.search.knapsack import _knapsack
from epimlib.search.problem import CannotBeMet, SearchResult, _listed, _number, _Problem


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
