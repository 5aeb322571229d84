"""Round coefficients: a weight is a patch times one number for each output channel and input block.

References loop over blocks and know nothing of how the library orders its sums.
"""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from epimlib import Design, EpitomeSpec, Hardware, Workload, evaluate
from epimlib.datapath import compile, simulate
from epimlib.epitome import layers
from epimlib.epitome.coefficients import COEFFICIENT_STEPS, fit_coefficients, nearest_coefficients
from epimlib.epitome.layers import EpitomeConv2d, EpitomeLinear, epitomize
from epimlib.epitome.plan import COEFFICIENT_BITS, COEFFICIENTS
from epimlib.epitome.workload import Layer
from epimlib.quant.export import load_quantized, save_quantized
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import calibrate, integer_weights, quantize, weight_quantizer
from epimlib.search.problem import candidates, fit_error
from epimlib.search.table import tabulate
from epimlib.train.build import build
from epimlib.train.config import TrainConfig
from tests.test_layers import specs as any_specs

KINDS = [kind for kind in COEFFICIENTS if kind != "none"]
LEVELS = {"sign": (-1, 1), "power": (-2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2)}


@st.composite
def specs(draw, kernels=((1, 1), (3, 3), (1, 3)), kinds=tuple(KINDS)):
    """Specifications with coefficients, from shapes, with blocks that are short or shared by chance too."""
    return dataclasses.replace(draw(any_specs(kernels)), coefficients=draw(st.sampled_from(kinds)))


def sampled(epitome: torch.Tensor, coefficients: torch.Tensor, spec: EpitomeSpec) -> torch.Tensor:
    """The logical weight by the definition, element by element of the grid of blocks."""
    weight = torch.full(spec.shape, float("nan"), dtype=epitome.dtype)
    k_h, k_w = spec.kernel_size
    for number, (out, inp, (a, b, y, x), _) in enumerate(spec.plan().patches):
        i = number % spec.grid[1]
        for j, channel in enumerate(out):
            patch = epitome[a + j, b : b + len(inp), y : y + k_h, x : x + k_w]
            weight[channel, inp.start : inp.stop] = coefficients[channel, i] * patch
    return weight


def definition(latent: torch.Tensor, spec: EpitomeSpec) -> torch.Tensor:
    """The coefficients of latents, one by one: the nearest level, the upper one of two equally near magnitudes."""
    if spec.coefficients == "free":
        return latent.reshape(-1, spec.grid[1])
    signs = [-1.0 if value < 0 else 1.0 for value in latent.tolist()]
    magnitudes = [level for level in LEVELS[spec.coefficients] if level > 0]
    nearest = [min(magnitudes, key=lambda m: (abs(m - abs(v)), -m)) for v in latent.tolist()]
    values = [s * m for s, m in zip(signs, nearest, strict=True)]
    return torch.tensor(values, dtype=latent.dtype).reshape(-1, spec.grid[1])


def fitted(weight: torch.Tensor, spec: EpitomeSpec, sweeps: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    epitome, coefficients = fit_coefficients(weight.numpy(), spec.plan(), sweeps)
    return torch.from_numpy(epitome), torch.from_numpy(coefficients)


def with_latents(layer: nn.Module) -> nn.Module:
    nn.init.uniform_(layer.coefficients, -2.5, 2.5)
    return layer.double()


SHARED, WHOLE = 1, math.inf
"""Values of ``layers.COMBINATION``: partial sums are shared wherever that saves multiplications, or never."""


def made(worth: float, kind: type, *args, **options) -> nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "COMBINATION", worth)
        return kind(*args, **options)


@pytest.mark.parametrize("worth", [SHARED, WHOLE])
@settings(max_examples=100, deadline=None)
@given(spec=specs(), stride=st.integers(1, 2), dilation=st.integers(1, 2), bias=st.booleans())
def test_conv_equals_a_dense_conv_with_the_weighed_patches(worth, spec, stride, dilation, bias):
    shape = (spec.in_channels, spec.out_channels, spec.kernel_size)
    layer = with_latents(made(worth, EpitomeConv2d, *shape, stride, 1, dilation, 1, bias, epitome=spec))
    x = torch.randn(2, spec.in_channels, 6, 7, dtype=torch.float64, requires_grad=True)
    epitome = layer.epitome.detach().clone().requires_grad_()
    coefficients = definition(layer.coefficients.detach(), spec).requires_grad_()
    weight = sampled(epitome, coefficients, spec)
    expected = F.conv2d(x, weight, layer.bias, stride, 1, dilation)
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer(x[0]), expected[0])
    # Latents have the gradient of their coefficients: it passes straight through.
    grad = torch.randn_like(expected)
    found = torch.autograd.grad(actual, [layer.epitome, x, layer.coefficients], grad)
    wanted = torch.autograd.grad(expected, [epitome, x, coefficients], grad)
    torch.testing.assert_close(found, (*wanted[:2], wanted[2].reshape(-1)))


@pytest.mark.parametrize("worth", [SHARED, WHOLE])
@settings(max_examples=50, deadline=None)
@given(spec=specs(kernels=((1, 1),)), bias=st.booleans())
def test_linear_equals_a_dense_linear_with_the_weighed_patches(worth, spec, bias):
    layer = with_latents(made(worth, EpitomeLinear, spec.in_channels, spec.out_channels, bias, epitome=spec))
    weight = sampled(layer.epitome, definition(layer.coefficients.detach(), spec), spec)[:, :, 0, 0]
    x = torch.randn(2, 5, spec.in_channels, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
    torch.testing.assert_close(layer(x[0, 0]), F.linear(x[0, 0], weight, layer.bias))
    torch.testing.assert_close(layer.weight, weight)


@pytest.mark.parametrize(("kernel", "shares"), [(3, True), (1, False)])
def test_partial_sums_are_shared_where_that_is_faster(kernel, shares):
    """Four copies of 64 input channels each: 576 or 64 multiplications for each partial sum."""
    spec = EpitomeSpec.for_crossbars(256, 256, kernel, rows=64 * kernel**2, cols=64, family="channel")
    spec = dataclasses.replace(spec, block=(64, 64), coefficients="sign")
    layer = EpitomeConv2d(256, 256, kernel, epitome=spec)
    assert (layer._sharing is not None) == shares


def test_wrapped_blocks_share_partial_sums(monkeypatch):
    """The convolution multiplies what the wrapped one without coefficients does, once, whatever the copies."""
    spec = EpitomeSpec(64, 48, 3, (16, 16, 3, 3), (16, 16), "full", "sign")
    seen = []
    plain = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, w, *rest: seen.append((tuple(w.shape), rest[-1])) or plain(x, w, *rest))
    made(SHARED, EpitomeConv2d, 48, 64, 3, bias=False, epitome=spec)(torch.randn(1, 48, 8, 8))
    assert seen == [((3 * 16, 16, 3, 3), 3)]  # three input blocks, 16 rows each: 16 x 48 x 9 products, not 64 x 48 x 9


@given(specs())
def test_a_plan_with_coefficients_is_the_plan_without(spec):
    plan, plain = spec.plan(), EpitomeSpec(*[*vars(spec).values()][:-1]).plan()
    assert plan.patches == plain.patches
    assert np.array_equal(plan.index, plain.index)
    assert np.array_equal(plan.usage, plain.usage)
    assert (plan.rounds, plan.source, plan.applications) == (plain.rounds, plain.source, plain.applications)
    # What differs: no output channel is a copy, no inputs can be added first.
    assert (plan.own_channels, plan.own_inputs, plan.period) == (spec.out_channels, spec.in_channels, spec.in_channels)
    assert plan.folded_rounds == plan.rounds


@given(specs())
def test_specifications_come_back_from_plain_data(spec):
    assert EpitomeSpec.from_dict(spec.to_dict()) == spec
    assert Design.from_dict(Design({"a": spec}).to_dict()) == Design({"a": spec})


def test_without_coefficients_plain_data_is_as_before():
    spec = EpitomeSpec(8, 8, 3, (4, 4, 4, 4))
    assert list(spec.to_dict()) == ["out_channels", "in_channels", "kernel_size", "epitome", "block", "wrap"]
    assert set(EpitomeConv2d(8, 8, 3, bias=False, epitome=spec).state_dict()) == {"epitome"}


@pytest.mark.parametrize("kind", LEVELS)
def test_the_nearest_level_is_found_and_takes_its_bits(kind):
    latent = torch.linspace(-3, 3, 961, dtype=torch.float64)
    found = nearest_coefficients(latent, kind).double()
    levels = torch.tensor(LEVELS[kind], dtype=torch.float64)
    assert set(found.tolist()) == set(levels.tolist())
    assert len(levels) == 2 ** COEFFICIENT_BITS[kind]
    torch.testing.assert_close((found - latent).abs(), (levels[:, None] - latent).abs().amin(0))
    assert np.array_equal(nearest_coefficients(latent.numpy(), kind), found.numpy())
    assert torch.equal(levels / COEFFICIENT_STEPS[kind], (levels / COEFFICIENT_STEPS[kind]).round())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_fit_is_never_worse_than_without_coefficients_nor_than_an_earlier_one(kind, data, seed):
    spec = data.draw(specs(kinds=(kind,)))
    weight = torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    errors = []
    for sweeps in range(4):
        epitome, coefficients = fitted(weight, spec, sweeps)
        errors.append((sampled(epitome, coefficients, spec) - weight).square().sum().item())
        if kind in LEVELS:
            assert set(coefficients.reshape(-1).tolist()) <= set(LEVELS[kind])
    plain = EpitomeConv2d(spec.in_channels, spec.out_channels, spec.kernel_size,
                          epitome=EpitomeSpec(*[*vars(spec).values()][:-1])).double()  # fmt: skip
    plain.fit(weight)
    assert errors[0] == pytest.approx((plain.weight - weight).square().sum().item())
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


def test_signs_of_a_weight_that_has_them_are_found():
    """Two copies of one patch, some of whose blocks are negated: all signs against the fit, by brute force."""
    spec = EpitomeSpec(2, 4, (1, 1), (1, 2, 1, 1), wrap="full", coefficients="sign")
    weight = torch.tensor([[3.0, 2, -3, -1], [3, 1, 4, 2]]).view(2, 4, 1, 1)
    epitome, signs = fitted(weight.double(), spec)
    found = (sampled(epitome, signs, spec) - weight).square().sum().item()
    best = []
    for trial in itertools.product((-1.0, 1.0), repeat=4):
        s = torch.tensor(trial).view(2, 2)
        patch = (s[:, :, None] * weight.view(2, 2, 2)).mean((0, 1)).view(1, 2, 1, 1)  # one patch, four uses
        best.append((sampled(patch, s, spec) - weight).square().sum().item())
    assert found == pytest.approx(min(best))


def test_free_coefficients_of_one_patch_are_the_first_singular_vector():
    """Copies of a patch that differ by a factor are a matrix of rank one, row by row of the patch."""
    spec = EpitomeSpec(6, 3, (3, 3), (1, 3, 3, 3), wrap="full", coefficients="free")
    weight = torch.randn(spec.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    epitome, coefficients = fitted(weight, spec, 500)
    values = torch.linalg.svdvals(weight.flatten(1))
    error = (sampled(epitome, coefficients, spec) - weight).square().sum()
    torch.testing.assert_close(error, values[1:].square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_epitomize_starts_from_the_fit_and_new_layers_with_random_signs(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 40))
    design = Design(
        {
            "0": EpitomeSpec.for_crossbars(64, 32, 3, rows=144, cols=32, coefficients=kind),
            "4": EpitomeSpec.for_crossbars(40, 64, 1, rows=32, cols=16, coefficients=kind),
        }
    )
    small, _ = epitomize(model, design)
    for name in design:
        weight = model.get_submodule(name).weight.detach()
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        epitome, coefficients = fitted(weight, design[name])
        layer = small.get_submodule(name)
        torch.testing.assert_close(layer.epitome.detach(), epitome.float())
        torch.testing.assert_close(layer.round_coefficients().detach(), coefficients.float())
        error = fit_error(weight.numpy(), design[name])
        dense = layer.weight.detach().reshape(weight.shape)
        assert error == pytest.approx(((dense - weight).norm() / weight.norm()).item(), rel=1e-4)
    new, _ = epitomize(model, design, init="random")
    signs = new[0].round_coefficients().detach()
    assert signs.shape == (64, design["0"].grid[1])
    assert set(signs.abs().reshape(-1).tolist()) == {1.0}
    assert 0.3 < (signs > 0).double().mean() < 0.7
    x = torch.randn(2, 32, 8, 8)
    new(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in new.parameters())
    twin = copy.deepcopy(new)
    twin.load_state_dict(new.state_dict())
    assert torch.equal(twin(x), new(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("worth", [SHARED, WHOLE])
def test_layers_compile_keep_channels_last_and_leave_the_meta_device(kind, worth):
    spec = EpitomeSpec(40, 24, 3, (16, 8, 4, 4), wrap="full", coefficients=kind)
    layer = made(worth, EpitomeConv2d, 24, 40, 3, epitome=spec).to(memory_format=torch.channels_last)
    x = torch.randn(2, 24, 8, 8).to(memory_format=torch.channels_last)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), y)
    empty = made(worth, EpitomeConv2d, 24, 40, 3, device="meta", epitome=spec).to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    torch.testing.assert_close(empty(x), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), y, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_coefficients_are_whole_multiples_of_one_step(kind, learned):
    spec = EpitomeSpec(40, 24, 3, (16, 8, 4, 4), wrap="full", coefficients=kind)
    model = nn.Sequential(EpitomeConv2d(24, 40, 3, epitome=spec))
    nn.init.normal_(model[0].coefficients)
    small = quantize(model, QuantConfig(bits=3, range="mse", learned=learned))
    x = torch.randn(2, 24, 8, 8)
    small(x).square().sum().backward()
    parameters = dict(small[0].named_parameters())
    latent = "parametrizations.coefficients.original" if kind == "free" else "coefficients"
    assert parameters[latent].grad.abs().sum() > 0
    calibrate(small, x)
    values = small.eval()[0].round_coefficients().detach()
    if kind == "free":
        step = small[0].parametrizations["coefficients"][0].scale.item()
        whole = values / step
        assert (whole - whole.round()).abs().max() < 1e-3
        assert whole.abs().max() < 128
    else:
        assert set(values.reshape(-1).tolist()) <= set(LEVELS[kind])


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match="coefficients must be one of 'none', 'sign', 'power', 'free', got 'signs'"):
        EpitomeSpec(8, 8, 3, (4, 4, 4, 4), coefficients="signs")
    with pytest.raises(ValueError, match="coefficients must be one of .* got None"):
        EpitomeSpec.for_crossbars(64, 64, 3, 64, 64, coefficients=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layers_step_minimises_the_error_of_the_weight_that_is_sampled(kind):
    spec = EpitomeSpec(40, 24, 3, (16, 8, 4, 4), wrap="full", coefficients=kind)
    layer = EpitomeConv2d(24, 40, 3, epitome=spec).double()
    nn.init.normal_(layer.coefficients)
    quantizer = weight_quantizer(layer, QuantConfig(bits=3, range="mse"))
    coarse = quantizer.eval()(layer.epitome.detach())
    weights = [sampled(e, layer.round_coefficients().detach(), spec) for e in (coarse, layer.epitome.detach())]
    assert quantizer.error(layer.epitome) == pytest.approx((weights[0] - weights[1]).square().sum().item(), rel=1e-5)


HARDWARE = Hardware.preset("default").replace({"crossbar.rows": 40, "crossbar.cols": 6, "adc.bits": 12})
IMAGES = torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def dense() -> nn.Module:
    layers = [nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))


def small(kind: str, learned: bool = False) -> nn.Module:
    """A quantized network in float64 whose first two weighted layers have coefficients, one of them wrapped."""
    torch.manual_seed(0)
    design = {
        "0": EpitomeSpec(12, 6, (3, 3), (6, 2, 4, 4), wrap="full", coefficients=kind),
        "5": EpitomeSpec(8, 12, (1, 1), (8, 4, 1, 1), coefficients=kind),
    }
    model, _ = epitomize(dense(), design, init="random")
    model.double().train()(IMAGES.double())
    config = QuantConfig(bits=3, granularity="crossbar", range="mse", learned=learned, crossbar=HARDWARE.crossbar)
    model = quantize(model.eval(), config)
    calibrate(model, IMAGES.double())
    return model.eval()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_simulated_network_computes_what_its_quantized_layers_do(kind, learned):
    model = small(kind, learned)
    with torch.no_grad():
        expected = model(IMAGES.double())
    for fast in (True, False):
        found = simulate(model, HARDWARE, IMAGES.double(), quantized=integer_weights(model), fast=fast)
        torch.testing.assert_close(found.logits, expected, rtol=1e-9, atol=1e-9)
    counted = found.events["0"].to_dict()
    assert (counted["negations"] > 0, counted.get("shifts", 0) > 0) == (True, kind != "sign")


@pytest.mark.parametrize("kind", KINDS)
def test_a_float_network_is_simulated_with_coefficients_on_their_grid(kind):
    model, _ = epitomize(dense(), {"0": EpitomeSpec(12, 6, (3, 3), (6, 2, 4, 4), wrap="full", coefficients=kind)})
    model = model.double().eval()
    with torch.no_grad():
        expected = model(IMAGES.double())
    found = simulate(model, HARDWARE, IMAGES.double(), bits=9).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_a_file_comes_back_with_its_coefficients(tmp_path, kind, learned):
    model = small(kind, learned)
    save_quantized(model, tmp_path / "net.safetensors")
    stored = load_file(tmp_path / "net.safetensors")
    whole = [tensor for key, tensor in stored.items() if "coefficients" in key and tensor.numel() > 1]
    assert [(tensor.dtype, tensor.numel()) for tensor in whole] == [(torch.int8, 12 * 3), (torch.int8, 8 * 3)]
    loaded = load_quantized(tmp_path / "net.safetensors", dense().double())
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES.double()), model(IMAGES.double()), rtol=0, atol=0)
    ours, theirs = integer_weights(model), integer_weights(loaded)
    for name in ("0", "5"):
        assert torch.equal(ours[name].coefficients, theirs[name].coefficients)
        assert ours[name].coefficient_scale == theirs[name].coefficient_scale


@pytest.mark.parametrize(("kind", "shifts", "bits"), [("sign", 0, 1), ("power", 1, 3), ("free", 7, 8)])
def test_what_coefficients_cost_by_hand(kind, shifts, bits):
    """128 -> 128, 1x1, on 64 columns: two wrapped output blocks share the sums of four input blocks of 32 channels."""
    layer = Layer("layer", "conv", 128, 128, in_size=(4, 4), out_size=(4, 4))
    network, default = Workload("one", (128, 4, 4), [layer]), Hardware.preset("default")
    plain = EpitomeSpec(128, 128, 1, (64, 32, 1, 1), wrap="full")
    weighed = dataclasses.replace(plain, coefficients=kind)
    before, after = (evaluate(network, default, {"layer": spec}, bits=3).layers[0] for spec in (plain, weighed))
    words = 16 * 128 * 4  # positions, output channels, rounds of each
    counts = {"negations": words, "joins": 16 * 128 * 3, "table_bits": before.counts["table_bits"] + words * bits}
    counts |= {"shifts": shifts * words} if shifts else {}
    assert dict(after.counts) == dict(before.counts) | counts
    unit = 2e-9 * 10.5e-6  # an adder or a shift-and-add for one period
    joint = 0.264e-3 * (45 / 65) ** 2 * 2e-9
    assert after.energy["joint module"] == pytest.approx(16 * 128 * (3 * joint + 4 * (1 + shifts) * unit))
    # Eight lanes for each of two blocks, each with a joint module, a negator and the shifters.
    lanes = 8 * 2 * (353.76 * (45 / 65) ** 2 + 60 + 60 * shifts)
    assert after.area["joint module"] == pytest.approx(1e-12 * lanes)
    assert after.area["index tables"] - before.area["index tables"] == pytest.approx(
        128 * 4 * bits * 0.0405803e-6 / 16384
    )
    # A clocked stage more for every round, and three stored sums of 64 columns pass the joint module, 8 at a time.
    assert after.time["digital"] - before.time["digital"] == pytest.approx(16 * 2e-9 * (4 + 3 * 64 / 8))
    assert after.time["output buffer"] == pytest.approx(before.time["output buffer"])
    assert after.time["analog"] == before.time["analog"]


def test_partial_sums_that_are_weighed_before_they_are_stored_have_more_bits():
    """Not wrapped, the joint module weighs on the way: a power of two makes the sums three bits longer."""
    layer = Layer("layer", "conv", 128, 128, in_size=(4, 4), out_size=(4, 4))
    network, default = Workload("one", (128, 4, 4), [layer]), Hardware.preset("default")
    plain = EpitomeSpec(128, 128, 1, (128, 32, 1, 1))
    kinds = {kind: dataclasses.replace(plain, coefficients=kind) for kind in COEFFICIENTS}
    times = {kind: evaluate(network, default, {"layer": spec}).layers[0].time for kind, spec in kinds.items()}
    moved = 16 * 128 * (3 + 4 - 1)  # partial sums read and written, besides the results
    for kind, more in (("sign", 0), ("power", 3), ("free", 7)):
        found = times[kind]["output buffer"] - times["none"]["output buffer"]
        assert found == pytest.approx(moved * more * (2 / 64 + 1 / 1024) * 1e-9)


def test_a_search_weighs_candidates_with_coefficients():
    workload = Workload("one", (64, 4, 4), [Layer("a", "conv", 64, 128, in_size=(4, 4), out_size=(4, 4))])
    found = candidates(workload, rows=[32], cols=[64], families=["channel"], wraps=["full"], bits=[3])
    more = candidates(workload, [32], [64], ["full"], ["channel"], [3], ["none", "sign"])
    assert len(more["a"]) == len(found["a"]) + 1
    assert [c.spec.coefficients for c in more["a"] if c.spec] == ["none", "sign"]
    weight = np.random.default_rng(0).normal(size=(128, 64, 1, 1))
    errors = [fit_error(weight, c.spec) for c in more["a"] if c.spec]
    assert errors[1] < errors[0] - 0.01
    table = tabulate(workload, Hardware.preset("default"), more)
    assert table.evaluate(np.array([[1], [2]])).crossbars.tolist() == [table.evaluate(np.array([[1]])).crossbars[0]] * 2
    with pytest.raises(ValueError, match="coefficients must be one of"):
        candidates(workload, coefficients=["signs"])


def test_the_rules_of_mnsim_refuse():
    network = Workload("one", (8, 4, 4), [Layer("layer", "conv", 8, 8, in_size=(4, 4), out_size=(4, 4))])
    spec = EpitomeSpec(8, 8, 1, (4, 4, 1, 1), coefficients="sign")
    with pytest.raises(ValueError, match="rules 'mnsim' evaluate dense networks only"):
        evaluate(network, Hardware.preset("mnsim-2024"), {"layer": spec})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("sign", None, "coefficients must be given for a plan with some, and for no other: the plan's are 'sign'"),
        ("none", torch.ones(4, 2), "and for no other: the plan's are 'none'"),
        ("sign", torch.ones(2, 4), r"must have shape \(C_out, n_in\) = \(4, 2\), got \(2, 4\)"),
        ("sign", 2 * torch.ones(4, 2), "coefficients must lie within -1 to 1"),
        ("sign", torch.zeros(4, 2), "coefficients of the kind 'sign' must be signs, -1 or 1"),
        ("power", 3 * torch.ones(4, 2), "coefficients of the kind 'power' must be powers of two or their negatives"),
        ("free", 0.5 * torch.ones(4, 2), "coefficients must hold whole numbers"),
    ],
)
def test_compile_refuses_coefficients_that_are_not_the_plans(kind, values, message):
    spec = EpitomeSpec(4, 4, (1, 1), (4, 2, 1, 1), coefficients=kind)
    with pytest.raises(ValueError, match=message):
        compile(spec.plan(), torch.ones(4, 2, 1, 1), HARDWARE, coefficients=values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_configuration_names_coefficients_and_takes_the_same_crossbars(kind):
    shape = {"rows": 72, "cols": 16, "wrap": "full", "dense": ["stem.conv", "head"]}
    common = {"data": "digits", "model": "resnet9", "epochs": 1, "model_options": {"width": 4}}
    common |= {"quantize": {"bits": 3, "granularity": "crossbar", "range": "mse", "learned": True}}
    plain = build(TrainConfig(**common, design=shape))
    weighed = build(TrainConfig(**common, design=shape | {"coefficients": kind}))
    assert weighed.about["crossbars"] == plain.about["crossbars"]
    assert weighed.about["parameters"] == plain.about["parameters"]  # weights and epitomes; coefficients stand beside
    specs = Design.from_dict(weighed.about["design"])
    assert {spec.coefficients for spec in specs.values()} == {kind}
    names = [name for name, _ in weighed.model.named_parameters() if "coefficients" in name and "scale" not in name]
    assert len(names) == len(specs) > 0
    start = weighed.model.state_dict()
    assert [start[name].ndim for name in names] == [1] * len(names)  # no weight decay
    weighed.model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(weighed.model.get_parameter(name).grad.abs().sum() > 0 for name in names)
