"""Arithmetic by NOR gates: results are NumPy's, counts are the public ones of AritPIM."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib.related.bitserial import FORMATS, Machine, float_add_cycles, float_cycles


def test_the_full_adder_adds():
    bits = np.array(list(itertools.product([0, 1], repeat=3)))
    machine = Machine(8)
    total, carry = machine.full_adder(*(bits.T == 1))
    assert (total + 2 * carry == bits.sum(axis=1)).all()
    assert machine.cycles == 18


@st.composite
def operands(draw):
    bits = draw(st.integers(1, 20))
    rows = draw(st.integers(1, 5))
    numbers = st.lists(st.integers(0, 2**bits - 1), min_size=rows, max_size=rows)
    return bits, np.array(draw(numbers)), np.array(draw(numbers))


@given(operands())
def test_sums_differences_and_products_are_those_of_integers(case):
    bits, a, b = case
    machine = Machine(len(a))
    left, right = machine.write(a, bits), machine.write(b, bits)
    assert (machine.read(machine.add(left, right)) == a + b).all()
    *difference, at_least = machine.subtract(left, right)
    assert (machine.read(tuple(difference)) == (a - b) % 2**bits).all()
    assert (at_least == (a >= b)).all()
    assert (machine.read(machine.multiply(left, right)) == a * b).all()


def cycles(operation, bits):
    machine = Machine(3)
    numbers = [machine.write(np.zeros(3, int), bits) for _ in range(2)]
    getattr(machine, operation)(*numbers)
    return machine.cycles


@pytest.mark.parametrize(("bits", "added", "subtracted"), [(8, 145, 161), (16, 289, 321), (31, 559, 621)])
def test_cycles_of_sums_are_the_public_ones(bits, added, subtracted):
    assert (cycles("add", bits), cycles("subtract", bits)) == (added, subtracted)


@pytest.mark.parametrize(("bits", "public"), [(8, 1183), (16, 4927)])
def test_cycles_of_a_product_are_near_the_public_ones(bits, public):
    assert abs(cycles("multiply", bits) / public - 1) < 0.03


@pytest.mark.parametrize(
    ("operation", "public"),
    [
        ("add unsigned", [1075, 1117, 2306, 4915]),
        ("add", [1849, 1978, 3997, 8536]),
        ("multiply", [1742, 2780, 11586, 46204]),
        ("divide", [3749, 5639, 19909, 83255]),
    ],
)
def test_cycles_of_floats_are_the_public_ones(operation, public):
    assert [float_cycles(operation, name) for name in FORMATS] == public


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: float_add_cycles(8, 0), "mantissa must be at least 1, got 0"),
        (lambda: float_cycles("add", "float8"), "format must be"),
        (lambda: float_cycles("root"), "operation must be"),
        (lambda: Machine(0), "rows must be at least 1, got 0"),
        (lambda: Machine(2).write([1, 2], 0), "bits must be at least 1, got 0"),
        (lambda: Machine(2).write([1, 4], 2), "values must fit 2 bits, got 1 to 4"),
        (lambda: Machine(2).write([1.0, 2.0], 2), "one integer for each of 2 rows, got float64"),
        (lambda: Machine(2).write([1, 2, 3], 2), "one integer for each of 2 rows, got int64 of shape"),
        (lambda: Machine(1).add(Machine(1).write([1], 2), Machine(1).write([1], 3)), "as many bits, got 2 and 3"),
    ],
)
def test_refusals_name_the_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
