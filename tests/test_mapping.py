"""Crossbars counted by hand, and cell by cell: weights are painted into arrays, and the arrays are counted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epimlib import Design, EpitomeSpec, Hardware, Workload, map_crossbars
from epimlib.epitome.workload import Layer

DEFAULT = Hardware.preset("default")


def hardware(**crossbar):
    return DEFAULT.replace({f"crossbar.{name}": value for name, value in crossbar.items()})


def network(*layers):
    return Workload("net", (3, 8, 8), layers)


# By hand -----------------------------------------------------------------------------------------------------


def test_the_default_hardware_is_the_headlines():
    crossbar = DEFAULT.crossbar
    assert (crossbar.rows, crossbar.cols, crossbar.cell_bits) == (256, 256, 2)
    assert (crossbar.polarity, crossbar.packing) == (2, "channel")


def bottleneck_blocks(depth, classes):
    """256 x 256 blocks of a bottleneck ResNet, from its block table: names and counts, nothing from the library.

    Channel packing: a crossbar holds 256 channels of a 1x1 layer, 28 of a 3x3 layer, 5 of the 7x7 stem.
    """

    def blocks(inp, out, kernel):
        return -(-inp // {1: 256, 3: 28, 7: 5}[kernel]) * -(-out // 256)

    counts = {"conv1": blocks(3, 64, 7)}
    inp = 64
    for stage, repeats in enumerate(depth, start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(repeats):
            name = f"layer{stage}.{block}"
            counts[f"{name}.conv1"] = blocks(inp, width, 1)
            counts[f"{name}.conv2"] = blocks(width, width, 3)
            counts[f"{name}.conv3"] = blocks(width, 4 * width, 1)
            if block == 0:
                counts[f"{name}.downsample.0"] = blocks(inp, 4 * width, 1)
            inp = 4 * width
    counts["fc"] = blocks(inp, classes, 1)
    return counts


@pytest.mark.parametrize(
    ("name", "depth", "classes", "total"),
    [
        # Stem, four stages, head, as sums on paper: stage 1 is (1+3+1+1) + 2 x (1+3+1), and so on.
        ("resnet50", (3, 4, 6, 3), 256, 1 + 16 + 37 + 114 + 234 + 8),
        ("resnet50", (3, 4, 6, 3), 1000, 1 + 16 + 37 + 114 + 234 + 32),
        ("resnet101", (3, 4, 23, 3), 256, 1 + 16 + 37 + (24 + 22 * 18) + 234 + 8),
        ("resnet101", (3, 4, 23, 3), 1000, 1 + 16 + 37 + (24 + 22 * 18) + 234 + 32),
    ],
)
def test_blocks_of_a_bottleneck_network(name, depth, classes, total):
    expected = bottleneck_blocks(depth, classes)
    mapping = map_crossbars(Workload.load(name).with_classes(classes), DEFAULT)
    assert {layer.name: layer.blocks for layer in mapping.layers} == expected
    assert mapping.blocks == sum(expected.values()) == total


@pytest.mark.parametrize(
    ("name", "classes", "blocks", "crossbars"),
    [
        ("resnet50", 256, 410, 13_120),
        ("resnet50", 1000, 434, 13_888),
        ("resnet101", 256, 716, 22_912),
        ("resnet101", 1000, 740, 23_680),
    ],
)
def test_32_bit_crossbars_under_both_conventions_for_the_head(name, classes, blocks, crossbars):
    mapping = map_crossbars(Workload.load(name).with_classes(classes), DEFAULT)
    assert (mapping.blocks, mapping.crossbars) == (blocks, crossbars)
    assert crossbars == blocks * 16 * 2  # 31 bits of magnitude in cells of 2, two signs


def test_the_head_counts_as_it_is_unless_it_is_changed():
    assert map_crossbars(Workload.load("resnet50"), DEFAULT).crossbars == 13_888


def test_428_crossbars_are_the_abstracts_factor():
    assert round(map_crossbars(Workload.load("resnet50").with_classes(256), DEFAULT).crossbars / 428, 2) == 30.65


@pytest.mark.parametrize(("bits", "each"), [(32, 32), (9, 8), (7, 6), (5, 4), (3, 2), (2, 2), (4, 4), (8, 8)])
def test_crossbars_of_a_block_with_a_pair_for_the_signs(bits, each):
    mapping = map_crossbars(Workload.load("resnet50").with_classes(256), DEFAULT, bits=bits)
    assert mapping.crossbars == 410 * each


@pytest.mark.parametrize(
    ("bits", "cell_bits", "polarity", "each"),
    [
        (8, 2, 1, 4), (9, 2, 1, 5), (1, 2, 1, 1), (32, 2, 1, 16), (32, 4, 1, 8), (3, 1, 1, 3),
        (8, 1, 2, 14), (9, 1, 2, 16), (9, 4, 2, 4), (9, 8, 2, 2), (10, 8, 2, 4), (2, 8, 2, 2),
    ],
)  # fmt: skip
def test_crossbars_of_a_block_with_other_cells_and_offset_encoding(bits, cell_bits, polarity, each):
    net = network(Layer("conv", "conv", 256, 256, 1))
    mapping = map_crossbars(net, hardware(cell_bits=cell_bits, polarity=polarity), bits=bits)
    assert (mapping.blocks, mapping.crossbars) == (1, each)


@pytest.mark.parametrize(
    ("channels", "kernel", "by_channel", "dense"),
    [
        (64, 3, 3, 3),  # 64 / 28 channels; 576 / 256 rows
        (128, 3, 5, 5),  # 128 / 28; 1152 / 256
        (256, 3, 10, 9),  # 256 / 28; 2304 / 256
        (512, 3, 19 * 2, 18 * 2),  # 512 / 28; 4608 / 256; two column blocks
        (3, 7, 1, 1),
        (512, 1, 2 * 2, 2 * 2),
        (10, 11, 5, 5),  # 2 channels of 121 rows; 1210 / 256
        (11, 16, 11, 11),  # one channel of 256 rows
    ],
)
def test_both_packings(channels, kernel, by_channel, dense):
    net = network(Layer("conv", "conv", channels, channels, kernel))
    assert map_crossbars(net, hardware(packing="channel")).blocks == by_channel
    assert map_crossbars(net, hardware(packing="dense")).blocks == dense


def test_dense_packing_of_resnet50():
    """Only the 3x3 layers of stages 3 and 4 change: 10 -> 9 blocks six times, 38 -> 36 blocks three times."""
    net = Workload.load("resnet50").with_classes(256)
    assert map_crossbars(net, hardware(packing="dense")).blocks == 410 - 6 * 1 - 3 * 2


def test_an_epitome_is_mapped_by_its_own_matrix():
    """512 x 512 x 3 x 3 is 38 blocks; its epitome of 64 channels in a 4x4 window is 1024 x 256, 16 channels each."""
    net = network(Layer("conv", "conv", 512, 512, 3), Layer("other", "conv", 64, 64, 1))
    design = Design({"conv": EpitomeSpec(512, 512, 3, (256, 64, 4, 4))})
    mapping = map_crossbars(net, DEFAULT, design, bits=9)
    assert [(layer.rows, layer.cols, layer.blocks, layer.crossbars) for layer in mapping.layers] == [
        (1024, 256, 4, 32),
        (64, 64, 1, 8),
    ]
    assert map_crossbars(net, DEFAULT, dict(design), bits=9) == mapping
    assert map_crossbars(net, DEFAULT, bits=9).blocks == 38 + 1
    # A 5x5 window wastes rows with channel packing: 10 channels of 25 rows on 256, so 40 channels take 4 blocks.
    wide = Design({"conv": EpitomeSpec(512, 512, 3, (256, 42, 5, 5))})
    assert map_crossbars(net, hardware(packing="channel"), wide).layers[0].blocks == 5
    assert map_crossbars(net, hardware(packing="dense"), wide).layers[0].blocks == math.ceil(42 * 25 / 256)


def test_bits_by_layer():
    net = network(Layer("a", "conv", 256, 256, 1), Layer("pool", "pool", 256, 256), Layer("b", "linear", 256, 512))
    mapping = map_crossbars(net, DEFAULT, bits={"b": 3, "a": 9})
    assert [(layer.name, layer.slices, layer.crossbars) for layer in mapping.layers] == [("a", 4, 8), ("b", 1, 4)]
    assert mapping.crossbars == 12


def test_groups_have_matrices_of_their_own():
    # Two groups of 256 x 256: a crossbar each. Four of 300 x 10: two row blocks each.
    assert map_crossbars(network(Layer("g", "conv", 512, 512, 1, groups=2)), DEFAULT).blocks == 2
    assert map_crossbars(network(Layer("g", "conv", 1200, 40, 1, groups=4)), DEFAULT).blocks == 8
    # 64 depthwise 3x3 channels: 9 rows and 1 column each, on a diagonal, 28 of them on 256 rows.
    depthwise = map_crossbars(network(Layer("d", "conv", 64, 64, 3, groups=64)), DEFAULT)
    assert depthwise.blocks == 3
    assert depthwise.utilization == 64 * 9 / (3 * 256 * 256)


# Cell by cell ------------------------------------------------------------------------------------------------


def paint(groups, channels, window, columns, crossbar):
    """Lay the matrices of one layer out; return one array per crossbar with the number of weights in each cell."""
    arrays = []

    def new():
        arrays.append(np.zeros((crossbar.rows, crossbar.cols), dtype=int))
        return len(arrays) - 1

    def rows_of_channels():
        """Row of every element of a column, as (row block, row)."""
        block, row = 0, 0
        for _ in range(channels):
            if crossbar.packing == "channel" and row + window > crossbar.rows:
                block, row = block + 1, 0
            for _ in range(window):
                if row == crossbar.rows:
                    block, row = block + 1, 0
                yield block, row
                row += 1

    places = list(rows_of_channels())
    if places[-1][0] == 0 and columns <= crossbar.cols:  # groups share a crossbar along its diagonal
        row, col = crossbar.rows, crossbar.cols
        for _ in range(groups):
            if row + len(places) > crossbar.rows or col + columns > crossbar.cols:
                current, row, col = new(), 0, 0
            for _, offset in places:
                arrays[current][row + offset, col : col + columns] += 1
            row, col = row + len(places), col + columns
        return arrays
    for _ in range(groups):
        blocks = {}
        for column in range(columns):
            for block, row in places:
                key = (block, column // crossbar.cols)
                if key not in blocks:
                    blocks[key] = new()
                arrays[blocks[key]][row, column % crossbar.cols] += 1
    return arrays


def slices_by_hand(bits, cell_bits, polarity):
    """Cells for one weight on one crossbar of a pair: take bits off until none is left."""
    left, cells = bits - 1 if polarity == 2 else bits, 0
    while left > 0:
        left, cells = left - cell_bits, cells + 1
    return cells


crossbars = st.fixed_dictionaries(
    {
        "rows": st.integers(9, 40),
        "cols": st.integers(1, 24),
        "cell_bits": st.integers(1, 4),
        "polarity": st.sampled_from([1, 2]),
        "packing": st.sampled_from(["channel", "dense"]),
    }
)
kernels = st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 4), (1, 7)])
shapes = st.tuples(st.integers(1, 14), st.integers(1, 14), kernels)


def compare(mapping, arrays, crossbar, bits):
    """Against what was painted: as many crossbars, and as many cells in use."""
    (layer,) = mapping.layers
    assert all(array.max() == 1 for array in arrays)  # no cell twice, no crossbar empty
    painted = sum(int(array.sum()) for array in arrays)
    copies = slices_by_hand(bits, crossbar.cell_bits, crossbar.polarity) * crossbar.polarity
    assert layer.blocks == mapping.blocks == len(arrays)
    assert layer.crossbars == mapping.crossbars == len(arrays) * copies
    share = painted / (len(arrays) * crossbar.rows * crossbar.cols)
    assert math.isclose(layer.utilization, share)
    assert math.isclose(mapping.utilization, share)


@settings(max_examples=150)
@given(shapes, st.sampled_from([1, 1, 2, 3, 5, 16]), crossbars, st.integers(2, 10))
def test_dense_grouped_and_depthwise_layers_painted_cell_by_cell(shape, groups, crossbar, bits):
    inp, out, kernel = shape
    machine = hardware(**crossbar)
    net = network(Layer("layer", "conv", inp * groups, out * groups, kernel, groups=groups))
    arrays = paint(groups, inp, math.prod(kernel), out, machine.crossbar)
    compare(map_crossbars(net, machine, bits=bits), arrays, machine.crossbar, bits)


@settings(max_examples=60)
@given(shapes, st.data(), crossbars, st.integers(2, 10))
def test_epitomes_painted_cell_by_cell(shape, data, crossbar, bits):
    inp, out, kernel = shape
    e_out, e_in = data.draw(st.integers(1, out)), data.draw(st.integers(1, inp))
    room = out * inp // (e_out * e_in)  # the window may be so many kernels large
    window = (kernel[0], kernel[1] * data.draw(st.integers(1, min(room, 9 // math.prod(kernel) or 1))))
    spec = EpitomeSpec(out, inp, kernel, (e_out, e_in, *window))
    machine = hardware(**crossbar)
    net = network(Layer("layer", "conv", inp, out, kernel))
    arrays = paint(1, e_in, math.prod(window), e_out, machine.crossbar)
    assert sum(array.sum() for array in arrays) == math.prod(spec.epitome)
    compare(map_crossbars(net, machine, {"layer": spec}, bits), arrays, machine.crossbar, bits)


@settings(max_examples=30)
@given(st.lists(st.tuples(shapes, st.integers(2, 10)), min_size=1, max_size=5), crossbars)
def test_a_network_is_the_sum_of_its_layers(chosen, crossbar):
    machine = hardware(**crossbar)
    layers = [Layer(f"l{n}", "conv", inp, out, kernel) for n, ((inp, out, kernel), _) in enumerate(chosen)]
    bits = {layer.name: width for layer, (_, width) in zip(layers, chosen, strict=True)}
    whole = map_crossbars(network(*layers), machine, bits=bits)
    parts = [map_crossbars(network(layer), machine, bits=bits[layer.name]) for layer in layers]
    assert whole.layers == tuple(part.layers[0] for part in parts)
    assert whole.blocks == sum(part.blocks for part in parts)
    assert whole.crossbars == sum(part.crossbars for part in parts)
    cells = machine.crossbar.rows * machine.crossbar.cols
    used = sum(part.utilization * part.crossbars * cells for part in parts)
    assert math.isclose(whole.utilization, used / (whole.crossbars * cells))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224"])
def test_every_weight_of_a_network_is_in_one_cell_of_a_slice(name):
    """Utilisation times cells gives the weights back, for networks with depthwise and fully connected layers."""
    net = Workload.load(name)
    for packing in ("channel", "dense"):
        mapping = map_crossbars(net, hardware(packing=packing), bits=2)
        for layer, mapped in zip(net.weighted, mapping.layers, strict=True):
            assert mapped.name == layer.name
            assert mapped.crossbars == 2 * mapped.blocks
            assert math.isclose(mapped.utilization * mapped.blocks * 256**2, math.prod(layer.weight_shape))


# Tables ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_layer_with_a_weight():
    net = Workload.load("resnet50")
    mapping = map_crossbars(net, DEFAULT, bits=9)
    table = mapping.by_layer()
    assert list(table.index) == [layer.name for layer in net.weighted]
    assert table["crossbars"].sum() == mapping.crossbars == 434 * 8
    assert table["blocks"].sum() == 434
    assert table.loc["layer3.1.conv2", ["word lines", "logical columns", "blocks"]].tolist() == [2304, 256, 10]
    assert table.loc["fc", "bit slices"] == 4
    assert str(mapping).startswith("resnet50: 3,472 crossbars in 434 blocks")
    assert "layer3.1.conv2" in mapping._repr_html_()


# What cannot be ----------------------------------------------------------------------------------------------

NET = network(Layer("conv", "conv", 8, 8, 3), Layer("fc", "linear", 8, 10))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"bits": 1}, ValueError, ["bits", "at least 2", "polarity 2", "1"]),
        ({"bits": 0}, ValueError, ["bits", "at least", "0"]),
        ({"bits": 8.0}, TypeError, ["bits", "whole number", "8.0"]),
        ({"bits": True}, TypeError, ["bits", "whole number", "True"]),
        ({"bits": "8"}, TypeError, ["bits", "whole number", "'8'"]),
        ({"bits": {"conv": 8}}, ValueError, ["bits", "'fc'"]),
        ({"bits": {}}, ValueError, ["bits", "'conv'", "1 more"]),
        ({"bits": {"conv": 8, "fc": 8, "cnv": 8}}, ValueError, ["bits", "'cnv'", "'net'", "did you mean 'conv'?"]),
        ({"bits": {"conv": 8, "fc": 0}}, ValueError, ["bits", "at least", "0"]),
        ({"bits": {"conv": 8, "fc": 2.5}}, TypeError, ["bits", "whole number", "2.5"]),
        ({"design": {"cnv": EpitomeSpec.dense(8, 8, 3)}}, ValueError, ["'cnv'", "'net'", "did you mean 'conv'?"]),
        ({"design": {"conv": EpitomeSpec.dense(8, 8, 1)}}, ValueError, ["'conv'", "(8, 8, 1, 1)", "(8, 8, 3, 3)"]),
        ({"design": {"conv": (8, 8, 3, 3)}}, TypeError, ["'conv'", "EpitomeSpec", "(8, 8, 3, 3)"]),
        ({"design": "uniform"}, TypeError, ["design", "mapping", "'uniform'"]),
        (
            {"hardware": "default"},
            TypeError,
            ["hardware must be a Hardware", "did you mean Hardware.preset('default')?"],
        ),
        ({"hardware": DEFAULT.crossbar}, TypeError, ["hardware must be a Hardware, got Crossbar"]),
        (
            {"workload": "resnet18"},
            TypeError,
            ["workload must be a Workload", "did you mean Workload.load('resnet18')?"],
        ),
        (
            {"workload": nn.Linear(2, 2)},
            TypeError,
            ["workload must be a Workload, got Linear; epimlib.epitome.trace.trace"],
        ),
        ({"hardware": hardware(rows=8)}, ValueError, ["crossbar.rows", "9 rows", "'conv'", "8"]),
    ],
)
def test_a_mapping_that_cannot_be_is_one_sentence(arguments, error, words):
    with pytest.raises(error) as caught:
        map_crossbars(**{"workload": NET, "hardware": DEFAULT, **arguments})
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_a_window_may_be_split_with_dense_packing():
    assert map_crossbars(NET, hardware(rows=8, packing="dense")).layers[0].blocks == 9


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"crossbar.rows": 0}, ValueError, ["crossbar.rows", "at least 1", "0"]),
        ({"crossbar.cols": 2.5}, TypeError, ["crossbar.cols", "whole number", "2.5"]),
        ({"crossbar.cell_bits": -1}, ValueError, ["crossbar.cell_bits", "at least 1", "-1"]),
        ({"crossbar.cell_bits": 1000}, ValueError, ["crossbar.cell_bits", "at most 16", "1000"]),
        ({"crossbar.polarity": 3}, ValueError, ["crossbar.polarity", "1, 2", "3"]),
        ({"crossbar.polarity": True}, TypeError, ["crossbar.polarity", "whole number", "True"]),
        ({"crossbar.packing": "tight"}, ValueError, ["crossbar.packing", "'channel', 'dense'", "'tight'"]),
        ({"crossbar.row": 128}, ValueError, ["'crossbar.row'", "did you mean 'crossbar.rows'?"]),
    ],
)
def test_a_crossbar_that_cannot_be_is_one_sentence(changes, error, words):
    with pytest.raises(error) as caught:
        DEFAULT.replace(changes)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1
