"""Round coefficients: a weight is a patch times one number for each output channel and input block.

References loop over blocks and know nothing of how the library orders its sums.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epimlib import Design, EpitomeSpec
from epimlib.epitome.coefficients import COEFFICIENT_STEPS, fit_coefficients, nearest_coefficients
from epimlib.epitome.layers import EpitomeConv2d, EpitomeLinear, epitomize
from epimlib.epitome.plan import COEFFICIENT_BITS, COEFFICIENTS
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import calibrate, quantize
from epimlib.search.problem import fit_error

KINDS = [kind for kind in COEFFICIENTS if kind != "none"]
LEVELS = {"sign": (-1, 1), "power": (-2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2)}


@st.composite
def specs(draw, kernels=((1, 1), (3, 3), (1, 3)), kinds=tuple(KINDS)):
    """Specifications with coefficients, from shapes, with blocks that are short or shared by chance too."""
    kernel = draw(st.sampled_from(kernels))
    out, inp = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    e_out, e_in = draw(st.integers(1, out)), draw(st.integers(1, inp))
    window = [k + draw(st.integers(0, 2)) for k in kernel]
    while e_out * e_in * window[0] * window[1] > out * inp * kernel[0] * kernel[1]:
        window = list(kernel)
    block = (draw(st.integers(1, e_out)), draw(st.integers(1, e_in)))
    wrap = draw(st.integers(1, -(-out // block[0])))
    return EpitomeSpec(out, inp, kernel, (e_out, e_in, *window), block, wrap, draw(st.sampled_from(kinds)))


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


@settings(max_examples=150, deadline=None)
@given(spec=specs(), stride=st.integers(1, 2), dilation=st.integers(1, 2), bias=st.booleans())
def test_conv_equals_a_dense_conv_with_the_weighed_patches(spec, stride, dilation, bias):
    layer = EpitomeConv2d(
        spec.in_channels, spec.out_channels, spec.kernel_size, stride, 1, dilation, 1, bias, epitome=spec
    )
    with_latents(layer)
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


@settings(max_examples=50, deadline=None)
@given(spec=specs(kernels=((1, 1),)), bias=st.booleans())
def test_linear_equals_a_dense_linear_with_the_weighed_patches(spec, bias):
    layer = with_latents(EpitomeLinear(spec.in_channels, spec.out_channels, bias, epitome=spec))
    weight = sampled(layer.epitome, definition(layer.coefficients.detach(), spec), spec)[:, :, 0, 0]
    x = torch.randn(2, 5, spec.in_channels, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
    torch.testing.assert_close(layer(x[0, 0]), F.linear(x[0, 0], weight, layer.bias))
    torch.testing.assert_close(layer.weight, weight)


def test_wrapped_blocks_share_partial_sums(monkeypatch):
    """The convolution multiplies what the wrapped one without coefficients does, once, whatever the copies."""
    spec = EpitomeSpec(64, 48, 3, (16, 16, 3, 3), (16, 16), "full", "sign")
    seen = []
    plain = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, w, *rest: seen.append((tuple(w.shape), rest[-1])) or plain(x, w, *rest))
    EpitomeConv2d(48, 64, 3, bias=False, epitome=spec)(torch.randn(1, 48, 8, 8))
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
@pytest.mark.parametrize("wrap", [1, "full"])
def test_layers_compile_keep_channels_last_and_leave_the_meta_device(kind, wrap):
    spec = EpitomeSpec(40, 24, 3, (16, 8, 4, 4), wrap=wrap, coefficients=kind)
    layer = EpitomeConv2d(24, 40, 3, epitome=spec).to(memory_format=torch.channels_last)
    x = torch.randn(2, 24, 8, 8).to(memory_format=torch.channels_last)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), y)
    empty = EpitomeConv2d(24, 40, 3, device="meta", epitome=spec).to_empty(device="cpu")
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
