"""Round coefficients: the values that the joint module knows, and the epitome and coefficients that fit a weight.

Coefficients have the shape ``(C_out, n_in)``: one for each output channel and input block. Those of the kinds
``"sign"`` and ``"power"`` are whole multiples of `COEFFICIENT_STEPS`; free ones are any numbers until a quantizer puts
them on a grid of integers.
"""

from typing import Any

import numpy as np

from epimlib.epitome.plan import Plan

COEFFICIENT_STEPS = {"sign": 1.0, "power": 0.25}
"""What the integer 1 is worth: signs are the integers -1 and 1, signed powers of two 1, 2, 4 and 8 and their
negatives."""


def nearest_coefficients(values: Any, kind: str) -> Any:
    """Return the nearest coefficients of a kind other than ``"none"``; zero counts as positive.

    Args:
        values: an array, or a tensor; a tensor of another type than float32 has to be cast back.
        kind: one of `epimlib.epitome.plan.COEFFICIENTS`.

    >>> nearest_coefficients(np.array([-0.2, 0.0, 0.8, 5.0]), "power").tolist()
    [-0.25, 0.25, 1.0, 2.0]
    """
    if kind == "free":
        return values
    sign = 1.0 - 2.0 * (values < 0)
    if kind == "sign":
        return sign
    size = abs(values)  # from 1/4 on, what is beyond the middle of two powers is the larger one
    return sign * (0.25 + 0.25 * (size >= 0.375) + 0.5 * (size >= 0.75) + 1.0 * (size >= 1.5))


def fit_coefficients(weight: np.ndarray, plan: Plan, sweeps: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return the epitome and the coefficients whose sampled weight is near a given one, found in alternation.

    With the coefficients fixed, the best element of the epitome is ``sum(S W) / sum(S^2)`` over its uses; with the
    epitome fixed, the best coefficient of a block is the nearest to ``<W, patch> / <patch, patch>``, for each output
    channel. It starts from ones, that is, from the fit without coefficients, and the squared error never rises. The
    result is a local minimum: a sign that suits the mean of all blocks may stay.

    Args:
        weight: ``(C_out, C_in, k_h, k_w)``.
        plan: of a specification with coefficients.
        sweeps: alternations.

    Returns:
        ``(E_out, E_in, E_h, E_w)`` and ``(C_out, n_in)``, float64.
    """
    spec, weight = plan.spec, np.asarray(weight, dtype=np.float64)
    first = np.arange(spec.grid[1]) * spec.block[1]  # input channel of every block
    coefficients = np.ones((spec.out_channels, spec.grid[1]))

    def epitome() -> np.ndarray:
        weighed = np.broadcast_to(weights_of(coefficients, plan), weight.shape).reshape(-1)
        index, size = plan.index.reshape(-1), plan.usage.size
        total = np.bincount(index, weighed * weight.reshape(-1), size)
        square = np.bincount(index, weighed**2, size)
        return np.divide(total, square, out=np.zeros(size), where=square > 0)

    for _ in range(sweeps):
        patch = epitome()[plan.index]
        inner, norm = (np.add.reduceat(t.sum((2, 3)), first, axis=1) for t in (weight * patch, patch**2))
        best = np.divide(inner, norm, out=coefficients.copy(), where=norm > 0)
        coefficients = nearest_coefficients(best, spec.coefficients)
    return epitome().reshape(spec.epitome), coefficients


def weights_of(coefficients: np.ndarray, plan: Plan) -> np.ndarray:
    """Return coefficients by input channel, ``(C_out, C_in, 1, 1)``: what a sampled weight is multiplied by."""
    spec = plan.spec
    return np.repeat(coefficients, spec.block[1], axis=1)[:, : spec.in_channels, None, None]
