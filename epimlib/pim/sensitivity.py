"""Which constants does a conclusion hang on? The values that take every constant of an accelerator up and down."""

import math
from collections.abc import Iterable
from typing import Any

from epimlib.pim.hardware import Hardware

__all__ = ["scaled_constants"]


def scaled_constants(hardware: Hardware, factors: Iterable[float] = (0.5, 2.0)) -> dict[tuple[str, float], Any]:
    """Return every constant of an accelerator that is a number, multiplied by each factor.

    The values of a list of buffer macros are multiplied together. Left out are the polarity, which is a convention, and
    products that are not allowed: half a bit, half a crossbar.

    Args:
        hardware: whose constants.
        factors: more than zero.

    Returns:
        The products [SI], by dotted name and factor, as `Hardware.replace` takes them.

    Raises:
        ValueError: if a factor is not a finite number above zero.
    """
    factors = list(factors)
    for factor in factors:
        if not 0 < factor < math.inf:
            raise ValueError(f"factors must be finite and above zero, got {factor}")
    found = {}
    for constant in hardware.provenance:
        section, _, field = constant.name.rpartition(".")
        if not section or constant.name == "crossbar.polarity":
            continue
        value = getattr(getattr(hardware, section), field)
        for factor in factors:
            if isinstance(value, tuple):
                found[constant.name, factor] = [factor * element for element in value]
            elif isinstance(value, float):
                found[constant.name, factor] = factor * value
            elif isinstance(value, int) and factor * value >= 1 and factor * value % 1 == 0:
                found[constant.name, factor] = int(factor * value)
    return found
