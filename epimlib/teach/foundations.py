"""Questions on chapters 1 to 5: memory, crossbars, mapping, epitomes and networks of them."""

import math
from random import Random

import numpy as np

from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload
from epimlib.pim.hardware import Crossbar
from epimlib.pim.mapping import bit_slices, map_crossbars, map_layer, pack
from epimlib.search.problem import copied_channels
from epimlib.teach.bank import Drawn, conv, hardware, question, shown, terms, up

FORMATS = {"int8": (8, 0.3), "fp16": (16, 1.5), "fp32": (32, 4.6)}
"""Bits of a number, and the energy of a multiply-accumulate [pJ] in chapter 1."""


@question(1, 3, "How often a weight is used")
def uses_of_a_weight(draw: Random) -> Drawn:
    inp, out, kernel = draw.choice((64, 128, 256, 512)), draw.choice((64, 128, 256)), draw.choice((1, 3, 5))
    size, dram, form = draw.choice((4, 7, 14, 28)), draw.choice((1300, 2600)), draw.choice(list(FORMATS))
    layer, (bits, mac) = conv(inp, out, kernel, size), FORMATS[form]
    read = bits / 64 * dram
    return Drawn(
        f"A {kernel}×{kernel} convolution from {inp} to {out} channels puts out {size}×{size} positions. Reading 64 "
        f"bits from DRAM takes {shown(dram)} pJ, a MAC in {form} takes {mac} pJ, and every weight is read once. How "
        "many MACs does an image take? How large is the energy of reading relative to that of the arithmetic?",
        {"MACs": layer.macs, "reading / arithmetic": math.prod(layer.weight_shape) * read / (layer.macs * mac)},
        f"|W| = {inp}·{out}·{kernel}² = {shown(inp * out * kernel**2)}, used at {size}² = {size**2} positions: "
        f"{shown(inp * out * kernel**2 * size**2)} MACs. A weight takes {bits}/64·{dram} = {shown(read)} pJ to read "
        f"and is used {size**2} times: {shown(read)}/({mac}·{size**2}) = {shown(read / mac / size**2)}. The size of "
        "the weight has dropped out.",
    )


@question(1, 2, "The smallest batch")
def smallest_batch(draw: Random) -> Drawn:
    name = draw.choice(("resnet18", "resnet50", "resnet101", "mobilenetv2_100"))
    layer = draw.choice([layer for layer in Workload.load(name).weighted if layer.positions < 200])
    dram, (form, (bits, mac)) = draw.choice((1300, 2600)), draw.choice(list(FORMATS.items()))
    ratio = bits / 64 * dram / mac
    batch = math.ceil(ratio / layer.positions)
    high, wide = layer.out_size
    return Drawn(
        f"Layer `{layer.name}` of `{name}` puts out {high}×{wide} positions. A batch of images is processed layer by "
        f"layer, so that a weight read from DRAM ({shown(dram)} pJ for 64 bits) serves all of them. From which batch "
        f"on does reading cost at most as much as the MACs in {form} ({mac} pJ each)?",
        {"smallest batch": batch},
        f"Reading a weight costs {bits}/64·{dram}/{mac} = {shown(ratio)} MACs. It is used {high * wide} times for each "
        f"image, so {shown(ratio)}/{high * wide}, rounded up: {shown(batch)}.",
    )


@question(2, 3, "A weight in cells")
def weight_in_cells(draw: Random) -> Drawn:
    import torch

    from epimlib.datapath.analog import cell_levels

    bits, cell_bits = draw.randrange(6, 10), draw.randrange(1, 4)
    weight = -draw.randrange(2 ** (bits - 2), 2 ** (bits - 1))
    pair, single = (Crossbar(256, 256, cell_bits, polarity, "channel") for polarity in (2, 1))
    slices, offset = bit_slices(bits, pair), 2 ** (bits - 1)
    levels = cell_levels(torch.tensor([[weight]]), bits, pair, slices)[1].flatten().int().tolist()
    digits = [-weight >> cell_bits * k & 2**cell_bits - 1 for k in range(slices)]
    worth = [digit << cell_bits * k for k, digit in enumerate(digits)]
    return Drawn(
        f"Write the {bits}-bit weight {weight} as slices for {cell_bits}-bit cells, least significant first, as it "
        "lies on the crossbars of the negative part (polarity 2). How many cells does the weight take in all with "
        "polarity 2, and how many with an offset (polarity 1)?",
        {"slices": levels, "cells of a pair": 2 * slices, "cells with an offset": bit_slices(bits, single)},
        f"The magnitude {-weight} in base {2**cell_bits} is {shown(digits)}, since {terms(worth)} = {-weight}. The "
        f"sign is not stored: ⌈{bits - 1}/{cell_bits}⌉ = {slices} slices on two crossbars are {2 * slices} cells. With "
        f"the offset {offset} all bits are stored: ⌈{bits}/{cell_bits}⌉ = {up(bits, cell_bits)} cells.",
    )


@question(2, 2, "What an ADC must resolve")
def adc_of_one_crossbar(draw: Random) -> Drawn:
    from epimlib.datapath.analog import full_scale

    rows, cell_bits, dac_bits = draw.choice((48, 64, 96, 128, 200, 256)), draw.randrange(1, 4), draw.randrange(1, 3)
    most = full_scale(hardware(rows, crossbar_cell_bits=cell_bits, dac_bits=dac_bits, dac_per_crossbar=rows))
    by_hand = rows * (2**cell_bits - 1) * (2**dac_bits - 1)
    return Drawn(
        f"{rows} word lines of a crossbar with {cell_bits}-bit cells are driven together by {dac_bits}-bit DACs (one "
        "crossbar, no pair). What is the largest sum of a column, and how many bits must an ADC have to tell all "
        "sums apart?",
        {"largest sum": most, "bits": most.bit_length()},
        f"{rows}·{2**cell_bits - 1}·{2**dac_bits - 1} = {shown(by_hand)}. With zero these are {shown(by_hand + 1)} "
        f"sums: ⌈log₂ {shown(by_hand + 1)}⌉ = {math.ceil(math.log2(by_hand + 1))} bits.",
    )


@question(2, 4, "A product by slices and pulses")
def product_by_hand(draw: Random) -> Drawn:
    import torch

    from epimlib.datapath import compile, run

    inputs, weights = (
        [draw.randrange(1, 8) for _ in range(3)],
        [draw.choice((-1, 1)) * draw.randrange(1, 16) for _ in "abc"],
    )
    program = compile(None, torch.tensor(weights).reshape(1, 3, 1, 1), hardware(adc_bits=10), 5, 3)
    output = int(run(program, torch.tensor(inputs).reshape(3, 1, 1)).output)
    sums = {
        (t, k): sum(
            (x >> t & 1) * (abs(w) >> 2 * k & 3) * (1 if w > 0 else -1) for x, w in zip(inputs, weights, strict=True)
        )
        for t in range(3)
        for k in range(2)
    }
    table = "; ".join(f"pulse {t}, slice {k}: {value}" for (t, k), value in sums.items())
    worth = [value * 2 ** (t + 2 * k) for (t, k), value in sums.items()]
    return Drawn(
        f"Three word lines receive the 3-bit inputs {shown(inputs)}, one bit for each pulse. A column holds the 5-bit "
        f"weights {shown(weights)} in two slices of 2-bit cells, on a pair of crossbars whose currents are subtracted. "
        "Write down the sum of the pair for every pulse and slice, and put the output together.",
        {"output": output},
        f"{table}. Each is worth 2^(t + 2k): {terms(worth)} = {sum(worth)}, and directly "
        f"{terms([x * w for x, w in zip(inputs, weights, strict=True)])} = {output}.",
    )


@question(3, 3, "Blocks and crossbars of a layer")
def blocks_of_a_layer(draw: Random) -> Drawn:
    inp, out, kernel = draw.choice((48, 64, 96, 128, 192, 320)), draw.choice((64, 100, 192, 384)), draw.choice((3, 5))
    size, bits, cell_bits = draw.choice((128, 256, 512)), draw.randrange(3, 10), draw.choice((1, 2, 4))
    machine = hardware(size, crossbar_cell_bits=cell_bits)
    slices, dense = bit_slices(bits, machine.crossbar), machine.replace({"crossbar.packing": "dense"})
    mapped = map_layer(conv(inp, out, kernel), None, machine.crossbar, slices)
    rows, fit, cols = inp * kernel**2, size // kernel**2, up(out, size)
    blocks, by_dense = up(inp, fit) * cols, up(rows, size) * cols
    return Drawn(
        f"A {kernel}×{kernel} convolution from {inp} to {out} channels with {bits}-bit weights lies on crossbars of "
        f"{size}×{size} {cell_bits}-bit cells, polarity 2. How many blocks does it take with dense packing, how "
        "many with channel packing, and how many crossbars are the latter?",
        {
            "blocks, dense packing": map_layer(conv(inp, out, kernel), None, dense.crossbar, slices).blocks,
            "blocks, channel packing": mapped.blocks,
            "crossbars": mapped.crossbars,
        },
        f"{inp}·{kernel}² = {shown(rows)} rows and {out} columns. Dense: ⌈{rows}/{size}⌉·⌈{out}/{size}⌉ = {by_dense}. "
        f"By channels: {fit} of them on a crossbar, ⌈{inp}/{fit}⌉·{cols} = {blocks}. ⌈{bits - 1}/{cell_bits}⌉ = "
        f"{up(bits - 1, cell_bits)} for the slices, 2 for the signs: {blocks}·{up(bits - 1, cell_bits)}·2 = "
        f"{shown(blocks * up(bits - 1, cell_bits) * 2)} crossbars.",
    )


@question(3, 2, "Cells in use")
def cells_in_use(draw: Random) -> Drawn:
    inp, out, size = draw.randrange(20, 200), draw.randrange(20, 300), draw.choice((128, 256))
    mapped = map_layer(conv(inp, out, 3), None, hardware(size).crossbar, 1)
    blocks = up(inp, size // 9) * up(out, size)
    return Drawn(
        f"Which share of the cells of its crossbars ({size}×{size}, channel packing) does a 3×3 convolution from "
        f"{inp} to {out} channels use?",
        {"cells in use [%]": 100 * mapped.utilization},
        f"⌈{inp}/{size // 9}⌉·⌈{out}/{size}⌉ = {blocks} blocks of {shown(size**2)} cells, of which {inp}·9·{out} = "
        f"{shown(inp * 9 * out)} are used: {shown(100 * inp * 9 * out / (blocks * size**2))}%. Slices and signs "
        "cancel.",
    )


@question(3, 3, "A depthwise layer")
def depthwise_layer(draw: Random) -> Drawn:
    channels, kernel, size = draw.randrange(40, 600), draw.choice((3, 5, 7)), draw.choice((128, 256))
    mapped = map_layer(conv(channels, channels, kernel, groups=channels), None, hardware(size).crossbar, 1)
    fit = size // kernel**2
    return Drawn(
        f"A depthwise {kernel}×{kernel} convolution of {channels} channels lies on crossbars of {size}×{size} cells. "
        "How many channels fit one crossbar, how many blocks does the layer take, and which share of a full "
        "crossbar's cells is used?",
        {
            "channels on a crossbar": mapped.packing.together,
            "blocks": mapped.blocks,
            "cells of a full crossbar in use [%]": 100 * mapped.packing.together * kernel**2 / size**2,
        },
        f"A channel takes {kernel**2} rows and a column of its own, and no other may share them: ⌊{size}/{kernel**2}⌋ "
        f"= {fit} channels; the rows are what limits. ⌈{channels}/{fit}⌉ = {up(channels, fit)} blocks. "
        f"{fit}·{kernel**2}/{size}² = {shown(100 * fit * kernel**2 / size**2)}%.",
    )


@question(3, 2, "Where a weight lies")
def place_of_a_weight(draw: Random) -> Drawn:
    inp, size, kernel = draw.choice((64, 128, 256)), draw.choice((128, 256)), draw.choice((3, 5))
    channel, u, v = draw.randrange(20, inp), draw.randrange(kernel), draw.randrange(kernel)
    row = int(EpitomeSpec.dense(1, inp, kernel).plan().index[0, channel, u, v])
    usable = pack(1, inp * kernel**2, 64, kernel**2, hardware(size).crossbar).usable
    fit = size // kernel**2
    return Drawn(
        f"In which row of a layer's matrix is the weight of input channel {channel}, kernel row {u} and kernel column "
        f"{v} of a {kernel}×{kernel} convolution from {inp} channels? In which row block, on which word line does it "
        f"lie, with channel packing on crossbars of {size} word lines? (Everything is counted from 0.)",
        {"row of the matrix": row, "row block": row // usable, "word line": row % usable},
        f"({channel}·{kernel} + {u})·{kernel} + {v} = {shown((channel * kernel + u) * kernel + v)}. A crossbar holds "
        f"{fit} channels, {fit * kernel**2} rows: channel {channel} is in row block {channel // fit}, and its word "
        f"line is ({channel % fit}·{kernel} + {u})·{kernel} + {v} = {(channel % fit * kernel + u) * kernel + v}.",
    )


@question(4, 4, "A plan by hand")
def plan_by_hand(draw: Random) -> Drawn:
    b_out, b_in = draw.choice((2, 4, 8, 16)), draw.choice((2, 4, 8))
    n_out, n_in, wrap = draw.choice(((4, 2, 2), (6, 2, 2), (6, 3, 2), (8, 2, 2), (6, 3, 3), (8, 4, 4), (6, 2, 3)))
    out, inp, kernel = n_out * b_out, n_in * b_in, draw.choice((2, 3))
    spec = EpitomeSpec(out, inp, kernel, (b_out, b_in, kernel + 1, kernel + 1), wrap=wrap)
    plan, elements, small = spec.plan(), out * inp * kernel**2, b_out * b_in * (kernel + 1) ** 2
    return Drawn(
        f"A {kernel}×{kernel} convolution has {inp} input and {out} output channels. Its epitome has the shape "
        f"{spec.epitome}, blocks are as large as it allows, and g = {wrap} consecutive output blocks share a patch. "
        "Find the output and the input blocks, the applications A, the rounds R with reuse, and the compression.",
        {
            "output blocks": spec.grid[0],
            "input blocks": spec.grid[1],
            "applications": plan.applications,
            "rounds": plan.rounds,
            "compression": spec.compression,
        },
        f"{out}/{b_out} = {n_out} output blocks, {inp}/{b_in} = {n_in} input blocks, A = {n_out * n_in}. "
        f"⌈{n_out}/{wrap}⌉ = {up(n_out, wrap)} groups of output blocks differ: R = {n_in}·{up(n_out, wrap)} = "
        f"{n_in * up(n_out, wrap)}. |W|/|E| = {shown(elements)}/{shown(small)} = {shown(elements / small)}.",
    )


@question(4, 3, "Usage counts")
def usage_counts(draw: Random) -> Drawn:
    b_out, b_in, n_out, n_in = (
        draw.choice((2, 4, 8)),
        draw.choice((2, 4)),
        2 * draw.randrange(1, 7),
        draw.choice((2, 4, 8)),
    )
    kernel = draw.choice((3, 5))
    spec = EpitomeSpec(n_out * b_out, n_in * b_in, kernel, (b_out, b_in, kernel + 1, kernel + 1))
    usage, quarter = spec.plan().usage[0, 0], n_out * n_in // 4
    inner = kernel - 1
    return Drawn(
        f"An epitome of shape {spec.epitome} serves a {kernel}×{kernel} convolution of {spec.in_channels} input and "
        f"{spec.out_channels} output channels in blocks of {b_out}×{b_in} channels. Its four patches are used equally "
        "often. How often are a corner, an edge and an inner element of the window used? Check that their mean is the "
        "compression.",
        {
            "corner": int(usage[0, 0]),
            "edge": int(usage[0, 1]),
            "inner": int(usage[1, 1]),
            "compression": spec.compression,
        },
        f"{n_out}·{n_in} = {n_out * n_in} blocks, {quarter} for each patch. A corner lies in one patch: {quarter}. An "
        f"edge in two: {2 * quarter}. The inner elements in all four: {4 * quarter}. (4·{quarter} + "
        f"{4 * inner}·{2 * quarter} + {inner**2}·{4 * quarter})/{(kernel + 1) ** 2} = "
        f"{shown(4 * quarter * kernel**2 / (kernel + 1) ** 2)}.",
    )


@question(4, 2, "The price of compression")
def price_of_compression(draw: Random) -> Drawn:
    out, inp, e_in = 2 ** draw.randrange(6, 10), 2 ** draw.randrange(6, 10), 2 ** draw.randrange(3, 6)
    cols = draw.choice((32, 64))
    spec = EpitomeSpec(out, inp, 3, (cols, e_in, 4, 4))
    share = cols * e_in * 16 / (out * inp * 9)
    return Drawn(
        f"An epitome of shape {spec.epitome} is fitted to a random 3×3 weight of {inp} input and {out} output "
        "channels. What is the compression, and which relative fit error do you expect?",
        {"compression": spec.compression, "fit error": math.sqrt(1 - 1 / spec.compression)},
        f"|E| = {cols}·{e_in}·16 = {shown(cols * e_in * 16)}, |W| = {out}·{inp}·9 = {shown(out * inp * 9)}: "
        f"compression {shown(1 / share)}. The fit keeps |E| of |W| dimensions: √(1 − {shown(share)}) = "
        f"{shown(math.sqrt(1 - share))}.",
    )


@question(4, 3, "Wrapped channels")
def wrapped_channels(draw: Random) -> Drawn:
    cols, n_out, wrap = draw.choice((32, 64, 128)), draw.randrange(4, 9), draw.randrange(2, 5)
    out = cols * n_out
    spec = EpitomeSpec(out, 256, 3, (cols, 64, 4, 4), wrap=wrap)
    own = cols * up(n_out, wrap)
    return Drawn(
        f"A 3×3 convolution from 256 to {out} channels has an epitome of shape {spec.epitome}; every {wrap} output "
        "blocks share a patch. How many output channels are computed, how many are copies, and which share is its own?",
        {
            "own channels": spec.plan().own_channels,
            "copies": copied_channels(spec),
            "own share [%]": 100 * spec.plan().own_channels / out,
        },
        f"{out}/{cols} = {n_out} output blocks in ⌈{n_out}/{wrap}⌉ = {up(n_out, wrap)} groups; one block of each is "
        f"computed: {up(n_out, wrap)}·{cols} = {own} channels. {out} − {own} = {out - own} are copies. {own}/{out} = "
        f"{shown(100 * own / out)}%.",
    )


@question(4, 2, "From the weight to the epitome")
def sampled_element(draw: Random) -> Drawn:
    b_out, b_in = draw.choice((4, 8)), draw.choice((2, 4))
    spec = EpitomeSpec(b_out * 4, b_in * 6, 3, (b_out, b_in, 5, 5))
    plan, place = (
        spec.plan(),
        (draw.randrange(spec.out_channels), draw.randrange(spec.in_channels), *(draw.randrange(3) for _ in "uv")),
    )
    block = place[0] // b_out, place[1] // b_in
    a, b, y, x = plan.offsets[block].tolist()
    element = [int(n) for n in np.unravel_index(plan.index[place], spec.epitome)]
    rest = place[0] % b_out, place[1] % b_in
    by_hand = [a + rest[0], b + rest[1], y + place[2], x + place[3]]
    return Drawn(
        f"A weight of {spec.out_channels}×{spec.in_channels} channels is cut into blocks of {b_out}×{b_in} channels. "
        f"Block {block} is a copy of the patch at offset (a, b, y, x) = {(a, b, y, x)} of the epitome {spec.epitome}. "
        f"Which element of the epitome is W[{shown(place)}]? (Everything is counted from 0.)",
        {"element": element},
        f"{place[0]} = {block[0]}·{b_out} + {rest[0]} and {place[1]} = {block[1]}·{b_in} + {rest[1]}, so it is place "
        f"({rest[0]}, {rest[1]}) of the block. E[a + {rest[0]}, b + {rest[1]}, y + {place[2]}, x + {place[3]}] is "
        f"E[{shown(by_hand)}].",
    )


@question(4, 2, "Folding")
def folded_rounds(draw: Random) -> Drawn:
    b_in, n_in, n_out = draw.choice((8, 16, 32)), draw.randrange(5, 17), draw.randrange(2, 6)
    spec = EpitomeSpec(64 * n_out, b_in * n_in, 3, (64, b_in, 4, 4), wrap="full")
    plan = spec.plan()
    return Drawn(
        f"A fully wrapped epitome {spec.epitome} serves a 3×3 convolution from {b_in * n_in} to {64 * n_out} "
        "channels; its window has four patches. How many rounds are there, and how many are left when inputs that "
        "meet the same patch are added first?",
        {"rounds": plan.rounds, "rounds with folding": plan.folded_rounds},
        f"All output blocks are equal, so one row of {b_in * n_in}/{b_in} = {n_in} input blocks is computed: {n_in} "
        f"rounds. They use {min(4, n_in)} patches; inputs of one patch are added, and {min(4, n_in)} rounds are left.",
    )


@question(5, 4, "One layer, three ways")
def layer_three_ways(draw: Random) -> Drawn:
    inp, out, bits = draw.choice((1024, 1536, 2048)), draw.choice((512, 1024)), draw.choice((3, 4, 5, 7))
    rows = draw.choice((512, 1024))
    spec = EpitomeSpec(out, inp, 1, (256, rows // 4, 2, 2))
    crossbar = hardware().crossbar
    wide, narrow = (bit_slices(b, crossbar) for b in (32, bits))
    counts = [
        map_layer(conv(inp, out), s, crossbar, n).crossbars for s, n in ((None, wide), (None, narrow), (spec, narrow))
    ]
    blocks, small, slices = inp // 256 * (out // 256), rows // 256, up(bits - 1, 2)
    factor, by_bits = blocks * 16 / (small * slices), 16 / slices
    return Drawn(
        f"A 1×1 convolution from {inp} to {out} channels lies on 256×256 crossbars of 2-bit cells, polarity 2. Count "
        f"its crossbars dense with 32 bits, dense with {bits} bits, and as an epitome {spec.epitome} with {bits} "
        "bits. Which share of the whole factor, by logarithms, is due to the bits?",
        {
            "dense, 32 bits": counts[0],
            f"dense, {bits} bits": counts[1],
            "epitome": counts[2],
            "share of the bits": math.log(counts[0] / counts[1]) / math.log(counts[0] / counts[2]),
        },
        f"{inp}/256·{out}/256 = {blocks} blocks. ⌈31/2⌉·2 = 32 crossbars for each: {shown(32 * blocks)}. With {bits} "
        f"bits ⌈{bits - 1}/2⌉·2 = {2 * slices}: {2 * slices * blocks}. The epitome has {rows // 4}·4 = {rows} word "
        f"lines, {small} blocks: {2 * slices * small}. ln {shown(by_bits)}/ln {shown(factor)} = "
        f"{shown(math.log(by_bits) / math.log(factor))}.",
    )


@question(5, 3, "The largest epitome")
def largest_epitome(draw: Random) -> Drawn:
    inp, out, kernel = draw.choice((256, 384, 512)), draw.choice((256, 512)), draw.choice((3, 5))
    rows, cols = draw.choice((512, 768, 1024, 1536)), draw.choice((128, 256))
    spec = EpitomeSpec.for_crossbars(out, inp, kernel, rows, cols, wrap=1)
    e_in = rows // (kernel + 1) ** 2
    elements, weight = cols * e_in * (kernel + 1) ** 2, out * inp * kernel**2
    return Drawn(
        f"A {kernel}×{kernel} convolution from {inp} to {out} channels gets the largest epitome of the window family "
        f"with at most {rows} word lines and {cols} columns (a window one larger than the kernel). What is its shape, "
        "and how many times smaller is it than the weight?",
        {"shape": list(spec.epitome), "compression": spec.compression},
        f"A channel takes {kernel + 1}² = {(kernel + 1) ** 2} word lines, so {e_in} channels fit. The shape is "
        f"{shown([cols, e_in, kernel + 1, kernel + 1])}; {shown(weight)}/{shown(elements)} = "
        f"{shown(weight / elements)}.",
    )


@question(5, 3, "A budget for more bits")
def budget_for_bits(draw: Random) -> Drawn:
    name, rows, slack = (
        draw.choice(("resnet18", "resnet50", "resnet101")),
        draw.choice((512, 768, 1024, 1536)),
        draw.randrange(5, 60),
    )
    network, machine = Workload.load(name).with_classes(256), hardware()
    design = Design.uniform(network, rows, 256)
    dense, (three, five) = map_crossbars(network, machine), (map_crossbars(network, machine, design, b) for b in (3, 5))
    factor = round(dense.crossbars / (three.crossbars * (1 + slack / 100)), 2)
    budget, blocks = math.floor(dense.crossbars / factor), three.blocks
    price = (five.crossbars - three.crossbars) // blocks
    return Drawn(
        f"`{name}` takes {shown(dense.crossbars)} crossbars dense at 32 bits, and its design of {rows}×256 epitomes "
        f"has {blocks} blocks (256×256, 2-bit cells, polarity 2). The factor shall be {factor}. How many crossbars "
        "may it take? With 3 bits elsewhere, how many blocks may have 5 bits?",
        {"budget": budget, "blocks with 5 bits": (budget - three.crossbars) // price},
        f"⌊{dense.crossbars}/{factor}⌋ = {shown(budget)}. A block takes ⌈2/2⌉·2 = 2 crossbars at 3 bits and ⌈4/2⌉·2 = "
        f"4 at 5: ({budget} − 2·{blocks})/2, rounded down, = {(budget - 2 * blocks) // 2}.",
    )
