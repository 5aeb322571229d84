"""The sampling plan against references that loop over blocks and elements and share nothing with the library.

Every reference starts from the sizes in the specification and from the patches, which all readers of a plan
use, and computes what it expects with plain integers.
"""

import json
import math
import re
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epimlib import EpitomeSpec


@st.composite
def specs(draw, most=11, whole_blocks=False):
    """Any specification with few enough elements to loop over."""
    c_out, c_in = draw(st.integers(1, most)), draw(st.integers(1, most))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    e_out, e_in = draw(st.integers(1, c_out)), draw(st.integers(1, c_in))
    window = list(kernel)
    for axis in (0, 1):  # a window that the epitome still can afford
        others = e_out * e_in * window[1 - axis]
        room = c_out * c_in * math.prod(kernel) // others - kernel[axis]
        window[axis] += draw(st.integers(0, min(room, 3)))
    block = (e_out, e_in) if whole_blocks else (draw(st.integers(1, e_out)), draw(st.integers(1, e_in)))
    n_out = -(-c_out // block[0])
    wrap = draw(st.just("full") | st.integers(1, n_out))
    return EpitomeSpec(c_out, c_in, kernel, (e_out, e_in, *window), block, wrap)


def blocks_by_hand(spec):
    """``(o, i, output channels, input channels)`` of every block of the weight, row by row."""
    blocks, first_out, o = [], 0, 0
    while first_out < spec.out_channels:
        last_out = min(first_out + spec.block[0], spec.out_channels)
        first_in, i = 0, 0
        while first_in < spec.in_channels:
            last_in = min(first_in + spec.block[1], spec.in_channels)
            blocks.append((o, i, list(range(first_out, last_out)), list(range(first_in, last_in))))
            first_in, i = last_in, i + 1
        first_out, o = last_out, o + 1
    return blocks


def samples_by_hand(plan):
    """For every element of the weight the list of elements of the epitome that its patches name."""
    spec = plan.spec
    samples = {}
    for patch in plan.patches:
        a, b, y, x = patch.offset
        for j, l, u, v in product(  # noqa: E741 - the symbols of the formula
            range(len(patch.out)),
            range(len(patch.inp)),
            range(spec.kernel_size[0]),
            range(spec.kernel_size[1]),
        ):
            element = (patch.out[0] + j, patch.inp[0] + l, u, v)
            samples.setdefault(element, []).append((a + j, b + l, y + u, x + v))
    return samples


def admissible(spec):
    """Number of places along each axis of the epitome where a block fits."""
    patch = (*spec.block, *spec.kernel_size)
    return [sum(1 for start in range(size) if start + length <= size)
            for size, length in zip(spec.epitome, patch, strict=True)]  # fmt: skip


def covering(spec):
    """Number of patches that it takes to cover the epitome."""
    sizes = zip(spec.epitome, (*spec.block, *spec.kernel_size), strict=True)
    return math.prod(-(-size // length) for size, length in sizes)


# What the weight is ----------------------------------------------------------------------------------------


@given(specs())
def test_the_patches_are_the_blocks_of_the_weight_row_by_row(spec):
    patches = spec.plan().patches
    assert [(list(p.out), list(p.inp)) for p in patches] == [(out, inp) for _, _, out, inp in blocks_by_hand(spec)]


@given(specs())
def test_every_element_of_the_weight_is_sampled_exactly_once_and_from_where_its_patch_says(spec):
    plan = spec.plan()
    samples = samples_by_hand(plan)
    assert set(samples) == set(product(*map(range, spec.shape)))
    assert all(len(sources) == 1 for sources in samples.values())
    epitome = np.arange(math.prod(spec.epitome)).reshape(spec.epitome)
    weight = np.empty(spec.shape, dtype=np.int64)
    for element, (source,) in samples.items():
        weight[element] = epitome[source]
    assert plan.index.dtype == np.int64
    assert np.array_equal(plan.index, weight)


@given(specs())
def test_every_patch_lies_within_the_epitome(spec):
    places = admissible(spec)
    for patch in spec.plan().patches:
        assert all(0 <= start < count for start, count in zip(patch.offset, places, strict=True)), patch


@given(specs())
def test_usage_counts_the_samples(spec):
    plan = spec.plan()
    usage = np.zeros(spec.epitome, dtype=np.int64)
    for (source,) in samples_by_hand(plan).values():
        usage[source] += 1
    assert plan.usage.dtype == np.int64
    assert np.array_equal(plan.usage, usage)
    assert plan.usage.sum() == math.prod(spec.shape)


@given(specs())
def test_no_element_is_left_unused_where_the_blocks_suffice_to_cover_the_epitome(spec):
    full_blocks = {
        (o // spec.wrap, i)  # wrapped blocks share a patch
        for o, i, out, inp in blocks_by_hand(spec)
        if len(out) == spec.block[0] and len(inp) == spec.block[1]
    }
    if len(full_blocks) >= covering(spec):
        assert spec.plan().usage.min() >= 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_the_identity_samples_every_element_in_its_own_place(out_channels, in_channels, height, width):
    spec = EpitomeSpec.dense(out_channels, in_channels, (height, width))
    plan = spec.plan()
    assert spec.compression == 1
    assert plan.rounds == plan.applications == plan.distinct == plan.folded_rounds == 1
    assert np.array_equal(plan.index.reshape(-1), np.arange(math.prod(spec.shape)))
    assert (plan.usage == 1).all()


# Which patches are used ------------------------------------------------------------------------------------


@given(specs())
def test_wrapped_blocks_share_their_patches(spec):
    offset = {(o, i): p.offset for (o, i, _, _), p in zip(blocks_by_hand(spec), spec.plan().patches, strict=True)}
    for o, i in offset:
        assert offset[o, i] == offset[o - o % spec.wrap, i]


@given(specs())
def test_offsets_hold_the_offsets_of_the_patches(spec):
    plan = spec.plan()
    assert plan.offsets.dtype == np.int64
    n_out, n_in = spec.grid
    assert plan.offsets.shape == (n_out, n_in, 4)
    for (o, i, _, _), patch in zip(blocks_by_hand(spec), plan.patches, strict=True):
        assert tuple(plan.offsets[o, i].tolist()) == patch.offset
        assert all(type(start) is int for start in patch.offset)


@given(specs())
def test_distinct_counts_different_offsets(spec):
    plan = spec.plan()
    assert plan.distinct == len({patch.offset for patch in plan.patches})


@given(specs())
def test_as_many_distinct_patches_as_there_are_places_or_blocks_to_fill(spec):
    """A row's short block may repeat the next row's first patch, so it is not counted among the blocks."""
    groups = {o // spec.wrap for o, *_ in blocks_by_hand(spec)}
    full = sum(1 for o, _, _, inp in blocks_by_hand(spec) if o == 0 and len(inp) == spec.block[1])
    assert spec.plan().distinct >= min(math.prod(admissible(spec)), len(groups) * full)


@given(specs())
def test_channel_offsets_only_once_the_spatial_positions_are_used_up(spec):
    """Spatial positions cost no extra rows: others come after them, to cover the epitome and then beyond."""
    patches = spec.plan().patches
    groups = {o // spec.wrap for o, *_ in blocks_by_hand(spec)}
    n_in = sum(1 for o, *_ in blocks_by_hand(spec) if o == 0)
    most = len(groups) * n_in  # patches that this plan could use
    cover = [-(-e // p) for e, p in zip(spec.epitome, (*spec.block, *spec.kernel_size), strict=True)]
    out_offsets, in_offsets = ({patch.offset[axis] for patch in patches} for axis in (0, 1))
    if most <= cover[2] * cover[3]:
        assert in_offsets == {0}
    if most <= cover[1] * cover[2] * cover[3]:
        assert out_offsets == {0}
    if most <= admissible(spec)[2] * admissible(spec)[3] * cover[0] * cover[1]:
        assert len(in_offsets) <= cover[1]
        assert len(out_offsets) <= cover[0]


@given(specs(whole_blocks=True))
def test_blocks_as_large_as_the_epitome_differ_by_a_spatial_shift_only(spec):
    assert all(patch.offset[:2] == (0, 0) for patch in spec.plan().patches)


# What must be computed -------------------------------------------------------------------------------------


@given(specs())
def test_a_block_is_a_copy_of_the_earliest_with_its_patch_and_its_input(spec):
    patches = spec.plan().patches
    for number, patch in enumerate(patches):
        same = [k for k in range(number) if (patches[k].offset, patches[k].inp) == (patch.offset, patch.inp)]
        assert patch.copy_of == (same[0] if same else None), number


@given(specs())
def test_rounds_are_the_applications_that_are_not_copies(spec):
    plan = spec.plan()
    n_out, n_in = -(-spec.out_channels // spec.block[0]), -(-spec.in_channels // spec.block[1])
    assert plan.applications == len(plan.patches) == n_out * n_in
    assert plan.rounds == sum(patch.copy_of is None for patch in plan.patches)
    assert plan.rounds <= n_in * -(-n_out // spec.wrap)


@given(specs())
def test_only_wrapping_makes_copies_where_there_are_as_many_places_as_groups(spec):
    blocks = blocks_by_hand(spec)
    groups = {o // spec.wrap for o, *_ in blocks}
    if math.prod(admissible(spec)) >= len(groups):
        for (o, *_), patch in zip(blocks, spec.plan().patches, strict=True):
            assert (patch.copy_of is not None) == (o % spec.wrap != 0)


@given(specs())
def test_source_is_the_first_output_block_with_the_same_patches(spec):
    plan = spec.plan()
    rows = {}
    for (o, *_), patch in zip(blocks_by_hand(spec), plan.patches, strict=True):
        rows.setdefault(o, []).append(patch.offset)
    assert plan.source == tuple(min(other for other in rows if rows[other] == rows[o]) for o in rows)


@given(specs())
def test_own_channels_are_those_of_blocks_that_copy_no_other(spec):
    plan = spec.plan()
    copied = {channel for patch in plan.patches if patch.copy_of is not None for channel in patch.out}
    assert plan.own_channels == spec.out_channels - len(copied)


@given(specs(whole_blocks=True))
def test_own_channels_are_the_different_filters_where_blocks_are_as_large_as_the_epitome(spec):
    plan = spec.plan()
    elements = {}
    for (channel, *_), sources in sorted(samples_by_hand(plan).items()):
        elements.setdefault(channel, []).extend(sources)
    assert plan.own_channels == len({tuple(sources) for sources in elements.values()})


@given(specs())
@example(EpitomeSpec(128, 128, (3, 3), (128, 18, 4, 4)))  # 8 blocks of inputs, 4 places: 0 and 4 are added, and so on
@example(EpitomeSpec(4, 8, (3, 3), (4, 6, 3, 3), (4, 3)))  # places along the channels: 0..2, 3..5 and once more
def test_own_inputs_are_the_inputs_that_the_outputs_tell_apart(spec):
    plan = spec.plan()
    elements = {}
    for (_, channel, *_), sources in sorted(samples_by_hand(plan).items()):
        elements.setdefault(channel, []).extend(sources)
    assert plan.own_inputs == len({tuple(sources) for sources in elements.values()})


@given(specs(whole_blocks=True))
def test_inputs_that_share_a_patch_in_one_row_of_blocks_do_not_in_another(spec):
    """Two rows can tell apart as many blocks as there are pairs of different places."""
    plan, places = spec.plan(), math.prod(admissible(spec))
    rows = {tuple(row) for row in plan.offsets.reshape(spec.grid[0], -1).tolist()}
    if len(rows) > 1 and spec.grid[1] <= places * (places - 1):
        assert plan.own_inputs == spec.in_channels


@given(specs())
def test_rows_of_blocks_are_equal_or_differ_in_every_block(spec):
    for row, other in product(spec.plan().offsets.tolist(), repeat=2):
        same = [patch == another for patch, another in zip(row, other, strict=True)]
        assert all(same) or not any(same)


def test_own_inputs_by_hand():
    """A window of 4 x 4 has four places for a 3 x 3 patch; inputs four blocks apart are added."""
    assert EpitomeSpec(128, 128, (3, 3), (128, 18, 4, 4)).plan().own_inputs == 4 * 18
    assert EpitomeSpec(128, 128, (3, 3), (64, 38, 4, 4)).plan().own_inputs == 128
    assert EpitomeSpec(128, 128, (3, 3), (64, 18, 4, 4)).plan().own_inputs == 128  # a second row of blocks
    assert EpitomeSpec(128, 128, (3, 3), (64, 18, 4, 4), wrap="full").plan().own_inputs == 4 * 18  # that is a copy
    assert EpitomeSpec.dense(5, 7, 3).plan().own_inputs == 7
    assert EpitomeSpec(4, 6, (1, 1), (4, 2, 1, 1)).plan().own_inputs == 2  # one place


@given(specs())
@example(EpitomeSpec(8, 16, (3, 3), (4, 1, 4, 4)))  # 16 blocks, four places: after twelve blocks the second row repeats
def test_the_period_is_the_least_shift_of_whole_blocks_that_changes_nothing(spec):
    plan = spec.plan()
    weight, step = plan.index, spec.block[1]
    shifts = [s for s in range(step, spec.in_channels, step) if np.array_equal(weight[:, s:], weight[:, :-s])]
    full = [s for s in shifts if s % (plan.distinct * step) == 0]  # others are chance, at the end of a row
    assert plan.period == min(full, default=spec.in_channels)


@given(specs())
def test_folding_leaves_one_round_for_each_distinct_patch_of_an_output_block(spec):
    plan = spec.plan()
    rows = {}
    for (o, *_), patch in zip(blocks_by_hand(spec), plan.patches, strict=True):
        if patch.copy_of is None:
            rows.setdefault(o, set()).add(patch.offset)
    assert plan.folded_rounds == sum(len(offsets) for offsets in rows.values())
    assert plan.folded_rounds <= plan.rounds


# Storage and purity ----------------------------------------------------------------------------------------


@given(specs())
def test_specification_and_plan_survive_json(spec):
    again_spec = EpitomeSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    plan, again = spec.plan(), again_spec.plan()
    assert (again_spec, again) == (spec, plan)
    assert hash(again) == hash(plan)
    assert again.patches == plan.patches
    assert np.array_equal(again.index, plan.index)


@given(specs())
def test_a_plan_is_a_pure_function_of_its_specification(spec):
    one, two = spec.plan(), EpitomeSpec.from_dict(spec.to_dict()).plan()
    assert two.patches == one.patches  # derived in another order
    for name in ("offsets", "index", "usage"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_a_plan_has_value_semantics():
    spec = EpitomeSpec(8, 8, 3, (8, 4, 4, 4))
    assert spec == EpitomeSpec(8, 8, (3, 3), [8, 4, 4, 4], block=(8, 4), wrap="full")
    assert spec.plan() == spec.plan()
    assert spec.plan() != EpitomeSpec(8, 8, 3, (8, 4, 3, 3)).plan()
    assert len({spec.plan(), spec.plan()}) == 1
    with pytest.raises(AttributeError):
        spec.wrap = 2


# Shapes for crossbars --------------------------------------------------------------------------------------

channels = st.integers(1, 48)
kernels = st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 5), (7, 7)])
families = st.sampled_from(["window", "channel"])
wraps = st.just("full") | st.integers(1, 6)


@settings(max_examples=300)
@example(5, 8, (1, 1), 16, 2, 2, "window")  # the second group has one short block, which covers half the columns
@given(channels, channels, kernels, st.integers(64, 512), st.integers(1, 64), wraps, families)
def test_an_epitome_for_crossbars_fits_and_uses_every_element(c_out, c_in, kernel, rows, cols, wrap, family):
    spec = EpitomeSpec.for_crossbars(c_out, c_in, kernel, rows, cols, wrap, family)
    weight = c_out * c_in * math.prod(kernel)
    assert spec.shape == (c_out, c_in, *kernel)
    assert spec.plan().usage.min() >= 1
    if spec == EpitomeSpec.dense(c_out, c_in, kernel):
        return
    e_out, e_in, e_h, e_w = spec.epitome
    assert e_in * e_h * e_w <= rows
    assert e_out == min(cols, c_out)
    assert e_out * e_in * e_h * e_w < weight
    assert e_in == c_in or (e_in + 1) * e_h * e_w > rows  # the largest that fits
    assert spec.wrap == (spec.grid[0] if wrap == "full" else min(wrap, spec.grid[0]))
    if family == "channel":
        assert (e_h, e_w) == kernel
        assert spec.plan().distinct > 1 or e_in == 1 or (e_in == c_in and len(set(spec.plan().source)) == 1)
    else:
        assert spec.block == (e_out, e_in)
        assert 0 <= e_h - kernel[0] <= 1
        assert 0 <= e_w - kernel[1] <= 1


def test_the_window_family_takes_a_window_one_larger_than_the_kernel():
    for kernel, window in (((3, 3), (4, 4)), ((1, 1), (2, 2)), ((1, 3), (2, 4))):
        assert EpitomeSpec.for_crossbars(512, 2048, kernel, 1024, 256).epitome[2:] == window


def test_the_window_shrinks_where_too_few_blocks_would_cover_it():
    """512 -> 2048, 1x1, fully wrapped: one row of blocks. A 2x2 window holds 256 channels, and two blocks
    sample two of its four places; a 1x2 window holds all 512, and one block samples one of two places."""
    wrapped = EpitomeSpec.for_crossbars(2048, 512, 1, rows=1024, cols=256, wrap="full")
    assert wrapped.epitome == (256, 512, 1, 1)
    assert EpitomeSpec.for_crossbars(2048, 512, 1, rows=1024, cols=256, wrap=4).epitome == (256, 256, 2, 2)


def test_an_epitome_that_would_save_nothing_is_the_identity():
    # 64 x 64 x 3 x 3 has 576 rows and 64 columns: it fits into 1024 x 256 as it is.
    for family in ("window", "channel"):
        spec = EpitomeSpec.for_crossbars(64, 64, 3, rows=1024, cols=256, family=family)
        assert spec == EpitomeSpec(64, 64, 3, (64, 64, 3, 3))
    # 256 -> 1024, 1x1: 256 x 1024 elements, just as many as an epitome of 1024 x 256.
    assert EpitomeSpec.for_crossbars(1024, 256, 1, rows=1024, cols=256).compression == 1


# By hand ---------------------------------------------------------------------------------------------------


def test_four_corners_of_a_four_by_four_window():
    """256 x 256 x 3 x 3 from 256 x 64 x 4 x 4: four blocks of 64 input channels at the four places."""
    spec = EpitomeSpec(256, 256, (3, 3), epitome=(256, 64, 4, 4), block=(256, 64), wrap=1)
    assert (spec.rows, spec.cols, spec.compression) == (64 * 16, 256, 9 * 256 / (64 * 16))
    plan = spec.plan()
    assert [patch.offset for patch in plan.patches] == [
        (0, 0, 0, 0),
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (0, 0, 1, 1),
    ]
    assert [patch.inp for patch in plan.patches] == [
        range(0, 64),
        range(64, 128),
        range(128, 192),
        range(192, 256),
    ]
    assert [patch.copy_of for patch in plan.patches] == [None] * 4
    assert (plan.applications, plan.rounds, plan.distinct, plan.folded_rounds) == (4, 4, 4, 4)
    # Along an axis of four, windows of three at 0 and at 1 meet the elements 1, 2, 2 and 1 times.
    assert np.array_equal(plan.usage[17, 5], np.outer([1, 2, 2, 1], [1, 2, 2, 1]))
    # W[200, 130, 2, 1] is in block 2, l = 2, at (y, x) = (1, 0): E[200, 2, 3, 1].
    assert plan.index[200, 130, 2, 1] == ((200 * 64 + 2) * 4 + 3) * 4 + 1


def test_full_wrapping_halves_the_rounds_of_two_output_blocks():
    """512 x 512 x 3 x 3 from 1024 x 256: n_out = 2, n_in = 8; the second output block copies the first."""
    wrapped = EpitomeSpec.for_crossbars(512, 512, (3, 3), rows=1024, cols=256, wrap="full")
    assert (wrapped.epitome, wrapped.block, wrapped.grid, wrapped.wrap) == (
        (256, 64, 4, 4),
        (256, 64),
        (2, 8),
        2,
    )
    plan = wrapped.plan()
    assert (plan.applications, plan.rounds, plan.distinct, plan.folded_rounds) == (16, 8, 4, 4)
    assert [patch.copy_of for patch in plan.patches] == [None] * 8 + list(range(8))
    assert plan.source == (0, 0)
    assert np.array_equal(plan.index[:256], plan.index[256:])
    # Eight input blocks go round the four corners twice, in two output blocks: 4 times the usage of one pass.
    assert np.array_equal(plan.usage[0, 0], 4 * np.outer([1, 2, 2, 1], [1, 2, 2, 1]))


def test_without_wrapping_the_rows_start_at_different_corners():
    spec = EpitomeSpec.for_crossbars(512, 512, (3, 3), rows=1024, cols=256, wrap=1)
    plan = spec.plan()
    assert (plan.applications, plan.rounds, plan.distinct, plan.folded_rounds) == (16, 16, 4, 8)
    corners = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 0, 1, 1)]
    assert [patch.offset for patch in plan.patches[:8]] == 2 * corners
    assert [patch.offset for patch in plan.patches[8:12]] == corners[1:] + corners[:1]
    assert [patch.offset for patch in plan.patches[12:]] == corners[2:] + corners[:2]  # inputs 256 apart are told apart
    assert [patch.copy_of for patch in plan.patches] == [None] * 16


def test_rows_start_one_place_further_after_each_cycle_and_start_over_one_place_further():
    """Four rows of eight blocks, four corners: the example of the assignment."""
    plan = EpitomeSpec.for_crossbars(1024, 512, (3, 3), rows=1024, cols=256, wrap=1).plan()
    corner = [2 * y + x for _, _, y, x in plan.offsets.reshape(-1, 4).tolist()]
    assert [corner[row : row + 8] for row in range(0, 32, 8)] == [
        [0, 1, 2, 3, 0, 1, 2, 3],
        [1, 2, 3, 0, 2, 3, 0, 1],
        [2, 3, 0, 1, 3, 0, 1, 2],
        [3, 0, 1, 2, 1, 2, 3, 0],
    ]


def test_partial_wrapping_shares_patches_in_pairs():
    """Four output blocks in groups of two; where there is one place only, the second group must copy."""
    paired = EpitomeSpec(8, 4, 1, (2, 2, 2, 2), wrap=2).plan()
    assert [patch.offset[2:] for patch in paired.patches] == [(0, 0), (0, 1)] * 2 + [(1, 0), (1, 1)] * 2
    assert [patch.copy_of for patch in paired.patches] == [None, None, 0, 1, None, None, 4, 5]
    one_place = EpitomeSpec(8, 4, 1, (2, 4, 1, 1), wrap=2).plan()
    assert [patch.copy_of for patch in one_place.patches] == [None, 0, 0, 0]
    assert (one_place.applications, one_place.rounds) == (4, 1)


def test_the_channel_family_shifts_by_half_the_input_channels():
    """256 x 256 x 3 x 3 in 1024 rows: 1024 // 9 = 113 channels in blocks of 57; 0 and 56 cover all 113."""
    spec = EpitomeSpec.for_crossbars(256, 256, (3, 3), rows=1024, cols=256, wrap="full", family="channel")
    assert (spec.epitome, spec.block, spec.grid) == ((256, 113, 3, 3), (256, 57), (1, 5))
    plan = spec.plan()
    # Five blocks: the two that cover the epitome first, then between them, evenly: 1 + (0, 1, 2) * 55 // 3.
    assert [patch.offset[1] for patch in plan.patches] == [0, 56, 1, 19, 37]
    assert all(patch.offset[0] == patch.offset[2] == patch.offset[3] == 0 for patch in plan.patches)
    assert len(plan.patches[4].inp) == 256 - 4 * 57
    # Channel 56: last of block 0, first of block 1, within blocks 2 and 3, and within block 4 (19 < 28).
    assert (plan.usage[:, 56] == 5).all()


def test_more_spatial_places_come_before_more_channel_offsets():
    """1 x 3 kernel, window of 6, blocks of 2 of 4 input channels. Covering takes x = 0, 3 and b = 0, 2; the eight
    blocks then take the places between, x = 1, 2, and leave b = 1 alone."""
    plan = EpitomeSpec(4, 8, (1, 3), (2, 4, 1, 6), block=(2, 2)).plan()
    assert [(patch.offset[1], patch.offset[3]) for patch in plan.patches] == (
        [(0, 0), (0, 3), (2, 0), (2, 3), (0, 1), (0, 2), (2, 1), (2, 2)]
    )


def test_short_blocks_take_the_leading_part_of_their_patch():
    """5 x 7 in blocks of 2 x 3: the last row has one output channel, the last column one input channel."""
    spec = EpitomeSpec(5, 7, 1, (2, 3, 1, 2), block=(2, 3))
    plan = spec.plan()
    assert [(len(patch.out), len(patch.inp)) for patch in plan.patches] == (
        [(2, 3), (2, 3), (2, 1)] * 2 + [(1, 3), (1, 3), (1, 1)]
    )
    # Two places and two full blocks in a row: row 1 would start like row 0, so it is shifted by one.
    assert [patch.offset[3] for patch in plan.patches] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert [patch.copy_of for patch in plan.patches] == [None] * 6 + [0, 1, 2]
    assert plan.index[4, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5, 0]


# Text ------------------------------------------------------------------------------------------------------


def test_the_text_of_a_plan_says_which_patch_feeds_which_block():
    text = EpitomeSpec(512, 512, 3, (256, 64, 4, 4), wrap="full").plan().to_text()
    lines = text.splitlines()
    assert lines[0] == ("W (512, 512, 3, 3) from E (256, 64, 4, 4), 1024 x 256 on crossbars, 9 times smaller")
    assert lines[1] == "16 applications, 8 rounds, 4 distinct patches"
    assert lines[3 + 3].split() == ["3", "0..255", "192..255", "(0,", "0,", "1,", "1)"]
    assert lines[3 + 12].split() == ["12", "256..511", "256..319", "(0,", "0,", "0,", "0)", "4"]
    assert len(lines) == 3 + 16


def test_the_text_of_a_large_plan_is_cut_and_says_so():
    plan = EpitomeSpec(512, 512, 3, (8, 8, 4, 4)).plan()
    assert plan.applications == 64 * 64
    assert plan.to_text(limit=5).splitlines()[-1] == "... and 4091 more blocks"
    assert str(plan) == plan.to_text()


# What cannot be --------------------------------------------------------------------------------------------

GOOD = {"out_channels": 8, "in_channels": 8, "kernel_size": (3, 3), "epitome": (8, 4, 4, 4)}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"epitome": (16, 4, 4, 4)}, ValueError, ["epitome", "(16, 4, 4, 4)", "(8, 8)"]),
        ({"epitome": (8, 9, 3, 3)}, ValueError, ["epitome", "(8, 9, 3, 3)", "(8, 8)"]),
        ({"epitome": (8, 8, 4, 4)}, ValueError, ["epitome", "(8, 8, 4, 4)", "1024", "576"]),
        ({"epitome": (8, 4, 2, 4)}, ValueError, ["kernel_size", "(3, 3)", "(2, 4)"]),
        ({"kernel_size": 5}, ValueError, ["kernel_size", "(5, 5)", "(4, 4)"]),
        ({"kernel_size": 0}, ValueError, ["kernel_size", "at least 1", "0"]),
        ({"kernel_size": (3, 3, 3)}, ValueError, ["kernel_size", "2 whole numbers", "(3, 3, 3)"]),
        ({"kernel_size": (3, 2.5)}, TypeError, ["kernel_size", "whole number", "2.5"]),
        ({"out_channels": 0}, ValueError, ["out_channels", "at least 1", "0"]),
        ({"in_channels": -8}, ValueError, ["in_channels", "at least 1", "-8"]),
        ({"out_channels": True}, TypeError, ["out_channels", "whole number", "True"]),
        ({"in_channels": 8.0}, TypeError, ["in_channels", "whole number", "8.0"]),
        ({"out_channels": "8"}, TypeError, ["out_channels", "whole number", "'8'"]),
        ({"epitome": (8, 4, 4)}, ValueError, ["epitome", "4 whole numbers", "(8, 4, 4)"]),
        ({"epitome": (8, 0, 4, 4)}, ValueError, ["epitome", "at least 1", "0"]),
        ({"epitome": (8, 4, 4, 4.0)}, TypeError, ["epitome", "whole number", "4.0"]),
        ({"epitome": None}, ValueError, ["epitome", "4 whole numbers", "None"]),
        ({"block": (9, 4)}, ValueError, ["block", "(9, 4)", "(8, 4)"]),
        ({"block": (8, 5)}, ValueError, ["block", "(8, 5)", "(8, 4)"]),
        ({"block": (0, 4)}, ValueError, ["block", "at least 1", "0"]),
        ({"block": (8, 4, 1)}, ValueError, ["block", "2 whole numbers", "(8, 4, 1)"]),
        ({"wrap": 2}, ValueError, ["wrap", "at most 1", "output blocks", "2"]),
        ({"wrap": 0}, ValueError, ["wrap", "at least 1", "0"]),
        ({"wrap": -1}, ValueError, ["wrap", "at least 1", "-1"]),
        ({"wrap": "ful"}, TypeError, ["wrap", "whole number", "'full'", "'ful'"]),
        ({"wrap": True}, TypeError, ["wrap", "whole number", "'full'", "True"]),
        ({"wrap": 1.0}, TypeError, ["wrap", "whole number", "'full'", "1.0"]),
        ({"wrap": None}, TypeError, ["wrap", "whole number", "'full'", "None"]),
    ],
)
def test_a_specification_that_cannot_be_is_one_sentence(changes, error, words):
    with pytest.raises(error) as caught:
        EpitomeSpec(**{**GOOD, **changes})
    message = str(caught.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_bounds_are_inclusive():
    EpitomeSpec(8, 8, 3, (8, 8, 3, 3))
    EpitomeSpec(8, 8, 3, (2, 2, 12, 12))  # 576 elements, as many as the weight
    EpitomeSpec(8, 8, 3, (4, 4, 3, 3), block=(1, 1), wrap=8)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"rows": 8, "family": "channel"}, ValueError, ["rows", "at least 9", "(3, 3)", "8"]),
        ({"rows": 15}, ValueError, ["rows", "at least 16", "(4, 4)", "15"]),
        ({"rows": 0}, ValueError, ["rows", "at least 1", "0"]),
        ({"rows": 100.0}, TypeError, ["rows", "whole number", "100.0"]),
        ({"cols": 0}, ValueError, ["cols", "at least 1", "0"]),
        ({"cols": True}, TypeError, ["cols", "whole number", "True"]),
        ({"out_channels": 0}, ValueError, ["out_channels", "at least 1", "0"]),
        ({"in_channels": 2.5}, TypeError, ["in_channels", "whole number", "2.5"]),
        ({"family": "windows"}, ValueError, ["family", "'window', 'channel'", "'windows'"]),
        ({"wrap": "none"}, TypeError, ["wrap", "'full'", "'none'"]),
        ({"wrap": 0}, ValueError, ["wrap", "at least 1", "0"]),
    ],
)
def test_crossbars_that_cannot_be_are_one_sentence(changes, error, words):
    arguments = {"out_channels": 8, "in_channels": 8, "kernel_size": 3, "rows": 64, "cols": 8}
    with pytest.raises(error) as caught:
        EpitomeSpec.for_crossbars(**{**arguments, **changes})
    message = str(caught.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_foreign_data_is_refused_by_name():
    good = EpitomeSpec(**GOOD).to_dict()
    with pytest.raises(ValueError, match=r"^unknown key 'wrp' in an epitome specification; did you mean 'wrap'\?$"):
        EpitomeSpec.from_dict({**good, "wrp": 1})
    with pytest.raises(ValueError, match=r"^an epitome specification lacks 'epitome'$"):
        EpitomeSpec.from_dict({key: value for key, value in good.items() if key != "epitome"})
    with pytest.raises(ValueError, match=r"^an epitome specification must be a mapping, got list$"):
        EpitomeSpec.from_dict([good])


def test_block_and_wrap_may_be_left_out():
    data = {key: list(value) if isinstance(value, tuple) else value for key, value in GOOD.items()}
    assert EpitomeSpec.from_dict(data) == EpitomeSpec(**GOOD, block=(8, 4), wrap=1)


def test_every_message_names_a_size_that_exists():
    """The numbers in the message on size are those of the request, not of a default."""
    with pytest.raises(ValueError, match=re.escape("has 72 elements, got epitome=(2, 4, 4, 4) with 128")):
        EpitomeSpec(2, 4, 3, (2, 4, 4, 4))
