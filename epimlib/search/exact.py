"""Designs with a proof: the optimum under a budget of crossbars, and fronts of such optima."""

import contextlib
import heapq
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from epimlib._checks import positive
from epimlib.search.knapsack import Choice, choose
from epimlib.search.problem import CannotBeMet, Problem, SearchResult, listed, number
from epimlib.search.table import CostTable


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
    number("time_limit", time_limit, 1e-3, math.inf)
    number("tolerance", tolerance, 1e-9, 1)
    problem = Problem(table, objective, budget, proxy, limit)
    end = time.monotonic() + time_limit
    column = problem.columns[0]  # of a product the latency
    found = choose(problem.costs, column, problem.limits, time_limit)
    if found is None:  # each can be met, but not both
        raise CannotBeMet(f"no design meets both budget {budget} and limit {limit:g}; allow more")
    if objective == "edp":
        return _solve_product(problem, found, end, tolerance)
    return problem.result(found.taken, "exact", bound=found.bound + problem.rest[column], message=found.message)


def _solve_product(problem: Problem, fastest: Choice, end: float, tolerance: float) -> SearchResult:
    """Energy-delay product: intervals of latency, split where their lower bound is lowest.

    They begin at the bound of the fastest design. In an interval from ``low`` to ``high`` no product is below ``low``
    times the least energy at a latency of at most ``high``. Splitting stops when the lowest of these bounds is within
    the tolerance of the best design.
    """

    def frugal(latency: float) -> Choice | None:
        """Return the choice of least energy that takes at most so many seconds."""
        allowed = problem.loosened("latency", latency - problem.rest["latency"])
        return choose(problem.costs, "energy", {**problem.limits, "latency": allowed}, end - time.monotonic())

    def product(taken: Sequence[int]) -> float:
        return problem.total("latency", taken) * problem.total("energy", taken)

    best, message = fastest.taken, "Solved to the tolerance."
    low = fastest.bound + problem.rest["latency"]
    queue = [(low * (problem.least["energy"].sum() + problem.rest["energy"]), low, math.inf)]
    try:
        found = frugal(math.inf)
        best = min(best, found.taken, key=product)
        queue = [(low * (found.bound + problem.rest["energy"]), low, problem.total("latency", found.taken))]
        while queue[0][0] < product(best) * (1 - tolerance):
            if time.monotonic() >= end:
                raise RuntimeError("the time is over")
            _, low, high = queue[0]
            halves = []
            for start, stop in ((low, (low + high) / 2), ((low + high) / 2, high)):
                found = frugal(stop)
                if found is not None:
                    best = min(best, found.taken, key=product)
                    halves.append((start * (found.bound + problem.rest["energy"]), start, stop))
            heapq.heappop(queue)
            for half in halves:
                heapq.heappush(queue, half)
    except RuntimeError as error:  # most often the time is over; what is still in the queue bounds the product
        message = f"Stopped before the tolerance: {error}"
    return problem.result(best, "exact", bound=min(queue[0][0], product(best)), message=message)


def pareto(
    table: CostTable, objective: str = "latency", *, budgets: Iterable[int], **options: Any
) -> list[SearchResult]:
    """Return the exact optimum at every budget of crossbars that can be met: the front of crossbars and objective.

    ``options`` are those of `solve_exact`. Budgets that no design can meet are left out.
    """
    front = []
    for budget in sorted(positive("budgets", budget) for budget in listed("budgets", budgets)):
        with contextlib.suppress(CannotBeMet):
            front.append(solve_exact(table, objective, budget=budget, **options))
    return front
