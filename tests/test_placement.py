"""Placement in three memories: the optimum is that of all placements, sizes are those of the network."""

import itertools
import math

import numpy as np
import pytest

from epimlib import Design, Workload
from epimlib.epitome.workload import Layer
from epimlib.related.placement import KIBI, Memory, first_come, outputs, placement, stored
from epimlib.search import solve_exact

RESNET = Workload.load("resnet50")


def chain(channels, size=16):
    layers, inputs = [], "input"
    for number, (inp, out) in enumerate(itertools.pairwise(channels)):
        name = f"conv{number}"
        layers.append(
            Layer(name, "conv", inp, out, (3, 3), (1, 1), (1, 1), (1, 1), 1, (size, size), (size, size), (inputs,))
        )
        inputs = name
    return Workload("chain", (channels[0], size, size), tuple(layers))


def memories(second, third):
    return [Memory("slow", None, 1e9), Memory("middle", second * KIBI, 1e10), Memory("fast", third * KIBI, 1e11)]


@pytest.mark.parametrize(("second", "third"), [(10, 5), (40, 12), (300, 300), (1, 7)])
def test_the_optimum_is_that_of_all_placements(second, third):
    workload = chain((8, 16, 24, 32))
    found = placement(workload, memories(second, third), 1e12)
    result = solve_exact(found.table, "latency", budget=second, proxy=found.fastest, limit=third)
    bandwidth = [1e9, 1e10, 1e11]
    best = math.inf
    for places in itertools.product(range(3), repeat=6):  # by hand: nothing of the table is used
        room, time = [math.inf, second, third], 0.0
        for layer, weight, output in zip(workload.layers, places[::2], places[1::2], strict=True):
            w = 9 * layer.in_channels * layer.out_channels
            o = layer.out_channels * 16 * 16
            room[weight] -= math.ceil(w / 1024)
            room[output] -= math.ceil(o / 1024)
            reads = 0 if layer is workload.layers[-1] else 1
            time += w / bandwidth[weight] + o * (1 + reads) / bandwidth[output] + 256 * w / 1e12
        if min(room) >= 0:
            best = min(best, time)
    assert result.latency == pytest.approx(best, rel=1e-9)
    greedy = found.table.evaluate(np.array([first_come(found, memories(second, third))]))
    assert greedy.latency[0] >= best * (1 - 1e-9)
    assert greedy.crossbars[0] <= second


def test_sizes_of_resnet50():
    assert sum(map(stored, RESNET.layers)) == 25_502_912
    assert sum(map(outputs, RESNET.layers)) == 16_837_096
    design = Design.uniform(RESNET, rows=1024, cols=256)
    assert sum(stored(layer, design.get(layer.name)) for layer in RESNET.layers) == 8_574_656


def test_a_layer_without_weights_places_its_output_only():
    found = placement(RESNET, memories(10, 10), 1e12)
    sizes = {layer.name: 9 if layer.weighted else 3 for layer in RESNET.layers}
    assert {name: len(places) for name, places in found.places.items()} == sizes


@pytest.mark.parametrize(("layers", "exponent"), [(57, 54.4), (108, 103.1), (376, 358.8)])
def test_numbers_of_placements(layers, exponent):
    assert 2 * layers * math.log10(3) == pytest.approx(exponent, abs=0.05)


@pytest.mark.parametrize(
    ("places", "options", "sentence"),
    [
        (memories(1, 1)[:2], {}, "memories must be one without and two with a capacity"),
        ([Memory("a", 5, 1.0), *memories(1, 1)[1:]], {}, "one without and two with a capacity"),
        (memories(1, 1), {"bits": 0}, "bits must be at least 1, got 0"),
        (memories(1, 1), {"rate": 0.0}, "rate must be positive"),
        (memories(1, 1), {"design": Design.uniform(Workload.load("resnet18"), rows=256, cols=64)}, "layer"),
    ],
)
def test_refusals_name_the_value(places, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        placement(RESNET, places, **{"rate": 1e12, **options})
