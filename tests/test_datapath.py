"""The datapath against integer convolutions, loops over single reads, and a network solver for wires.

References start from the sampled weight or from the plan's patches, and share no code with the datapath.
"""

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epimlib import Design, EpitomeSpec, Hardware
from epimlib.datapath import analog, compile, quantize_max, run, simulate, trace_rounds
from epimlib.datapath.analog import NonIdealities
from epimlib.epitome.layers import epitomize
from epimlib.epitome.trace import trace
from epimlib.epitome.workload import Layer
from epimlib.pim.events import Events, layer_events
from epimlib.quant.grid import QuantConfig, QuantizedLayer
from epimlib.quant.quantize import calibrate, integer_weights, quantize

pytestmark = pytest.mark.usefixtures("one_thread")


def hardware(**values):
    """The default hardware with some values changed: ``rows=32`` stands for ``crossbar.rows``."""
    short = {
        "rows": "crossbar.rows",
        "cols": "crossbar.cols",
        "cell_bits": "crossbar.cell_bits",
        "polarity": "crossbar.polarity",
        "packing": "crossbar.packing",
        "dac_bits": "dac.bits",
        "dacs": "dac.per_crossbar",
        "adc_bits": "adc.bits",
        "adcs": "adc.per_crossbar",
        "reuse": "reuse",
    }
    return Hardware.preset("default").replace({short[name]: value for name, value in values.items()})


LEVELS = {"none": [1], "sign": [-1, 1], "power": [-8, -4, -2, -1, 1, 2, 4, 8], "free": range(-127, 128)}
"""Integers that a round coefficient may be."""


@st.composite
def accelerators(draw, window, **fixed):
    """Any small hardware on whose crossbars a channel of ``window`` rows fits."""
    values = {
        "rows": draw(st.integers(window, window + 30)),
        "cols": draw(st.integers(1, 12)),
        "cell_bits": draw(st.integers(1, 3)),
        "polarity": draw(st.sampled_from([1, 2])),
        "packing": draw(st.sampled_from(["channel", "dense"])),
        "dac_bits": draw(st.integers(1, 3)),
        "dacs": draw(st.integers(1, 40)),
        "adcs": draw(st.integers(1, 12)),
        "reuse": draw(st.booleans()),
        "adc_bits": 16,
    }
    return hardware(**(values | fixed))


@st.composite
def cases(draw, epitomes=True, kinds=tuple(LEVELS), **fixed):
    """A layer, its plan (None if dense), integers for it and a feature map, and hardware to run it on."""
    kind = draw(st.sampled_from(["conv", "conv", "conv", "linear"]))
    kernel = (1, 1) if kind == "linear" else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    c_out, c_in, groups = draw(st.integers(1, 9)), draw(st.integers(1, 7)), 1
    plan = None
    if epitomes and ("none" not in kinds or draw(st.booleans())):
        e_out, e_in = draw(st.integers(1, c_out)), draw(st.integers(1, c_in))
        window = [k + draw(st.integers(0, 2)) for k in kernel]
        if e_out * e_in * math.prod(window) > c_out * c_in * math.prod(kernel):
            window = kernel
        block = draw(st.integers(1, e_out)), draw(st.integers(1, e_in))
        wrap = draw(st.integers(1, -(-c_out // block[0])))
        kind_of = draw(st.sampled_from(kinds))
        plan = EpitomeSpec(c_out, c_in, kernel, (e_out, e_in, *window), block, wrap, kind_of).plan()
    elif kind == "conv":
        groups = draw(st.integers(1, 5))
    shape = plan.spec.epitome if plan else (c_out * groups, c_in, *kernel)
    machine = draw(accelerators(math.prod(shape[2:]), **fixed))
    bits, activation_bits, signed = draw(st.integers(2, 9)), draw(st.integers(2, 9)), draw(st.booleans())
    stride, dilation = (draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) for _ in range(2))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    if kind == "linear":
        stride, padding, dilation = (1, 1), (0, 0), (1, 1)
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [1, 1] if kind == "linear" else [max(1, r) + draw(st.integers(0, 3)) for r in reach]
    out_size = [(n - r) // s + 1 for n, r, s in zip(size, reach, stride, strict=True)]
    layer = Layer(
        "layer", kind, c_in * groups, c_out * groups, kernel, stride, padding, dilation, groups, size, out_size
    )
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = 1 - 2 ** (bits - 1) if machine.crossbar.polarity == 2 else -(2 ** (bits - 1))
    weight = numbers.integers(low, 2 ** (bits - 1), shape)
    limits = (-(2 ** (activation_bits - 1)), 2 ** (activation_bits - 1)) if signed else (0, 2**activation_bits)
    images = numbers.integers(*limits, (draw(st.integers(1, 2)), layer.in_channels, *size))
    return layer, plan, weight, images, machine, bits, activation_bits, signed


def coefficients_of(plan):
    """Some coefficients of a plan's kind, as integers by output channel and input block; ones if it has none."""
    shape = (plan.spec.out_channels, plan.spec.grid[1])
    return np.random.default_rng(list(shape)).choice(LEVELS[plan.spec.coefficients], shape)


def program_of(case, **options):
    layer, plan, weight, _, machine, bits, activation_bits, signed = case
    geometry = {name: getattr(layer, name) for name in ("kind", "stride", "padding", "dilation", "groups")}
    if plan and plan.spec.coefficients != "none":
        geometry["coefficients"] = torch.from_numpy(coefficients_of(plan))
    return compile(
        plan, torch.from_numpy(weight), machine, bits, activation_bits, signed=signed, **(geometry | options)
    )


def feature_map(case):
    images = torch.from_numpy(case[3])
    return images[..., 0, 0] if case[0].kind == "linear" else images


def convolution(images, weight, layer):
    """Integer convolution, window element by window element."""
    (n, _, *size), (top, left) = images.shape, layer.padding
    padded = np.zeros((n, layer.in_channels, size[0] + 2 * top, size[1] + 2 * left), dtype=np.int64)
    padded[:, :, top : top + size[0], left : left + size[1]] = images
    (height, width), group = layer.out_size, layer.in_channels // layer.groups
    out = np.zeros((n, layer.out_channels, height, width), dtype=np.int64)
    for o in range(layer.out_channels):
        first = o // (layer.out_channels // layer.groups) * group
        for u in range(layer.kernel_size[0]):
            for v in range(layer.kernel_size[1]):
                y, x = u * layer.dilation[0], v * layer.dilation[1]
                rows = slice(y, y + (height - 1) * layer.stride[0] + 1, layer.stride[0])
                cols = slice(x, x + (width - 1) * layer.stride[1] + 1, layer.stride[1])
                seen = padded[:, first : first + group, rows, cols]
                out[:, o] += np.einsum("nchw,c->nhw", seen, weight[o, :, u, v])
    return out


def logical(case):
    plan = case[1]
    if plan is None:
        return case[2]
    weight, coefficients = case[2].reshape(-1)[plan.index], coefficients_of(plan)
    for channel in range(plan.spec.in_channels):
        weight[:, channel] *= coefficients[:, channel // plan.spec.block[1], None, None]
    return weight


@given(cases(kinds=("none",)))
@settings(max_examples=500)
def test_any_layer_is_exact_and_takes_the_events_of_the_closed_form(case):
    exact_with_the_events_of_the_closed_form(case)


@given(cases(kinds=("sign", "power", "free")))
@settings(max_examples=500)
def test_any_layer_with_round_coefficients_is_exact_and_takes_the_events_of_the_closed_form(case):
    exact_with_the_events_of_the_closed_form(case)


def exact_with_the_events_of_the_closed_form(case):
    layer, plan, _, images, machine, bits, activation_bits, signed = case
    program = program_of(case)
    expected = convolution(images, logical(case), layer)
    predicted = len(images) * layer_events(layer, plan.spec if plan else None, machine, bits, activation_bits, signed)
    for fast in (False, True):
        output, events = run(program, feature_map(case), fast)
        assert output.reshape(expected.shape).numpy().tolist() == expected.tolist()
        assert events.to_dict() == predicted.to_dict()


def reads_by_hand(case):
    """For every block: its output channels, its driven rows by row block and row group, and its coefficients.

    A row is ``(input channel, u, v, weights of its columns)``.
    """
    layer, plan, weight, _, machine, *_ = case
    plan = plan or EpitomeSpec.dense(*layer.weight_shape[:2], layer.kernel_size).plan()
    _, _, e_h, e_w = plan.spec.epitome
    crossbar, area = machine.crossbar, e_h * e_w
    usable = crossbar.rows // area * area if crossbar.packing == "channel" else crossbar.rows
    coefficients = coefficients_of(plan)
    for block, patch in enumerate(plan.patches):
        a, b, y, x = patch.offset
        reads = {}
        for number, channel in enumerate(patch.inp):
            for u in range(layer.kernel_size[0]):
                for v in range(layer.kernel_size[1]):
                    row = (b + number) * area + (y + u) * e_w + x + v
                    key = row // usable, row % usable // machine.dac.per_crossbar
                    columns = weight[a : a + len(patch.out), b + number, y + u, x + v]
                    reads.setdefault(key, []).append((channel, u, v, columns))
        yield patch.out, reads, coefficients[list(patch.out), block % plan.spec.grid[1]]


def inputs_by_hand(layer, images, rows, p, q):
    """The inputs of one image that word lines get at one output position."""
    x = []
    for channel, u, v, _ in rows:
        y = p * layer.stride[0] - layer.padding[0] + u * layer.dilation[0]
        z = q * layer.stride[1] - layer.padding[1] + v * layer.dilation[1]
        inside = 0 <= y < layer.in_size[0] and 0 <= z < layer.in_size[1]
        x.append(int(images[0, channel, y, z]) if inside else 0)
    return np.array(x)


def datapath_by_hand(case, step, codes):
    """The output for one image and all positions, read by read, cycle by cycle, bit slice by bit slice."""
    layer, _, _, images, machine, bits, activation_bits, signed = case
    cell, dac = machine.crossbar.cell_bits, machine.dac.bits
    polarity = machine.crossbar.polarity
    stored = bits - 1 if polarity == 2 else bits
    cycles = [
        (shift, min(dac, activation_bits - signed - shift), 2**shift)
        for shift in range(0, activation_bits - signed, dac)
    ]
    if signed:
        cycles.append((activation_bits - 1, 1, -(2 ** (activation_bits - 1))))
    output = np.zeros((layer.out_channels, *layer.out_size))
    for outputs, reads, factors in reads_by_hand(case):
        for p, q in np.ndindex(*layer.out_size):
            for rows in reads.values():
                x, w = inputs_by_hand(layer, images, rows, p, q), np.array([row[3] for row in rows])
                for shift, width, worth in cycles:
                    drive = (x % 2**activation_bits) // 2**shift % 2**width
                    for first in range(0, stored, cell):
                        if polarity == 2:
                            level = np.sign(w) * (np.abs(w) // 2**first % 2**cell)
                        else:
                            level = (w + 2 ** (bits - 1)) // 2**first % 2**cell
                        current = (drive @ level).astype(np.float32)
                        code = np.clip(np.round(current / np.float32(step)), *codes).astype(float)
                        output[outputs.start : outputs.stop, p, q] += factors * worth * 2**first * step * code
                if polarity == 1:
                    output[outputs.start : outputs.stop, p, q] -= factors * 2 ** (bits - 1) * x.sum()
    return output


@given(cases(), st.integers(2, 5), st.sampled_from(["lossless", "max"]))
@settings(max_examples=60)
def test_a_narrow_adc_saturates_or_rounds_each_conversion(case, adc_bits, rule):
    case = (*case[:3], case[3][:1], case[4].replace({"adc.bits": adc_bits}), *case[5:])
    layer, machine = case[0], case[4]
    if layer.groups > 1:
        return
    first = 0 if machine.crossbar.polarity == 1 else -(2 ** (adc_bits - 1))
    codes = first, first + 2**adc_bits - 1
    rows = min(machine.crossbar.rows, machine.dac.per_crossbar)
    full = rows * (2**machine.crossbar.cell_bits - 1) * (2**machine.dac.bits - 1)
    step = max(1, full / codes[1]) if rule == "max" else 1
    output, _ = run(program_of(case, adc_range=rule), feature_map(case), fast=False)
    expected = datapath_by_hand(case, step, codes)
    np.testing.assert_allclose(output.reshape(expected.shape).numpy(), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("rule", analog.ADC_RANGES)
@pytest.mark.parametrize("polarity", [1, 2])
def test_zero_is_on_the_grid_of_every_adc(rule, polarity):
    weight = torch.arange(-7, 9).clamp(max=7).reshape(1, 16, 1, 1)
    machine = hardware(rows=4, polarity=polarity, adc_bits=2)
    inputs = torch.zeros(1, 16, 2, 2)
    program = compile(None, weight, machine, 4, 4, adc_range=rule, calibration=torch.full((1, 16, 2, 2), 9))
    assert run(program, inputs, fast=False).output.tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]


def test_saturation_by_hand():
    """Four rows of 1 drive a current of 4; codes of a 3-bit ADC end at 3 (and start at -4)."""
    machine = hardware(rows=4, cols=4, cell_bits=1, adc_bits=3)
    weight = torch.tensor([[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, 0]])
    program = compile(None, weight, machine, bits=2, activation_bits=1)
    assert not program.exact
    assert run(program, torch.ones(4)).output.tolist() == [3, -4, 3]


def test_the_fast_path_is_taken_only_where_no_adc_can_clip():
    machine = hardware(rows=4, cols=4, cell_bits=1, adc_bits=3)
    fits = compile(None, torch.tensor([[1, 1, 1, 0], [-1, -1, -1, -1]]), machine, 2, 1)
    clips = compile(None, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), machine, 2, 1)
    noisy = compile(None, torch.tensor([[1, 0, 0, 0]]), machine, 2, 1, errors=NonIdealities(read_noise=0.1))
    assert (fits.exact, clips.exact, noisy.exact) == (True, False, False)
    assert fits.reach == (-4, 3)
    for program in (clips, noisy):
        with pytest.raises(ValueError, match="fast must not be True for 'layer': .* codes -4 to 3"):
            run(program, torch.ones(4), fast=True)


def test_the_fast_path_stays_exact_where_float32_is_not():
    """Sums beyond 2**24."""
    machine = hardware(rows=64, dac_bits=2, adc_bits=16)
    numbers = np.random.default_rng(0)
    for shape, groups in (((3, 64, 3, 3), 1), ((2, 32, 3, 3), 2)):
        weight = numbers.integers(1900, 2**11, shape)
        images = numbers.integers(200, 256, (1, shape[1] * groups, 5, 5))
        program = compile(None, torch.from_numpy(weight), machine, 12, 8, groups=groups)
        layer = Layer("layer", "conv", shape[1] * groups, shape[0], (3, 3), groups=groups, in_size=5, out_size=3)
        expected = convolution(images, weight, layer)
        assert expected.max() > 2**24
        assert run(program, torch.from_numpy(images), fast=True).output.tolist() == expected.tolist()


@contextlib.contextmanager
def changed(get, change, value):
    """Change one of torch's global settings for a while."""
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


PATHS = {
    "default": contextlib.nullcontext,
    # Torch then takes NNPACK's convolutions, which round, as it does on Arm Macs.
    "oneDNN off": lambda: changed(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    # Torch may then multiply float32 matrices in bfloat16, where the processor can.
    "bfloat16": lambda: changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "float64 by default": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bits", "groups"), [(9, 1), (9, 2), (5, 1)])
def test_a_batch_of_32_images_is_exact_on_every_floating_point_path(path, bits, groups):
    numbers = np.random.default_rng(4)
    weight = numbers.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1), (32, 32 // groups, 3, 3))
    images = numbers.integers(0, 512, (32, 32, 6, 6))
    layer = Layer("layer", "conv", 32, 32, (3, 3), padding=1, groups=groups, in_size=6, out_size=6)
    expected = convolution(images, weight, layer)
    with PATHS[path]():
        program = compile(None, torch.from_numpy(weight), hardware(adc_bits=12), bits, 9, padding=1, groups=groups)
        assert program.exact
        for fast in (True, False):
            output = run(program, torch.from_numpy(images), fast).output
            assert output.dtype == torch.float64
            assert np.array_equal(output.numpy(), expected)


def test_wires_and_noise_are_the_same_under_autocast():
    errors = NonIdealities(wire=1e-3, read_noise=0.5, variation=0.1)
    program = compile(None, torch.full((8, 8), 5), hardware(rows=8, cols=8, adc_bits=8), 4, 8, errors=errors)
    x = torch.arange(8.0) * 30
    expected = run(program, x).output
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(program, x).output, expected)


@pytest.mark.parametrize("fast", [True, False])
def test_gradients_end_at_the_datapath(fast):
    weight, x = torch.arange(-6.0, 6).reshape(2, 6).requires_grad_(), torch.arange(6.0).requires_grad_()
    scale = torch.tensor([0.5, 2.0]).requires_grad_()
    output = run(compile(None, weight, hardware(), 4, 4, scale=scale), x, fast).output
    assert not output.requires_grad
    assert output.tolist() == (scale * (weight @ x)).tolist()


def test_settings_of_torch_are_left_as_they_were():
    program = compile(None, DENSE, hardware(), 4, 4)
    for enabled in (True, False):
        with changed(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, enabled):
            run(program, torch.ones(1, 3, 5, 5), fast=False)
            assert torch.backends.mkldnn.enabled == enabled


@pytest.mark.parametrize("polarity", [1, 2])
def test_sums_beyond_float64_are_not_called_exact(polarity):
    """Two products of a word below 2^15 and a weight of 32 bits stay below 2^53, of 48 bits they do not."""
    machine = hardware(adc_bits=16, polarity=polarity)
    for bits, exact in ((32, True), (48, False)):
        weight = torch.full((1, 2), 2 ** (bits - 1) - 1)
        program = compile(None, weight, machine, bits, 15)
        assert program.exact == exact
        if exact:
            for fast in (True, False):
                x = torch.tensor([2**15 - 1, 2**15 - 2])
                assert int(run(program, x, fast).output) == (2**16 - 3) * (2 ** (bits - 1) - 1)


def test_scales_per_column_and_per_crossbar():
    """Two row blocks (12 rows on crossbars of 8, two channels of 2x2 each) and three columns, each with a
    scale."""
    spec = EpitomeSpec(6, 6, (1, 1), (3, 3, 2, 2), block=(3, 3), wrap=1)
    plan, numbers = spec.plan(), np.random.default_rng(1)
    epitome = numbers.integers(-7, 8, spec.epitome)
    images = torch.from_numpy(numbers.integers(0, 16, (2, 6, 3, 3)))
    for scale in (np.array([0.5, 0.25, 2.0]), numbers.random((2, 3))):
        per_element = np.broadcast_to(scale, (2, 3))[[0, 0, 1]].T[:, :, None, None] * np.ones(spec.epitome)
        weight = (epitome * per_element).reshape(-1)[plan.index]
        expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], images.numpy())
        program = compile(plan, torch.from_numpy(epitome), hardware(rows=8), 4, 4, scale=torch.from_numpy(scale))
        for fast in (False, True):
            output = run(program, images, fast).output.numpy()
            np.testing.assert_allclose(output, expected, rtol=1e-12)
    tenths = compile(plan, torch.from_numpy(epitome), hardware(rows=8), 4, 4, scale=0.1)
    whole = compile(plan, torch.from_numpy(epitome), hardware(rows=8), 4, 4)
    assert torch.equal(run(tenths, images).output, run(whole, images).output * 0.1)


def test_a_calibrated_step_has_the_least_squared_error():
    """Per bit slice, with errors weighted by the input bit; against all powers of two by brute force."""
    numbers = np.random.default_rng(2)
    machine = hardware(rows=64, cell_bits=2, adc_bits=4)
    weight, x = numbers.integers(-31, 32, (5, 60)), numbers.integers(0, 16, (40, 60))
    program = compile(
        None, torch.from_numpy(weight), machine, 6, 4, adc_range="calibrated", calibration=torch.from_numpy(x)
    )
    best = []
    for first in (0, 2, 4):
        level = np.sign(weight) * (np.abs(weight) >> first & 3)
        error = {}
        for step in (1, 2, 4, 8, 16, 32):
            currents = [(bit, (x >> bit & 1) @ level.T) for bit in range(4)]
            wrong = [4**bit * (np.clip(np.round(c / step), -8, 7) * step - c) ** 2 for bit, c in currents]
            error[step] = np.sum(wrong)
        best.append(min(error, key=error.get))
    assert program.adc_step.tolist() == best
    assert 1 < max(best) < 32


def test_calibration_of_a_wide_adc_changes_nothing():
    weight, x = torch.arange(-5, 5).reshape(2, 5), torch.arange(10).reshape(2, 5)
    program = compile(None, weight, hardware(adc_bits=12), 4, 4, adc_range="calibrated", calibration=x)
    assert torch.equal(run(program, x, fast=False).output, (x @ weight.T).double())


def one_column_each(count, errors, level=1, rows=1, seed=0, **values):
    """Linear layer of ``count`` columns whose ``rows`` cells are all of one level, read in one cycle."""
    values = {"rows": 64, "cols": count, "adcs": count, "cell_bits": 2, "dac_bits": 8, "adc_bits": 16} | values
    return compile(None, torch.full((count, rows), level), hardware(**values), 3, 8, errors=errors, seed=seed)


def test_variation_is_drawn_when_crossbars_are_programmed():
    x = torch.tensor([200])
    outputs = [
        run(one_column_each(4000, NonIdealities(variation=0.1), level=2, seed=seed), x, seed=read).output
        for seed, read in ((0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(outputs[0], outputs[1])  # read again: the same cells
    assert not torch.equal(outputs[0], outputs[2])  # programmed again: others
    assert outputs[0].mean().item() == pytest.approx(400, rel=0.01)
    assert outputs[0].std().item() == pytest.approx(40, rel=0.05)


def test_stuck_cells():
    errors = NonIdealities(stuck_off=0.2, stuck_on=0.1)
    program = one_column_each(5000, errors, level=1)
    positive, negative = program.conductance[:, 0, 0]
    for cells, programmed in ((positive, 1), (negative, 0)):
        assert (cells == 3).float().mean().item() == pytest.approx(0.1, abs=0.02)
        off = 0.2 if programmed else 0.9
        assert (cells == 0).float().mean().item() == pytest.approx(off, abs=0.02)


def test_read_noise_is_drawn_for_every_read_and_adds_up_in_quadrature():
    """Both cells of 16 pairs fluctuate, driven by 0 to 3: sqrt(2 * (4 * (1 + 4 + 9))) times one cell's noise."""
    program = one_column_each(64, NonIdealities(read_noise=2.0), rows=16)
    x = (torch.arange(16) % 4).expand(200, 16)
    first, again, other = (run(program, x, seed=seed).output for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.mean().item() == pytest.approx(24, abs=0.5)
    assert first.std().item() == pytest.approx(2 * math.sqrt(2 * 4 * (1 + 4 + 9)), rel=0.03)
    assert first.std(0).min().item() > 10  # every read of a column draws anew
    assert run(program, torch.zeros(16)).output.abs().max().item() == 0  # no drive, no noise


def test_read_noise_of_groups_that_share_a_crossbar():
    """Three depthwise channels driven by 0, 1 and 2 have columns with 0, 1 and 2 times the noise."""
    errors = NonIdealities(read_noise=3.0)
    machine = hardware(rows=16, cols=16, cell_bits=2, dac_bits=2, adc_bits=16)
    program = compile(None, torch.zeros(3, 1, 2, 2), machine, 3, 2, groups=3, errors=errors)
    images = torch.arange(3).reshape(1, 3, 1, 1).expand(1, 3, 61, 61)
    deviation = run(program, images).output.std((0, 2, 3))
    assert deviation.tolist() == pytest.approx([0, 3 * math.sqrt(8), 6 * math.sqrt(8)], rel=0.05)


def test_columns_of_one_adc_share_its_offset_and_gain():
    errors = NonIdealities(adc_offset=3.0)
    offsets = run(one_column_each(600, errors, adcs=200), torch.tensor([0])).output
    assert torch.equal(offsets[:200], offsets[200:400])
    assert torch.equal(offsets[:200], offsets[400:])
    assert offsets.std().item() == pytest.approx(3, rel=0.15)
    gains = run(one_column_each(600, NonIdealities(adc_gain=0.05)), torch.tensor([255])).output / 255
    assert (gains.mean().item(), gains.std().item()) == pytest.approx((1, 0.05), rel=0.1)


def currents_of_a_wired_crossbar(conductance, voltage, wire):
    """Solve the resistor network: word lines driven at column 0, bit lines grounded beyond the last row."""
    rows, cols = conductance.shape
    number = np.arange(2 * rows * cols).reshape(2, rows, cols)  # a node on the word line, one on the bit line
    matrix, source = np.zeros((2 * rows * cols,) * 2), np.zeros(2 * rows * cols)

    def connect(a, b, g):
        matrix[a, a] += g
        matrix[b, b] += g
        matrix[a, b] -= g
        matrix[b, a] -= g

    for i in range(rows):
        for j in range(cols):
            connect(number[0, i, j], number[1, i, j], conductance[i, j])
            if j:
                connect(number[0, i, j - 1], number[0, i, j], 1 / wire)
            if i:
                connect(number[1, i - 1, j], number[1, i, j], 1 / wire)
        matrix[number[0, i, 0], number[0, i, 0]] += 1 / wire
        source[number[0, i, 0]] += voltage[i] / wire
    for j in range(cols):
        matrix[number[1, -1, j], number[1, -1, j]] += 1 / wire
    return np.linalg.solve(matrix, source)[number[1, -1]] / wire


def test_ir_drop_is_the_first_order_of_a_wired_crossbar():
    numbers = np.random.default_rng(3)
    conductance, voltage = numbers.integers(0, 4, (6, 5)).astype(float), numbers.integers(0, 3, 6)
    line, column = torch.arange(6), torch.arange(5)
    remaining = []
    for wire in (1e-3, 1e-4):
        cells = analog.ir_drop(torch.from_numpy(conductance), line, column, rows=6, cols=5, wire=wire)
        exact = currents_of_a_wired_crossbar(conductance, voltage, wire)
        drop = np.abs(voltage @ conductance - exact)
        remaining.append(np.abs(voltage @ cells.numpy() - exact).max() / drop.max())
    assert remaining[0] < 0.1
    assert remaining[1] == pytest.approx(remaining[0] / 10, rel=0.1)  # what is left is of second order


def test_ir_drop_grows_with_the_distance_from_driver_and_sense_amplifier():
    """One cell of level 1 alone in a crossbar loses ``wire * (column + 1 + rows - line)`` of its current."""
    machine = hardware(rows=8, cols=4, cell_bits=1, dac_bits=8, adc_bits=16)
    for line, column in ((0, 0), (7, 0), (0, 3), (5, 2), (2, 6)):  # column 6 is the third of the second crossbar
        weight = torch.zeros(8, 8)
        weight[column, line] = 1
        program = compile(None, weight, machine, 2, 8, errors=NonIdealities(wire=0.01))
        current = 255 * (1 - 0.01 * (column % 4 + 1 + 8 - line))
        assert run(program, torch.full((8,), 255)).output[column].item() == round(current)


def test_non_idealities_off_are_the_ideal_datapath():
    weight, x = torch.arange(-6, 6).reshape(2, 6), torch.arange(6)
    program = compile(None, weight, hardware(), 4, 4, errors=NonIdealities(), seed=7)
    assert program.exact
    assert run(program, x, fast=False).output.tolist() == (weight @ x).tolist()


@pytest.fixture
def traced():
    spec = EpitomeSpec(4, 4, (2, 2), (2, 2, 3, 2), block=(2, 2), wrap=2)
    epitome = torch.arange(-12, 12).reshape(spec.epitome).clamp(-7, 7)
    images = torch.arange(36).reshape(1, 4, 3, 3) % 16
    machine = hardware(rows=7, cols=8, dacs=4, cell_bits=2, packing="dense", adc_bits=9)
    return compile(spec.plan(), epitome, machine, 4, 4, padding=1), images


def test_a_trace_shows_what_run_computes(traced):
    program, images = traced
    output = run(program, images, fast=False).output[0]
    for position in ((0, 0), (1, 2), (3, 3)):
        states = list(trace_rounds(program, images, position))
        assert json.loads(json.dumps(states)) == states
        results = [None] * 4
        for state in states:
            results[slice(*state["outputs"])] = state["results"]
            for source, copy, channels in state["copies"]:
                results[copy : copy + channels] = results[source : source + channels]
        assert results == output[:, position[0], position[1]].tolist()


def test_a_trace_by_hand(traced):
    """Position (0, 0) with padding 1 sees only the image's first pixel, through the window's last element."""
    program, images = traced
    first, second = trace_rounds(program, images, (0, 0))
    assert [state["round"] for state in (first, second)] == [0, 1]
    assert first["fetch"] == [None, None, None, [0, 0, 0], None, None, None, [1, 0, 0]]
    assert second["fetch"] == [None, None, None, [2, 0, 0], None, None, None, [3, 0, 0]]
    assert first["inputs"] == [0, 0, 0, 0, 0, 0, 0, 9]
    # Patch (0, 0, 0, 0): window rows 0 and 1, all columns, of two channels with six word lines each.
    assert first["word_lines"] == [0, 1, 2, 3, 6, 7, 8, 9]
    # Crossbars of 7 rows with 4 DACs: lines 0..3 and 4..6 of block 0, then 0..3 of block 1.
    assert [(r["row_block"], r["row_group"], r["word_lines"]) for r in first["reads"]] == [
        (0, 0, [0, 1, 2, 3]),
        (0, 1, [6]),
        (1, 0, [0, 1, 2]),
    ]
    # E[0, 1, 1, 1] = -3, E[1, 1, 1, 1] = 7: -3 is -(3 + 0 * 4), 7 is 3 + 1 * 4; 9 is 1001 in binary.
    assert first["reads"][2]["codes"] == [[[-3, 3], [0, 1]], [[0, 0]] * 2, [[0, 0]] * 2, [[-3, 3], [0, 1]]]
    assert first["sums"] == [9 * -3, 9 * 7]
    assert (first["extends"], second["extends"]) == (False, True)
    assert (first["outputs"], first["copies"], second["copies"]) == ([0, 2], [], [[0, 2, 2]])


class Net(nn.Module):
    """A convolution, a grouped and a depthwise one, a residual sum, pooling and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding="valid")
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        x = self.stem(x)
        x = x + torch.relu(self.norm(self.conv(torch.relu(x))))
        return self.head(self.grouped(torch.relu(self.depthwise(x))).mean((2, 3)))


DESIGN = Design(
    {
        "conv": EpitomeSpec(8, 8, (3, 3), (4, 4, 4, 4), wrap=2),
        "head": EpitomeSpec(6, 12, (1, 1), (3, 6, 1, 1)),
    }
)


def network():
    """The network with epitomes, in float64 so that the order of sums does not move a rounding."""
    torch.manual_seed(0)
    return epitomize(Net(), DESIGN)[0].double()


def emulation(model, quantized):
    """The same network in floating point: fake-quantized weights and inputs, torch's own convolutions."""
    with torch.no_grad():
        for name, layer in quantized.items():
            module = model.get_submodule(name)
            parameter = module.epitome if hasattr(module, "epitome") else module.weight
            parameter.copy_(layer.weight * layer.scale)
            low = -(2 ** (layer.input_bits - 1)) if layer.signed else 0
            steps = 2**layer.input_bits - 1

            def fake(_, inputs, s=layer.input_scale, low=low, steps=steps):
                return ((inputs[0] / s).round().clamp(low, low + steps) * s,)

            module.register_forward_pre_hook(fake)
    return model.eval()


def test_logits_equal_those_of_a_float_emulation_with_the_same_integers():
    model, images = network(), torch.rand(3, 3, 9, 9, dtype=torch.float64) - 0.3
    machine = hardware(rows=36, cols=8, adc_bits=12)
    quantized = quantize_max(model, images, bits=6, activation_bits=7)
    logits, events = simulate(model, machine, images, quantized=quantized, fast=False, batch=2)
    with torch.no_grad():
        expected = emulation(network(), quantized)(images)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    fast = simulate(model, machine, images, 6, 7, calibration=images, batch=2).logits
    assert torch.equal(logits, fast)
    assert model.training
    assert not any("forward" in vars(module) for module in model.modules())
    workload = trace(Net(), (3, 9, 9))
    assert list(events) == [layer.name for layer in workload.weighted]
    for layer in workload.weighted:
        signed = quantized[layer.name].signed
        assert events[layer.name] == 3 * layer_events(layer, DESIGN.get(layer.name), machine, 6, 7, signed)


def test_a_quantizer_of_ones_own_can_be_plugged_in():
    model, images = nn.Linear(4, 2, bias=False), torch.tensor([[0.5, -0.25, 1.0, 0.0]])
    own = QuantizedLayer(torch.tensor([[1, 2, 3, 0], [0, -1, 0, 3]]), 0.5, 3, 0.25, 4, True)
    logits, _ = simulate(model, hardware(), images, quantized={"": own})
    assert logits.tolist() == [[0.125 * (2 - 2 + 12), 0.125 * 1]]


def test_calibrated_adcs_and_noise_in_a_network():
    model, images = network(), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    machine = hardware(rows=36, cols=8, adc_bits=4)
    exact = simulate(model, machine.replace({"adc.bits": 12}), images, 6, 6).logits
    error = {
        rule: (simulate(model, machine, images, 6, 6, adc_range=rule).logits - exact).abs().mean().item()
        for rule in analog.ADC_RANGES
    }
    assert error["calibrated"] < min(error["max"], error["lossless"])
    noisy = [
        simulate(model, machine, images, 6, 6, errors=NonIdealities(variation=0.1, read_noise=0.1), seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(noisy[0].logits, noisy[1].logits)
    assert not torch.equal(noisy[0].logits, noisy[2].logits)


SPEC = EpitomeSpec(4, 4, (3, 3), (2, 2, 4, 4))
DENSE = torch.zeros(2, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": DENSE + 8}, r"weight must lie within -7 to 7 \(4 bits\), got 8 to 8"),
        ({"weight": DENSE + 0.5}, "weight must hold whole numbers; quantize it first"),
        ({"weight": DENSE * math.nan}, "weight must hold whole numbers, got NaN or infinity"),
        ({"weight": torch.zeros(3)}, r"weight must have 4 dimensions, or 2 \(linear layer\), got shape \(3,\)"),
        ({"plan": SPEC.plan()}, r"weight must have the shape of the epitome \(2, 2, 4, 4\), got \(2, 3, 3, 3\)"),
        ({"plan": SPEC.plan(), "weight": torch.zeros(2, 2, 4, 4), "groups": 2}, "groups must be 1 for an epitome"),
        ({"hardware": hardware(rows=8)}, "crossbar.rows must hold the 9 rows of one channel, got 8"),
        ({"hardware": hardware(adc_bits=1)}, "adc.bits must be at least 2, got 1"),
        ({"bits": 1}, "bits must be at least 2 with crossbar.polarity 2"),
        ({"activation_bits": 17}, "activation_bits must be at most 16, got 17"),
        ({"activation_bits": 0}, "activation_bits must be at least 1, got 0"),
        ({"activation_bits": 1, "signed": True}, "activation_bits must be at least 2, got 1"),
        ({"kind": "dense"}, "kind must be one of 'conv', 'linear', got 'dense'"),
        ({"groups": 4}, "groups of 'layer' must divide its channels 12 and 2, got 4"),
        ({"adc_range": "wide"}, "adc_range must be one of 'lossless', 'max', 'calibrated', got 'wide'"),
        ({"adc_range": "calibrated"}, "calibration must be a feature map when adc_range is 'calibrated', got None"),
        ({"weight": DENSE[:0]}, "weight must not be empty"),
        ({"scale": math.nan}, "scale must be finite"),
        ({"scale": torch.ones(5)}, r"scale must be a number or broadcast to \(row blocks, columns\) = \(1, 2\)"),
    ],
)
def test_compile_refuses(change, message):
    arguments = {"plan": None, "weight": DENSE, "hardware": hardware(), "bits": 4, "activation_bits": 4} | change
    with pytest.raises(ValueError, match=message):
        compile(**arguments)


def test_an_adc_of_no_bits_is_refused():
    with pytest.raises(ValueError, match=r"adc\.bits must be at least 1, got 0"):
        compile(None, DENSE, hardware(adc_bits=0), 4, 4)


def test_weights_of_offset_encoding_use_all_codes():
    machine = hardware(polarity=1, adc_bits=16)
    program = compile(None, torch.tensor([[-8, 7]]), machine, bits=4, activation_bits=4)
    assert run(program, torch.tensor([15, 1]), fast=False).output.tolist() == [-8 * 15 + 7]
    with pytest.raises(ValueError, match="weight must lie within -8 to 7"):
        compile(None, torch.tensor([[8]]), machine, bits=4)


@pytest.mark.parametrize(
    ("feature_map", "message"),
    [
        (torch.zeros(1, 2, 5, 5), r"feature_map must have shape \(N, 3, H, W\), got \(1, 2, 5, 5\)"),
        (torch.zeros(5, 5), r"feature_map must have shape \(N, 3, H, W\), got \(5, 5\)"),
        (torch.zeros(1, 3, 2, 5), "feature_map must be at least as large as the kernel's window"),
        (torch.zeros(0, 3, 5, 5), r"feature_map must not be empty, got shape \(0, 3, 5, 5\)"),
        (torch.full((1, 3, 5, 5), math.nan), "feature_map must hold whole numbers, got NaN or infinity"),
        (torch.full((1, 3, 5, 5), 0.5), "feature_map must hold whole numbers; quantize it first"),
        (torch.full((1, 3, 5, 5), 16), r"feature_map must lie within 0 to 15 \(4 bits, unsigned\), got 16 to 16"),
        (torch.full((1, 3, 5, 5), -1), "feature_map must lie within 0 to 15"),
    ],
)
def test_run_refuses(feature_map, message):
    program = compile(None, DENSE, hardware(), 4, 4)
    with pytest.raises(ValueError, match=message):
        run(program, feature_map)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="weight must be a tensor, got list"):
        compile(None, [[1]], hardware())
    with pytest.raises(TypeError, match="feature_map must be a tensor, got ndarray"):
        run(compile(None, DENSE, hardware()), np.zeros((1, 3, 5, 5)))


def test_trace_refuses(traced):
    program, images = traced
    with pytest.raises(ValueError, match=r"position must lie within the output of \(4, 4\), got \(4, 0\)"):
        next(trace_rounds(program, images, (4, 0)))
    with pytest.raises(ValueError, match="feature_map must be one image, got 2"):
        next(trace_rounds(program, images.expand(2, 4, 3, 3)))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(NonIdealities)])
def test_non_idealities_refuse(field):
    for value in (-0.1, math.nan, math.inf, "much"):
        with pytest.raises(ValueError, match=f"{field} must be a number of at least 0, got {value!r}"):
            NonIdealities(**{field: value})


def test_impossible_devices_are_refused():
    with pytest.raises(ValueError, match=r"stuck_off \+ stuck_on must be at most 1, got 0.6 \+ 0.6"):
        NonIdealities(stuck_off=0.6, stuck_on=0.6)
    program = compile(None, torch.full((64, 64), 7), hardware(), 4, 4, errors=NonIdealities(wire=0.1))
    with pytest.raises(ValueError, match="wire must be small enough for first-order IR drop, got 0.1"):
        run(program, torch.ones(64))


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Scaled(1, 1, 1), "layer '0' cannot be simulated: it must be plain and padded with zeros, got Scaled"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "layer '0' cannot be simulated"),
        (nn.Conv2d(1, 1, 2, padding="same"), "layer '0' cannot be simulated: its padding is not the same"),
    ],
)
def test_simulate_refuses_layers(layer, message):
    integers = QuantizedLayer(torch.ones(layer.weight.shape), 1.0, 4, 1.0, 4, False)
    with pytest.raises(ValueError, match=message):
        simulate(nn.Sequential(layer), hardware(), torch.ones(1, 1, 4, 4), quantized={"0": integers})


def test_simulate_refuses_names_and_numbers():
    model, images = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)
    with pytest.raises(ValueError, match="bits name layer '2', which the model lacks; "):
        simulate(model, hardware(), images, bits={"0": 4, "1": 4, "2": 4})
    with pytest.raises(ValueError, match=r"bits lack layer '1' \(and 0 more\)"):
        simulate(model, hardware(), images, bits={"0": 4})
    with pytest.raises(ValueError, match=r"quantized lack layer '0' \(and 1 more\)"):
        simulate(model, hardware(), images, quantized={})
    with pytest.raises(ValueError, match="layer '0' gets an input that is not finite"):
        simulate(model, hardware(), images * math.nan)
    with pytest.raises(ValueError, match="activation_bits must be at least 2, got 1"):
        simulate(model, hardware(), -images, activation_bits=1)
    attention = nn.MultiheadAttention(2, 1)  # multiplies by its weights without calling its layers
    with pytest.raises(ValueError, match="inputs lack layer 'attention.out_proj'"):
        quantize_max(Attend(attention), torch.ones(1, 3, 2))


def test_simulate_takes_the_integers_of_a_quantized_model_or_none():
    model, images = quantize(network(), QuantConfig(bits=4)), torch.rand(2, 3, 9, 9, dtype=torch.float64)
    calibrate(model, images)
    with pytest.raises(ValueError, match=r"layer 'stem' is quantized already .*, quantized=integer_weights\(model\)"):
        simulate(model, hardware(adc_bits=12), images)
    with pytest.raises(ValueError, match="layer 'stem' is quantized already"):
        quantize_max(model, images)
    logits, _ = simulate(model, hardware(adc_bits=12), images, quantized=integer_weights(model))
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(images), rtol=1e-11, atol=1e-11)


def test_simulate_refuses_what_would_run_beside_the_crossbars():
    model, x = nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)
    own = {"0": QuantizedLayer(torch.ones(2, 2), 1.0, 4, 1.0, 4, False)}
    with pytest.raises(ValueError, match="model must have a convolution or a linear layer"):
        simulate(nn.Sequential(nn.ReLU()), hardware(), x)
    with pytest.raises(ValueError, match="model must not be compiled, .*; a OptimizedModule is"):
        simulate(torch.compile(model, backend="eager"), hardware(), x)
    model[0].compile(backend="eager")
    with pytest.raises(ValueError, match="model must not be compiled, .*; its part '0' is"):
        simulate(model, hardware(), x)
    patched = nn.Sequential(nn.Linear(2, 2))
    patched[0].forward = lambda x: x
    with pytest.raises(ValueError, match="layer '0' cannot be simulated"):
        simulate(patched, hardware(), x)
    assert "forward" in vars(patched[0])
    functional = Functional()
    own = {"layer": own["0"], "other": own["0"]}
    with pytest.raises(ValueError, match="layer 'other' is not called when the model runs"):
        simulate(functional, hardware(), x, quantized=own)
    for wrong, kind in ((x.numpy(), "ndarray"), ((x, x), "tuple")):
        with pytest.raises(TypeError, match=f"images must be a tensor of inputs, without targets, got {kind}"):
            simulate(functional, hardware(), wrong)
    with pytest.raises(ValueError, match=r"images must hold at least one image, got shape \(0, 2\)"):
        simulate(functional, hardware(), x[:0])
    with pytest.raises(TypeError, match=r"hardware must be a Hardware, got 'default'; did you mean Hardware.preset"):
        simulate(functional, "default", x)
    with pytest.raises(TypeError, match=r"hardware must be a Hardware, got 'default'"):
        compile(None, DENSE, "default")


class Functional(nn.Module):
    """Multiplies by the weight of one of its layers without calling it."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x) @ self.other.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_of_half_precision_become_the_nearest_integers(dtype):
    x = (torch.rand(2000) * 500).to(dtype)
    layer = QuantizedLayer(torch.ones(1), 1.0, 4, 0.75, 10, False)
    expected = (x.double() / 0.75).round()
    assert torch.equal(layer.quantize_input(x).double(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        model, images = nn.Linear(32, 4), torch.rand(3, 32).to(dtype).float()
        inside = simulate(model, hardware(adc_bits=12), images).logits
    assert torch.equal(inside, simulate(model, hardware(adc_bits=12), images).logits)


class Attend(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_events_of_many_images_add_up():
    program, images = compile(None, DENSE, hardware(), 4, 4), torch.ones(3, 3, 5, 5)
    one, three = run(program, images[:1], fast=False).events, run(program, images, fast=False).events
    assert sum([one] * 3, Events()) == three == 3 * one
