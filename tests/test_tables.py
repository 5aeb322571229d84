"""Index tables against a plan's patches, by hand and one by one; the layout of small matrices by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epimlib import EpitomeSpec, Hardware
from epimlib.datapath.layout import Layout
from epimlib.pim.mapping import pack, rows_in_use
from epimlib.pim.tables import Tables


@st.composite
def specs(draw):
    c_out, c_in = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    e_out, e_in = draw(st.integers(1, c_out)), draw(st.integers(1, c_in))
    window = [k + draw(st.integers(0, 2)) for k in kernel]
    if e_out * e_in * math.prod(window) > c_out * c_in * math.prod(kernel):
        window = kernel
    block = draw(st.integers(1, e_out)), draw(st.integers(1, e_in))
    return EpitomeSpec(c_out, c_in, kernel, (e_out, e_in, *window), block, draw(st.integers(1, -(-c_out // block[0]))))


@given(specs(), st.booleans())
def test_tables_say_what_the_patches_say(spec, reuse):
    """Executing the tables on symbols gives every output channel its weights, once each."""
    plan = spec.plan()
    tables = Tables.from_plan(plan, reuse)
    size = math.prod(spec.kernel_size)
    assert tables.rounds == (plan.rounds if reuse else plan.applications)
    assert len(tables.copies) == (spec.grid[0] - len(set(plan.source)) if reuse else 0)
    weight = np.full((spec.out_channels, spec.in_channels * size), -1)
    index = np.arange(math.prod(spec.epitome)).reshape(spec.cols, spec.rows)  # of E as a matrix
    for number in range(tables.rounds):
        (channel, channels), (column, out, outputs, extends) = tables.ifat[number], tables.ofat[number]
        assert extends == (weight[out] >= 0).any()
        block = weight[out : out + outputs, channel * size : (channel + channels) * size]
        assert (block == -1).all()
        block[:] = index[column : column + outputs][:, tables.word_lines(number)]
    for source, copy, outputs in tables.copies:
        assert (weight[copy : copy + outputs] == -1).all()
        weight[copy : copy + outputs] = weight[source : source + outputs]
    assert (weight.reshape(spec.shape) == plan.index).all()


def test_tables_by_hand():
    """Blocks of 2 x 2 channels (the last input block is short), two output blocks wrapped, a 3x2 window for 2x2."""
    plan = EpitomeSpec(6, 5, (2, 2), (3, 2, 3, 2), block=(2, 2), wrap=2).plan()
    assert [patch.offset for patch in plan.patches[:3]] == [(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0)]
    assert [patch.offset for patch in plan.patches[6:]] == [(1, 0, 0, 0), (1, 0, 1, 0), (0, 0, 0, 0)]
    tables = Tables.from_plan(plan)
    assert tables.ifat.tolist() == [[0, 2], [2, 2], [4, 1]] * 2
    assert tables.ifrt.tolist() == [[0], [2], [0], [0], [2], [0]]  # offset y = 1 is two word lines down
    assert tables.ofat.tolist() == [
        [0, 0, 2, 0],
        [0, 0, 2, 1],
        [1, 0, 2, 1],
        [1, 4, 2, 0],
        [1, 4, 2, 1],
        [0, 4, 2, 1],
    ]
    assert tables.copies.tolist() == [[0, 2, 2]]
    # Largest entries 4 and 2; 2; 1, 4, 2 and 1; 0, 2 and 2 take 3 + 2, 2, 1 + 3 + 2 + 1 and 0 + 2 + 2 bits.
    assert tables.bits == 6 * (3 + 2) + 6 * 2 + 6 * 7 + 1 * 4
    # The second channel starts six word lines below the first; a short block has only one.
    assert tables.word_lines(1).tolist() == [2, 3, 4, 5, 8, 9, 10, 11]
    assert tables.word_lines(2).tolist() == [0, 1, 2, 3]


def test_a_dense_layer_has_one_round_and_nothing_to_look_up():
    tables = Tables.from_plan(EpitomeSpec.dense(5, 3, (2, 3)).plan())
    assert (tables.ifat.tolist(), tables.ifrt.tolist(), tables.ofat.tolist()) == ([[0, 3]], [[0]], [[0, 0, 5, 0]])
    assert (tables.rounds, len(tables.copies), tables.bits) == (1, 0, 0)
    assert tables.word_lines(0).tolist() == list(range(18))


def test_tables_print_as_frames():
    tables = Tables.from_plan(EpitomeSpec(4, 4, (1, 1), (2, 2, 1, 1), wrap=2).plan())
    frames = tables.to_frames()
    assert list(frames) == ["IFAT", "IFRT", "OFAT", "copies"]
    assert frames["OFAT"]["extends"].tolist() == [False, True]
    assert str(tables).startswith(f"2 rounds, 1 copied block, {tables.bits} bits\nIFAT")


def layout(groups, rows, cols, window, **crossbar):
    changes = {"crossbar.rows": 8, "crossbar.cols": 4, "dac.per_crossbar": 3, "adc.per_crossbar": 2} | crossbar
    return Layout(Hardware.preset("default").replace(changes), groups, rows, cols, window)


def test_reads_of_one_round_by_hand():
    """12 rows of 3 per channel on crossbars of 8: two channels on each (channel packing), read three rows at once."""
    tables = Tables.from_plan(EpitomeSpec.dense(5, 4, (1, 3)).plan())
    (round,) = layout(1, 12, 5, 3).rounds(tables)
    assert [(read.block, read.group, read.lines.tolist(), read.places.tolist()) for read in round.reads] == [
        (0, 0, [0, 1, 2], [0, 1, 2]),
        (0, 1, [3, 4, 5], [3, 4, 5]),
        (1, 0, [6, 7, 8], [0, 1, 2]),
        (1, 1, [9, 10, 11], [3, 4, 5]),
    ]
    assert [read.tree for read in round.reads] == [False, False, True, False]
    assert round.steps == 2 * 2  # two row groups, two columns to an ADC (of the first column block)
    (round,) = layout(1, 12, 5, 3, **{"crossbar.packing": "dense"}).rounds(tables)
    assert [(read.block, read.group, read.lines.tolist()) for read in round.reads] == [
        (0, 0, [0, 1, 2]),
        (0, 1, [3, 4, 5]),
        (0, 2, [6, 7]),
        (1, 0, [8, 9, 10]),
        (1, 1, [11]),
    ]
    assert round.steps == 3 * 2


def test_groups_that_share_a_crossbar_by_hand():
    """Groups of 4 rows and 1 column: two on a crossbar of 8 rows; a row group senses the groups that it drives."""
    shared = layout(3, 4, 1, 4)
    assert (shared.packing.together, shared.packing.row_blocks) == (2, 1)
    (round,) = shared.rounds(None)
    assert [(read.block, read.lines.tolist(), read.columns) for read in round.reads] == [
        (0, [0, 1, 2], slice(0, 1)),
        (0, [3, 4, 5], slice(0, 2)),
        (0, [6, 7], slice(1, 2)),
        (1, [8, 9, 10], slice(2, 3)),
        (1, [11], slice(2, 3)),
    ]
    assert shared.bit_lines(slice(0, 3)).tolist() == [0, 1, 0]
    assert not any(read.tree for read in round.reads)
    assert round.steps == 3


def test_groups_larger_than_a_crossbar_have_their_own():
    own = layout(2, 9, 1, 3)
    assert (own.packing.together, own.packing.row_blocks) == (1, 2)
    (round,) = own.rounds(None)
    assert [(read.block, read.columns.start, read.tree) for read in round.reads] == [
        (0, 0, False),
        (0, 0, False),
        (1, 0, True),
        (2, 1, False),
        (2, 1, False),
        (3, 1, True),
    ]


def test_how_much_a_crossbar_holds():
    crossbar = layout(1, 1, 1, 1).hardware.crossbar
    assert [rows_in_use(window, crossbar) for window in (1, 3, 4, 5, 8)] == [8, 6, 8, 5, 8]
    with pytest.raises(ValueError, match="crossbar.rows must hold the 9 rows of one channel, got 8"):
        rows_in_use(9, crossbar)
    assert pack(9, 2, 1, 1, crossbar)[1:] == (4, 3, 1, 1)
    assert pack(9, 1, 2, 1, crossbar)[1:] == (2, 5, 1, 1)  # by columns
    assert pack(9, 9, 1, 1, crossbar)[1:] == (1, 9, 2, 1)
    assert pack(3, 2, 1, 1, crossbar)[1:] == (3, 1, 1, 1)


def test_tables_and_events_need_no_torch():
    code = "import sys, epimlib.pim.tables, epimlib.pim.events; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
