"""Questions on chapters 15 to 20: rivals, errors of the hardware, other networks, sensitivity, a simulator."""

import functools
import math
import statistics
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload
from epimlib.lab.studies import results
from epimlib.pim.evaluate import evaluate
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import map_layer
from epimlib.teach.bank import Drawn, alone, conv, hardware, question, shown, terms, up

if TYPE_CHECKING:
    import pandas as pd


@question(15, 3, "Squeezed crossbars")
def squeezed_crossbars(draw: Random) -> Drawn:
    from epimlib.rivals.pruning import squeezed_blocks

    rows, high = draw.choice(((6, 3), (6, 2), (8, 4), (9, 3)))
    used = np.zeros((rows, 4), dtype=bool)
    cells = sorted(draw.sample(range(rows * 4), rows))
    used.flat[cells] = True
    crossbar = hardware(crossbar_rows=high, crossbar_cols=2).crossbar
    picture = "\n".join("    " + " ".join("x" if cell else "." for cell in row) for row in used)
    tall = [sum(any(row[c : c + 2]) for row in used.tolist()) for c in (0, 2)]
    flat = [sum(any(used[r : r + high, c]) for c in range(4)) for r in range(0, rows, high)]
    by_rows, by_cols = sum(up(n, high) for n in tall), sum(up(n, 2) for n in flat)
    return Drawn(
        f"Pruning has left the weights marked x in this matrix:\n\n{picture}\n\nCrossbars have {high} rows and 2 "
        "columns. How many does the matrix take without squeezing, and how many if rows move within strips of two "
        f"columns or columns within strips of {high} rows, whichever needs fewer?",
        {"before": squeezed_blocks(np.ones_like(used), 1, crossbar), "squeezed": squeezed_blocks(used, 1, crossbar)},
        f"Before: {rows // high}·2 = {rows // high * 2}. Strips of two columns have {shown(tall)} rows in use: "
        f"{terms([up(n, high) for n in tall])} = {by_rows} crossbars. Strips of {high} rows have {shown(flat)} "
        f"columns in use: {terms([up(n, 2) for n in flat])} = {by_cols}. The smaller number counts: "
        f"{min(by_rows, by_cols)}.",
    )


@question(15, 3, "A low-rank layer")
def low_rank_layer(draw: Random) -> Drawn:
    inp, out, rank, size = (
        draw.choice((128, 192, 256)),
        draw.choice((128, 256, 384)),
        draw.randrange(16, 128),
        draw.choice((64, 128)),
    )
    crossbar = hardware(size).crossbar
    whole, first, second = (
        map_layer(conv(*s), None, crossbar, 1).blocks for s in ((inp, out, 3), (inp, rank, 3), (rank, out, 1))
    )
    fit = size // 9
    counts = up(inp, fit) * up(out, size), up(inp, fit) * up(rank, size), up(rank, size) * up(out, size)
    return Drawn(
        f"A 3×3 convolution from {inp} to {out} channels is replaced by a 3×3 one to {rank} channels and a 1×1 one "
        f"from them (rank {rank}). How many blocks of {size}×{size} cells does it take before and after (channel "
        "packing)?",
        {"before": whole, "after": first + second},
        f"⌊{size}/9⌋ = {fit} channels on a crossbar. Before: ⌈{inp}/{fit}⌉·⌈{out}/{size}⌉ = {counts[0]}. After: "
        f"⌈{inp}/{fit}⌉·⌈{rank}/{size}⌉ = {counts[1]} and ⌈{rank}/{size}⌉·⌈{out}/{size}⌉ = {counts[2]}, together "
        f"{counts[1] + counts[2]}.",
    )


@question(15, 3, "Is that a difference?")
def is_that_a_difference(draw: Random) -> Drawn:
    study = draw.choice(("cifar10", "fashion-mnist"))
    table = _study(study)
    runs = {run: own["accuracy"].tolist() for run, own in table.groupby("run", sort=True) if len(own) == 3}
    while True:
        names = draw.sample(sorted(runs), 2)
        first, second = (runs[name] for name in names)
        doubt = math.sqrt((statistics.variance(first) + statistics.variance(second)) / 3)
        gap = statistics.fmean(first) - statistics.fmean(second)
        if abs(gap) > 0.05 and doubt > 0.02 and not 0.95 < abs(gap) / (2 * doubt) < 1.05:
            break
    means = [float(own) for own in table[table["run"].isin(names)].groupby("run")["accuracy"].mean().loc[names]]
    errors = table[table["run"].isin(names)].groupby("run")["accuracy"].sem()
    spreads = [shown(statistics.stdev(own)) for own in (first, second)]
    return Drawn(
        f"Two networks of the study `{study}` (data/results/{study}) were trained with three seeds. Accuracies [%]: "
        f"{names[0]} {shown(first)}; {names[1]} {shown(second)}. What is the difference of the means, what its "
        "standard error, and is it beyond two of these?",
        {
            "difference": means[0] - means[1],
            "standard error": math.hypot(*errors),
            "beyond two": "yes" if abs(means[0] - means[1]) > 2 * math.hypot(*errors) else "no",
        },
        f"The means differ by {shown(gap)}; the standard deviations are {spreads[0]} and {spreads[1]}. "
        f"√(({spreads[0]}² + {spreads[1]}²)/3) = {shown(doubt)}. {shown(abs(gap))} "
        f"{'>' if abs(gap) > 2 * doubt else '<'} {shown(2 * doubt)}: {'yes' if abs(gap) > 2 * doubt else 'no'}. Three "
        "seeds are few: the deviations are themselves uncertain.",
    )


@functools.cache
def _study(name: str) -> "pd.DataFrame":
    """Return the records of a study."""
    return results(name)


def _converted(step: float, last: int, currents: Sequence[int]) -> list[int]:
    """Return the codes of a converter with codes from -last - 1 to last."""
    return [max(-last - 1, min(last, round(current / step))) for current in currents]


@question(16, 3, "An ADC for the full range")
def adc_for_the_range(draw: Random) -> Drawn:
    from epimlib.datapath.analog import adc_step, code_limits, full_scale

    rows, cell_bits, bits = draw.choice((128, 256)), draw.choice((2, 3)), draw.choice((6, 7, 8))
    currents = [draw.randrange(-30, 31) for _ in range(4)]
    machine = hardware(rows, crossbar_cell_bits=cell_bits, dac_per_crossbar=rows, adc_bits=bits)
    step, most, last = adc_step("max", machine), rows * (2**cell_bits - 1), 2 ** (bits - 1) - 1
    codes = _converted(step, code_limits(machine)[1], currents)
    by_hand = _converted(most / last, last, currents)
    worth = [code << t for t, code in enumerate(by_hand)]
    return Drawn(
        f"A pair of crossbars has {rows} word lines, all driven together, cells of {cell_bits} bits, a DAC of one bit "
        f"and an ADC of {bits} bits with the rule *max*. What is its step? A column delivers the currents "
        f"{shown(currents)} in four pulses, least significant first. Which codes are read, and what does "
        "shift-and-add make of them? What would be exact?",
        {
            "largest current": full_scale(machine),
            "step": step,
            "codes": codes,
            "result": step * sum(code << t for t, code in enumerate(codes)),
            "exact": sum(current << t for t, current in enumerate(currents)),
        },
        f"{rows}·{2**cell_bits - 1} = {shown(most)}, the last code is {last}: {shown(most)}/{last} = "
        f"{shown(most / last)}. The codes are {shown(by_hand)}, worth 1, 2, 4 and 8: {terms(worth)} = {sum(worth)} "
        f"steps, {shown(sum(worth) * most / last)}. Exactly: {terms([c << t for t, c in enumerate(currents)])} = "
        f"{sum(c << t for t, c in enumerate(currents))}.",
    )


@question(16, 2, "A clipped sum")
def clipped_sum(draw: Random) -> Drawn:
    from epimlib.datapath.analog import adc_step, code_limits

    bits = draw.choice((4, 5, 6))
    last = 2 ** (bits - 1) - 1
    currents = [draw.randrange(-2 * last, 2 * last) for _ in range(3)] + [last + draw.randrange(2, 9)]
    machine = hardware(adc_bits=bits)
    low, high = code_limits(machine)
    codes = [max(low, min(high, round(current / adc_step("lossless", machine)))) for current in currents]
    by_hand = _converted(1, last, currents)
    lost = sum(current << t for t, current in enumerate(currents)) - sum(code << t for t, code in enumerate(by_hand))
    return Drawn(
        f"An ADC of {bits} bits behind a pair of crossbars takes one step for one unit of current (*lossless*). A "
        f"column delivers {shown(currents)} in four pulses, least significant first. Which codes are read, and how "
        "much is the sum wrong by?",
        {
            "codes": codes,
            "error": sum((code - current) << t for t, (code, current) in enumerate(zip(codes, currents, strict=True))),
        },
        f"Codes go from {-last - 1} to {last}; what is beyond is clipped: {shown(by_hand)}. Weighted by 1, 2, 4 and 8 "
        f"the sum is {terms([code << t for t, code in enumerate(by_hand)])} instead of "
        f"{terms([c << t for t, c in enumerate(currents)])}: an error of {shown(-lost)}.",
    )


@question(17, 4, "Bits of a lossless ADC")
def bits_of_the_adc(draw: Random) -> Drawn:
    import torch

    from epimlib.datapath import compile

    dacs, cell_bits, dac_bits = draw.choice((64, 128, 256)), draw.randrange(1, 5), draw.randrange(1, 4)
    machine = hardware(crossbar_cell_bits=cell_bits, dac_bits=dac_bits, dac_per_crossbar=dacs)
    plan = EpitomeSpec.for_crossbars(64, 96, 3, rows=512, cols=32, wrap=1).plan()
    programs = (
        compile(None, torch.ones(32, 96, 3, 3), machine, 3, 6),
        compile(plan, torch.ones(plan.spec.epitome), machine, 3, 6),
    )
    lines = [max(len(read.lines) for r in program.rounds for read in r.reads) for program in programs]
    worth, by_hand = (2**cell_bits - 1) * (2**dac_bits - 1), (min(dacs, 252), dacs // 16 * 9)
    return Drawn(
        f"Crossbars have 256 word lines and {dacs} {dac_bits}-bit DACs, on {cell_bits}-bit cells; channel packing, "
        "polarity 2. What is the largest current of a 3×3 layer of many channels, and how many bits does an ADC need "
        "that never clips (sign included)? And for an epitome with a 4×4 window?",
        {
            "current, dense": lines[0] * worth,
            "bits, dense": 1 + (lines[0] * worth).bit_length(),
            "current, epitome": lines[1] * worth,
            "bits, epitome": 1 + (lines[1] * worth).bit_length(),
        },
        f"A cell under a pulse delivers up to {2**cell_bits - 1}·{2**dac_bits - 1} = {worth}. Dense: 28 channels are "
        f"252 lines, at most {by_hand[0]} are read together: {shown(by_hand[0] * worth)}, 1 + ⌈log₂ "
        f"{by_hand[0] * worth + 1}⌉ = {1 + math.ceil(math.log2(by_hand[0] * worth + 1))} bits. Epitome: {dacs} lines "
        f"hold {dacs // 16} channels of 16, of which a patch drives 9: {by_hand[1]} lines, "
        f"{shown(by_hand[1] * worth)}, 1 + ⌈log₂ {by_hand[1] * worth + 1}⌉ = "
        f"{1 + math.ceil(math.log2(by_hand[1] * worth + 1))} bits.",
    )


@question(18, 3, "A mobile block")
def mobile_block(draw: Random) -> Drawn:
    inp, expand, size = draw.choice((24, 32, 48, 64, 96, 160)), draw.choice((4, 6)), draw.choice((128, 256))
    wide, crossbar = inp * expand, hardware(size).crossbar
    layers = conv(inp, wide), conv(wide, wide, 3, groups=wide), conv(wide, inp)
    blocks = [map_layer(layer, None, crossbar, 1).blocks for layer in layers]
    by_hand = up(inp, size) * up(wide, size), up(wide, size // 9), up(wide, size) * up(inp, size)
    return Drawn(
        f"A block of a mobile network expands {inp} channels to {wide} (1×1), applies a depthwise 3×3 convolution, "
        f"and goes back to {inp} (1×1). Crossbars have {size}×{size} cells. How many blocks do the three layers take, "
        "and which factor can epitomes reach at most?",
        {"blocks": blocks, "factor": sum(blocks) / (blocks[1] + 2)},
        f"1×1: ⌈{inp}/{size}⌉·⌈{wide}/{size}⌉ = {by_hand[0]}. Depthwise: ⌊{size}/9⌋ = {size // 9} channels on a "
        f"crossbar, ⌈{wide}/{size // 9}⌉ = {by_hand[1]}. Back: {by_hand[2]}. In order {shown(list(by_hand))}. The 1×1 "
        f"layers become one block each at best: {sum(by_hand)}/({by_hand[1]} + 2) = "
        f"{shown(sum(by_hand) / (by_hand[1] + 2))}.",
    )


@question(18, 3, "A layer of a transformer")
def transformer_layer(draw: Random) -> Drawn:
    inp, n_out, cols = draw.choice((128, 192, 256)), draw.randrange(2, 7), draw.choice((128, 256))
    out = n_out * cols
    spec = EpitomeSpec(out, inp, 1, (cols, inp, 1, 1), (cols, inp // 2), wrap="full")
    plan, crossbar = spec.plan(), hardware().crossbar
    blocks = [map_layer(conv(inp, out), s, crossbar, 1).blocks for s in (None, spec)]
    return Drawn(
        f"A linear layer of {inp} inputs and {out} outputs has an epitome of {inp} inputs and {cols} outputs that is "
        f"used in blocks of {inp // 2} inputs, fully wrapped. How many blocks of 256×256 cells does it take, dense "
        "and as an epitome? How many applications and rounds has it, and which share of the outputs is its own?",
        {
            "dense": blocks[0],
            "epitome": blocks[1],
            "applications": plan.applications,
            "rounds": plan.rounds,
            "own [%]": 100 * plan.own_channels / out,
        },
        f"⌈{inp}/256⌉·⌈{out}/256⌉ = {up(inp, 256) * up(out, 256)} and {up(inp, 256) * up(cols, 256)}. {n_out} output "
        f"blocks by 2 input blocks are {2 * n_out} applications; fully wrapped 2 rounds are left. {cols}/{out} = "
        f"{shown(100 * cols / out)}%.",
    )


@question(19, 2, "A cheaper converter")
def cheaper_converter(draw: Random) -> Drawn:
    name, target = (
        draw.choice(("resnet18", "resnet50")),
        draw.randrange(15, 61),
    )
    share = float(evaluate(Workload.load(name), hardware()).by_component().loc["ADC", "share of energy"])
    rounded = round(share, 4)
    factor = target * (1 - rounded) / (rounded * (100 - target))
    cheap = hardware(adc_power=factor * hardware().adc.power)
    reached = float(evaluate(Workload.load(name), cheap).by_component().loc["ADC", "share of energy"])
    return Drawn(
        f"The ADCs take {rounded} of the energy of `{name}`. By which factor must their power change, all else equal, "
        f"for that share to become {target}%?",
        {"factor": round(factor, 3), "share then [%]": round(100 * reached)},
        f"With a factor f the ADCs take f·{rounded} and all else {shown(1 - rounded)}. f·{rounded}/(f·{rounded} + "
        f"{shown(1 - rounded)}) = {target}/100 gives f = {target}·{shown(1 - rounded)}/({rounded}·{100 - target}) = "
        f"{shown(round(factor, 3))}. With it the share is {target}%.",
    )


@question(19, 3, "A ratio of energies")
def ratio_of_energies(draw: Random) -> Drawn:
    name, rows, cols = (
        draw.choice(("resnet18", "resnet50")),
        draw.choice((256, 512, 1024, 2048)),
        draw.choice((128, 256)),
    )
    network, machine = Workload.load(name), hardware(reuse=False)
    design = Design.uniform(network, rows, cols, wrap=1)
    dense, small = (evaluate(network, machine, d).by_component()["energy [J]"] for d in ({}, design))
    groups = {
        "ADC": ["ADC"],
        "leakage": ["leakage"],
        "the rest": [part for part in dense.index if part not in ("ADC", "leakage")],
    }
    shares = {group: round(float(dense[parts].sum() / dense.sum()), 5) for group, parts in groups.items()}
    growth = {
        group: round(float(small.reindex(parts).sum() / dense[parts].sum()), 4) for group, parts in groups.items()
    }
    told = ", ".join(f"{group} {shares[group]} ({growth[group]} times as much)" for group in groups)
    parts = [shares[group] * growth[group] for group in groups]
    return Drawn(
        f"The energy of dense `{name}` falls to its components in these shares; in brackets, how much more each takes "
        f"with unwrapped {rows}×{cols} epitomes without reuse: {told}. By which factor does the whole energy grow? "
        "What would it be if conversions cost nothing?",
        {
            "factor": round(float(small.sum() / dense.sum()), 2),
            "without conversions": round(float(small.drop("ADC").sum() / dense.drop("ADC").sum()), 2),
        },
        f"The factor is the mean of the factors, weighted by the shares: {terms(parts)} = "
        f"{shown(round(sum(parts), 2))}. Without the ADC ({terms(parts[1:])})/(1 − {shares['ADC']}) = "
        f"{shown(round(sum(parts[1:]) / (1 - shares['ADC']), 2))}.",
    )


@question(20, 3, "A conversion in the simulator")
def conversion_in_the_simulator(draw: Random) -> Drawn:
    power, rate = draw.randrange(10, 40) / 10, draw.choice((0.8, 1.0, 1.25, 2.0))
    bits, more = draw.choice((4, 5, 6)), draw.choice((7, 8, 9))
    preset = Hardware.preset("mnsim-2024").replace({"adc.power": f"{power} mW", "adc.rate": f"{rate} GHz"})
    network = alone(conv(64, 64, 3, 8))
    energies = [
        float(evaluate(network, preset.replace({"adc.bits": b})).by_component().loc["ADC", "energy [J]"])
        for b in (bits, more)
    ]
    one = preset.adc.power / preset.adc.rate * 1e12
    return Drawn(
        f"An ADC of {bits} bits takes {power} mW at {rate} GS/s. What does a conversion cost by power and rate? What "
        "does MNSIM charge, which counts two sample periods more than there are bits? By which factor does MNSIM's "
        f"energy grow if the converter gets {more} bits and nothing else changes?",
        {"a conversion [pJ]": one, "in MNSIM [pJ]": (bits + 2) * one, "factor": energies[1] / energies[0]},
        f"{power}/{rate} = {shown(power / rate)} pJ. MNSIM: {bits} + 2 = {bits + 2} periods, "
        f"{shown((bits + 2) * power / rate)} pJ. With {more} bits ({more} + 2)/({bits} + 2) = "
        f"{shown((more + 2) / (bits + 2))} times as much.",
    )
