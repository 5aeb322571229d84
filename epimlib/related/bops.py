"""Bit operations of a network: a measure that counts what quantization and what scattered zeros save.

Source: the public code of Hawks et al., "Ps and Qs" (2021). A layer with ``m`` outputs, each a sum over ``n`` inputs,
weights of ``b_w`` bits, inputs of ``b_a`` bits and a share ``p`` of the weights kept counts::

    m n (p b_a b_w + b_a + b_w + log2 n)

The product is done for kept weights only; the addition, of ``b_a + b_w + log2 n`` bits, is counted for all.
"""

import math
from collections.abc import Mapping

from epimlib._checks import positive
from epimlib.epitome.workload import Workload, check_workload
from epimlib.pim.mapping import layer_bits


def bops(workload: Workload, bits: int | Mapping[str, int], first: int = 32, kept: float = 1.0) -> dict[str, float]:
    """Return the bit operations of each weighted layer for one image.

    Args:
        workload: a chain of layers. ``n`` is a window of a convolution, ``m`` its output channels at all positions.
        bits: of a weight, one number or one for each weighted layer by name. An activation has the bits of the layer
            that computes it.
        first: bits of an input of the first layer.
        kept: share of all parameters that are not zero, 0 to 1.

    Example: 16 inputs and 64 outputs with 32 bits are ``16 * 64 * (1024 + 32 + 32 + 4)``, 1,118,208.

    Raises:
        TypeError: if the workload or a number of bits is something else.
        ValueError: if the bits name no weighted layer or not all, or ``kept`` is out of its range.
    """
    widths = layer_bits(check_workload(workload), bits)
    before = positive("first", first)
    if not isinstance(kept, int | float) or not 0 <= kept <= 1:
        raise ValueError(f"kept must be a number from 0 to 1, got {kept!r}")
    result = {}
    for layer in workload.weighted:
        out, *window = layer.weight_shape
        n, width = math.prod(window), widths[layer.name]
        result[layer.name] = layer.positions * out * n * (kept * before * width + before + width + math.log2(n))
        before = width
    return result
