"""One candidate for each layer under budgets: a multiple-choice knapsack, solved to proven optimality by HiGHS."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_SCALE = 1e4
"""Largest coefficient that the solver sees; its tolerances are absolute, 1e-6."""


class Choice(NamedTuple):
    """One candidate of each layer."""

    taken: tuple[int, ...]
    """For every layer, the index of its candidate."""
    bound: float
    """No other choice within the limits has a smaller sum than this."""
    message: str
    """Of the solver."""


def choose(
    costs: Sequence[Mapping[str, Sequence[float]]],
    minimise: str,
    limits: Mapping[str, float],
    time_limit: float = math.inf,
) -> Choice | None:
    """Return the candidates that minimise the sum of one cost within limits on others; None if none are within.

    Two layers of two candidates each, and 5 crossbars for both::

        first = {"latency": [1, 4], "crossbars": [4, 1]}
        second = {"latency": [2, 3], "crossbars": [3, 1]}
        choose([first, second], "latency", {"crossbars": 5}).taken  # (0, 1): latency 1 + 3, crossbars 4 + 1

    Args:
        costs: for every layer and name of a cost (latency, energy, crossbars, a proxy, ...) the numbers of its
            candidates. All layers have the same names.
        minimise: the name of the cost whose sum is minimised.
        limits: by name, what the sum of a cost may be at most. No limit is exceeded, but for the rounding of
            sums.
        time_limit: seconds, after which the best choice so far is returned, with an honest bound.

    Raises:
        RuntimeError: if the solver finds no choice in time.
    """
    from scipy.optimize import Bounds, LinearConstraint
    from scipy.sparse import block_diag

    if not costs:
        return Choice((), 0.0, "There is nothing to choose.")
    end = time.monotonic() + time_limit
    sizes = [len(own[minimise]) for own in costs]
    first = np.cumsum([0, *sizes[:-1]])
    # Only differences within a layer matter.
    least = {name: np.array([np.min(own[name]) for own in costs]) for name in (minimise, *limits)}
    above = {name: np.concatenate([own[name] for own in costs]) - np.repeat(least[name], sizes) for name in least}
    room = {name: allowed - least[name].sum() for name, allowed in limits.items()}
    fits = np.all([above[name] <= most for name, most in room.items()], axis=0)
    constraints = [LinearConstraint(block_diag([np.ones((1, size)) for size in sizes], "csr"), 1, 1)]
    for name, most in room.items():
        share = np.where(fits, above[name], 0) / (most or 1.0)
        constraints.append(LinearConstraint(share[None] * _SCALE, -np.inf, _SCALE))
    cost = above[minimise]
    unit, best = cost[fits].max(initial=0), None
    while True:
        allowed = fits & (cost <= unit)
        objective = np.where(allowed, cost, 0) / (unit or 1.0) * _SCALE
        problem = {"c": objective, "integrality": 1, "bounds": Bounds(0, allowed), "constraints": constraints}
        found = _solve_twice(problem, end)
        if found.status == 2:
            return best
        if found.x is None and best is None:
            raise RuntimeError(f"HiGHS found no design: {found.message}")
        if found.x is None:
            return best._replace(message=found.message)
        taken = tuple(int(part.argmax()) for part in np.split(found.x, first[1:]))
        chosen = {name: values[first + taken] for name, values in above.items()}
        broken = [name for name, most in room.items() if chosen[name].sum() > most]
        if broken:
            # To the solver 0.999999 of a candidate is a candidate, which can hide that a choice breaks a limit. Every
            # choice that needs at least as much in every layer breaks it too: one row excludes them all.
            as_much = [above[name] >= np.repeat(chosen[name], sizes) for name in broken]
            constraints.append(LinearConstraint(np.array(as_much, dtype=float), -np.inf, len(sizes) - 1))
            continue
        # The solver stops at an absolute gap. A choice far below the unit only bounds the cost: no candidate beyond it
        # can be part of a better one, and with it as the unit the next solution is exact.
        total = float(chosen[minimise].sum())
        exact = total == 0 or total >= unit / 10
        bound = total if found.mip_dual_bound is None else found.mip_dual_bound * unit / _SCALE
        bound = max(0.0, min(total, bound if exact else bound - 1e-6 * unit / _SCALE))
        best = Choice(taken, float(least[minimise].sum() + bound), found.message)
        if exact:
            return best
        unit = total


def _solve_twice(problem: Mapping[str, Any], end: float) -> Any:
    """Return the better result of HiGHS without and with presolve, and the lower of their bounds.

    Where limits and sums agree to a millionth, either can miss what the other finds: with presolve that there is a
    choice at all, without it a better one.
    """
    from scipy.optimize import milp

    def solve(presolve: bool) -> Any:
        options = {"time_limit": max(end - time.monotonic(), 0.0), "mip_rel_gap": 0.0, "presolve": presolve}
        return milp(**problem, options=options)

    first = solve(presolve=False)
    if time.monotonic() >= end:
        return first
    second = solve(presolve=True)
    if second.x is None:
        return first
    if first.x is None or second.fun < first.fun - 1e-9 * abs(first.fun):
        return second
    bounds = [result.mip_dual_bound for result in (first, second) if result.mip_dual_bound is not None]
    first.mip_dual_bound = min(bounds, default=None)
    return first
