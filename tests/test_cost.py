"""The cost model: arithmetic by hand, brute force, identities, reports, tables of designs, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epimlib import Design, EpitomeSpec, Hardware, Workload, compare, evaluate, evaluate_many, map_crossbars
from epimlib.epitome.workload import FOLDER, Layer
from epimlib.pim.events import Events
from epimlib.pim.pipeline import pipeline
from epimlib.pim.report import CostReport
from epimlib.search.bits import bit_crossbars
from epimlib.search.table import Candidate, tabulate

DEFAULT = Hardware.preset("default")
ISAAC = Hardware.preset("isaac")
RESNET = Workload.load("resnet18")
UNIFORM = Design.uniform(RESNET, 512, 128)


def one(**fields) -> Workload:
    """Return a network of one layer."""
    fields = {"name": "layer", "kind": "conv"} | fields
    layer = Layer(**fields)
    return Workload("one", (layer.in_channels, *layer.in_size), [layer])


def ns(values: dict[str, float]) -> dict[str, float]:
    return pytest.approx({name: value * 1e-9 for name, value in values.items()}, rel=1e-12)


def test_a_dense_convolution_by_hand():
    """64 -> 64, 3x3, 8x8: 28 channels fit a crossbar, so 3 row blocks; 4 slices of 2 bits; 12 pairs on 3 tiles."""
    workload = one(in_channels=64, out_channels=64, kernel_size=3, padding=1, in_size=(8, 8), out_size=(8, 8))
    report = evaluate(workload, DEFAULT)
    cost = report.layers[0]
    assert (report.crossbars, cost.counts["tiles"]) == (24, 3)
    assert report.utilization == pytest.approx(576 * 64 / (3 * 65536))

    positions, cycles, slices, row_groups = 64, 9, 4, 2 + 2 + 1  # a full crossbar takes two
    reads = positions * cycles * 2
    read_ns, convert_ns = 1 + 2 * 0.27933 + 3.16, 1 / 1.28 + 3 * 0.032744
    inside = (3 * 8 - 2) ** 2  # window elements that are not padding
    bits_in, bits_out, sent = 9 * 64 * (64 + inside), 2 * 9 * 64 * 64, 9 * 64 * 64
    bit_ns = 2 / 64 + 1 / 1024
    time = {
        "analog": max(reads * read_ns, reads * 8 * convert_ns),  # 64 columns on 8 ADCs
        "digital": 2 * (positions * (1 + 2) + positions * 64 / 8),  # shift-and-add, a tree of two levels
        "input buffer": bits_in / 3 * bit_ns,
        "output buffer": bits_out * bit_ns,
        "network": sent / 20,
    }
    assert cost.time == ns(time)
    assert report.latency == pytest.approx(1e-9 * sum(time.values()))

    driven = positions * cycles * slices * 576  # word lines of a pair
    conversions = positions * cycles * slices * row_groups * 64
    # 3 rows of 8 inputs of 64 channels in three buffers, two times 64 partial sums of 28 bits: macros of 2 KB.
    leakage = (3 + 1) * 1.006428e-3
    energy = {
        "crossbar": 2 * driven * 64 * 75.7575 * 3.16e-9,
        "DAC": driven * 3.9e-6 * (1 + 3.16),
        "ADC": conversions * 2e-3 / 1.28,
        "digital": 2 * (conversions * 10.5e-6 + positions * 2 * 64 * 10.5e-6)
        + 2 * driven * (18.8e-9 * (45 / 65) ** 2 + 8 * 12e-9)
        + 2 * conversions * (18.8e-9 * (45 / 65) ** 2 + 648 * 12e-9),
        "joint module": 0,
        "index tables": 0,
        "input buffer": 9 * 64 * (inside * 7.5695e-3 + 64 * 13.1361e-3) / 64,
        "output buffer": bits_out / 2 * (7.5695e-3 + 13.1361e-3) / 64,
        "network": (bits_in + bits_out) * 0.054e-3 + sent * 0.081015625e-3,
        "leakage": leakage * sum(time.values()),
    }
    assert cost.energy == ns(energy)
    assert report.static_power == cost.leakage == pytest.approx(leakage)

    register, transistor = 1.4256 * (45 / 65) ** 2, 0.169
    um2 = {
        "crossbar": 24 * 256 * (256 * 1.44 + 1150),
        "DAC": 12 * 128 * 0.166,
        "ADC": 12 * 8 * 1200,
        "digital": 12 * (8 * (60 + register + 648 * transistor) + 128 * (register + 8 * transistor)) + 2 * 8 * 60,
        "joint module": 8 * 353.76 * (45 / 65) ** 2,
        "index tables": 0,
        "pooling": 3 * 91917.1562,
        "network": 3 * 37500,
        "input buffer": 3 * 40580.3,
        "output buffer": 40580.3,
    }
    assert {name: 1e12 * area for name, area in cost.area.items()} == pytest.approx(um2, rel=1e-12)


def test_an_epitome_pays_for_rounds_tables_and_joins():
    """512 -> 512 from a matrix of 512 x 256 with two patches: four rounds a position; wrapped, two and a copy."""
    workload = one(kind="linear", in_channels=512, out_channels=512)
    dense = evaluate(workload, DEFAULT).layers[0]
    for wrap, rounds, copies in ((1, 4, 0), (2, 2, 256)):
        spec = EpitomeSpec(512, 512, 1, (256, 256, 1, 2), wrap=wrap)
        report = evaluate(workload, DEFAULT, {"layer": spec})
        cost = report.layers[0]
        assert (report.crossbars, cost.counts["rounds"], cost.counts["copies"]) == (2 * 4 * 2, rounds, copies)
        joins = rounds // 2 * 256  # every second round extends a partial sum
        assert cost.counts["joins"] == joins
        assert cost.energy["joint module"] == pytest.approx(joins * 0.264e-3 * (45 / 65) ** 2 * 2e-9)
        bits = cost.counts["table_bits"]
        assert bits > 0
        assert cost.energy["index tables"] == pytest.approx(bits * 7.5695e-12 / 64)
        assert cost.area["index tables"] == pytest.approx(bits * 0.0405803e-6 / 16384)
        # Two input buffers and one output buffer of 2 KB (two times 512 sums are 27,648 bits: 4 KB), and the tables.
        assert cost.leakage == pytest.approx(2 * 1.006428e-3 + 1.95684e-3 + 1.006428e-3 * bits / 16384)
        # Lookup, shift-and-add, a tree of one level and joint module for each round, then 256 columns on 8 ADCs.
        assert cost.time["digital"] == pytest.approx(2e-9 * rounds * (4 + 32))
        sums = rounds * 256 + copies - 512  # written beside the results: partial sums of 9 + 9 + 9 bits
        moved = 2 * 512 * 9 + (sums + joins) * 27
        assert cost.time["output buffer"] == pytest.approx(moved * (2 / 64 + 1 / 1024) * 1e-9)
        assert cost.latency > dense.latency
        assert sum(cost.area.values()) < sum(dense.area.values())


def test_feature_map_reuse_saves_rounds_conversions_and_writes():
    design = Design.uniform(RESNET, 512, 128, wrap="full")
    on, off = (evaluate(RESNET, DEFAULT.replace({"reuse": reuse}), design) for reuse in (True, False))
    for count in ("rounds", "adc_conversions", "output_writes", "output_reads", "input_reads"):
        assert on.counts[count] < off.counts[count]
    applications = {name: spec.plan().applications for name, spec in design.items()}
    assert off.counts["rounds"] == sum(layer.positions * applications.get(layer.name, 1) for layer in RESNET.weighted)
    assert (on.counts["copies"] > 0, off.counts["copies"]) == (True, 0)
    assert on.latency < off.latency
    assert on.energy < off.energy
    assert on.crossbars == off.crossbars


@pytest.mark.parametrize("hardware", [DEFAULT, ISAAC], ids=["default", "isaac"])
def test_adc_energy_is_conversions_times_energy_per_conversion(hardware):
    report = evaluate(RESNET, hardware, UNIFORM)
    spent = report.by_component()["energy [J]"]["ADC"]
    assert spent == pytest.approx(report.counts["adc_conversions"] * hardware.adc.power / hardware.adc.rate)


def test_isaac_reads_a_crossbar_in_100_ns():
    workload = one(kind="linear", in_channels=128, out_channels=128)
    assert evaluate(workload, ISAAC).layers[0].time["analog"] == pytest.approx(9 * 100e-9)
    narrow = one(kind="linear", in_channels=128, out_channels=10)
    assert evaluate(narrow, ISAAC).layers[0].time["analog"] == pytest.approx(9 * 100e-9), "the read itself takes that"


def test_a_ramp_converter_takes_two_to_the_bits_periods():
    workload = one(kind="linear", in_channels=128, out_channels=128)
    sar, ramp = (evaluate(workload, ISAAC.replace({"adc.kind": kind})).layers[0] for kind in ("sar", "ramp"))
    assert ramp.energy["ADC"] == pytest.approx(256 * sar.energy["ADC"])
    assert ramp.time["analog"] == pytest.approx(256 * sar.time["analog"])


def test_depthwise_convolutions_are_not_mapped_as_dense():
    workload = one(
        in_channels=960, out_channels=960, groups=960, kernel_size=3, padding=1, in_size=(7, 7), out_size=(7, 7)
    )
    dense = dataclasses.replace(workload.layers[0], groups=1)
    grouped, full = evaluate(workload, DEFAULT), evaluate(Workload("one", (960, 7, 7), [dense]), DEFAULT)
    assert grouped.crossbars < full.crossbars
    assert grouped.energy < full.energy
    assert evaluate(workload, DEFAULT.replace({"rules": "mnsim"})).crossbars == full.crossbars * 2, (
        "as the simulator does"
    )


def test_groups_that_share_no_word_line_have_input_buffers_of_their_own():
    """A layer of two groups is two layers side by side: all takes as long, but the tables of nobody are shared."""
    sizes = {"kernel_size": 3, "padding": 1, "in_size": (8, 8), "out_size": (8, 8)}
    both = one(in_channels=512, out_channels=512, groups=2, **sizes)
    half = one(in_channels=256, out_channels=256, **sizes)
    ours, theirs = (evaluate(network, DEFAULT).layers[0] for network in (both, half))
    assert dict(ours.time) == pytest.approx(dict(theirs.time))
    parts = ("input buffer", "output buffer", "crossbar", "ADC", "joint module")
    assert {part: ours.area[part] for part in parts} == pytest.approx({part: 2 * theirs.area[part] for part in parts})


def test_the_input_buffer_holds_every_row_that_a_window_spans():
    sizes = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "in_size": (56, 56), "out_size": (56, 56)}
    narrow = evaluate(one(padding=1, **sizes), DEFAULT).layers[0]
    wide = evaluate(one(padding=4, dilation=4, **sizes), DEFAULT).layers[0]
    taller = dict(sizes, kernel_size=(9, 1))  # as many rows, and as many products
    same = evaluate(one(padding=(4, 0), **taller), DEFAULT).layers[0]
    assert narrow.area["input buffer"] < wide.area["input buffer"]
    assert wide.area["input buffer"] == same.area["input buffer"]


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
@pytest.mark.parametrize("hardware", [DEFAULT, ISAAC], ids=["default", "isaac"])
def test_every_stored_network(name, hardware):
    workload = Workload.load(name)
    pipelined, serial = (evaluate(workload, hardware, pipelined=order) for order in (True, False))
    assert serial.latency == pytest.approx(sum(layer.latency for layer in serial.layers))
    assert max(layer.latency for layer in serial.layers) <= pipelined.latency < serial.latency
    assert pipelined.energy == serial.energy
    assert serial.crossbars == map_crossbars(workload, hardware, bits=9).crossbars
    assert serial.utilization == pytest.approx(map_crossbars(workload, hardware, bits=9).utilization)
    for cost in pipelined.layers:
        assert all(value >= 0 for part in (cost.time, cost.energy, cost.area) for value in part.values())
        assert cost.finish >= cost.start + cost.latency * (1 - 1e-9)


def test_totals_are_sums_over_layers_and_over_components():
    report = evaluate(RESNET, DEFAULT, UNIFORM, bits=3)
    for table in (report.by_layer(), report.by_component()):
        assert table["energy [J]"].sum() == pytest.approx(report.energy)
        assert table["area [m^2]"].sum() == pytest.approx(report.area)
    assert report.by_layer()["latency [s]"].sum() == pytest.approx(report.by_component()["busy [s]"].sum())
    assert (
        report.by_layer()["crossbars"].sum() == report.crossbars == map_crossbars(RESNET, DEFAULT, UNIFORM, 3).crossbars
    )
    assert report.by_component()["share of energy"].sum() == pytest.approx(1)
    assert set(Events().to_dict()) <= set(report.counts)


def test_bits_may_differ_by_layer():
    mixed = {layer.name: 3 if number % 2 else 5 for number, layer in enumerate(RESNET.weighted)}
    report = evaluate(RESNET, DEFAULT, bits=mixed)
    assert report.bits == (3, 5)
    three, five = (evaluate(RESNET, DEFAULT, bits=bits) for bits in (3, 5))
    for layer, name in zip(report.layers, RESNET.layers, strict=True):
        if name.weighted:
            same = three if mixed[name.name] == 3 else five
            other = next(cost for cost in same.layers if cost.name == name.name)
            assert (layer.crossbars, dict(layer.energy)) == (other.crossbars, dict(other.energy))


def test_the_factor_compares_with_a_dense_network_of_32_bits():
    resnet = Workload.load("resnet50")
    assert evaluate(resnet, DEFAULT, bits=32).factor == 1
    assert evaluate(resnet, DEFAULT, bits=3).factor == 16
    assert evaluate(resnet, DEFAULT, bits=3).baseline_crossbars == 13888
    assert evaluate(resnet.with_classes(256), DEFAULT, bits=9, baseline_bits=9).baseline_crossbars == 13120 // 4
    for preset in ("mnsim-2021", "mnsim-2024"):  # these count whole PEs of one-bit cells, and so the baseline
        assert evaluate(RESNET, Hardware.preset(preset), bits=32).factor == 1


NO_EFFECT = {  # under the rules of the preset, as their notes or docstrings say
    "array.subarray_rows", "chip.rows", "chip.cols", "adc.bits", "adc.sum_energy",
}  # fmt: skip


def doubled(name: str) -> dict:
    section, _, field = name.rpartition(".")
    value = getattr(getattr(DEFAULT, section), field)
    return {name: [2 * v for v in value] if isinstance(value, tuple) else 2 * value}


TEXTS = ("sar", "channel", "read")
NUMBERS = [c.name for c in DEFAULT.provenance if not isinstance(c.value, bool) and c.value not in TEXTS]


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "crossbar.polarity"])
def test_every_constant_matters(name):
    """No constant is decoration: doubling it changes the cost of a network with epitomes."""

    def totals(hardware: Hardware) -> list[tuple]:
        reports = (  # conversions take longer than reads; with such ADCs, reads do
            evaluate(RESNET, variant, UNIFORM, pipelined=False)
            for variant in (hardware, hardware.replace({"adc.rate": 100 * hardware.adc.rate}))
        )
        return [(report.latency, report.energy, report.area, report.crossbars) for report in reports]

    assert (totals(DEFAULT.replace(doubled(name))) == totals(DEFAULT)) == (name in NO_EFFECT)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([n for n in NUMBERS if n.endswith(("power", "energy", "area", "leakage")) and n not in NO_EFFECT]),
    st.floats(1.01, 100),
)
def test_dearer_components_never_make_a_network_cheaper(name, factor):
    section, _, field = name.rpartition(".")
    value = getattr(getattr(DEFAULT, section), field)
    scaled = [factor * v for v in value] if isinstance(value, tuple) else factor * value
    before = evaluate(RESNET, DEFAULT, UNIFORM, pipelined=False)
    after = evaluate(RESNET, DEFAULT.replace({name: scaled}), UNIFORM, pipelined=False)
    assert after.latency == pytest.approx(before.latency)
    assert (after.energy, after.area) >= (before.energy, before.area)
    assert after.energy > before.energy or after.area > before.area


def brute_force(workload: Workload, times: list[np.ndarray]) -> list[tuple[float, float]]:
    """Position by position, waiting for every input in the window."""
    done: dict[str, np.ndarray] = {}
    spans = []
    for layer, time in zip(workload.layers, times, strict=True):
        clock, starts = 0.0, []
        finish = np.zeros(layer.out_size)
        for i in range(layer.out_size[0]):
            for j in range(layer.out_size[1]):
                rows = [
                    i * layer.stride[0] - layer.padding[0] + u * layer.dilation[0] for u in range(layer.kernel_size[0])
                ]
                cols = [
                    j * layer.stride[1] - layer.padding[1] + v * layer.dilation[1] for v in range(layer.kernel_size[1])
                ]
                ready = 0.0
                for name in layer.inputs:
                    source = done.get(name)
                    if source is None:
                        continue
                    if source.shape != layer.in_size or layer.kind == "matmul":
                        ready = max(ready, source.max())
                    else:
                        h, w = source.shape
                        inside = [source[r, c] for r in rows for c in cols if 0 <= r < h and 0 <= c < w]
                        ready = max([ready, *inside])
                starts.append(max(clock, ready))
                clock = finish[i, j] = starts[-1] + time[i * layer.out_size[1] + j]
        done[layer.name] = finish
        spans.append((starts[0], clock))
    return spans


def _reaches(out: int, stride: int, padding: int, kernel: int, dilation: int, size: int) -> bool:
    """Whether every window along an axis has an element that is not padding."""
    return all(any(0 <= i * stride - padding + u * dilation < size for u in range(kernel)) for i in range(out))


@st.composite
def networks(draw) -> tuple[Workload, list[np.ndarray]]:
    layers = [Layer("l0", "conv", 1, 1, in_size=(draw(st.integers(1, 7)),) * 2, out_size=(1, 1))]
    layers[0] = dataclasses.replace(layers[0], out_size=layers[0].in_size)
    for number in range(1, draw(st.integers(2, 6))):
        source = draw(st.sampled_from(layers))
        alike = [layer.name for layer in layers if layer.out_size == source.out_size and layer.name != source.name]
        kind = draw(st.sampled_from(["conv", "pool", "add", "linear", "matmul"]))
        fields = {"in_size": source.out_size, "out_size": source.out_size, "inputs": (source.name,)}
        if kind in ("conv", "pool"):
            kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
            stride, dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3))), (draw(st.integers(1, 2)),) * 2
            padding = tuple(draw(st.integers(0, d * (k - 1) // 2)) for k, d in zip(kernel, dilation, strict=True))
            reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
            free = [size + 2 * p - r for size, p, r in zip(source.out_size, padding, reach, strict=True)]
            out = tuple(f // s + 1 for f, s in zip(free, stride, strict=True))
            window = zip(out, stride, padding, kernel, dilation, source.out_size, strict=True)
            if min(free) < 0 or not all(_reaches(*axis) for axis in window):
                kind = "linear"
            else:
                fields |= {
                    "kernel_size": kernel,
                    "stride": stride,
                    "dilation": dilation,
                    "padding": padding,
                    "out_size": out,
                }
        if kind == "add" and alike:
            fields["inputs"] = (source.name, draw(st.sampled_from(alike)))
        if kind == "linear":
            fields |= {"in_size": (1, 1), "out_size": (1, 1)}
        layers.append(Layer(f"l{number}", kind, 1, 1, **fields))
    times = [
        np.array(draw(st.lists(st.floats(0.1, 9), min_size=layer.positions, max_size=layer.positions)))
        for layer in layers
    ]
    return Workload("random", (1, *layers[0].in_size), layers), times


@settings(max_examples=60, deadline=None)
@given(networks())
def test_the_pipeline_waits_for_every_window_and_for_nothing_else(drawn):
    workload, times = drawn
    assert np.array(pipeline(workload, times)) == pytest.approx(np.array(brute_force(workload, times)), rel=1e-12)
    equal = [float(time[0]) for time in times]
    arrays = [np.full(layer.positions, time) for layer, time in zip(workload.layers, equal, strict=True)]
    assert np.array(pipeline(workload, equal)) == pytest.approx(np.array(pipeline(workload, arrays)), rel=1e-12)


def test_reports_survive_a_round_trip_through_json():
    report = evaluate(RESNET, DEFAULT.replace({"adc.per_crossbar": 16}), UNIFORM, bits=5)
    again = CostReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert again.hardware.provenance == report.hardware.provenance
    data = report.to_dict()
    with pytest.raises(ValueError, match=r"unknown key 'latencies' in a cost report; did you mean 'latency'\?"):
        CostReport.from_dict(data | {"latencies": 1})
    data["layers"][0]["energie"] = {}
    with pytest.raises(ValueError, match="unknown key 'energie' in a layer of a cost report"):
        CostReport.from_dict(data)


def test_a_report_prints_and_says_what_is_counted():
    report = evaluate(RESNET, DEFAULT, UNIFORM)
    for text in (str(report), report._repr_html_()):
        assert "resnet18 at 3x224x224 on default, epitomes, weights 9 bits" in text
        for word in ("latency [ms]", "index tables", "Counted: crossbars", "Not counted: programming"):
            assert word in text
    assert "Counted as by MNSIM 2.0" in str(evaluate(RESNET, Hardware.preset("mnsim-2024")))


def test_reports_add_up():
    a, b = evaluate(RESNET, DEFAULT), evaluate(Workload.load("resnet50"), DEFAULT, bits=3)
    both = a + b
    for total in ("latency", "energy", "area", "crossbars", "static_power", "baseline_crossbars", "macs"):
        assert getattr(both, total) == pytest.approx(getattr(a, total) + getattr(b, total))
    assert both.workload == "resnet18 + resnet50"
    assert both.layers[-1].finish == pytest.approx(both.latency)
    assert both.counts["rounds"] == a.counts["rounds"] + b.counts["rounds"]
    with pytest.raises(ValueError, match="reports that add up must have the same hardware"):
        a + evaluate(RESNET, ISAAC)


def test_compare_puts_two_reports_side_by_side():
    dense, epitome = evaluate(RESNET, DEFAULT), evaluate(RESNET, DEFAULT, UNIFORM, bits=3)
    table = compare(dense, epitome)
    assert table.loc["crossbars", "a / b"] == dense.crossbars / epitome.crossbars
    assert table.loc["latency [ms]", "a"] == pytest.approx(1e3 * dense.latency)
    assert compare(dense, evaluate(RESNET, Hardware.preset("mnsim-2024"))).loc["energy [mJ]", "a / b"] < 1


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: evaluate(Workload.load("resnet50"), DEFAULT, bits=3), "differ in workload, resnet18 and resnet50"),
        (lambda: evaluate(RESNET.with_classes(256), DEFAULT), "differ in workload .*head's classes"),
        (lambda: evaluate(RESNET, DEFAULT, UNIFORM, baseline_bits=9), "precision of the baseline .* 32 and 9"),
        (lambda: evaluate(RESNET, DEFAULT, bits=3), r"precision of the baseline .both are dense.*\(9,\) and \(3,\)"),
        (lambda: evaluate(RESNET, ISAAC, UNIFORM), "packing convention, channel and dense"),
    ],
)
def test_compare_refuses_what_cannot_be_compared(other, reason):
    with pytest.raises(ValueError, match=f"reports cannot be compared: they .*{reason}"):
        compare(evaluate(RESNET, DEFAULT), other())


def test_compare_refuses_another_input_size():
    large, small = (evaluate(Workload.load(name), DEFAULT) for name in ("resnet50", "resnet50@96"))
    small = dataclasses.replace(small, workload="resnet50")
    with pytest.raises(ValueError, match=r"they differ in input size, \(3, 224, 224\) and \(3, 96, 96\)"):
        compare(large, small)


def candidates() -> dict[str, list[Candidate]]:
    options = {}
    for layer in RESNET.weighted:
        specs = [None] + [
            EpitomeSpec.for_crossbars(layer.out_channels, layer.in_channels, layer.kernel_size, rows, 128, wrap)
            for rows, wrap in ((256, 1), (512, "full"))
        ]
        options[layer.name] = [Candidate(spec, bits) for spec in specs for bits in (3, 9)]
    return options


def test_tabulated_costs_are_those_of_evaluate():
    table = tabulate(RESNET, DEFAULT, candidates())
    rng = np.random.default_rng(0)
    designs = rng.integers(0, 6, (5000, len(table.layers)))
    costs = table.evaluate(designs)
    assert costs.crossbars.dtype == np.int64
    for row in (0, 1, 2047, 2048, 4999):
        design, bits = table.design(designs[row])
        report = evaluate(RESNET, DEFAULT, design, bits, pipelined=False)
        expected = (report.latency, report.energy, report.area, report.crossbars)
        assert [values[row] for values in costs] == pytest.approx(expected, rel=1e-12)
    again = evaluate_many(RESNET, DEFAULT, designs, candidates=candidates())
    assert all(np.array_equal(x, y) for x, y in zip(costs, again, strict=True))


def test_evaluate_many_takes_designs():
    designs = [{}, UNIFORM, Design.uniform(RESNET, 256, 256, wrap=1)]
    costs = evaluate_many(RESNET, DEFAULT, designs, bits=5)
    for row, design in enumerate(designs):
        report = evaluate(RESNET, DEFAULT, design, 5, pipelined=False)
        expected = (report.latency, report.energy, report.area, report.crossbars)
        assert [values[row] for values in costs] == pytest.approx(expected, rel=1e-12)
    none = tabulate(RESNET, DEFAULT, candidates()).evaluate(np.zeros((0, 21), int))
    assert [len(values) for values in (*none, *evaluate_many(RESNET, DEFAULT, []))] == [0] * 8


def test_wrong_tables_and_indices_are_refused():
    table = tabulate(RESNET, DEFAULT, candidates())
    with pytest.raises(ValueError, match=r"designs must have the shape \(designs, 21\), got \(3, 20\)"):
        table.evaluate(np.zeros((3, 20), dtype=int))
    with pytest.raises(TypeError, match="designs must be an array of integers, got float64"):
        table.evaluate(np.zeros((3, 21)))
    for wrong in (-1, 6):
        designs = np.zeros((3, 21), dtype=int)
        designs[1, 4] = wrong
        with pytest.raises(ValueError, match=f"candidates 0 to 5 of layer 'layer1.1.conv2', got {wrong}"):
            table.evaluate(designs)
    with pytest.raises(ValueError, match="rules must be 'events' to tabulate costs, .* got 'mnsim'"):
        tabulate(RESNET, Hardware.preset("mnsim-2024"), candidates())
    with pytest.raises(ValueError, match="candidates lacks 'conv1'"):
        tabulate(RESNET, DEFAULT, {name: c for name, c in candidates().items() if name != "conv1"})
    with pytest.raises(ValueError, match="candidates of layer 'conv1' must not be empty"):
        tabulate(RESNET, DEFAULT, candidates() | {"conv1": []})
    with pytest.raises(ValueError, match=r"design of layer 'conv1' is for a weight \(8, 8, 3, 3\)"):
        tabulate(RESNET, DEFAULT, candidates() | {"conv1": [(EpitomeSpec.dense(8, 8, 3), 9)]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workload": Workload("none", (3, 8, 8), ())}, "must have a layer with a weight, and 'none' has none"),
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"bits": 1}, "bits must be at least 2 with crossbar.polarity 2"),
        ({"bits": 1, "hardware": Hardware.preset("mnsim-2024")}, "bits must be at least 2 with crossbar.polarity 2"),
        ({"bits": {"conv1": 3}}, "bits lack layer 'layer1.0.conv1'"),
        ({"activation_bits": 0}, "activation_bits must be at least 1, got 0"),
        ({"baseline_bits": 0}, "baseline_bits must be at least 1, got 0"),
        ({"design": Design.uniform(Workload.load("resnet50"), 512, 128)}, "which 'resnet18' lacks|for a weight"),
        ({"hardware": DEFAULT.replace({"crossbar.rows": 32})}, "crossbar.rows must hold the 49 rows of one channel"),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(**{"workload": RESNET, "hardware": DEFAULT} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "ask",
    [
        evaluate,
        lambda workload, hardware: evaluate_many(workload, hardware, [{}]),
        lambda workload, hardware: tabulate(workload, hardware, {}),
        lambda workload, hardware: bit_crossbars(workload, hardware, None, [3]),
    ],
    ids=["evaluate", "evaluate_many", "tabulate", "bit_crossbars"],
)
def test_names_and_models_are_no_hardware_and_no_workload(ask):
    with pytest.raises(
        TypeError, match=r"hardware must be a Hardware, got 'isaac'; did you mean Hardware.preset\('isaac'"
    ):
        ask(RESNET, "isaac")
    with pytest.raises(
        TypeError, match=r"workload must be a Workload, got 'resnet18'; did you mean Workload.load\('res"
    ):
        ask("resnet18", DEFAULT)
    with pytest.raises(
        TypeError, match="workload must be a Workload, got Linear; epimlib.epitome.trace.trace makes one of a"
    ):
        ask(nn.Linear(2, 2), DEFAULT)
