"""Questions on chapters 6 to 8: what an epitome costs, its index tables, and reuse."""

import itertools
import math
from dataclasses import replace
from random import Random

from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload
from epimlib.pim.evaluate import evaluate
from epimlib.pim.events import layer_events
from epimlib.pim.pipeline import pipeline
from epimlib.pim.tables import Tables
from epimlib.teach.bank import Drawn, alone, conv, hardware, question, shown, up


@question(6, 3, "Steps of a dense layer")
def steps_of_a_layer(draw: Random) -> Drawn:
    size, out, kernel = draw.choice((7, 14, 28)), draw.choice((64, 128, 192)), draw.choice((1, 3))
    dacs, adcs, bits, dac_bits = (
        draw.choice((64, 128)),
        draw.choice((8, 16, 32)),
        draw.choice((4, 6, 8)),
        draw.choice((1, 2)),
    )
    machine = hardware(dac_per_crossbar=dacs, adc_per_crossbar=adcs, dac_bits=dac_bits)
    steps = layer_events(conv(256, out, kernel, size), None, machine, 9, bits).steps
    cycles, groups, turns = up(bits, dac_bits), up(256 // kernel**2 * kernel**2, dacs), up(out, adcs)
    return Drawn(
        f"A {kernel}×{kernel} convolution from 256 to {out} channels has {size}×{size} output positions and "
        f"{bits}-bit inputs. Its 256×256 crossbars have {dacs} {dac_bits}-bit DACs and {adcs} ADCs (channel "
        "packing). How many analog steps follow one another? Why does it not matter how many row blocks and slices "
        "there are?",
        {"steps": steps},
        f"⌈{bits}/{dac_bits}⌉ = {cycles} cycles, {groups} row groups on a full crossbar, {turns} columns for an ADC: "
        f"{size}²·{cycles}·{groups}·{turns} = {shown(size**2 * cycles * groups * turns)}. Row blocks and slices lie "
        "on crossbars of their own, which work at the same time.",
    )


@question(6, 4, "Conversions of an epitome")
def conversions_of_an_epitome(draw: Random) -> Drawn:
    inp, out, size = draw.choice((512, 1024, 2048)), draw.choice((512, 1024)), draw.choice((7, 14))
    bits, activation, dacs = draw.choice((3, 5, 9)), draw.choice((4, 8, 9)), draw.choice((64, 128, 256))
    machine = hardware(dac_per_crossbar=dacs, reuse=False)
    layer, spec = conv(inp, out, 1, size), EpitomeSpec(out, inp, 1, (256, 256, 2, 2))
    dense, epitome = (layer_events(layer, s, machine, bits, activation).adc_conversions for s in (None, spec))
    slices, groups = up(bits - 1, 2), 256 // dacs
    common = size**2 * activation * slices
    by_hand = common * inp // 256 * groups * out, common * (inp // 256) * (out // 256) * 4 * groups * 256
    return Drawn(
        f"A 1×1 convolution from {inp} to {out} channels with {size}×{size} positions has {bits}-bit weights and "
        f"{activation}-bit inputs. Crossbars of 256×256 2-bit cells have {dacs} DACs of one bit; polarity 2, channel "
        f"packing. Count the conversions of the dense layer and of its epitome {spec.epitome} without reuse.",
        {"dense": dense, "epitome": epitome, "epitome / dense": epitome / dense},
        f"{size}²·{activation}·{slices} (positions, cycles, slices) = {shown(common)} for each row group and column. "
        f"Dense: {inp // 256} row blocks of {groups} row groups, {out} columns: {shown(by_hand[0])}. Epitome: "
        f"{inp // 256}·{out // 256} rounds; each drives every fourth line of 4 crossbars, {4 * groups} row groups, "
        f"and senses 256 columns: {shown(by_hand[1])}. That is {shown(by_hand[1] / by_hand[0])} times as many: three "
        "of four rows are silent.",
    )


@question(6, 3, "Energy of the converters")
def energy_of_converters(draw: Random) -> Drawn:
    inp, out, size, bits = (
        256 * draw.randrange(1, 5),
        draw.choice((128, 256, 512)),
        draw.choice((14, 28)),
        draw.choice((3, 5, 7)),
    )
    power, rate = draw.choice((1.2, 2.0, 3.5)), draw.choice((0.8, 1.0, 1.25))
    machine = hardware(adc_power=f"{power} mW", adc_rate=f"{rate} GHz")
    report = evaluate(alone(conv(inp, out, 1, size)), machine, bits=bits, activation_bits=8)
    count = size**2 * 8 * up(bits - 1, 2) * inp // 256 * 2 * out
    return Drawn(
        f"A 1×1 convolution from {inp} to {out} channels has {size}×{size} positions, {bits}-bit weights (2-bit "
        "cells, polarity 2) and 8-bit inputs (a DAC of one bit). Crossbars have 256×256 cells and are read in two row "
        f"groups. A successive-approximation ADC takes {power} mW at {rate} GS/s. What does a conversion cost, and "
        "what do all conversions of an image?",
        {
            "a conversion [pJ]": machine.adc.power / machine.adc.rate * 1e12,
            "all [µJ]": 1e6 * float(report.by_component().loc["ADC", "energy [J]"]),
        },
        f"{power} mW/{rate} GS/s = {shown(power / rate)} pJ. {size}²·8·{up(bits - 1, 2)}·{inp // 128}·{out} "
        f"(positions, cycles, slices, row groups, columns) = {shown(count)} conversions: "
        f"{shown(count * power / rate / 1e6)} µJ.",
    )


@question(6, 3, "Three layers at once")
def pipeline_of_three(draw: Random) -> Drawn:
    size, times = draw.choice((4, 7, 10, 14)), [draw.randrange(2, 30) * 10 for _ in range(3)]
    layers = tuple(
        replace(conv(8, 8, 1, size), name=f"layer {n}", inputs=(f"layer {n - 1}" if n else "input",)) for n in range(3)
    )
    finish = pipeline(Workload("three", (8, size, size), layers), [time * 1e-9 for time in times])[-1][1]
    total, most = sum(times), max(times)
    return Drawn(
        f"Three 1×1 convolutions follow one another, each with {size}×{size} positions. A position takes {times[0]}, "
        f"{times[1]} and {times[2]} ns. How long does an image take layer after layer, and how long if each position "
        "starts as soon as its input is there?",
        {"layer after layer [ns]": size**2 * total, "pipelined [ns]": round(finish * 1e9)},
        f"{size**2}·({' + '.join(map(str, times))}) = {shown(size**2 * total)} ns. Pipelined, the first position "
        f"takes {total} ns through all three; after it the slowest layer sets the pace: {total} + "
        f"{size**2 - 1}·{most} = {shown(total + (size**2 - 1) * most)} ns.",
    )


@question(6, 2, "When the next layer starts")
def start_of_the_next(draw: Random) -> Drawn:
    size, time, kernel = draw.randrange(7, 57), draw.randrange(2, 30) * 10, draw.choice((3, 5))
    first = replace(conv(8, 8, 1, size), name="first")
    layers = (first, replace(conv(8, 8, kernel, size), name="second", inputs=("first",)))
    start = pipeline(Workload("two", (8, size, size), layers), [time * 1e-9, 1e-9])[1][0]
    reach = kernel // 2
    return Drawn(
        f"A layer puts out {size}×{size} positions, row by row, {time} ns each. A {kernel}×{kernel} convolution with "
        f"padding {reach} reads them. After how many positions, and after how many ns, can it compute its first "
        "position?",
        {"positions": round(start / (time * 1e-9)), "start [ns]": round(start * 1e9)},
        f"The window of the first position ends in row {reach} and column {reach} (the rest is padding): "
        f"{reach}·{size} + {reach + 1} = {reach * size + reach + 1} positions, "
        f"{shown((reach * size + reach + 1) * time)} ns.",
    )


@question(7, 3, "Word lines of a round")
def lines_of_a_round(draw: Random) -> Drawn:
    window, b_in = draw.choice((4, 5, 6)), draw.randrange(2, 5)
    spec = EpitomeSpec(16, b_in * 8, 3, (4, b_in, window, window))
    tables, number = Tables.from_plan(spec.plan()), draw.randrange(1, 8)
    a, b, y, x = spec.plan().patches[number].offset
    lines, first = tables.word_lines(number), (b * window + y) * window + x
    last = first + (b_in - 1) * window**2 + 2 * window + 2
    return Drawn(
        f"A round of a 3×3 layer with the epitome {spec.epitome} and blocks of {b_in} input channels uses the patch "
        f"at the offset (a, b, y, x) = {(a, b, y, x)}. Which number does IFRT hold? How many word lines are driven, "
        "and which is the last of them?",
        {"first line (IFRT)": int(tables.ifrt[number, 0]), "lines": len(lines), "last line": int(lines[-1])},
        f"(b·{window} + y)·{window} + x = ({b}·{window} + {y})·{window} + {x} = {first}. {b_in} channels of 3×3 "
        f"lines: {9 * b_in}. The last one is {b_in - 1} channels of {window**2} lines, two rows and two columns "
        f"further: {first} + {(b_in - 1) * window**2} + {2 * window} + 2 = {last}.",
    )


@question(7, 3, "Size of the index tables")
def size_of_tables(draw: Random) -> Drawn:
    b_out, b_in = draw.choice((16, 32, 64)), draw.choice((8, 16, 32))
    n_out, n_in = draw.choice((2, 4)), draw.choice((2, 3, 4))
    spec = EpitomeSpec(b_out * n_out, b_in * n_in, 3, (b_out, b_in, 4, 4))
    tables = Tables.from_plan(spec.plan())
    most = {name: [int(n) for n in getattr(tables, name.lower()).max(axis=0)] for name in ("IFAT", "IFRT", "OFAT")}
    widths = [int(n).bit_length() for columns in most.values() for n in columns]
    told = ", ".join(f"{name} {tuple(columns)}" for name, columns in most.items())
    return Drawn(
        f"A layer with {n_out}×{n_in} blocks and no wrapping has one round for each. The largest entries of its "
        f"tables are {told}, column by column. Every column is as wide as its largest entry needs. How many bits does "
        "a round take, and how many the tables?",
        {"bits of a round": tables.bits // tables.rounds, "bits": tables.bits},
        f"The columns take {shown(widths)} bits, together {sum(widths)}. {n_out}·{n_in} = {n_out * n_in} rounds: "
        f"{shown(n_out * n_in * sum(widths))} bits.",
    )


@question(7, 3, "Words that are fetched")
def fetched_words(draw: Random) -> Drawn:
    size, kernel, stride, inp = draw.randrange(6, 15), draw.choice((3, 5)), draw.choice((1, 2)), draw.choice((3, 8, 16))
    reads = layer_events(conv(inp, 8, kernel, size, stride), None, hardware(), 9, 9).input_reads
    outs, pad = up(size, stride), kernel // 2
    pairs = sum(0 <= stride * q + u - pad < size for q, u in itertools.product(range(outs), range(kernel)))
    return Drawn(
        f"A dense {kernel}×{kernel} convolution with stride {stride} and padding {pad} reads {inp} channels of "
        f"{size}×{size}. Padding is not fetched. How many pairs of a kernel row and an output row lie inside the "
        "feature map, and how many words are fetched for an image?",
        {"pairs": math.isqrt(reads // inp), "words": reads},
        f"{outs} output rows and {kernel} kernel rows are {outs * kernel} pairs; {outs * kernel - pairs} lie outside, "
        f"{pairs} inside. The same along columns, for every channel: {pairs}²·{inp} = {shown(pairs**2 * inp)} words.",
    )


@question(8, 4, "Joins and writes")
def joins_and_writes(draw: Random) -> Drawn:
    n_out, n_in, cols = draw.randrange(2, 9), draw.randrange(2, 6), draw.choice((64, 128, 256))
    out, inp = n_out * cols, 128 * n_in
    layer, spec = conv(inp, out), EpitomeSpec(out, inp, 1, (cols, 128, 1, 1), wrap="full")
    bare, saved = (layer_events(layer, spec, hardware(reuse=reuse), 9, 9) for reuse in (False, True))
    return Drawn(
        f"A 1×1 convolution from {inp} to {out} channels has the epitome {spec.epitome}, fully wrapped. Count, for an "
        "output position, the joins and the writes into the output buffer, without and with reuse. Which share of the "
        "latter writes are copies?",
        {
            "joins without": bare.joins,
            "writes without": bare.output_writes,
            "joins with": saved.joins,
            "writes with": saved.output_writes,
            "copies [%]": 100 * saved.copies / saved.output_writes,
        },
        f"{n_out} output and {n_in} input blocks. Without reuse {n_in - 1}·{out} = {shown((n_in - 1) * out)} joins "
        f"and {n_in}·{out} = {shown(n_in * out)} writes. With reuse {cols} channels are computed: {n_in - 1}·{cols} = "
        f"{shown((n_in - 1) * cols)} joins, {n_in}·{cols} + {out - cols} copies = {shown(n_in * cols + out - cols)} "
        f"writes, {shown(100 * (out - cols) / (n_in * cols + out - cols))}% of them copies.",
    )


@question(8, 2, "Won back")
def won_back(draw: Random) -> Drawn:
    name, rows, cols = (
        draw.choice(("resnet18", "resnet50")),
        draw.choice((512, 1024, 2048)),
        draw.choice((64, 128, 256)),
    )
    network = Workload.load(name)
    uniform = Design.uniform(network, rows, cols)
    design = Design({layer: uniform[layer] for layer in uniform if layer != network.weighted[-1].name})
    runs = [evaluate(network, hardware(reuse=r), d) for r, d in ((True, {}), (False, design), (True, design))]
    dense, bare, saved = (round(run.energy * 1e3, 3) for run in runs)
    return Drawn(
        f"By the cost model `{name}` takes {dense} mJ dense, {bare} mJ with fully wrapped {rows}×{cols} epitomes, and "
        f"{saved} mJ with feature-map reuse. By which factor do wrapped epitomes without reuse raise the energy, and "
        "which share of the additional energy does reuse win back? (More than 100% means: less than dense.)",
        {"factor": bare / dense, "won back [%]": 100 * (bare - saved) / (bare - dense)},
        f"{bare}/{dense} = {shown(bare / dense)}. ({bare} − {saved})/({bare} − {dense}) = "
        f"{bare - saved:.3f}/{bare - dense:.3f} = {shown(100 * (bare - saved) / (bare - dense))}%.",
    )
