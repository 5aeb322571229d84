"""Exams: every question makes sense for every seed, and some are solved here from their text alone."""

import itertools
import math
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from epimlib import cli
from epimlib.teach.bank import BANK, question, shown
from epimlib.teach.exam import LARGEST_SEED, chapters, choose, exam, questions, write_exam

SEEDS = range(20)


def values(key) -> list:
    """Return what a key holds, lists taken apart."""
    return list(itertools.chain(*(value if isinstance(value, list | tuple) else [value] for value in key.values())))


def integers(text: str) -> list[int]:
    """Return the whole numbers of a text in their order; 1,024 is one."""
    return [int(number.replace(",", "")) for number in re.findall(r"[−-]?\b\d{1,3}(?:,\d{3})+\b|-?\b\d+\b", text)]


def test_the_bank_is_large_and_covers_the_chapters():
    assert len(BANK) >= 40
    assert {q.chapter for q in questions()} == {*range(1, 14), *range(15, 21), 22, 23}
    assert all(2 <= q.points <= 4 and q.title for q in questions())
    with pytest.raises(ValueError, match="two questions are called 'fastest_design'"):
        question(1, 1, "")(BANK["fastest_design"].make)


@pytest.mark.parametrize("name", BANK)
def test_a_question_makes_sense_for_every_seed(name):
    drawn = [BANK[name].draw(seed) for seed in SEEDS]
    for text, key, steps in drawn:
        assert text.endswith((".", "?", ")"))
        for part in (text, steps):
            assert not re.search(r"[{}]|None|nan|inf\b|numpy|tensor\(|  [^ .x]", part), part
        for name_, value in key.items():
            assert shown(value) in steps, (name_, shown(value), steps)  # the way by hand ends where the library does
        for value in values(key):
            assert value if isinstance(value, str) else math.isfinite(value)
        assert any(value for value in values(key) if not isinstance(value, str)) or len(key) == 1
    assert len({text for text, _, _ in drawn}) > len(SEEDS) / 2
    assert len({str(key) for _, key, _ in drawn}) > len(SEEDS) / 10


# Solved from the text ----------------------------------------------------------------------------------------


def uses_of_a_weight(text):
    kernel, _, inp, out, size, _, _, dram = integers(text)[:8]
    bits, mac = {"int8": (8, 0.3), "fp16": (16, 1.5), "fp32": (32, 4.6)}[re.search(r"int8|fp\d\d", text)[0]]
    macs = sum(inp * kernel * kernel for _ in itertools.product(range(out), range(size), range(size)))
    return [macs, inp * out * kernel**2 * dram * bits / 64 / (macs * mac)]


def weight_in_cells(text):
    cell, bits, weight = (
        int(re.search(p, text)[1]) for p in (r"for (\d)-bit cells", r"the (\d)-bit", r"weight (-\d+)")
    )
    digits, left = [], -weight
    while len(digits) * cell < bits - 1:
        left, digit = divmod(left, 2**cell)
        digits.append(digit)
    return [*digits, 2 * len(digits), next(n for n in range(1, 20) if n * cell >= bits)]


def product_by_hand(text):
    inputs, weights = (
        list(map(int, re.search(p, text)[1].split(", "))) for p in (r"inputs ([\d, ]+\d)", r"weights ([-\d, ]+\d)")
    )
    return [sum(x * w for x, w in zip(inputs, weights, strict=True))]


def cells_in_use(text):
    size, _, _, _, inp, out = integers(text)
    crossbars = set()
    for channel, column in itertools.product(range(inp), range(out)):
        crossbars.add((channel // (size // 9), column // size))
    return [100 * inp * 9 * out / (len(crossbars) * size * size)]


def depthwise_layer(text):
    kernel, _, channels, size = integers(text)[:4]
    left, blocks, fit = channels, 0, 0
    while left:
        rows, on = size, 0
        while left and rows >= kernel * kernel:
            rows, left, on = rows - kernel * kernel, left - 1, on + 1
        blocks, fit = blocks + 1, max(fit, on)
    return [fit, blocks, 100 * fit * kernel**2 / size**2]


def place_of_a_weight(text):
    channel, u, v, kernel, _, inp, size = integers(text)[:7]
    line = block = 0
    for row, (c, y, x) in enumerate(itertools.product(range(inp), range(kernel), range(kernel))):
        if not y and not x and line + kernel * kernel > size:  # the next channel needs another crossbar
            line, block = 0, block + 1
        if (c, y, x) == (channel, u, v):
            return [row, block, line]
        line += 1
    raise AssertionError(text)


def pipeline_of_three(text):
    _, _, size, _, *times = integers(text)[:7]
    times = times[:3]
    done = [0, 0, 0]
    for _ in range(size * size):
        ready = 0
        for layer, time in enumerate(times):
            ready = done[layer] = max(done[layer], ready) + time
    return [size * size * sum(times), done[-1]]


def start_of_the_next(text):
    size, _, time, kernel = integers(text)[:4]
    window = [(y, x) for y in range(-(kernel // 2), kernel // 2 + 1) for x in range(-(kernel // 2), kernel // 2 + 1)]
    last = max(y * size + x for y, x in window if y >= 0 and x >= 0)
    return [last + 1, (last + 1) * time]


def fetched_words(text):
    kernel, _, stride, pad, channels, size = integers(text)[:6]
    words, pairs = 0, set()
    for y, x in itertools.product(range(0, size, stride), repeat=2):
        for u, v in itertools.product(range(kernel), repeat=2):
            inside = 0 <= y + u - pad < size and 0 <= x + v - pad < size
            words += channels * inside
            pairs |= {(y, u)} if inside else set()
    return [len(pairs), words]


def four_elements(text):
    elements, usage = (re.search(p, text)[1].split(", ") for p in (r"epitome, (.+?), are", r"used (.+?) times"))
    return list(map(float, elements)), list(map(int, usage))


def grid_by_max(text):
    elements, usage = four_elements(text)
    bits = int(re.search(r"get (\d) bits", text)[1])
    step = max(map(abs, elements)) / (2 ** (bits - 1) - 1)
    levels = [step * n for n in range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))]
    return [step, sum(n * min((e - level) ** 2 for level in levels) for e, n in zip(elements, usage, strict=True))]


def best_step(text):
    elements, usage = four_elements(text)
    found = []
    for codes in itertools.product((-1, 0, 1), repeat=4):  # all of them, best step by the derivative
        above = sum(n * c * e for e, n, c in zip(elements, usage, codes, strict=True))
        below = sum(n * c * c for n, c in zip(usage, codes, strict=True))
        step = above / below if below and above > 0 else 0.0
        found.append((sum(n * (e - step * c) ** 2 for e, n, c in zip(elements, usage, codes, strict=True)), step))
    error, step = min(found)
    return [step, error]


def bits_within_a_budget(text):
    layers = {name: tuple(map(int, rest)) for name, *rest in re.findall(r"([ABC]): (\d+) blocks, (\d+) or (\d+)", text)}
    budget = int(re.search(r"budget is (\d+)", text)[1])
    found = []
    for five in itertools.product((False, True), repeat=3):
        chosen = list(zip(layers.items(), five, strict=True))
        if sum(blocks * (4 if more else 2) for (_, (blocks, _, _)), more in chosen) <= budget:
            names = " and ".join(name for (name, _), more in chosen if more)
            found.append((sum(high if more else low for (_, (_, low, high)), more in chosen), names))
    least, names = min(found)
    return [names, least]


def dominated_candidates(text):
    costs = {name: (int(n), int(t)) for name, n, t in re.findall(r"([A-E]) \((\d+), (\d+)\)", text)}
    best = set()
    for budget in range(1, 100):
        fitting = {name: cost for name, cost in costs.items() if cost[0] <= budget}
        if fitting:
            best.add(min(fitting, key=lambda name, fitting=fitting: fitting[name][::-1]))
    return sorted(best)


def fastest_design(text):
    costs = [(int(n), int(t)) for n, t in re.findall(r"\((\d+), (\d+)\)", text)]
    budget = int(re.search(r"at most (\d+)", text)[1])
    return [min(a[1] + b[1] for a in costs[:3] for b in costs[3:] if a[0] + b[0] <= budget)]


def squeezed_crossbars(text):
    matrix = [line.split() for line in text.splitlines() if line.startswith("    ")]
    high = int(re.search(r"have (\d) rows", text)[1])

    def needed(lines, wide, deep):
        strips = [[line[start : start + wide] for line in lines] for start in range(0, len(lines[0]), wide)]
        return sum(math.ceil(sum("x" in part for part in strip) / deep) for strip in strips)

    turned = list(zip(*matrix, strict=True))
    return [len(matrix) // high * 2, min(needed(matrix, 2, high), needed(turned, high, 2))]


def clipped_sum(text):
    bits = int(re.search(r"of (\d) bits", text)[1])
    currents = list(map(int, re.search(r"delivers ([-\d, ]+\d)", text)[1].split(", ")))
    codes = [min(max(current, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) for current in currents]
    return [*codes, sum(2**t * (code - current) for t, (code, current) in enumerate(zip(codes, currents, strict=True)))]


def sum_of_nors(text):
    a, b, bits = integers(text)[:3]
    carry, sums, carries = 0, [], []
    for k in range(bits):
        ones = (a >> k & 1) + (b >> k & 1) + carry
        carry = ones // 2
        sums, carries = [*sums, ones % 2], [*carries, carry]
    return [*sums, *carries, 1 + bits * 9 * 2]


def packed_words(text):
    word, count, bits = integers(text)[:3]

    def words(bits):
        used = room = 0
        for _ in range(count):
            if room < bits:
                used, room = used + 1, word
            room -= bits
        return used

    same = [b for b in range(bits, word + 1) if word - word // bits * b >= 0]
    assert words(max(same)) == words(bits)
    return [words(bits), word - word // bits * bits, max(same)]


def fetched_tiles(text):
    sizes = {name: int(re.search(rf"{name} = (\d+)", text)[1]) for name in "MCP"}
    order = re.search(r"loops (\w), then (\w)", text).groups()
    held, moved = {}, Counter()
    for place in itertools.product(*(range(sizes[name]) for name in order)):
        at = dict(zip(order, place, strict=True))
        for tensor, tile, size in (
            ("W", at["M"], sizes["C"]),
            ("I", at["P"], sizes["C"]),
            ("O", (at["M"], at["P"]), 1),
        ):
            if held.get(tensor) != tile:
                held[tensor], moved[tensor] = tile, moved[tensor] + size
    return [moved[tensor] for tensor in "WIO"]


SOLVED = [uses_of_a_weight, weight_in_cells, product_by_hand, cells_in_use, depthwise_layer, place_of_a_weight]
SOLVED += [pipeline_of_three, start_of_the_next, fetched_words, grid_by_max, best_step, bits_within_a_budget]
SOLVED += [
    dominated_candidates,
    fastest_design,
    squeezed_crossbars,
    clipped_sum,
    sum_of_nors,
    packed_words,
    fetched_tiles,
]


@pytest.mark.parametrize("solve", SOLVED, ids=lambda solve: solve.__name__)
def test_the_key_is_what_arithmetic_without_the_library_finds(solve):
    for seed in SEEDS:
        drawn = BANK[solve.__name__].draw(seed)
        found, key = solve(drawn.text), values(drawn.key)
        assert len(found) == len(key)
        for mine, theirs in zip(found, key, strict=True):
            assert mine == theirs or math.isclose(mine, theirs, rel_tol=1e-9), (seed, found, key, drawn.text)


# Sheets ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_sheet_in_every_process():
    program = "from epimlib.teach.exam import exam; print(*exam(7, 3, [1, 3, 23]))"
    sheets = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": salt}
        ).stdout
        for salt in ("1", "2")
    }
    assert len(sheets) == 1
    assert sheets.pop().decode().split() == " ".join(exam(7, 3, [1, 3, 23])).split()


def test_numbers_are_those_of_every_python():
    """Written down once: random.Random of an integer draws the same in Python 3.11, 3.12 and 3.13."""
    assert [q.name for q in choose(7, 4)] == [
        "plan_by_hand",
        "energy_of_converters",
        "fetched_words",
        "is_that_a_difference",
    ]
    assert integers(BANK["packed_words"].draw(7).text) == [16, 2137, 5]


def test_no_chapter_is_asked_twice_before_each_is_asked_once():
    for seed in range(5):
        found = Counter(q.chapter for q in choose(seed, 21))
        assert max(found.values()) == 1
        found = Counter(q.chapter for q in choose(seed, 6, chapters("2-4")))
        assert found == {2: 2, 3: 2, 4: 2}
    assert choose(3, len(BANK)) == questions()


def test_sheet_and_key_have_the_same_questions_and_only_the_key_has_answers():
    sheet, key = exam(11, 6)
    titles = re.findall(r"^## .+$", sheet, re.MULTILINE)
    assert titles == re.findall(r"^## .+$", key, re.MULTILINE)
    assert len(titles) == 6
    assert "**" in key
    assert "**" not in sheet
    points = sum(int(re.search(r"\((\d) points", title)[1]) for title in titles)
    assert f"6 questions, {points} points." in sheet
    assert exam(12, 6)[0] != sheet


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--seed", str(LARGEST_SEED + 1)), f"seed must be at most {LARGEST_SEED}, got {LARGEST_SEED + 1}"),
        (("--seed", "1", "--questions", "0"), "questions must be at least 1, got 0"),
        (("--seed", "1", "--questions", "9", "--chapters", "2,3"), "questions must be at most 7, got 9"),
        (("--seed", "1", "--chapters", "3-x"), "chapters must be numbers and ranges, as 1-5,9, got '3-x'"),
        (("--seed", "1", "--chapters", "14"), "chapters must be some of 1, 2,"),
        (("--seed", "1", "--key", "--output", "x"), "--key is for what is printed; --output writes sheet and key"),
        ((), "the following arguments are required: --seed; epim exam --help says more"),
    ],
)
def test_wrong_requests(arguments, sentence, capsys):
    assert cli.main(["exam", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"epim: {sentence}")
    assert err.count("\n") == 1


def test_the_command_prints_or_writes_and_overwrites_nothing_else(tmp_path, capsys):
    request = ["exam", "--seed", "5", "--questions", "2", "--chapters", "4-5"]
    printed = []
    for more in ([], ["--key"]):
        assert cli.main([*request, *more]) == 0
        printed.append(capsys.readouterr().out)
    assert tuple(printed) == exam(5, 2, [4, 5])
    for _ in range(2):  # the same again is no conflict
        assert cli.main([*request, "--output", str(tmp_path / "new")]) == 0
        assert capsys.readouterr().out.split() == [
            str(tmp_path / "new" / name) for name in ("exam-5.md", "exam-5-key.md")
        ]
    assert [path.read_text("utf-8") for path in write_exam(tmp_path / "new", 5, 2, [4, 5])] == printed
    (tmp_path / "new" / "exam-5-key.md").write_text("mine", encoding="utf-8")
    assert cli.main([*request, "--output", str(tmp_path / "new")]) == 2
    assert "exam-5-key.md holds another exam" in capsys.readouterr().err
    assert (tmp_path / "new" / "exam-5-key.md").read_text("utf-8") == "mine"
