"""Sums formed before the conversion: counts, costs, and the executed datapath against sums formed by hand.

Counts marked golden are those of an independent script for the settings of Neural-PIM, CASCADE and this project.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from epimlib import Design, Hardware, Workload, evaluate
from epimlib.datapath import compile, run, simulate, trace_rounds
from epimlib.datapath.analog import NonIdealities
from epimlib.epitome.workload import Layer
from epimlib.pim.events import input_cycles, layer_events
from tests.test_datapath import (
    cases,
    convolution,
    feature_map,
    hardware,
    inputs_by_hand,
    logical,
    network,
    program_of,
    reads_by_hand,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STRATEGIES = ("read", "power", "output")
DEFAULT = Hardware.preset("default")
RESNET = Workload.load("resnet18")


def accumulating(machine, accumulate, **other):
    return machine.replace({"adc.accumulate": accumulate} | other)


@pytest.mark.parametrize(
    ("inputs", "slices", "dac", "cell", "counts"),
    [
        (8, 8, 1, 1, (64, 15, 1)),  # Neural-PIM
        (16, 16, 1, 1, (256, 31, 1)),  # CASCADE
        (16, 15, 1, 1, (240, 30, 1)),
        (9, 4, 1, 2, (36, 15, 1)),  # preset "default"
        (16, 8, 1, 2, (128, 30, 1)),  # preset "isaac"
        (8, 4, 1, 2, (32, 14, 1)),
        (8, 4, 2, 2, (16, 7, 1)),
        (4, 1, 1, 2, (4, 4, 1)),  # nothing to merge
        (1, 4, 1, 2, (4, 4, 1)),  # spikes
    ],
)
def test_golden_numbers_of_conversions(inputs, slices, dac, cell, counts):
    cycles = input_cycles(inputs, dac)
    machines = [accumulating(DEFAULT, strategy) for strategy in STRATEGIES]
    assert tuple(machine.adc.conversions(cycles, slices, dac, cell) for machine in machines) == counts
    layer, changes = Layer("one", "linear", 1, 1), {"dac.bits": dac, "crossbar.cell_bits": cell}
    events = [
        layer_events(layer, None, machine.replace(changes), slices * cell + 1, inputs).adc_conversions
        for machine in machines
    ]
    assert tuple(events) == counts


def test_the_cycle_of_a_sign_has_sums_of_its_own():
    """Three bits of magnitude, two slices: exponents 0 to 3, and the sign's cycle, which counts -8 and -16."""
    conversions = [accumulating(DEFAULT, s).adc.conversions(4, 2, 1, 1, signed=True) for s in STRATEGIES]
    assert conversions == [4 * 2, 4 + 2, 1]


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_merging_never_adds_a_conversion(cycles, slices, dac, cell, signed):
    read, power, output = (
        accumulating(DEFAULT, s).adc.conversions(cycles, slices, dac, cell, signed) for s in STRATEGIES
    )
    assert read == cycles * slices
    assert max(cycles, slices) <= power <= read
    assert output == 1


@given(cases(), st.sampled_from(STRATEGIES))
@settings(max_examples=500)
def test_any_layer_is_exact_and_takes_the_events_of_the_closed_form(case, accumulate):
    layer, plan, _, images, machine, bits, activation_bits, signed = case
    machine = accumulating(machine, accumulate, **{"adc.bits": 44})
    case = (*case[:4], machine, *case[5:])
    program, expected = program_of(case), convolution(images, logical(case), layer)
    predicted = len(images) * layer_events(layer, plan.spec if plan else None, machine, bits, activation_bits, signed)
    for fast in (False, True):
        output, events = run(program, feature_map(case), fast)
        assert output.reshape(expected.shape).numpy().tolist() == expected.tolist()
        assert events.to_dict() == predicted.to_dict()


def sums_by_hand(case, accumulate, bits, rule):
    """The output for one image, position by position, row group by row group; every sum is a number in a dict."""
    layer, _, _, images, machine, weight_bits, activation_bits, signed = case
    cell, dac, polarity = machine.crossbar.cell_bits, machine.dac.bits, machine.crossbar.polarity
    magnitude = activation_bits - signed
    cycles = [(shift, min(dac, magnitude - shift), 2**shift) for shift in range(0, magnitude, dac)]
    cycles += [(magnitude, 1, -(2**magnitude))] * signed
    slices = range(0, weight_bits - 1 if polarity == 2 else weight_bits, cell)
    full = min(machine.crossbar.rows, machine.dac.per_crossbar) * (2**cell - 1) * (2**dac - 1)
    two_sided = polarity == 2 or (accumulate == "output" and signed)
    codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if two_sided else (0, 2**bits - 1)
    ups = sum(worth * 2**first for _, _, worth in cycles for first in slices if worth > 0)
    downs = -sum(worth * 2**first for _, _, worth in cycles for first in slices if worth < 0)
    output = np.zeros((layer.out_channels, *layer.out_size))
    for outputs, reads, factors in reads_by_hand(case):
        for p, q in np.ndindex(*layer.out_size):
            for rows in reads.values():
                x, w = inputs_by_hand(layer, images, rows, p, q), np.array([row[3] for row in rows])
                amounts, numbers = {}, {}
                for shift, width, worth in cycles:
                    drive = (x % 2**activation_bits) // 2**shift % 2**width
                    for first in slices:
                        level = (np.abs(w) if polarity == 2 else w + 2 ** (weight_bits - 1)) // 2**first % 2**cell
                        current = drive @ (np.sign(w) * level if polarity == 2 else level)
                        key, times = (worth * 2**first, 1) if accumulate == "power" else (1, worth * 2**first)
                        amounts[key] = amounts.get(key, 0) + times * current
                        numbers[key] = numbers.get(key, 0) + 1
                for key, amount in amounts.items():
                    most = full * (numbers[key] if accumulate == "power" else max(ups, downs))
                    step = max(1, most / codes[1]) if rule == "max" else 1
                    code = np.clip(np.round(amount / step), *codes)
                    output[outputs.start : outputs.stop, p, q] += factors * key * step * code
                if polarity == 1:
                    output[outputs.start : outputs.stop, p, q] -= factors * 2 ** (weight_bits - 1) * x.sum()
    return output


@given(cases(), st.sampled_from(["power", "output"]), st.integers(2, 12), st.sampled_from(["lossless", "max"]))
@settings(max_examples=100)
def test_a_narrow_adc_saturates_or_rounds_each_sum(case, accumulate, bits, rule):
    assume(case[0].groups == 1)
    case = (*case[:3], case[3][:1], accumulating(case[4], accumulate, **{"adc.bits": bits}), *case[5:])
    output, _ = run(program_of(case, adc_range=rule), feature_map(case), fast=False)
    expected = sums_by_hand(case, accumulate, bits, rule)
    np.testing.assert_allclose(output.reshape(expected.shape).numpy(), expected, rtol=1e-12, atol=1e-6)


def test_a_whole_sum_of_8_by_8_bits_and_128_rows_takes_23_bits():
    """Of one read 8 bits are enough: 128 ones on 128 cells."""
    weight, x = torch.full((1, 128), 127), torch.full((1, 128), 255)
    machine = hardware(rows=128, cell_bits=1, polarity=1, dacs=128)
    for accumulate, enough, reach in (("read", 8, 128), ("power", 11, 8 * 128), ("output", 23, 255 * 255 * 128)):
        for bits in (enough - 1, enough):
            program = compile(None, weight, accumulating(machine, accumulate, **{"adc.bits": bits}), 8, 8)
            assert program.reach == (0, reach)
            assert program.exact == (bits == enough)
            exact = bool((run(program, x, fast=False).output == 128 * 127 * 255).all())
            assert exact == (bits == enough)


def test_the_calibrated_step_of_a_sum_has_the_least_squared_error():
    numbers = np.random.default_rng(3)
    weight, x = numbers.integers(-31, 32, (5, 60)), numbers.integers(0, 16, (40, 60))
    machine = accumulating(hardware(rows=64, adc_bits=5), "output")
    program = compile(
        None, torch.from_numpy(weight), machine, 6, 4, adc_range="calibrated", calibration=torch.from_numpy(x)
    )
    sums = x @ weight.T
    error = {2.0**k: np.sum((np.clip(np.round(sums / 2.0**k), -16, 15) * 2.0**k - sums) ** 2) for k in range(20)}
    assert program.adc_step.tolist() == [min(error, key=error.get)]
    assert run(program, torch.from_numpy(x)).output.numpy() == pytest.approx(
        np.clip(np.round(sums / program.adc_step.item()), -16, 15) * program.adc_step.item()
    )


def test_slices_share_the_offsets_of_their_adcs():
    """Zeros are converted to offsets: one sum has that of the first slice, five have those of two slices in turn."""
    x, machine, offsets = torch.zeros(1, 1), hardware(adc_bits=20), NonIdealities(adc_offset=1000.0)
    for accumulate, worth, slices_of in (("output", [1], [0]), ("power", [1, 2, 4, 8, 16], [0, 1, 0, 1, 0])):
        program = compile(None, torch.ones(1, 1), accumulating(machine, accumulate), 5, 3, errors=offsets, seed=4)
        assert program.conductance.shape[1] == 2
        offset = program.adc_error[1, 0, :, 0, 0].tolist()
        expected = sum(w * round(offset[s]) for w, s in zip(worth, slices_of, strict=True))
        assert run(program, x).output.item() == expected != 0


@pytest.mark.parametrize("accumulate", STRATEGIES)
def test_adc_noise_is_relative_to_what_is_converted(accumulate):
    """One cell of level 1, one cycle: what is converted is the input, 0 or 1, and half of the calibration data is 1."""
    machine = accumulating(hardware(adc_bits=30), accumulate)
    ones, half = torch.ones(4000, 1, dtype=torch.long), torch.tensor([[0.0], [1.0]])
    program = compile(None, ones, machine, 3, 1, errors=NonIdealities(adc_noise=2000.0), calibration=half)
    assert program.adc_noise.tolist() == pytest.approx([2000 * 0.5**0.5])
    first, second = (run(program, torch.ones(1), seed=seed).output for seed in (0, 1))
    assert first.std().item() == pytest.approx(2000 * 0.5**0.5, rel=0.06)
    assert abs((first * second).mean() / first.var()) < 0.08, "drawn for every conversion"
    with pytest.raises(ValueError, match="calibration must be a feature map when errors have adc_noise, got None"):
        compile(None, ones, machine, 3, 1, errors=NonIdealities(adc_noise=0.1))


def test_a_network_with_sums_and_noise_of_50_db():
    model, images = network(), torch.rand(8, 3, 9, 9, dtype=torch.float64)
    machine = accumulating(hardware(rows=36, cols=8), "output", **{"adc.bits": 30})
    exact = simulate(model, hardware(rows=36, cols=8, adc_bits=12), images, 6, 6).logits
    assert torch.equal(simulate(model, machine, images, 6, 6, fast=False).logits, exact)
    error = [
        (simulate(model, machine, images, 6, 6, errors=NonIdealities(adc_noise=noise)).logits - exact).norm()
        for noise in (1 / 3160, 1 / 316, 1 / 31.6)
    ]
    assert error[0] < error[1] < error[2] < exact.norm()
    assert error[1] < 0.1 * exact.norm()


def test_a_trace_shows_the_codes_of_sums():
    weight, x = torch.tensor([[3, -1]]), torch.tensor([2, 3])
    (state,) = trace_rounds(compile(None, weight, accumulating(hardware(cell_bits=1), "output"), 3, 2), x)
    assert state["reads"][0]["codes"] == [[[3]]]
    (state,) = trace_rounds(compile(None, weight, accumulating(hardware(cell_bits=1), "power"), 3, 2), x)
    # Worth 1: slice 0 in cycle 0. Worth 2: slice 0 in cycle 1 and slice 1 in cycle 0. Worth 4: slice 1 in cycle 1.
    assert state["reads"][0]["codes"] == [[[-1], [0 + 0], [1]]]
    assert state["sums"] == [3]


def cost(accumulate, energy=None, design=None, **changes):
    changes |= {} if energy is None else {"adc.sum_energy": energy}
    return evaluate(RESNET, accumulating(DEFAULT, accumulate, **changes), design or Design(), pipelined=False)


def energies(report):
    return report.by_component()["energy [J]"]


@pytest.mark.parametrize("design", [Design(), Design.uniform(RESNET, 1024, 256)], ids=["dense", "epitomes"])
def test_energy_of_converters_goes_with_conversions(design):
    read, power, output = (cost(strategy, 0.0, design) for strategy in STRATEGIES)
    assert read.counts["adc_conversions"] * 15 == power.counts["adc_conversions"] * 36
    assert read.counts["adc_conversions"] == output.counts["adc_conversions"] * 36
    for merged, part in ((power, 15 / 36), (output, 1 / 36)):
        assert energies(merged)["ADC"] == pytest.approx(part * energies(read)["ADC"])
        assert merged.counts["shift_adds"] == merged.counts["adc_conversions"]
        assert merged.counts["analog_adds"] == read.counts["adc_conversions"]
        assert (merged.crossbars, merged.area) == (read.crossbars, read.area)
        assert merged.latency < read.latency
        dearer = cost(merged.hardware.adc.accumulate, 1e-15, design)
        assert dearer.energy - merged.energy == pytest.approx(1e-15 * read.counts["adc_conversions"])


def test_the_energy_of_sums_does_not_count_where_every_read_is_converted():
    plain = cost("read")
    assert "analog_adds" not in plain.counts
    assert plain.to_dict()["layers"] == cost("read", 1e-6).to_dict()["layers"]


def test_slices_share_the_time_of_conversions():
    """Nine cycles become ceil(15 / 4) = 4 turns of conversions, or one."""
    slow = {"adc.rate": 1e6, "digital.mux_latency": 0.0}
    analog = [sum(layer.time.get("analog", 0.0) for layer in cost(s, **slow).layers) for s in STRATEGIES]
    assert [time / analog[2] for time in analog] == pytest.approx([9, 4, 1])


@pytest.mark.parametrize("name", ["default", "isaac", "mnsim-2021", "mnsim-2024"])
def test_presets_convert_every_read(name):
    machine = Hardware.preset(name)
    constants = machine.constants()
    assert machine.adc.accumulate == "read"
    assert machine.adc.sum_energy == pytest.approx(machine.adc.power / machine.adc.rate / 33)
    assert constants.kind["adc.sum_energy"] == "derived"
    assert "not from the paper" in constants.note["adc.sum_energy"]


def test_refusals():
    with pytest.raises(ValueError, match="adc.accumulate must be one of 'read', 'power', 'output', got 'all'"):
        accumulating(DEFAULT, "all")
    for wrong in ("power", "output"):
        with pytest.raises(ValueError, match=f"rules 'mnsim' convert every read, got adc.accumulate '{wrong}'"):
            evaluate(RESNET, accumulating(Hardware.preset("mnsim-2024"), wrong))
    signed = accumulating(hardware(polarity=1, adc_bits=1), "output")
    with pytest.raises(ValueError, match="adc.bits must be at least 2, got 1"):  # the sum may be negative
        compile(None, torch.ones(1, 1), signed, 3, 3, signed=True)
