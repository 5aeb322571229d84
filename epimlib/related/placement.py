"""Where to keep weights and feature maps: three memories of a digital accelerator, one table, the existing searches.

The question is EGRL's (Khadka et al., 2021): every weight and every output of a layer goes to one of several memories,
the fast ones small. Their learned search and their chip are not modelled; a placement here is a choice of one candidate
for each layer under two budgets, which `epimlib.search` solves with a proof.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from epimlib._checks import positive
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Layer, Workload
from epimlib.search.table import Candidate, CostTable

KIBI = 1024


@dataclass(frozen=True)
class Memory:
    """A memory.

    Attributes:
        name: of the memory.
        capacity: [byte]; None: enough for everything.
        bandwidth: [byte/s].
    """

    name: str
    capacity: int | None
    bandwidth: float


@dataclass(frozen=True)
class Placement:
    """All ways to place a network in three memories.

    Attributes:
        table: one "layer" for each layer of the network, with and without weights. Its latency is the time of transfers
            (of the weight once, of the output once for its writer and once for each reader) and of arithmetic; its
            "crossbars" are KiB of the second memory.
        fastest: KiB of the third and fastest memory, for each candidate of each layer.
        places: for each candidate the numbers of the memories of (weight, output).
    """

    table: CostTable
    fastest: Mapping[str, Sequence[float]]
    places: Mapping[str, Sequence[tuple[int, int]]]


def placement(
    workload: Workload,
    memories: Sequence[Memory],
    rate: float,
    design: Mapping[str, EpitomeSpec] | None = None,
    bits: int = 8,
) -> Placement:
    """Return all placements of a network.

    Transfers overlap neither with each other nor with arithmetic, and an output keeps its place for ever.

    Args:
        workload: the network, one image.
        memories: three, from the slowest, which must hold everything, to the fastest.
        rate: multiplications per second.
        design: epitomes by layer, which are what is stored.
        bits: of every weight and every output.

    Raises:
        ValueError: if there are not three memories, the first has a capacity or another has none, the rate is not
            positive, or the design is not of the network.
    """
    if len(memories) != 3 or [memory.capacity is None for memory in memories] != [True, False, False]:
        given = [(memory.name, memory.capacity) for memory in memories]
        raise ValueError(f"memories must be one without and two with a capacity, got {given}")
    positive("bits", bits)
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    design = Design(design or {}).check(workload)
    readers = Counter(name for layer in workload.layers for name in layer.inputs)
    values, fastest, places = [], {}, {}
    for layer in workload.layers:
        sizes = math.ceil(stored(layer, design.get(layer.name)) * bits / 8), math.ceil(outputs(layer) * bits / 8)
        moved = sizes[0], sizes[1] * (1 + readers[layer.name])
        options = [(w, o) for w, o in itertools.product(range(3), repeat=2) if sizes[0] or w == 0]
        time = [sum(n / memories[m].bandwidth for n, m in zip(moved, option, strict=True)) for option in options]
        held = [[_kibi(sizes, option, memory) for option in options] for memory in (1, 2)]
        values.append(np.array([time, [0.0] * len(options), [0.0] * len(options), held[0]]).T)
        fastest[layer.name], places[layer.name] = held[1], options
    names = tuple(layer.name for layer in workload.layers)
    arithmetic = sum(layer.macs for layer in workload.weighted) / rate
    candidates = tuple(tuple(Candidate(None, number) for number in range(len(own))) for own in values)
    return Placement(CostTable(names, candidates, tuple(values), np.array([arithmetic, 0, 0, 0])), fastest, places)


def first_come(found: Placement, memories: Sequence[Memory]) -> list[int]:
    """Return the simplest rule's candidates: layer by layer, weight and output to the fastest memory with room."""
    room = [math.inf, memories[1].capacity // KIBI, memories[2].capacity // KIBI]
    chosen = []
    for name, values in zip(found.table.layers, found.table.values, strict=True):
        held = list(zip(values[:, 3], found.fastest[name], strict=True))
        fitting = [i for i, (second, third) in enumerate(held) if second <= room[1] and third <= room[2]]
        best = max(fitting, key=found.places[name].__getitem__)
        room[1], room[2] = room[1] - held[best][0], room[2] - held[best][1]
        chosen.append(best)
    return chosen


def stored(layer: Layer, spec: EpitomeSpec | None = None) -> int:
    """Return the weights that a layer stores."""
    return 0 if not layer.weighted else math.prod(spec.epitome if spec else layer.weight_shape)


def outputs(layer: Layer) -> int:
    """Return the numbers that a layer puts out."""
    return layer.out_channels * math.prod(layer.out_size)


def _kibi(sizes: tuple[int, int], option: tuple[int, int], memory: int) -> int:
    """Return the KiB of one memory that weight and output take, each rounded up."""
    return sum(math.ceil(size / KIBI) for size, place in zip(sizes, option, strict=True) if place == memory)
