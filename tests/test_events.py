"""Events of layers counted by hand, and what must hold for any layer.

That the closed form equals what the datapath counts while it executes is in test_datapath.
"""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib import Design, EpitomeSpec, Hardware, Workload
from epimlib.epitome.workload import Layer
from epimlib.pim import events as closed_form
from epimlib.pim.events import Events, input_cycles, layer_events
from epimlib.pim.tables import Tables


def hardware(rows=8, cols=4, cell_bits=2, polarity=2, dac_bits=1, dacs=3, adcs=2, **other):
    values = {
        "crossbar.rows": rows,
        "crossbar.cols": cols,
        "crossbar.cell_bits": cell_bits,
        "crossbar.polarity": polarity,
        "dac.bits": dac_bits,
        "dac.per_crossbar": dacs,
        "adc.per_crossbar": adcs,
    }
    return Hardware.preset("default").replace(values | other)


DENSE = Layer("dense", "conv", 4, 5, (1, 3), stride=(1, 2), padding=(0, 1), in_size=(2, 6), out_size=(2, 3))


def test_a_dense_layer_by_hand():
    """12 rows, two channels to a crossbar of 8 rows; 6 positions, 5 cycles, 2 bit slices."""
    assert layer_events(DENSE, None, hardware(), bits=4, activation_bits=5) == Events(
        rounds=6,
        steps=6 * 5 * 2 * 2,  # two groups of three word lines, two columns to an ADC
        input_writes=4 * 2 * 6,
        input_reads=4 * 2 * (2 + 3 + 3),  # the first window of a row sticks out by one
        word_lines=2 * 6 * 5 * 2 * 12 * 2,  # both of a pair; two column blocks
        dac_conversions=6 * 5 * 2 * 12 * 2,
        crossbar_reads=2 * 6 * 5 * 2 * 4 * 2,
        cell_reads=2 * 6 * 5 * 2 * 12 * 5,
        adc_conversions=6 * 5 * 2 * 4 * 5,
        shift_adds=6 * 5 * 2 * 4 * 5,
        tree_adds=6 * 5,  # two row blocks
        output_writes=6 * 5,
    )


def test_offset_encoding_adds_up_the_inputs():
    """Signed 5-bit inputs take two cycles of two magnitude bits and one for the sign."""
    events = layer_events(DENSE, None, hardware(polarity=1, dac_bits=2), bits=4, activation_bits=5, signed=True)
    assert events.offset_adds == 6 * (12 + 5)
    assert events.steps == 6 * 3 * 2 * 2
    assert events.word_lines == events.dac_conversions == 6 * 3 * 2 * 12 * 2


def test_an_epitome_by_hand():
    """Six rounds (and a copy) of 8, 8, 4, 8, 8, 4 word lines and two columns from offset 0, 0, 1, 1, 1, 0.

    Each channel of the 3x2 window has a crossbar of its own and is read in two row groups; columns 0 and 1 lie on
    one crossbar, column 2 on the next.
    """
    spec = EpitomeSpec(6, 5, (2, 2), (3, 2, 3, 2), block=(2, 2), wrap=2)
    layer = Layer("epitome", "conv", 5, 6, (2, 2), in_size=(3, 3), out_size=(2, 2))
    machine = hardware(cols=2, cell_bits=1, adcs=1)
    expected = Events(
        rounds=4 * 6,
        steps=4 * 3 * (2 * 2 + 2 * 2 + 2 + 2 + 2 + 2 * 2),
        input_writes=5 * 9,
        input_reads=4 * 4 * (2 + 2 + 1 + 2 + 2 + 1),
        word_lines=2 * 4 * 3 * (8 + 8 + 2 * 4 + 2 * 8 + 2 * 8 + 4),
        dac_conversions=4 * 3 * (8 + 8 + 2 * 4 + 2 * 8 + 2 * 8 + 4),
        crossbar_reads=2 * 4 * 3 * (4 + 4 + 2 * 2 + 2 * 4 + 2 * 4 + 2),
        cell_reads=2 * 4 * 3 * 2 * (8 + 8 + 4 + 8 + 8 + 4),
        adc_conversions=4 * 3 * 2 * (4 + 4 + 2 + 4 + 4 + 2),
        shift_adds=4 * 3 * 2 * (4 + 4 + 2 + 4 + 4 + 2),
        tree_adds=4 * 2 * (1 + 1 + 0 + 1 + 1 + 0),
        joins=4 * 2 * 4,
        copies=4 * 2,
        output_reads=4 * 2 * 4,
        output_writes=4 * 2 * (6 + 1),
        table_bits=4 * 88,
    )
    assert layer_events(layer, spec, machine, bits=2, activation_bits=3).to_dict() == expected.to_dict()
    # Without reuse the first three rounds are repeated instead of copied.
    without = layer_events(layer, spec, machine.replace({"reuse": False}), bits=2, activation_bits=3)
    assert without.rounds == 4 * 9
    assert without.adc_conversions == expected.adc_conversions + 4 * 3 * 2 * (4 + 4 + 2)
    assert (without.copies, without.joins, without.output_writes) == (0, 4 * 2 * 6, 4 * 2 * 9)


def test_row_groups_of_runs_that_cross_crossbars():
    """The second patch of a 2x5 window for 2x2 starts at x = 1: word lines 1, 2, 6 and 7 of 10, four to a crossbar."""
    tables = Tables.from_plan(EpitomeSpec(4, 1, (2, 2), (1, 1, 2, 5)).plan())
    assert tables.word_lines(1).tolist() == [1, 2, 6, 7]
    assert closed_form._row_groups(tables, usable=4, dacs=2)[1].tolist() == [2, 1, 0]


def test_depthwise_channels_that_share_crossbars_by_hand():
    """Five channels of 2x2: two to a crossbar of 8 rows, read three rows at once."""
    layer = Layer("depthwise", "conv", 5, 5, (2, 2), groups=5, in_size=(2, 2))
    events = layer_events(layer, None, hardware(), bits=3, activation_bits=2)
    assert events.crossbar_reads == 2 * 2 * (3 + 3 + 2)
    assert events.adc_conversions == 2 * (4 + 4 + 2)  # word lines 3, 4, 5 belong to both channels of a crossbar
    assert events.cell_reads == 2 * 2 * 5 * 4
    assert events.dac_conversions == 2 * 5 * 4
    assert (events.rounds, events.steps, events.input_reads, events.output_writes) == (1, 2 * 3, 20, 5)


@pytest.mark.parametrize(
    ("bits", "dac", "signed", "cycles"),
    [(9, 1, False, 9), (9, 1, True, 9), (9, 2, False, 5), (9, 2, True, 5), (8, 2, False, 4), (8, 2, True, 5)],
)
def test_cycles_of_an_input(bits, dac, signed, cycles):
    assert input_cycles(bits, dac, signed) == cycles


@st.composite
def layers(draw):
    c_in, c_out, kernel = (draw(st.integers(1, 40)) for _ in range(3))
    kernel = kernel % 3 + 1, draw(st.integers(1, 3))
    size = draw(st.integers(3, 9))
    out = [size - k + 1 for k in kernel]
    return Layer("layer", "conv", c_in, c_out, kernel, in_size=size, out_size=out)


@st.composite
def machines(draw):
    return hardware(
        draw(st.integers(9, 40)),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 50)),
        draw(st.integers(1, 30)),
        **{"crossbar.packing": draw(st.sampled_from(["channel", "dense"]))},
    )


@given(layers(), machines())
def test_the_identity_epitome_takes_what_the_dense_layer_takes(layer, machine):
    identity = EpitomeSpec.dense(layer.out_channels, layer.in_channels, layer.kernel_size)
    dense = layer_events(layer, None, machine, 5, 5)
    assert layer_events(layer, identity, machine, 5, 5).to_dict() == dense.to_dict()


@given(layers(), machines(), st.integers(1, 4))
def test_reuse_saves_events_and_copies_what_it_saves(layer, machine, wrap):
    block = -(-layer.out_channels // 4)
    epitome = (block, layer.in_channels, *layer.kernel_size)
    spec = EpitomeSpec(
        layer.out_channels,
        layer.in_channels,
        layer.kernel_size,
        epitome,
        wrap=min(wrap, -(-layer.out_channels // block)),
    )
    reuse = layer_events(layer, spec, machine, 5, 5)
    without = layer_events(layer, spec, machine.replace({"reuse": False}), 5, 5)
    saved = {"rounds", "steps", "input_reads", "word_lines", "adc_conversions", "output_writes"}
    assert all(getattr(reuse, name) <= getattr(without, name) for name in saved)
    computed = layer.positions * layer.out_channels - reuse.copies
    assert computed * without.cell_reads == layer.positions * layer.out_channels * reuse.cell_reads


def test_cells_read_are_multiplications_times_slices_cycles_and_signs():
    """ResNet-50: a dense layer and an epitome without reuse do the same multiplications."""
    workload = Workload.load("resnet50")
    machine = Hardware.preset("default").replace({"reuse": False})
    design = Design.uniform(workload, rows=1024, cols=256)
    for layer in workload.weighted:
        for spec in {None, design.get(layer.name)}:
            events = layer_events(layer, spec, machine, bits=9, activation_bits=9)
            assert events.cell_reads == layer.macs * 4 * 9 * 2  # 8 magnitude bits in cells of 2


def test_events_add_and_multiply():
    one = layer_events(DENSE, None, hardware(), 4, 5)
    assert one + one == 2 * one == one * 2 == sum([one, one], Events())
    assert (3 * one).adc_conversions == 3 * one.adc_conversions
    assert Events(**one.to_dict()) == one
    for wrong in (lambda: one + 1, lambda: one * 0.5):
        with pytest.raises(TypeError):
            wrong()


def test_events_print():
    one = Events(rounds=1234567)
    assert str(one).splitlines()[0] == "rounds           1,234,567"
    assert len(str(one).splitlines()) == len(dataclasses.fields(Events)) - 3  # of coefficients, of sums
    assert len(str(Events(negations=1, shifts=1, analog_adds=1)).splitlines()) == len(dataclasses.fields(Events))
    assert "<tr><th>rounds</th><td>1,234,567</td></tr>" in one._repr_html_()


def test_events_refuse():
    pool = Layer("pool", "pool", 4, 4)
    with pytest.raises(ValueError, match="layer must have a weight, got 'pool' of kind 'pool'"):
        layer_events(pool, None, hardware(), 4, 4)
    other = EpitomeSpec.dense(5, 4, 1)
    with pytest.raises(
        ValueError, match=r"epitome of 'dense' is for a weight \(5, 4, 1, 1\), but the layer has \(5, 4, 1, 3\)"
    ):
        layer_events(DENSE, other, hardware(), 4, 4)
    grouped = dataclasses.replace(DENSE, out_channels=4, groups=2)
    with pytest.raises(
        ValueError, match="epitome of 'dense' is for a grouped convolution; groups must be 1 for an epitome, got 2"
    ):
        layer_events(grouped, other, hardware(), 4, 4)
    with pytest.raises(ValueError, match="activation_bits must be at least 2, got 1"):
        layer_events(DENSE, None, hardware(), 4, 1, signed=True)
    with pytest.raises(ValueError, match="crossbar.rows must hold the 3 rows of one channel, got 2"):
        layer_events(DENSE, None, hardware(rows=2), 4, 4)
