"""Epitome layers compute what a dense layer with the sampled weight computes, for less."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrize

from epimlib import Design, EpitomeSpec
from epimlib.epitome.layers import EpitomeConv2d, EpitomeLinear, epitomize
from epimlib.epitome.trace import trace

import timm

MODELS = [
    "resnet18",
    "resnet50",
    "resnet101",
    "mobilenetv2_100",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_tiny_patch16_224",
]
WRAPPED = EpitomeSpec.for_crossbars(40, 24, 3, rows=96, cols=16, wrap="full")
UNWRAPPED = EpitomeSpec.for_crossbars(40, 24, 3, rows=96, cols=16, wrap=1)


@st.composite
def specs(draw, kernels=((1, 1), (3, 3), (1, 3))):
    """Specifications from shapes, not only those that ``for_crossbars`` chooses."""
    kernel = draw(st.sampled_from(kernels))
    out, inp = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    e_out, e_in = draw(st.integers(1, out)), draw(st.integers(1, inp))
    window = [k + draw(st.integers(0, 2)) for k in kernel]
    while e_out * e_in * window[0] * window[1] > out * inp * kernel[0] * kernel[1]:
        window = list(kernel)
    block = (draw(st.integers(1, e_out)), draw(st.integers(1, e_in)))
    wrap = draw(st.integers(1, -(-out // block[0])))
    return EpitomeSpec(out, inp, kernel, (e_out, e_in, *window), block, wrap)


def sampled(epitome: torch.Tensor, spec: EpitomeSpec) -> torch.Tensor:
    """The logical weight by the definition: block by block, slice by slice."""
    weight = torch.full(spec.shape, float("nan"), dtype=epitome.dtype)
    k_h, k_w = spec.kernel_size
    for out, inp, (a, b, y, x), _ in spec.plan().patches:
        patch = epitome[a : a + len(out), b : b + len(inp), y : y + k_h, x : x + k_w]
        weight[out.start : out.stop, inp.start : inp.stop] = patch
    return weight


@settings(max_examples=150, deadline=None)
@given(spec=specs(), stride=st.integers(1, 2), dilation=st.integers(1, 2), bias=st.booleans())
def test_conv_equals_a_dense_conv_with_the_sampled_weight(spec, stride, dilation, bias):
    layer = EpitomeConv2d(
        spec.in_channels, spec.out_channels, spec.kernel_size, stride, 1, dilation, 1, bias, epitome=spec
    ).double()
    x = torch.randn(2, spec.in_channels, 6, 7, dtype=torch.float64, requires_grad=True)
    epitome = layer.epitome.detach().clone().requires_grad_()
    weight = sampled(epitome, spec)
    expected = F.conv2d(x, weight, layer.bias, stride, 1, dilation)
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(layer.weight, weight)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)
    # The gradient of an element is the sum over its uses: autograd through the definition adds them up.
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, [layer.epitome, x], grad),
        torch.autograd.grad(expected, [epitome, x], grad),
    )


@settings(max_examples=50, deadline=None)
@given(spec=specs(kernels=((1, 1),)), bias=st.booleans())
def test_linear_equals_a_dense_linear_with_the_sampled_weight(spec, bias):
    layer = EpitomeLinear(spec.in_channels, spec.out_channels, bias, epitome=spec).double()
    x = torch.randn(2, 5, spec.in_channels, dtype=torch.float64)
    expected = F.linear(x, sampled(layer.epitome, spec)[:, :, 0, 0], layer.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.weight, sampled(layer.epitome, spec)[:, :, 0, 0])


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_those_of_conv2d(padding_mode):
    dense = nn.Conv2d(24, 40, 3, padding=(1, 2), padding_mode=padding_mode)
    layer = EpitomeConv2d(24, 40, 3, padding=(1, 2), padding_mode=padding_mode, epitome=WRAPPED)
    dense.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(2, 24, 8, 9)
    torch.testing.assert_close(layer(x), dense(x))


def test_padding_same_and_an_image_without_a_batch():
    layer = EpitomeConv2d(24, 40, 3, padding="same", epitome=WRAPPED)
    x = torch.randn(24, 8, 9)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding="same"))


def test_wrapped_output_blocks_are_computed_once_and_copied(monkeypatch):
    """The multiplication sees 16 of 40 output channels, the number of logical columns of the epitome."""
    seen = []
    plain = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, w, *rest: seen.append(tuple(w.shape)) or plain(x, w, *rest))
    y = EpitomeConv2d(24, 40, 3, bias=False, epitome=WRAPPED)(torch.randn(1, 24, 8, 8))
    assert seen == [(16, 24, 3, 3)]
    assert torch.equal(y[:, 16:32], y[:, :16])
    assert torch.equal(y[:, 32:], y[:, :8])


def test_repeated_patches_are_multiplied_once(monkeypatch):
    """Eight input blocks share four patches: the multiplication sees half of the input channels."""
    spec = EpitomeSpec.for_crossbars(16, 64, 3, rows=128, cols=16)
    assert (spec.grid, spec.plan().distinct) == ((1, 8), 4)
    seen = []
    plain = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, w, *rest: seen.append(tuple(w.shape)) or plain(x, w, *rest))
    EpitomeConv2d(64, 16, 3, epitome=spec)(torch.randn(1, 64, 8, 8))
    assert seen == [(16, 32, 3, 3)]


def test_only_the_epitome_and_the_bias_are_stored():
    layer = EpitomeConv2d(24, 40, 3, epitome=UNWRAPPED)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "epitome": (16, 6, 4, 4),
        "bias": (40,),
    }
    assert set(layer.state_dict()) == {"epitome", "bias"}
    assert not list(layer.buffers())


def test_the_identity_is_a_convolution():
    layer = EpitomeConv2d(6, 8, 3, bias=False, epitome=EpitomeSpec.dense(8, 6, 3))
    assert torch.equal(layer.weight, layer.epitome)
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(layer(x), F.conv2d(x, layer.epitome))


def test_state_dict_and_deepcopy_round_trip():
    first, second = (EpitomeConv2d(24, 40, 3, epitome=WRAPPED) for _ in range(2))
    x = torch.randn(1, 24, 8, 8)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    clone = copy.deepcopy(first.eval())
    with torch.no_grad():
        clone(x)
        clone.epitome.zero_()
    assert first.epitome.abs().sum() > 0
    assert torch.equal(copy.deepcopy(first)(x), second(x))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_answer_is_never_stale(context):
    layer = EpitomeConv2d(24, 40, 3, bias=False, epitome=WRAPPED).eval()
    x = torch.randn(1, 24, 8, 8)
    with context():
        first = layer(x)
        assert torch.equal(layer(x), first)
        layer.epitome.data.mul_(2)  # .data hides a change
        torch.testing.assert_close(layer(x), 2 * first)
        layer.load_state_dict({"epitome": layer.epitome / 2})
        torch.testing.assert_close(layer(x), first)
        layer.epitome.data = layer.epitome.data * 3
        torch.testing.assert_close(layer(x), 3 * first)
        assert layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_functional_calls_use_the_epitome_they_are_given(training):
    """Each temporary is freed before the next is made, which then may have the address of the first."""
    spec = EpitomeSpec(64, 64, (3, 3), (16, 8, 4, 4), (16, 8), wrap="full")
    layer = EpitomeConv2d(64, 64, 3, bias=False, epitome=spec).train(training)
    p, x = layer.epitome.detach().clone(), torch.randn(1, 64, 6, 6)
    with torch.no_grad():
        first = functional_call(layer, {"epitome": p}, (x,))
        for k in (1, 2, 4, 8, 16, 32):
            assert torch.equal(functional_call(layer, {"epitome": p * k}, (x,)), first * k)


def test_a_parametrized_epitome_is_computed_each_time():
    class Times(nn.Module):
        factor = 1

        def forward(self, epitome):
            return epitome * self.factor

    layer, times = EpitomeConv2d(24, 40, 3, bias=False, epitome=WRAPPED).eval(), Times()
    parametrize.register_parametrization(layer, "epitome", times)
    x = torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        first = layer(x)
        for factor in (1, 2, 4, 8, 4, 2):
            times.factor = factor
            assert torch.equal(layer(x), first * factor)


def test_eval_mode_stays_differentiable():
    layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED).eval()
    x = torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    assert layer.epitome.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_is_the_layer(training):
    layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED).train(training)
    x = torch.randn(2, 24, 8, 8)
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(layer, x)(x[:1]), layer(x[:1]))


def test_vmap_over_inputs_over_epitomes_and_over_gradients():
    layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED).eval()
    x, bias = torch.randn(3, 24, 8, 8), layer.bias.detach()
    epitomes = torch.randn(2, *WRAPPED.epitome)

    def call(epitome, image):
        return functional_call(layer, {"epitome": epitome, "bias": bias}, (image,))

    with torch.no_grad():
        torch.testing.assert_close(vmap(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
        expected = torch.stack([call(epitome, x) for epitome in epitomes])
        torch.testing.assert_close(vmap(call, (0, None))(epitomes, x), expected, rtol=1e-4, atol=1e-4)
    by_image = vmap(grad(lambda epitome, image: call(epitome, image).sum()), (None, 0))(epitomes[0], x)
    alone = torch.stack([grad(lambda epitome, image: call(epitome, image).sum())(epitomes[0], image) for image in x])
    torch.testing.assert_close(by_image, alone, rtol=1e-4, atol=1e-4)


def test_inference_mode():
    with torch.inference_mode():
        layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED).eval()
        x = torch.randn(1, 24, 8, 8)
        assert torch.equal(layer(x), layer(x))


def test_autocast_computes_in_the_lower_precision_and_keeps_the_parameter():
    layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED)
    x = torch.randn(2, 24, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert layer.epitome.grad.dtype == torch.float32


@pytest.mark.parametrize("spec", [WRAPPED, UNWRAPPED], ids=["wrapped", "unwrapped"])
def test_channels_last_is_kept(spec):
    layer = EpitomeConv2d(24, 40, 3, epitome=spec).to(memory_format=torch.channels_last)
    x = torch.randn(2, 24, 8, 8)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_torch_compile_takes_the_layer_as_one_graph(training):
    layers = nn.Sequential(
        EpitomeConv2d(24, 40, 3, epitome=WRAPPED), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    layers.append(EpitomeLinear(40, 30, epitome=EpitomeSpec.for_crossbars(30, 40, 1, rows=20, cols=8)))
    layers.train(training)
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 24, 8, 8)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(x), layers(x))
    if training:
        compiled(x).sum().backward()
        compiled_grad = layers[0].epitome.grad.clone()
        layers.zero_grad()
        layers(x).sum().backward()
        torch.testing.assert_close(compiled_grad, layers[0].epitome.grad)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the code generator's own imports
def test_torch_compile_with_its_default_backend():
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.fail("torch.compile needs a C++ compiler on this machine: install g++ or clang++")
    layer = EpitomeConv2d(24, 40, 3, epitome=WRAPPED)
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(torch.compile(layer)(x), layer(x))


def test_dense_weights_are_fitted_by_the_mean_of_the_uses():
    """Against a least-squares solver that knows nothing of means."""
    layer = EpitomeConv2d(9, 10, 3, epitome=EpitomeSpec(10, 9, 3, (4, 3, 4, 4), (3, 2), wrap=2)).double()
    weight = torch.randn(10, 9, 3, 3, dtype=torch.float64)
    layer.fit(weight)
    selection = torch.zeros(weight.numel(), layer.epitome.numel(), dtype=torch.float64)
    selection[torch.arange(weight.numel()), torch.from_numpy(layer.spec.plan().index).reshape(-1)] = 1
    best = torch.linalg.lstsq(selection, weight.reshape(-1, 1), driver="gelsd").solution
    torch.testing.assert_close(layer.epitome.reshape(-1, 1), best)
    with pytest.raises(ValueError, match=r"shape \(10, 9, 3, 3\), got \(10, 9, 1, 1\)"):
        layer.fit(weight[..., :1, :1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_fit_in_half_precision_is_rounded_once(dtype):
    spec = EpitomeSpec(64, 64, (3, 3), (16, 8, 4, 4), (16, 8), wrap="full")
    weight = 1 + 0.05 * torch.randn(64, 64, 3, 3)
    half, single = EpitomeConv2d(64, 64, 3, epitome=spec, dtype=dtype), EpitomeConv2d(64, 64, 3, epitome=spec)
    half.fit(weight)
    single.fit(weight)
    assert torch.equal(half.epitome, single.epitome.to(dtype))


@pytest.mark.parametrize("name", MODELS)
def test_epitomize_converts_what_the_design_names_and_says_why_the_rest_stays(name):
    size = 224 if name.startswith("vit") else 64
    model = timm.create_model(name).eval()
    for module in model.modules():  # timm starts the last normalisation of a residual block at zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    workload = trace(model, (3, size, size))
    design = Design.uniform(workload, rows=512, cols=128)
    small, report = epitomize(model, design)
    assert set(report.converted) == set(design)
    assert design
    assert set(report.converted) | set(report.dense) == {layer.name for layer in workload.weighted}
    grouped = {layer.name for layer in workload.weighted if layer.groups > 1}
    assert all(("grouped" in report.dense[n]) == (n in grouped) for n in report.dense)
    assert report.parameters_after == sum(p.numel() for p in small.parameters())
    saved = sum(layer.macs // layer.positions for layer in workload.weighted if layer.name in design)
    saved -= sum(spec.rows * spec.cols for spec in design.values())
    assert report.parameters_before - report.parameters_after == saved > 0
    # A dense model whose weights are the sampled ones computes the same.
    twin = copy.deepcopy(model)
    for layer in design:
        module = twin.get_submodule(layer)
        module.weight.data = small.get_submodule(layer).weight.detach().reshape(module.weight.shape)
    x = torch.randn(1, 3, size, size)
    expected, actual = twin(x), small(x)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    actual.square().sum().backward()
    assert all(small.get_submodule(layer).epitome.grad.abs().sum() > 0 for layer in design)


def test_an_identity_design_leaves_the_outputs_as_they_were():
    model = timm.create_model("resnet18", num_classes=10).eval()
    workload = trace(model, (3, 32, 32))
    design = Design(
        {layer.name: EpitomeSpec.dense(*layer.weight_shape[:2], layer.kernel_size) for layer in workload.weighted}
    )
    same, report = epitomize(model, design)
    x = torch.randn(2, 3, 32, 32)
    assert report.dense == {}
    assert torch.equal(same(x), model(x))


def test_random_initialisation_has_the_spread_of_the_layer_it_stands_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(256, 256, 3))
    design = Design({"0": EpitomeSpec.for_crossbars(256, 256, 3, rows=1024, cols=256)})
    layer = epitomize(model, design, init="random")[0][0]
    assert layer.weight.std().item() == pytest.approx(model[0].weight.std().item(), rel=0.02)
    assert torch.equal(layer.bias, model[0].bias)


def test_epitomize_does_not_change_the_model_it_is_given():
    model = nn.Sequential(nn.Conv2d(24, 40, 3))
    before = copy.deepcopy(model.state_dict())
    epitomize(model, Design({"0": WRAPPED}))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_is_one_layer_becomes_that_layer():
    conv = nn.Conv2d(24, 40, 3).eval()
    layer, report = epitomize(conv, {"": WRAPPED})
    assert isinstance(layer, EpitomeConv2d)
    assert not layer.training
    assert list(report.converted) == [""]
    assert report.parameters_after == WRAPPED.rows * WRAPPED.cols + 40
    assert torch.equal(layer.bias, conv.bias)
    assert type(epitomize(conv, {})[0]) is nn.Conv2d


def test_a_layer_with_several_names_stays_one_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Conv2d(24, 40, 3)
            self.inner = nn.Sequential(self.a, nn.ReLU())

    model, report = epitomize(Twice(), {"a": WRAPPED})
    assert isinstance(model.a, EpitomeConv2d)
    assert model.a is model.b is model.inner[0]
    assert list(report.converted) == ["a"]
    assert report.parameters_after == sum(p.numel() for p in model.a.parameters())


def test_a_layer_follows_the_default_device_and_leaves_the_meta_device():
    with torch.device("meta"):
        inside = EpitomeConv2d(24, 40, 3, epitome=WRAPPED)
        assert inside(torch.empty(1, 24, 8, 8)).shape == (1, 40, 6, 6)  # a mix of devices would be refused
    assert inside.epitome.device == inside._index.device == torch.device("meta")
    filled = EpitomeConv2d(24, 40, 3, epitome=WRAPPED)
    x = torch.randn(1, 24, 8, 8)
    for layer in (inside, EpitomeConv2d(24, 40, 3, device="meta", epitome=WRAPPED)):
        layer.to_empty(device="cpu").load_state_dict(filled.state_dict())
        assert torch.equal(layer(x), filled(x))


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match="groups must be 1 for an epitome, got 2"):
        EpitomeConv2d(24, 40, 3, groups=2, epitome=WRAPPED)
    with pytest.raises(ValueError, match=r"is for a weight \(40, 24, 3, 3\), but the layer has \(40, 24, 5, 5\)"):
        EpitomeConv2d(24, 40, 5, epitome=WRAPPED)
    with pytest.raises(ValueError, match=r"is for a weight \(40, 24, 3, 3\), but the layer has \(40, 24, 1, 1\)"):
        EpitomeLinear(24, 40, epitome=WRAPPED)
    with pytest.raises(TypeError, match="epitome must be an EpitomeSpec, got None"):
        EpitomeConv2d(24, 40, 3, epitome=None)
    model = nn.Sequential(nn.Conv2d(24, 41, 3))
    with pytest.raises(ValueError, match="names layer 'conv1', which the model lacks"):
        epitomize(model, {"conv1": WRAPPED})
    with pytest.raises(ValueError, match=r"design of layer '0' is for .*\(41, 24, 3, 3\)"):
        epitomize(model, {"0": WRAPPED})
    with pytest.raises(ValueError, match="init must be one of 'dense', 'random', got 'zeros'"):
        epitomize(model, {}, init="zeros")
