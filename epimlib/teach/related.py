"""Questions on chapters 22 and 23: arithmetic inside a memory, packed words and fetched tiles."""

import math
from random import Random

from epimlib.epitome.workload import Layer
from epimlib.pim.mapping import bit_slices
from epimlib.related.bitserial import FORMATS, Machine, float_add_cycles
from epimlib.related.loopnest import Level, Nest, packed
from epimlib.teach.bank import Drawn, hardware, question, shown, up


@question(22, 3, "A sum of NORs")
def sum_of_nors(draw: Random) -> Drawn:
    bits = draw.choice((3, 4, 5))
    a, b = (draw.randrange(1, 2**bits) for _ in "ab")
    machine = Machine(1)
    carry, sums, carries = machine.constant(False), [], []
    for pair in zip(machine.write([a], bits), machine.write([b], bits), strict=True):
        total, carry = machine.full_adder(*pair, carry)
        sums.append(int(total[0]))
        carries.append(int(carry[0]))
    by_hand = [(a % 2 ** (k + 1) + b % 2 ** (k + 1)) >> (k + 1) for k in range(bits)]
    digits = [(a + b) >> k & 1 for k in range(bits)]
    return Drawn(
        f"A machine of NOR gates adds {a} and {b} in {bits} bits, lowest first; a full adder takes nine gates, a gate "
        "two cycles, and the first carry one cycle. Write down the bits of the sum and the carries, lowest first, and "
        "count the cycles.",
        {"sum bits": sums, "carries": carries, "cycles": machine.cycles},
        f"{a} + {b} = {a + b} = {a + b:b} in binary. Sum bits, lowest first: {shown(digits)}; carries: "
        f"{shown(by_hand)}. {bits}·9·2 + 1 = {bits * 18 + 1} cycles.",
    )


@question(22, 3, "Cycles of integers")
def cycles_of_integers(draw: Random) -> Drawn:
    bits = draw.randrange(3, 25)
    counts = []
    for operation in ("add", "subtract", "multiply"):
        machine = Machine(1)
        getattr(machine, operation)(machine.write([1], bits), machine.write([1], bits))
        counts.append(machine.cycles)
    product = 2 * (2 * bits + bits**2) + (bits - 1) * (18 * bits + 1) + 1
    return Drawn(
        f"How many cycles do a sum, a difference and a product of two {bits}-bit numbers take with NOR gates of two "
        "cycles? (A full adder has nine gates; a constant column takes one cycle; a difference inverts one number; a "
        "product inverts both, makes every partial product with one gate, and adds N − 1 times.)",
        {"sum": counts[0], "difference": counts[1], "product": counts[2]},
        f"Sum: 18·{bits} + 1 = {18 * bits + 1}. Difference: 2·{bits} more, {shown(20 * bits + 1)}. Product: "
        f"2·(2·{bits} + {bits}²) for the gates, {bits - 1}·(18·{bits} + 1) for the sums and 1: {shown(product)}.",
    )


@question(22, 2, "A floating-point sum")
def floating_point_sum(draw: Random) -> Drawn:
    exponent, mantissa = draw.randrange(4, 12), draw.randrange(3, 30)
    level = math.ceil(math.log2(mantissa + 3))
    by_hand = 74 * mantissa + 79 * exponent + 299 + (12 * mantissa + 48) * level - 8 * 2**level
    known = float_add_cycles(*FORMATS["bfloat16"])
    return Drawn(
        "A floating-point sum with e exponent and m mantissa bits takes 74m + 79e + 299 + (12m + 48)L − 8·2^L cycles, "
        f"L = ⌈log₂(m + 3)⌉. How many with e = {exponent} and m = {mantissa}, and how many times as many as with "
        "bfloat16 (e = 8, m = 7)?",
        {
            "cycles": float_add_cycles(exponent, mantissa),
            "relative to bfloat16": float_add_cycles(exponent, mantissa) / known,
        },
        f"L = {level}: {74 * mantissa} + {79 * exponent} + 299 + {12 * mantissa + 48}·{level} − {8 * 2**level} = "
        f"{shown(by_hand)}. bfloat16: L = 4, 518 + 632 + 299 + 132·4 − 128 = 1,849; {shown(by_hand)}/1,849 = "
        f"{shown(by_hand / 1849)}.",
    )


@question(23, 2, "Packed words")
def packed_words(draw: Random) -> Drawn:
    word, bits, count = draw.choice((16, 32, 36, 64)), draw.randrange(3, 12), draw.randrange(300, 5000)
    fit = word // bits
    return Drawn(
        f"How many words of {word} bits hold {shown(count)} weights of {bits} bits, packed whole? How many bits of a "
        "word stay unused, and what is the largest number of bits that would cost as little?",
        {
            "words": packed(count, word, bits),
            "unused bits": word % bits,
            "bits": max(b for b in range(bits, word + 1) if word // b == fit),
        },
        f"⌊{word}/{bits}⌋ = {fit} in a word, ⌈{count}/{fit}⌉ = {shown(up(count, fit))} words; {word} − {fit}·{bits} = "
        f"{word - fit * bits} bits are unused. ⌊{word}/{fit}⌋ = {word // fit} bits still fit {fit} times.",
    )


@question(23, 4, "Fetched tiles")
def fetched_tiles(draw: Random) -> Drawn:
    out, inp, size, order = draw.randrange(2, 9), draw.randrange(2, 7), draw.randrange(2, 10), draw.choice(("MP", "PM"))
    layer = Layer("small", "conv", inp, out, in_size=(size, 1), out_size=(size, 1))
    levels = Level("outer", 1.0, 1.0), Level("inner", 1.0, 1.0)
    nest = Nest(layer, levels, (tuple((name, {"M": out, "P": size}[name]) for name in order), (("C", inp),)), 0.0)
    weights, inputs = (inp * out, inp * size * out) if order == "MP" else (inp * out * size, inp * size)
    inner = "P" if order == "MP" else "M"
    return Drawn(
        f"A layer has M = {out} output channels, C = {inp} input channels, P = {size} positions and a 1×1 kernel. The "
        f"outer memory has the loops {order[0]}, then {order[1]} inside of it; the inner memory has C. How many "
        "weights, inputs and outputs are brought into the inner memory (of outputs: leave it)?",
        {"weights, inputs, outputs": [nest.fills(tensor, 1) for tensor in "WIO"]},
        f"The inner tile holds {inp} weights, {inp} inputs and 1 output. The innermost outer loop is {inner}, which "
        f"does not index {'weights' if inner == 'P' else 'inputs'}: their tile stays while it runs. Weights "
        f"{weights}, inputs {inputs}, outputs {out}·{size} = {out * size}: {shown([weights, inputs, out * size])}.",
    )


@question(23, 3, "Bits for words and cells")
def bits_for_both(draw: Random) -> Drawn:
    word, cell_bits, count = draw.choice((8, 16, 24, 32)), draw.choice((2, 3, 4)), draw.randrange(1000, 9000)
    crossbar = hardware(crossbar_cell_bits=cell_bits).crossbar
    cost = {b: (packed(count, word, b), bit_slices(b, crossbar)) for b in range(2, 9)}
    pays = [b for b in range(2, 8) if cost[b][0] < cost[b + 1][0] and cost[b][1] < cost[b + 1][1]]
    by_words = [b for b in range(2, 8) if word // b > word // (b + 1)]
    by_cells = [b for b in range(2, 8) if (b - 1) % cell_bits == 0]
    return Drawn(
        f"A layer has {shown(count)} weights of 2 to 8 bits. For a memory with words of {word} bits (weights packed "
        f"whole) and for cells of {cell_bits} bits (polarity 2): which numbers of bits from 2 to 7 are the largest "
        "that cost as little as they do, in both?",
        {"bits": pays or "none"},
        f"In words: one more bit makes fewer fit for {shown(by_words) or 'none'} bits. In cells: ⌈(b − "
        f"1)/{cell_bits}⌉ grows after {shown(by_cells)} bits. In both: "
        f"{shown([b for b in by_words if b in by_cells]) or 'none'}.",
    )
