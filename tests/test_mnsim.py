"""The rules of MNSIM 2.0 against outputs of that simulator, brute force, and arithmetic by hand."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib import Design, Hardware, Workload, evaluate
from epimlib.epitome.workload import Layer
from epimlib.pim import mnsim
from tests.mnsim_reference import ADC_CHOICES, DAC_CHOICES, DIGITAL, accumulator_area, differences, load

REFERENCE = Path(__file__).parent / "reference"
DEFAULT = Hardware.preset("mnsim-2024")
SETTINGS = {
    "mnsim_resnet50": {},
    "mnsim_resnet18": {},
    "mnsim_vgg8": {},
    "mnsim_resnet18_adc_choice2": ADC_CHOICES[2],
    "mnsim_resnet18_xbar128": {"crossbar.rows": 128, "crossbar.cols": 128},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_layer_agrees_with_the_simulator(name):
    workload, pipelined, serial = load(REFERENCE / f"{name}.json")
    for reference, order in ((pipelined, True), (serial, False)):
        if reference:
            report = evaluate(workload, DEFAULT.replace(SETTINGS[name]), pipelined=order)
            worst = differences(report, reference)
            assert {column: d for column, d in worst.items() if d > 1e-11} == {}
            assert worst["crossbars"] == worst["PE"] == worst["tiles"] == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_every_component_agrees_with_the_simulator(name):
    workload, reference, _ = load(REFERENCE / f"{name}.json")
    hardware = DEFAULT.replace(SETTINGS[name])
    parts = evaluate(workload, hardware).by_component()
    adders, buffer = accumulator_area(workload, hardware, 9)
    names = {"xbar": "crossbar", "ADC": "ADC", "DAC": "DAC", "pool": "pooling"}
    area = {ours: 1e12 * parts["area [m^2]"][theirs] for ours, theirs in names.items()}
    area |= {"dig": 1e12 * (parts["area [m^2]"]["digital"] + adders)}
    area |= {"buf": 1e12 * (parts["area [m^2]"]["buffer"] + buffer)}
    energy = {ours: 1e9 * parts["energy [J]"][theirs] for ours, theirs in names.items()}
    energy |= {"dig": 1e9 * sum(parts["energy [J]"].get(part, 0) for part in DIGITAL)}
    energy |= {"bufr": 1e9 * parts["energy [J]"]["buffer read"], "bufw": 1e9 * parts["energy [J]"]["buffer write"]}
    energy["buf"] = energy["bufr"] + energy["bufw"]
    assert area == pytest.approx(reference["area"], rel=1e-11)
    assert energy == pytest.approx(reference["energy"], rel=1e-9)  # it adds 1e-15 J for the adders of residual sums


def vector(inputs: int, outputs: int, name: str = "fc", source: str = "input") -> Layer:
    return Layer(name, "linear", inputs, outputs, inputs=(source,))


def test_a_layer_of_the_2021_defaults_by_hand():
    """300 -> 70 on 8 groups, 2-bit DACs and four 8-bit ADCs of a crossbar: 2 row blocks, so 2 PEs in 1 tile."""
    report = evaluate(Workload("hand", (300, 1, 1), [vector(300, 70)]), Hardware.preset("mnsim-2021"))
    cost = report.layers[0]
    assert cost.counts == {"processing elements": 2, "tiles": 1}
    assert report.crossbars == 2 * 8 * 2
    row_groups, col_groups, cycles = 256 // 64, 18, 5  # ceil(70 / 4), ceil(9 / 2)
    steps = row_groups * col_groups * cycles
    ns = {
        "DAC": steps * 4,
        "crossbar": steps * (3.16 + 1e-3 * (2e-4 * 64 + 5e-6 * 8 + 4e-14)),
        "ADC": steps * 10 / 1.1,
        "input register": (row_groups * col_groups + steps) * 2,
        "demultiplexer": steps * 2 * 0.27933,  # 4 has one base-8 digit
        "multiplexer": steps * 4 * 0.032744,  # 64 has three
        "shift register": steps * 2,
        "adder": col_groups * 3 * 2,
        "output register": col_groups * 2,
        "joint module": 2,
        "tile": (2 * 9 - 1) * 70 / 1024,
        "transfer": 0,
        "buffer read": 20 * (math.ceil(256 * 9 / 64) + math.ceil(70 * 9 * 2 / 64)),
        "buffer write": 20 * (math.ceil(256 * 9 / 64) + math.ceil(9 * 70 * 2 / 64)),
    }
    assert {name: 1e9 * time for name, time in cost.time.items()} == pytest.approx(ns, rel=1e-12)
    assert report.latency == pytest.approx(1e-9 * sum(ns.values()), rel=1e-12)

    groups = 2 * 8  # both PEs
    power = {
        "crossbar": groups * 2 * 256 * 70 * 0.025 * (0.67e-7 + 0.33 / 3333) / (4 * 64),
        "DAC": groups * 64 * 7.8e-6,
        "ADC": groups * 2 * 4e-3,  # ceil(70 / 64) columns at once
        "shift register": groups * 2 * 0.81e-6,
        "output register": groups * 2 * 18.8e-9 * (45 / 65) ** 2,
        "input register": groups * 64 * 18.8e-9 * (45 / 65) ** 2,
        "demultiplexer": groups * 64 * 24 * 12e-9,
        "multiplexer": groups * 2 * 1944 * 12e-9,
        "joint module": 2 * 0.264e-3 * (45 / 65) ** 2,
        "buffer read": 3 * (7.5695e-12 / 20e-9 + 1.006428e-3),
        "buffer write": 3 * (13.1361e-12 / 20e-9 + 1.006428e-3),
    }
    assert dict(cost.energy) == pytest.approx({name: p * 1e-9 * ns[name] for name, p in power.items()}, rel=1e-12)

    register, transistor = 1.4256 * (45 / 65) ** 2, 10 * 130**2 / 1e6
    um2 = {
        "crossbar": 4 * 8 * 2 * 256 * (256 * 1.44 + 1150),
        "DAC": 4 * 8 * 64 * 0.332,
        "ADC": 4 * 8 * 4 * 1650,
        "digital": 4 * 8 * (4 * (1.42 + register + 1944 * transistor) + 64 * (register + 24 * transistor))
        + 4 * 4 * 7 * 8 * 0.2835
        + 3 * 8 * 4 * 353.76 * (45 / 65) ** 2,
        "buffer": 5 * 40580.3,
        "pooling": 91917.1562,
    }
    assert {name: 1e12 * area for name, area in cost.area.items()} == pytest.approx(um2, rel=1e-12)


def test_polarity_1_stores_the_sign_and_halves_the_crossbars():
    workload = Workload("hand", (100, 1, 1), [vector(100, 100)])
    pair, single = (evaluate(workload, DEFAULT.replace({"crossbar.polarity": p})) for p in (2, 1))
    assert (pair.crossbars, single.crossbars) == (8 * 2, 9)


def test_the_simulator_ignores_the_bits_of_a_cell():
    workload = Workload("hand", (100, 1, 1), [vector(100, 100)])
    assert evaluate(workload, DEFAULT.replace({"crossbar.cell_bits": 2})).crossbars == 16


def test_taller_crossbars_have_converters_for_each_subarray():
    workload = Workload("hand", (512, 1, 1), [vector(512, 100)])
    tall = evaluate(workload, DEFAULT.replace({"crossbar.rows": 512})).layers[0]
    whole = {"crossbar.rows": 512, "array.subarray_rows": 512, "dac.per_crossbar": 256, "adc.per_crossbar": 256}
    assert tall.time["ADC"] == evaluate(workload, DEFAULT.replace(whole)).layers[0].time["ADC"]
    assert tall.area["ADC"] == pytest.approx(2 * 4 * 256 * 1650e-12)  # eight bits on two tiles


@pytest.mark.parametrize(
    ("choice", "nanoseconds"),
    [(1, 12 / 1.5), (2, 10 / 1.28), (3, 10 / 1.1), (4, 8), (6, 8), (7, 6), (8, 1), (9, 256 / 6)],
)
def test_time_of_a_conversion(choice, nanoseconds):
    workload = Workload("hand", (100, 1, 1), [vector(100, 100)])
    cost = evaluate(workload, DEFAULT.replace(ADC_CHOICES[choice])).layers[0]
    assert cost.time["ADC"] == pytest.approx(9 * nanoseconds * 1e-9)


@pytest.mark.parametrize(("choice", "cycles"), [(1, 9), (2, 5), (3, 3), (4, 3), (5, 2), (6, 2)])
def test_inputs_are_applied_in_cycles(choice, cycles):
    workload = Workload("hand", (100, 1, 1), [vector(100, 100)])
    cost = evaluate(workload, DEFAULT.replace(DAC_CHOICES[choice])).layers[0]
    assert cost.time["shift register"] == pytest.approx(cycles * 2e-9)


def shells(number: int) -> list[tuple[int, int]]:
    """Walk the L-shaped shells tile by tile."""
    places = [(0, 0)]
    for shell in range(1, math.ceil(math.sqrt(number)) + 1):
        down = [(i, shell) for i in range(shell + 1)] + [(shell, j) for j in reversed(range(shell))]
        places += down if shell % 2 else [(j, i) for i, j in down]
    return places[:number]


def test_tiles_lie_on_shells_in_layer_order():
    chain = [vector(600, 2000, "a"), vector(2000, 900, "b", "a"), vector(900, 1, "c", "b")]
    placed = mnsim._place(Workload("chain", (600, 1, 1), chain), DEFAULT, dict.fromkeys("abc", 9))
    places, start, own = shells(sum(p.tiles for p in placed)), 0, []
    for p in placed:
        own.append(sorted(places[start : start + p.tiles]))
        start += p.tiles

    def distance(one, other):
        return abs(one[0] - other[0]) + abs(one[1] - other[1])

    for p, tiles, readers in zip(placed, own, [own[1], own[2], []], strict=True):
        options = [
            (max(distance(tile, t) for t in tiles), max((distance(tile, t) for t in readers), default=0))
            for tile in tiles
        ]
        assert (p.gather, p.transfer) == min(options, key=sum)  # the first of equals


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=20),
)
def test_farthest_manhattan_distance(places, others):
    expected = [max(abs(x - u) + abs(y - v) for u, v in others) for x, y in places]
    assert mnsim._farthest(np.array(places), np.array(others)).tolist() == expected


def test_energy_does_not_depend_on_the_order_of_layers_much():
    """Only the first row of a pipelined line buffer is filled differently."""
    workload, *_ = load(REFERENCE / "mnsim_vgg8.json")
    pipelined, serial = (evaluate(workload, DEFAULT, pipelined=order).energy for order in (True, False))
    assert pipelined == pytest.approx(serial, rel=1e-3)
    assert pipelined > serial


def test_what_the_simulator_does_not_know_is_refused():
    resnet = Workload.load("resnet18")
    epitome = {"layer4.1.conv2": Design.uniform(resnet, 512, 256)["layer4.1.conv2"]}
    with pytest.raises(ValueError, match="'mnsim' evaluate dense networks only, got a design with 1 epitomes"):
        evaluate(resnet, DEFAULT, epitome)
    with pytest.raises(ValueError, match=r"know conv, linear, pool, add .*'multiply'"):
        evaluate(Workload.load("efficientnet_b0"), DEFAULT)
    with pytest.raises(ValueError, match=r"linear layers on one vector; .* has 197 positions"):
        evaluate(Workload.load("vit_tiny_patch16_224"), DEFAULT)
    flat = dataclasses.replace(resnet.layers[0], kernel_size=(7, 1), padding=(3, 0))
    with pytest.raises(ValueError, match=r"square kernels; .* kernel \(7, 1\)"):
        evaluate(Workload("flat", (3, 224, 224), [flat]), DEFAULT)


def test_a_grid_with_too_few_tiles_is_refused():
    with pytest.raises(ValueError, match=r"must be at least 870 tiles for 'resnet50', got 20 x 20"):
        evaluate(Workload.load("resnet50"), DEFAULT.replace({"chip.rows": 20, "chip.cols": 20}))


def test_subarrays_must_divide_the_crossbar():
    workload = Workload("hand", (100, 1, 1), [vector(100, 100)])
    with pytest.raises(ValueError, match=r"subarray_rows must divide crossbar.rows 384, got 256"):
        evaluate(workload, DEFAULT.replace({"crossbar.rows": 384}))


def test_our_own_resnet50_costs_what_the_simulators_does():
    """The workload traced from timm and the simulator's own description are the same network."""
    reference = load(REFERENCE / "mnsim_resnet50.json")[1]
    report = evaluate(Workload.load("resnet50"), DEFAULT)
    assert report.crossbars == reference["physical_xbars"]
    assert report.area == pytest.approx(1e-12 * reference["area_um2"])
    assert report.energy == pytest.approx(1e-9 * reference["energy_nJ"], rel=1e-9)
    assert report.latency == pytest.approx(1e-9 * reference["latency_ns"], rel=1e-9)
