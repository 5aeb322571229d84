"""Constants taken up and down, one at a time."""

import dataclasses
import math

import pytest

from epimlib import Hardware
from epimlib.pim.sensitivity import scaled_constants

DEFAULT = Hardware.preset("default")
SCALED = scaled_constants(DEFAULT)


def numbers(hardware: Hardware) -> dict[str, float | int | tuple[float, ...]]:
    """Return every number of a description by dotted name, found without its list of constants."""
    return {
        f"{section.name}.{field.name}": getattr(getattr(hardware, section.name), field.name)
        for section in dataclasses.fields(hardware)
        if dataclasses.is_dataclass(section.type)
        for field in dataclasses.fields(section.type)
        if field.type is not str
    }


def test_every_number_is_there_in_both_directions_where_that_is_allowed():
    names = set(numbers(DEFAULT)) - {"crossbar.polarity"}
    assert {name for name, factor in SCALED if factor == 2} == names
    odd = {name for name, value in numbers(DEFAULT).items() if type(value) is int and value % 2}
    assert odd == {"dac.bits", "tile.groups", "chip.hops", "pooling.window"}
    assert {name for name, factor in SCALED if factor == 0.5} == names - odd


def test_each_value_changes_one_constant_by_its_factor():
    before = numbers(DEFAULT)
    for (name, factor), value in SCALED.items():
        after = numbers(DEFAULT.replace({name: value}))
        assert {other for other in after if after[other] != before[other]} == {name}
        for new, old in zip(*(v if isinstance(v, tuple) else (v,) for v in (after[name], before[name])), strict=True):
            assert math.isclose(new, factor * old)


def test_a_product_that_is_no_whole_number_is_left_out():
    found = scaled_constants(DEFAULT, [1.5, 3])
    assert found["crossbar.rows", 1.5] == 384
    assert ("dac.bits", 1.5) not in found
    assert found["dac.bits", 3] == 3


@pytest.mark.parametrize("factor", [0, -1, math.inf, math.nan])
def test_a_factor_must_be_finite_and_above_zero(factor):
    with pytest.raises(ValueError, match="factors must be finite and above zero, got"):
        scaled_constants(DEFAULT, [2, factor])
