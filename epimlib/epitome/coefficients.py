"""Round coefficients on the grids that the joint module knows, and the epitome and coefficients that fit a weight.

A layer keeps a float number behind each coefficient (its *latent*). What it computes with
is the nearest value that the kind allows (`epimlib.epitome.plan.COEFFICIENTS`); the gradient passes straight through,
as for quantized weights. Free coefficients are their latents; a quantizer puts them on a grid of integers.
"""

import math

import torch
from torch import Tensor, nn

from epimlib.epitome.plan import Plan

POWERS = (0.25, 0.5, 1.0, 2.0)
"""Magnitudes of the kind ``"power"``; scaled so that the least is 1, they are the integers 1, 2, 4 and 8."""


def nearest_coefficients(latent: Tensor, kind: str) -> Tensor:
    """Return the nearest coefficients of a kind other than ``"none"``; zero counts as positive.

    >>> nearest_coefficients(torch.tensor([-0.2, 0.0, 0.8, 5.0]), "power").tolist()
    [-0.25, 0.25, 1.0, 2.0]
    """
    if kind == "free":
        return latent
    sign = torch.where(latent < 0, -1.0, 1.0).to(latent.dtype)
    if kind == "sign":
        return sign
    powers = latent.new_tensor(POWERS)
    return sign * powers[torch.bucketize(latent.abs(), (powers[1:] + powers[:-1]) / 2, right=True)]


def coefficient_step(kind: str) -> float:
    """Return what an integer coefficient 1 of the kind ``"sign"`` or ``"power"`` is worth."""
    return POWERS[0] if kind == "power" else 1.0


def straight_through(latent: Tensor, kind: str) -> Tensor:
    """Return `nearest_coefficients` with the gradient of the latent, unchanged."""
    if kind == "free":
        return latent
    return nearest_coefficients(latent.detach(), kind) + (latent - latent.detach())


def draw_coefficients(latent: Tensor, kind: str, bound: float) -> None:
    """Fill latents so that coefficients start as random signs.

    A sign has no size, so its latent is drawn within ``bound``, as the epitome's elements are: both then change sign
    after about as many steps.
    """
    nn.init.uniform_(latent, -bound, bound)
    if kind != "sign":
        latent.copy_(nearest_coefficients(latent, "sign"))


def fit_coefficients(weight: Tensor, plan: Plan, sweeps: int = 20) -> tuple[Tensor, Tensor]:
    """Return the epitome and the coefficients whose sampled weight is near a given one, in alternation.

    With the coefficients fixed, the best element of the epitome is ``sum(S W) / sum(S^2)`` over its uses; with the
    epitome fixed, the best coefficient of a block is the nearest to ``<W, patch> / <patch, patch>`` for each output
    channel. It starts from ones, that is, from the fit without coefficients, and the squared error never rises. A sign
    that was once right for the mean may stay: the result is a local minimum.

    Args:
        weight: ``(C_out, C_in, k_h, k_w)``, in float32 or wider.
        plan: of a specification with coefficients.
        sweeps: alternations.

    Returns:
        ``(E_out, E_in, E_h, E_w)`` and ``(C_out, n_in)``.
    """
    spec = plan.spec
    index = torch.from_numpy(plan.index).to(weight.device)
    block = torch.arange(spec.in_channels, device=weight.device) // spec.block[1]
    coefficients = weight.new_ones(spec.out_channels, spec.grid[1])
    for _ in range(sweeps):
        epitome = _best_epitome(weight, plan, index, coefficients[:, block])
        patch = epitome.reshape(-1)[index]
        inner, norm = (
            torch.zeros_like(coefficients).index_add_(1, block, product.sum((2, 3)))
            for product in (weight * patch, patch.square())
        )
        best = torch.where(norm > 0, inner / norm, coefficients)
        coefficients = nearest_coefficients(best, spec.coefficients)
    return _best_epitome(weight, plan, index, coefficients[:, block]), coefficients


def _best_epitome(weight: Tensor, plan: Plan, index: Tensor, coefficients: Tensor) -> Tensor:
    """Return the least-squares epitome for coefficients by input channel, ``(C_out, C_in)``."""
    weighed = coefficients[:, :, None, None].expand_as(weight)
    total, square = (
        weight.new_zeros(math.prod(plan.spec.epitome)).index_add_(0, index.reshape(-1), product.reshape(-1))
        for product in (weighed * weight, weighed.square())
    )
    return torch.where(square > 0, total / square, 0).reshape(plan.spec.epitome)
