"""Mixed precision: which layer gets how many bits.

Quantizing a layer's weight from ``w`` to ``w + d`` raises the loss by about ``d' H d / 2`` with its Hessian ``H``.
HAWQ-V2 (Dong et al., NeurIPS 2020) replaces ``H`` by its mean eigenvalue and calls ``mean trace * |d|^2`` the
*sensitivity* of a layer at some bits. An epitome has no single curvature: an element that is sampled ``n(e)`` times
collects the curvature of ``n(e)`` weights. So its trace is shared among its elements in proportion to ``n(e)``::

    sensitivity = tr(H) / |W| * sum n(e) * (Q(e) - e)^2                                  |W| = sum n(e)

where ``H`` is the Hessian with respect to the epitome. A dense layer has ``n = 1``, which is HAWQ-V2's formula.

The bits are then chosen for the least total sensitivity within a budget of crossbars, to proven optimality.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from epimlib._checks import positive
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import quantizable, usage_of, weight_name, weight_quantizer


def hessian_traces(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
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
        loss: mean over a batch, of outputs and targets.
        probes: random vectors.
        seed: of these; the same on every device.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if there is no batch, or the model is quantized already.
    """
    from tqdm.auto import tqdm

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
    model: nn.Module, traces: Mapping[str, float], config: QuantConfig, bits: Iterable[int]
) -> dict[str, dict[int, float]]:
    """Return the sensitivity of every layer at every number of bits.

    Args:
        model: float, of which the traces are.
        traces: of `hessian_traces`. A negative trace (the loss is not at a minimum) counts as zero.
        config: how weights are quantized, apart from ``bits``.
        bits: the choices.
    """
    bits = list(bits)
    result: dict[str, dict[int, float]] = {}
    for name, module in quantizable(model).items():
        weight = getattr(module, weight_name(module))
        size = usage_of(module).sum().item() if hasattr(module, "spec") else weight.numel()
        mean = max(traces[name], 0.0) / size
        quantizers = {b: weight_quantizer(module, dataclasses.replace(config, bits=b)) for b in bits}
        result[name] = {b: mean * quantizer.error(weight) for b, quantizer in quantizers.items()}
    return result
