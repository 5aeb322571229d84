"""One candidate for each layer under budgets: a multiple-choice knapsack, solved to proven optimality by HiGHS."""

import time
from collections.abc import Mapping

import numpy as np

from epimlib.search.problem import _Problem

_SCALE = 1e4
"""Largest coefficient that the solver sees; its tolerances are absolute, 1e-6."""


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
