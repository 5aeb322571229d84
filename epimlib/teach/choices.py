"""Questions on chapters 9 to 13: quantizers, bits, searches, bounds and the headline."""

import itertools
import math
from collections.abc import Sequence
from random import Random

import numpy as np

from epimlib.epitome.design import Design
from epimlib.epitome.workload import Workload
from epimlib.pim.mapping import bit_slices, map_crossbars
from epimlib.search.bits import assign_bits
from epimlib.search.exact import solve_exact
from epimlib.search.problem import Problem
from epimlib.search.table import Candidate, CostTable
from epimlib.teach.bank import Drawn, hardware, question, shown, terms, up


def _elements(draw: Random) -> tuple[list[float], list[int]]:
    """Return four elements of different magnitude, and how often each is used."""
    largest = draw.randrange(80, 121)
    rest = sorted(draw.sample(range(5, 70), 3), reverse=True)
    signs = [draw.choice((-1, 1)) for _ in range(4)]
    return [s * m / 100 for s, m in zip(signs, [largest, *rest], strict=True)], [
        1,
        *(draw.randrange(2, 6) for _ in "abc"),
    ]


def _grid(elements: Sequence[float], usage: Sequence[int], **config: object) -> tuple[float, float]:
    """Return the step that the library's quantizer takes, and its weighted squared error."""
    import torch

    from epimlib.quant.grid import QuantConfig, WeightQuantizer

    weight, counts = (torch.tensor(v, dtype=torch.float64).reshape(1, 4, 1, 1) for v in (elements, usage))
    quantizer = WeightQuantizer(weight, QuantConfig(**config), usage=counts)
    return quantizer.scale.item(), quantizer.error(weight)


def _rounded(step: float, level: int, elements: Sequence[float], usage: Sequence[int]) -> tuple[str, float]:
    """Return the error of each element times its count, as a sum, and the sum."""
    codes = [max(-level, min(level, round(e / step))) for e in elements]
    errors = [n * (e - step * code) ** 2 for e, n, code in zip(elements, usage, codes, strict=True)]
    return f"the integers are {shown(codes)}, and the errors {terms(errors)}", sum(errors)


@question(9, 3, "A grid by the largest element")
def grid_by_max(draw: Random) -> Drawn:
    (elements, usage), bits = _elements(draw), draw.choice((2, 3, 4))
    level = 2 ** (bits - 1) - 1
    step, error = _grid(elements, usage, bits=bits, range="max")
    told, by_hand = _rounded(abs(elements[0]) / level, level, elements, usage)
    return Drawn(
        f"Four elements of an epitome, {shown(elements)}, are used {shown(usage)} times. They get {bits} bits and the "
        "range *max*. What is the step, and what is the squared error of the weight, Σ n(e)(e − Q(e))²?",
        {"step": step, "error": error},
        f"2^{bits - 1} − 1 = {level} positive levels: {abs(elements[0])}/{level} = {shown(abs(elements[0]) / level)}. "
        f"With it {told}: {shown(by_hand)}.",
    )


@question(9, 3, "A range by overlap")
def grid_by_overlap(draw: Random) -> Drawn:
    (elements, usage), omega = _elements(draw), draw.choice((0.6, 0.75, 0.8, 0.9))
    step, error = _grid(elements, usage, bits=2, range="overlap", overlap_weight=omega)
    mean = sum(usage) / 4
    often, rest = (max(abs(e) for e, n in zip(elements, usage, strict=True) if (n > mean) == o) for o in (True, False))
    told, by_hand = _rounded(omega * often + (1 - omega) * rest, 1, elements, usage)
    return Drawn(
        f"Four elements of an epitome, {shown(elements)}, are used {shown(usage)} times. They get 2 bits and the "
        f"range *overlap* with ω = {omega}. What is the step, and what is the squared error of the weight, Σ n(e)(e − "
        "Q(e))²?",
        {"step": step, "error": error},
        f"The mean count is {shown(mean)}; the largest element above it is {shown(often)}, of the rest {shown(rest)}. "
        f"One positive level: {omega}·{shown(often)} + {shown(1 - omega)}·{shown(rest)} = "
        f"{shown(omega * often + (1 - omega) * rest)}. With it {told}: {shown(by_hand)}.",
    )


@question(9, 4, "The best step of two bits")
def best_step(draw: Random) -> Drawn:
    elements, usage = _elements(draw)
    step, error = _grid(elements, usage, bits=2, range="mse")
    whole = sum(n * e * e for e, n in zip(elements, usage, strict=True))
    cases = []
    for kept in range(1, 5):
        weight, total = sum(usage[:kept]), sum(n * abs(e) for e, n in zip(elements[:kept], usage[:kept], strict=True))
        cases.append((whole - total**2 / weight, total / weight, kept))
    told = "; ".join(f"{kept} not zero: step {shown(s)}, error {shown(e)}" for e, s, kept in cases)
    least = min(cases)
    return Drawn(
        f"Four elements of an epitome, {shown(elements)}, are used {shown(usage)} times. They get 2 bits, so that "
        "each becomes −1, 0 or 1 times a step. Which step has the least squared error Σ n(e)(e − Q(e))², and what is "
        "it? Hint: suppose that the first, two, three or four largest are not rounded to zero.",
        {"step": step, "error": error},
        "With given integers the best step is the mean of the magnitudes that are not zero, each counted n(e) times, "
        f"and the error is Σ n e² = {shown(whole)} minus Σ n·step² of these: {told}. Least is {shown(least[0])} at "
        f"the step {shown(least[1])}.",
    )


@question(9, 2, "How many steps")
def number_of_steps(draw: Random) -> Drawn:
    import torch

    from epimlib.quant.grid import GRANULARITIES, QuantConfig, WeightQuantizer

    out, inp, window, size = (
        draw.choice((64, 96, 128)),
        draw.choice((24, 32, 48)),
        draw.choice((3, 4)),
        draw.choice((64, 128)),
    )
    crossbar, weight = hardware(size).crossbar, torch.zeros(out, inp, window, window)
    steps = [len(WeightQuantizer(weight, QuantConfig(granularity=g, crossbar=crossbar)).scale) for g in GRANULARITIES]
    fit = size // window**2
    rows, cols = up(inp, fit), up(out, size)
    return Drawn(
        f"An epitome of shape {(out, inp, window, window)} lies on crossbars of {size}×{size} cells (channel "
        "packing). How many steps does it have with one for the tensor, for each channel, for each crossbar?",
        {"tensor, channel, crossbar": steps},
        f"One for the tensor and one for each of the {out} columns. A crossbar holds ⌊{size}/{window**2}⌋ = {fit} "
        f"channels: ⌈{inp}/{fit}⌉ = {rows} row blocks by {cols} column blocks. So {shown([1, out, rows * cols])}.",
    )


@question(10, 4, "Bits within a budget")
def bits_within_a_budget(draw: Random) -> Drawn:
    while True:
        blocks = dict(zip("ABC", (draw.randrange(1, 12) for _ in range(3)), strict=True))
        gain = {name: draw.randrange(3, 20) for name in blocks}
        least = {name: draw.randrange(1, 6) for name in blocks}
        total = 2 * sum(blocks.values())
        budget = total + draw.randrange(2 * min(blocks.values()), total)
        sums = {
            five: (
                sum(least.values()) + sum(gain[n] for n in blocks if n not in five),
                total + 2 * sum(blocks[n] for n in five),
            )
            for k in range(4)
            for five in itertools.combinations(blocks, k)
        }
        fitting = sorted((value, spent, five) for five, (value, spent) in sums.items() if spent <= budget)
        if len(fitting) > 2 and fitting[0][0] < fitting[1][0]:  # one best choice, among several
            break
    sensitivity = {name: {3: least[name] + gain[name], 5: least[name]} for name in blocks}
    found = assign_bits(sensitivity, {name: {3: 2 * m, 5: 4 * m} for name, m in blocks.items()}, budget)
    chosen = [name for name, bits in found.bits.items() if bits == 5]
    layers = "; ".join(f"{n}: {m} blocks, {sensitivity[n][3]} or {sensitivity[n][5]}" for n, m in blocks.items())
    listed = "; ".join(
        f"{' and '.join(five) or 'none'}: {spent} crossbars, sum {value}" for value, spent, five in fitting
    )
    return Drawn(
        "Three layers may have 3 bits (2 crossbars for a block) or 5 bits (4 crossbars). Their sensitivities with 3 "
        f"and 5 bits: {layers}. The budget is {budget} crossbars. Which layers get 5 bits so that the sum of "
        "sensitivities is least, and what is it?",
        {"5 bits": " and ".join(chosen), "least sum": int(found.sensitivity)},
        f"With 3 bits everywhere {total} crossbars. Choices of layers with 5 bits that fit the budget, best first: "
        f"{listed}.",
    )


@question(10, 2, "Bits for nothing")
def bits_for_nothing(draw: Random) -> Drawn:
    cell_bits, polarity, bits = draw.choice((2, 3, 4)), draw.choice((1, 2)), draw.randrange(3, 12)
    crossbar = hardware(crossbar_cell_bits=cell_bits, crossbar_polarity=polarity).crossbar
    slices = bit_slices(bits, crossbar)
    sign = polarity - 1
    by_hand = up(bits - sign, cell_bits)
    return Drawn(
        f"Cells hold {cell_bits} bits, and signs are stored with polarity {polarity}. How many slices does a "
        f"weight of {bits} bits take, and what is the largest number of bits that takes no more?",
        {"slices": slices, "bits": max(b for b in range(bits, bits + 9) if bit_slices(b, crossbar) == slices)},
        f"{'The sign is apart' if sign else 'All bits are stored'}: ⌈{bits - sign}/{cell_bits}⌉ = {by_hand}. Together "
        f"they hold {by_hand}·{cell_bits} = {by_hand * cell_bits} bits{' and the sign' if sign else ''}: "
        f"{by_hand * cell_bits + sign} bits.",
    )


def _table(layers: Sequence[Sequence[tuple[int, int]]]) -> CostTable:
    """Return a table of layers whose candidates have (crossbars, latency) and no energy or area."""
    values = tuple(np.array([(t, 0.0, 0.0, n) for n, t in layer], dtype=float) for layer in layers)
    options = tuple(tuple(Candidate(None, bits) for bits in range(2, 2 + len(own))) for own in layers)
    return CostTable(tuple(f"layer {n}" for n in range(len(layers))), options, values, np.zeros(4))


def _two_layers(draw: Random) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return two layers of three candidates each: the more crossbars, the less latency."""
    return tuple(
        tuple(
            zip(sorted(draw.sample(range(2, 25), 3), reverse=True), sorted(draw.sample(range(1, 12), 3)), strict=True)
        )
        for _ in range(2)
    )


@question(11, 2, "Dominated candidates")
def dominated_candidates(draw: Random) -> Drawn:
    while True:
        costs = list(zip(draw.sample(range(4, 40), 5), draw.sample(range(2, 30), 5), strict=True))
        beaten = {
            "ABCDE"[i]: [
                "ABCDE"[j] for j in range(5) if j != i and all(a <= b for a, b in zip(costs[j], costs[i], strict=True))
            ]
            for i in range(5)
        }
        if 1 <= sum(map(bool, beaten.values())) <= 3:
            break
    front = Problem(_table([costs]), "latency", 40, None, None).kept[0]
    left = [name for name, by in beaten.items() if not by]
    told = ", ".join(f"{name} by {' and '.join(by)}" for name, by in beaten.items() if by)
    return Drawn(
        "A layer has five candidates (crossbars, latency in ms): "
        f"{', '.join(f'{name} {cost}' for name, cost in zip('ABCDE', costs, strict=True))}. Which of them can be the "
        "best for some budget of crossbars?",
        {"candidates": ["ABCDE"[i] for i in front]},
        f"A candidate is out if another is at least as good in both: {told}. What is left, {shown(left)}, is the best "
        "at a budget of its own crossbars.",
    )


@question(11, 3, "The fastest design in a budget")
def fastest_design(draw: Random) -> Drawn:
    layers = _two_layers(draw)
    sums = sorted((a[1] + b[1], a[0] + b[0], a, b) for a, b in itertools.product(*layers))
    budget = draw.choice(sorted(s[1] for s in sums)[2:7])
    best = solve_exact(_table(layers), budget=budget)
    listed = "; ".join(f"{a} with {b}: {n}, {t}" for t, n, a, b in sums)
    by_hand = min(t for t, n, _, _ in sums if n <= budget)
    return Drawn(
        f"Two layers have the candidates (crossbars, ms) {', '.join(map(str, layers[0]))} and "
        f"{', '.join(map(str, layers[1]))}. What is the least latency, layer after layer, of a design with at most "
        f"{budget} crossbars?",
        {"latency [ms]": int(best.value)},
        f"All pairs, with their crossbars and latency, fastest first: {listed}. The first within {budget} crossbars "
        f"takes {by_hand} ms.",
    )


@question(12, 4, "A bound by a price")
def bound_by_a_price(draw: Random) -> Drawn:
    while True:
        layers = _two_layers(draw)
        budget = draw.choice(sorted(a[0] + b[0] for a, b in itertools.product(*layers))[2:7])
        price = draw.choice((0.1, 0.2, 0.25, 0.4, 0.5))
        best = min(a[1] + b[1] for a, b in itertools.product(*layers) if a[0] + b[0] <= budget)
        cheapest = [min(t + price * n for n, t in layer) for layer in layers]
        by_hand = sum(cheapest) - price * budget
        if by_hand > 0.5:
            break
    table = _table(layers)
    costs = table.evaluate(np.array(list(itertools.product(range(3), repeat=2))))
    bound = float((costs.latency + price * costs.crossbars).min()) - price * budget
    optimum = solve_exact(table, budget=budget).value
    return Drawn(
        f"Two layers have the candidates (crossbars, ms) {', '.join(map(str, layers[0]))} and "
        f"{', '.join(map(str, layers[1]))}; at most {budget} crossbars are allowed. Which lower bound of the latency "
        f"follows from a price of {price} ms for a crossbar? What is the optimum, and how far is it above this bound?",
        {"bound [ms]": bound, "optimum [ms]": int(optimum), "above the bound [%]": 100 * (optimum / bound - 1)},
        f"With the price the cheapest candidates cost {shown(cheapest[0])} and {shown(cheapest[1])} ms: "
        f"{terms(cheapest)} − {price}·{budget} = {shown(by_hand)}. The fastest pair within the budget takes {best} "
        f"ms: {shown(100 * (best / by_hand - 1))}% above.",
    )


@question(13, 3, "The head of a network")
def head_of_a_network(draw: Random) -> Drawn:
    name, classes, factor = (
        draw.choice(("resnet18", "resnet50", "resnet101")),
        100 * draw.randrange(2, 40),
        draw.randrange(150, 350) / 10,
    )
    network, bits = Workload.load(name).with_classes(classes), draw.choice((3, 5, 7))
    dense = map_crossbars(network, hardware())
    head = map_crossbars(network, hardware(), bits=bits).layers[-1]
    budget, inputs, slices = math.floor(dense.crossbars / factor), head.rows, up(bits - 1, 2)
    blocks = up(inputs, 256) * up(classes, 256)
    return Drawn(
        f"`{name}` with {classes} classes takes {shown(dense.crossbars)} crossbars dense at 32 bits (256×256, 2-bit "
        f"cells, polarity 2). Its head reads {inputs} features, stays dense and gets {bits} bits. How many blocks and "
        f"crossbars does it take, and which share is that of the budget at a factor of {factor}?",
        {"blocks": head.blocks, "crossbars": head.crossbars, "share [%]": 100 * head.crossbars / budget},
        f"⌈{inputs}/256⌉·⌈{classes}/256⌉ = {blocks} blocks, ⌈{bits - 1}/2⌉·2 = {2 * slices} crossbars for each: "
        f"{shown(2 * slices * blocks)}. The budget is ⌊{dense.crossbars}/{factor}⌋ = {budget}: "
        f"{shown(200 * slices * blocks / budget)}%.",
    )


@question(13, 3, "The factor taken apart")
def factor_apart(draw: Random) -> Drawn:
    name, rows, bits = (
        draw.choice(("resnet18", "resnet50", "resnet101")),
        draw.choice((512, 768, 1024, 2048)),
        draw.choice((3, 5, 9)),
    )
    network = Workload.load(name)
    design = Design.uniform(network, rows, 256)
    dense, few, small = (map_crossbars(network, hardware(), d, b) for d, b in (({}, 32), ({}, bits), (design, bits)))
    slices, ratio = up(bits - 1, 2), dense.blocks / small.blocks
    factor = 16 / slices * ratio
    return Drawn(
        f"`{name}` has {dense.blocks} crossbar-sized blocks dense and {small.blocks} with {rows}×256 epitomes. Cells "
        f"have 2 bits, polarity is 2. Which factor does the design reach with {bits}-bit weights against the dense "
        "network with 32 bits? Which part of it is due to the epitomes, and which share of its logarithm?",
        {
            "factor": dense.crossbars / small.crossbars,
            "due to epitomes": few.crossbars / small.crossbars,
            "share of the epitomes": math.log(few.crossbars / small.crossbars)
            / math.log(dense.crossbars / small.crossbars),
        },
        f"⌈31/2⌉/⌈{bits - 1}/2⌉ = 16/{slices} = {shown(16 / slices)} are due to the bits, "
        f"{dense.blocks}/{small.blocks} = {shown(ratio)} to the epitomes, together {shown(factor)}. ln "
        f"{shown(ratio)}/ln {shown(factor)} = {shown(math.log(ratio) / math.log(factor))}.",
    )
