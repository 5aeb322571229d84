"""A traced network against the real one, observed by hooks while it runs."""

import dataclasses
import json
import subprocess
import sys
from functools import cache

import pytest

from epimlib import EpitomeSpec, Workload
from epimlib.epitome import workload
from epimlib.epitome.layers import EpitomeConv2d
from epimlib.epitome.trace import trace
from epimlib.epitome.workload import Layer
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import quantize

torch = pytest.importorskip("torch")
nn = torch.nn

NETWORKS = [
    "resnet18",
    "resnet50",
    "resnet101",
    "mobilenetv2_100",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_tiny_patch16_224",
]
# Counted in the papers' block tables: one sum for each residual block with equal sizes (ResNet: for each block; ViT:
# two for each block), one gate for each squeeze-and-excitation, one attention product for each ViT block.
JOINS = {
    "resnet18": {"add": 2 + 2 + 2 + 2},
    "resnet50": {"add": 3 + 4 + 6 + 3},
    "resnet101": {"add": 3 + 4 + 23 + 3},
    "mobilenetv2_100": {"add": 0 + 1 + 2 + 3 + 2 + 2 + 0},
    "efficientnet_b0": {"add": 0 + 1 + 1 + 2 + 2 + 3 + 0, "multiply": 1 + 2 + 2 + 3 + 3 + 4 + 1},
    "convnext_tiny": {"add": 3 + 3 + 9 + 3},
    "vit_tiny_patch16_224": {"add": 2 * 12, "matmul": 12},
}


def timm_model(name, **options):
    import timm

    return timm.create_model(name, pretrained=False, **options)


@cache
def traced_and_run(name, size=(3, 224, 224), device="meta"):
    """A network's trace and what its layers saw; on the meta device torch runs the model's code on shapes alone."""
    with torch.device(device):
        model = timm_model(name)
    return trace(model, size), observe(model, size)


def observe(model, size):
    """Run a model on one image; return what its convolutions and linear layers saw, in the order of the calls."""
    calls = []

    def record(name, module, inputs, output):
        inp, out = tuple(inputs[0].shape), tuple(output.shape)
        if isinstance(module, nn.Conv2d):
            macs = output[0, 0].numel() * module.weight.numel()
            calls.append((name, "conv", inp[1], out[1], inp[2:], out[2:], macs, module))
        else:
            space = inp[1:-1] if len(inp) == 4 else (inp[1], 1) if len(inp) == 3 else (1, 1)
            macs = output[..., 0].numel() * module.weight.numel()
            calls.append((name, "linear", inp[-1], out[-1], space, space, macs, module))

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(next(model.parameters()).new_zeros(1, *size))
    for handle in handles:
        handle.remove()
    return calls


def compare(network, calls):
    assert [layer.name for layer in network.weighted] == [name for name, *_ in calls]
    for layer, (name, kind, inp, out, in_size, out_size, macs, module) in zip(network.weighted, calls, strict=True):
        assert (layer.kind, layer.in_channels, layer.out_channels) == (kind, inp, out), name
        assert (layer.in_size, layer.out_size) == (in_size, out_size), name
        assert layer.positions == out_size[0] * out_size[1], name
        assert layer.macs == macs, name
        if kind == "conv":
            assert layer.weight_shape == tuple(module.weight.shape), name
            for field in ("kernel_size", "stride", "padding", "dilation", "groups"):
                assert getattr(layer, field) == getattr(module, field), (name, field)
        else:
            assert layer.weight_shape == (*module.weight.shape, 1, 1), name
            assert (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1), name


# Real networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_multiply_adds_are_those_of_the_running_model(name):
    network, calls = traced_and_run(name)
    assert (network.name, network.input_size) == (name, (3, 224, 224))
    compare(network, calls)
    assert sum(layer.macs for layer in network.layers) == sum(macs for *_, macs, _ in calls)


@pytest.mark.parametrize("name", NETWORKS)
def test_joins_are_those_of_the_block_table(name):
    network, _ = traced_and_run(name)
    counts = {kind: sum(layer.kind == kind for layer in network.layers) for kind in ("add", "multiply", "matmul")}
    assert counts == {"add": 0, "multiply": 0, "matmul": 0} | JOINS[name]
    assert all(len(layer.inputs) == 2 for layer in network.layers if layer.kind in ("add", "multiply"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stored_workload_is_a_fresh_trace(name):
    assert Workload.load(name) == traced_and_run(name)[0]


def test_the_stored_workload_at_another_size_is_a_fresh_trace():
    network, calls = traced_and_run("resnet50", (3, 96, 96), device="cpu")
    compare(network, calls)
    assert dataclasses.replace(network, name="resnet50@96") == Workload.load("resnet50@96")
    assert [layer.weight_shape for layer in network.weighted] == [
        layer.weight_shape for layer in Workload.load("resnet50").weighted
    ]


def test_a_size_that_is_not_square():
    size = (3, 96, 160)
    network, calls = traced_and_run("resnet18", size, device="cpu")
    compare(network, calls)
    assert network.input_size == size
    assert network["layer4.1.conv2"].out_size == (3, 5)


@pytest.mark.parametrize(("name", "depth"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_the_residual_sums_of_a_bottleneck_network_join_the_right_layers(name, depth):
    """Block b of a stage adds its third convolution to its shortcut: a projection in the first block of a stage,
    the previous sum in the others."""
    network, _ = traced_and_run(name)
    number, channels, previous = 0, 256, "pool1"
    for stage, blocks in enumerate(depth, start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            shortcut = previous if block else f"{prefix}.downsample.0"
            assert network[f"{prefix}.conv1"].inputs == (previous,)
            number += 1
            add = network[f"add{number}"]
            assert set(add.inputs) == {f"{prefix}.conv3", shortcut}
            assert (add.in_channels, add.out_channels) == (channels, channels)
            assert add.in_size == add.out_size == network[f"{prefix}.conv3"].out_size
            previous = add.name
        channels *= 2
    first, last = (layer for layer in network.layers if layer.kind == "pool")
    assert (first.inputs, first.kernel_size, first.stride, first.padding) == (("conv1",), (3, 3), (2, 2), (1, 1))
    assert (first.in_size, first.out_size) == ((112, 112), (56, 56))
    assert (last.inputs, last.in_size, last.out_size) == ((previous,), (7, 7), (1, 1))
    assert network["fc"].inputs == (last.name,)


def test_a_squeeze_and_excitation_gate_multiplies_the_map_that_it_was_computed_from():
    network, _ = traced_and_run("efficientnet_b0")
    gates = [layer for layer in network.layers if layer.kind == "multiply"]
    for gate in gates:
        body = next(name for name in gate.inputs if network[name].kind == "conv" and "conv_dw" in name)
        squeeze = next(name for name in gate.inputs if name != body)
        assert squeeze.endswith("se.conv_expand")
        pool = network[network[network[squeeze].inputs[0]].inputs[0]]
        assert (pool.kind, pool.inputs, pool.out_size) == ("pool", (body,), (1, 1))
        assert (gate.out_channels, gate.out_size) == (network[body].out_channels, network[body].out_size)


def test_attention_joins_heads_and_tokens():
    network, _ = traced_and_run("vit_tiny_patch16_224")
    for layer in network.layers:
        if layer.kind == "matmul":
            assert (layer.out_channels, layer.out_size) == (192, (197, 1))
    assert network["blocks.3.attn.proj"].inputs == ("matmul4",)


# Strange little models ---------------------------------------------------------------------------------------


class Model(nn.Module):
    """A model given by its layers and a function of (itself, x)."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def test_a_module_that_is_called_twice_is_two_layers():
    model = Model(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(3, 3, 3))
    network = trace(model, (3, 16, 16))
    assert [(layer.name, layer.inputs, layer.out_size) for layer in network.layers] == [
        ("conv", ("input",), (14, 14)),
        ("conv#2", ("conv",), (12, 12)),
    ]


def test_functional_layers_are_named_by_their_parameters():
    def run(m, x):
        x = nn.functional.conv2d(x, m.kernel, stride=2, padding=1, groups=3)
        x = nn.functional.linear(x.mean((2, 3)), m.head_weight)
        return x @ m.projection

    model = Model(
        run,
        kernel=nn.Parameter(torch.zeros(6, 1, 3, 5)),
        head_weight=nn.Parameter(torch.zeros(5, 6)),
        projection=nn.Parameter(torch.zeros(5, 2)),
    )
    conv, pool, head, projection = trace(model, (3, 9, 16)).layers
    assert (conv.name, conv.groups, conv.stride, conv.padding) == ("kernel", 3, (2, 2), (1, 1))
    assert (conv.weight_shape, conv.out_size) == ((6, 1, 3, 5), (5, 7))
    assert (pool.kind, pool.in_size, pool.out_size) == ("pool", (5, 7), (1, 1))
    assert (head.name, head.kind, head.weight_shape) == ("head", "linear", (5, 6, 1, 1))
    assert (projection.name, projection.kind, projection.weight_shape) == ("projection", "linear", (2, 5, 1, 1))


@pytest.mark.parametrize("channels", [4, 16])
def test_concatenation_is_told_by_its_operands_not_by_equal_numbers(channels):
    """With 16 channels on a 16 x 16 map, the joined map's width equals the first operand's channels."""
    model = Model(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x), x], dim=1)),
        a=nn.Conv2d(3, channels, 1),
        b=nn.Conv2d(3, 8, 3, padding=1),
        head=nn.Conv2d(channels + 8 + 3, 2, 1),
    )
    network = trace(model, (3, 16, 16))
    concat = network["concat1"]
    assert (concat.inputs, concat.out_channels, concat.out_size) == (("a", "b", "input"), channels + 11, (16, 16))
    assert network["head"].inputs == ("concat1",)


def test_channels_last_maps_keep_their_channels():
    """ConvNeXt's layout: a linear layer on (height, width, channels), then a sum in the same layout."""

    def run(m, x):
        x = m.conv(x).permute(0, 2, 3, 1)
        return (x + m.linear(x)).permute(0, 3, 1, 2)

    network = trace(Model(run, conv=nn.Conv2d(3, 8, 1), linear=nn.Linear(8, 8)), (3, 5, 6))
    assert (network["linear"].in_size, network["linear"].positions) == ((5, 6), 30)
    assert (network["add1"].out_channels, network["add1"].out_size) == (8, (5, 6))


def test_windows_that_the_model_folds_into_the_batch_count_as_positions():
    """As Swin does: (1, 8, 8, C) becomes (4, 16, C), and all 64 tokens pass through the layer."""

    def run(m, x):
        x = m.conv(x).permute(0, 2, 3, 1).reshape(1, 2, 4, 2, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(4, 16, 12)
        q, k, v = m.qkv(x).reshape(4, 16, 3, 2, 6).permute(2, 0, 3, 1, 4)
        return m.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)

    model = Model(run, conv=nn.Conv2d(3, 12, 1), qkv=nn.Linear(12, 36), out=nn.Linear(6, 5))
    conv, qkv, scores, values, out = trace(model, (3, 8, 8)).layers
    assert (qkv.positions, qkv.macs) == (64, 64 * 12 * 36)
    assert (scores.kind, scores.out_channels, scores.positions) == ("matmul", 2 * 16, 64)
    assert (values.inputs, values.out_channels, values.positions) == (("matmul1", "qkv"), 2 * 6, 64)
    assert out.positions == 64 * 2
    assert conv.positions == 64


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)), (16, 16)),
        (nn.Conv2d(3, 4, 3, padding="valid"), (14, 14)),
        (nn.Conv2d(3, 4, (3, 5), padding=(0, 3), stride=(2, 1)), (7, 18)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (16, 16)),
    ],
)
def test_odd_padding(conv, size):
    layer = trace(Model(lambda m, x: m.conv(x), conv=conv), (3, 16, 16))["conv"]
    assert layer.out_size == size
    assert layer.macs == size[0] * size[1] * conv.weight.numel()
    assert layer.dilation == conv.dilation


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_of_an_even_kernel_keeps_the_size():
    model = nn.Sequential(nn.Conv2d(3, 4, (4, 2), padding="same"))
    assert trace(model, (3, 7, 16))["0"].out_size == (7, 16)


def test_every_pooling_layer():
    model = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((2, 1)), nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d(1)
    )
    pools = trace(model, (3, 16, 16)).layers
    assert [(layer.kernel_size, layer.stride, layer.padding, layer.out_size) for layer in pools] == [
        ((3, 3), (2, 2), (1, 1), (8, 8)),
        ((2, 1), (2, 1), (0, 0), (4, 8)),
        ((2, 3), (2, 3), (0, 0), (2, 3)),
        ((2, 3), (2, 3), (0, 0), (1, 1)),
    ]


def test_normalisation_activation_and_reshaping_belong_to_the_layer_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(64, 2))
    network = trace(model, (3, 4, 4))
    assert [(layer.name, layer.inputs) for layer in network.layers] == [("0", ("input",)), ("4", ("0",))]


def test_training_flags_are_restored_module_by_module():
    model = Model(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    for training in (True, False):
        model.train(training)
        model.norm.eval()  # a frozen layer
        trace(model, (3, 4, 4))
        assert (model.training, model.conv.training, model.norm.training) == (training, training, False)
        with pytest.raises(ValueError, match="cannot be traced"):
            trace(model, (4, 4, 4))
        assert (model.training, model.conv.training, model.norm.training) == (training, training, False)


def test_tracing_neither_runs_the_model_nor_changes_its_state():
    model = Model(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, (3, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_another_type_or_without_memory():
    for model in (nn.Sequential(nn.Conv2d(3, 4, 3)).half(), nn.Sequential(nn.Conv2d(3, 4, 3)).to("meta")):
        assert trace(model, (3, 8, 8), name="m")["0"].out_size == (6, 6)


def test_the_name_of_a_workload():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert trace(model, (3, 8, 8)).name == "sequential"
    assert trace(model, (3, 8, 8), name="mine").name == "mine"


def branch_on_data(m, x):
    return x if x.sum() > 0 else -x


@pytest.mark.filterwarnings("ignore")  # torch reports the branch on its own too
@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        (Model(branch_on_data), (3, 8, 8), ["'model' cannot be traced at input_size=(3, 8, 8)"]),
        (nn.Conv2d(4, 4, 3), (3, 8, 8), ["'conv2d' cannot be traced at input_size=(3, 8, 8)", "3 channels"]),
        (nn.Conv2d(3, 4, 17), (3, 8, 8), ["cannot be traced at input_size=(3, 8, 8)", "Kernel size"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2)), (3, 8, 8), ["conv_transpose2d", "'0'"]),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3)), (3, 8, 8), ["'conv1d'", "'input'", "weight"]),
        (nn.Sequential(nn.Flatten(2), nn.LSTM(64, 8)), (3, 8, 8), ["'lstm'", "weight"]),
        (
            Model(lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.w), w=nn.Parameter(torch.zeros(3, 2))),
            (3, 8, 8),
            ["'einsum'", "'input'", "weight"],
        ),
        (
            Model(lambda m, x: m.a(x) / m.b(x), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1)),
            (3, 8, 8),
            ["'div'", "joins a and b"],
        ),
    ],
)
def test_a_model_that_cannot_be_traced_is_one_sentence(model, size, words):
    with pytest.raises(ValueError, match="unknown here|cannot be traced") as caught:
        trace(model, size)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_a_part_under_autocast_is_refused():
    def run(m, x):
        with torch.autocast("cpu", enabled=False):
            return m.conv(x)

    with pytest.raises(ValueError, match="wrap_with_autocast has a graph of its own"):
        trace(Model(run, conv=nn.Conv2d(3, 4, 1)), (3, 8, 8))


def test_an_epitomized_model_is_not_traced_as_something_else():
    spec = EpitomeSpec.for_crossbars(40, 24, 3, rows=96, cols=16)
    model = nn.Sequential(EpitomeConv2d(24, 40, 3, epitome=spec))
    with pytest.raises(ValueError, match="layer '0' is an epitome; trace the dense model"):
        trace(model, (24, 8, 8))


def test_a_spiking_network_is_not_traced():
    snntorch = pytest.importorskip("snntorch")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), snntorch.Leaky(beta=0.9, init_hidden=True))
    with pytest.raises(
        ValueError, match=r"^layer '1' is a spiking neuron; trace the model that has nn.ReLU in its place$"
    ):
        trace(model, (3, 8, 8))
    model[1] = nn.ReLU()
    assert trace(model, (3, 8, 8))["0"].out_channels == 4


def test_wrong_arguments_of_trace():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got 'resnet50'"):
        trace("resnet50")
    for size in ((224, 224), 224, "3x224"):
        with pytest.raises(ValueError, match="input_size must be 3 whole numbers, got "):
            trace(nn.Conv2d(3, 4, 3), size)
    with pytest.raises(ValueError, match="input_size must be at least 1, got 0"):
        trace(nn.Conv2d(3, 4, 3), (3, 0, 8))


def test_masked_and_quantized_layers_keep_their_names():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    plain = trace(model, (3, 8, 8))
    assert [layer.name for layer in plain.layers] == ["0", "3"]
    assert trace(quantize(model, QuantConfig(bits=3)), (3, 8, 8)) == plain
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(model[0]), *model[1:])
    assert trace(normed, (3, 8, 8)) == plain


def test_the_size_of_images_is_what_the_model_declares_or_asked_for():
    assert trace(timm_model("resnet10t")).input_size == (3, 176, 176)
    assert str(trace(timm_model("resnet10t"), name="small")).startswith("small for images of 3 x 176 x 176: ")
    with pytest.raises(ValueError, match=r"input_size must be given, .*: model 'conv2d' does not say it"):
        trace(nn.Conv2d(3, 4, 3))
    for_small_images = timm_model("resnet18", num_classes=10)
    with pytest.raises(ValueError, match="input_size must be given, .*: model 'resnet18' is for other classes"):
        trace(for_small_images)
    assert trace(for_small_images, (3, 32, 32)).input_size == (3, 32, 32)


# Plain data --------------------------------------------------------------------------------------------------

SMALL = Workload(
    "small",
    (3, 8, 8),
    (
        Layer("conv", "conv", 3, 8, 3, 1, 1, in_size=(8, 8), out_size=(8, 8)),
        Layer("add1", "add", 8, 8, in_size=(8, 8), out_size=(8, 8), inputs=("conv", "conv")),
        Layer("fc", "linear", 8, 10, inputs=["add1"]),
    ),
)


@pytest.mark.parametrize("name", ["resnet50", "resnet50@96", "vit_tiny_patch16_224"])
def test_a_workload_survives_json(name):
    network = Workload.load(name)
    again = Workload.from_dict(json.loads(json.dumps(network.to_dict())))
    assert again == network
    assert hash(again) == hash(network)


def test_properties_of_a_layer_by_hand():
    conv, add, fc = SMALL.layers
    assert (conv.positions, conv.weight_shape, conv.macs, conv.weighted) == (64, (8, 3, 3, 3), 64 * 216, True)
    assert (add.weighted, add.macs) == (False, 0)
    assert (fc.positions, fc.weight_shape, fc.macs) == (1, (10, 8, 1, 1), 80)
    grouped = Layer("g", "conv", 8, 16, (3, 1), groups=4, out_size=(2, 5))
    assert (grouped.weight_shape, grouped.macs) == ((16, 2, 3, 1), 10 * 16 * 2 * 3)
    assert SMALL.weighted == (conv, fc)
    assert SMALL["fc"] is fc
    with pytest.raises(KeyError, match="no layer 'fd' in 'small'"):
        SMALL["fd"]


def test_another_number_of_classes_changes_the_head_only():
    network = Workload.load("resnet50").with_classes(256)
    assert network["fc"].weight_shape == (256, 2048, 1, 1)
    assert network.layers[:-1] == Workload.load("resnet50").layers[:-1]
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        network.with_classes(0)
    headless = dataclasses.replace(SMALL, layers=SMALL.layers[:2])
    with pytest.raises(ValueError, match="'small' has no linear layer whose classes could be changed"):
        headless.with_classes(10)


def test_the_text_of_a_workload_lists_its_layers():
    lines = str(SMALL).splitlines()
    assert lines[0] == "small for images of 3 x 8 x 8: 3 layers, 13,904 MACs"
    assert [line.split("  ")[0] for line in lines[1:]] == ["conv", "add1", "fc"]
    assert "8 x 3 x 3 x 3" in lines[1]
    assert lines[2].endswith("8 x 8      conv, conv")
    assert str(Workload("empty", (3, 8, 8), ())) == "empty for images of 3 x 8 x 8: 0 layers, 0 MACs"


def test_loading_and_mapping_import_neither_torch_nor_what_is_slow():
    program = """
import sys
import epimlib
network = epimlib.Workload.load("resnet50")
design = epimlib.Design.uniform(network, rows=1024, cols=256)
epimlib.map_crossbars(network, epimlib.Hardware.preset("default"), design).crossbars
design["layer4.0.conv2"].plan().usage
slow = {"torch", "torchvision", "timm", "pandas", "scipy", "matplotlib", "seaborn", "sklearn", "IPython"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_what_is_saved_among_the_stored_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "FOLDER", tmp_path)
    SMALL.save(tmp_path / "small.json")
    assert Workload.load("small") == SMALL


def test_an_unknown_workload_names_the_stored_ones():
    with pytest.raises(FileNotFoundError, match="no stored workload 'resnet5'; stored are .*resnet50, resnet50@96"):
        Workload.load("resnet5")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"name": "resnet50", "layers": [', ["is not a readable workload"]),
        ("[]", ["a workload must be a mapping, got list"]),
        ("{}", ["a workload lacks 'name', 'input_size', 'layers'"]),
        ('{"cells": [], "metadata": {}}', ["unknown key 'cells' in a workload"]),
        ('{"name": "m", "input_size": [3, 8, 8], "layers": {}}', ["layers of a workload must be a list, got dict"]),
        ('{"name": "m", "input_size": [3, 8, 8], "layers": [7]}', ["a layer must be a mapping, got int"]),
        ('{"name": 7, "input_size": [3, 8, 8], "layers": []}', ["name of a workload must be a text, got 7"]),
        ('{"name": "m", "input_size": [8, 8], "layers": []}', ["input_size must be 3 whole numbers", "(8, 8)"]),
    ],
)
def test_a_truncated_or_foreign_file_is_one_sentence(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(workload, "FOLDER", tmp_path)
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ValueError, match=".") as caught:
        Workload.load("m")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two layers of 'small' are called 'fc'"):
        dataclasses.replace(SMALL, layers=(*SMALL.layers, SMALL["fc"]))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"kind": "conv3d"}, ValueError, ["kind of 'conv'", "'conv', 'linear'", "'conv3d'"]),
        ({"kind": ["conv"]}, ValueError, ["kind of 'conv'", "['conv']"]),
        ({"in_channels": 0}, ValueError, ["in_channels of 'conv'", "at least 1", "0"]),
        ({"out_channels": 8.0}, TypeError, ["out_channels of 'conv'", "whole number", "8.0"]),
        ({"kernel_size": [3, 3, 3]}, ValueError, ["kernel_size of 'conv'", "(3, 3, 3)"]),
        ({"stride": [0, 1]}, ValueError, ["stride of 'conv'", "at least 1", "0"]),
        ({"padding": -1}, ValueError, ["padding of 'conv'", "at least 0", "-1"]),
        ({"padding": "same"}, ValueError, ["padding of 'conv'", "'same'"]),
        ({"groups": 2}, ValueError, ["groups of 'conv'", "divide", "3 and 8", "2"]),
        ({"groups": True}, TypeError, ["groups of 'conv'", "whole number", "True"]),
        ({"out_size": None}, ValueError, ["out_size of 'conv'", "None"]),
        ({"inputs": "input"}, ValueError, ["inputs of 'conv'", "list of layer names", "'input'"]),
        ({"inputs": None}, ValueError, ["inputs of 'conv'", "list of layer names", "None"]),
        ({"inputs": [1]}, ValueError, ["inputs of 'conv'", "list of layer names", "[1]"]),
        ({"inputs": ["pool7"]}, ValueError, ["'conv' reads 'pool7'", "no layer before it"]),
        ({"inputs": ["fc"]}, ValueError, ["'conv' reads 'fc'", "no layer before it"]),
        ({"name": "input"}, ValueError, ["name of a layer", "'input'"]),
        ({"name": ""}, ValueError, ["name of a layer", "''"]),
        ({"name": 3}, ValueError, ["name of a layer", "3"]),
        ({"kernel": 3}, ValueError, ["unknown key 'kernel' in a layer; did you mean 'kernel_size'?"]),
        ({"in_channels": 4}, ValueError, ["'conv' of 'small' must read one map of its 4 channels", "(3, (8, 8))"]),
        ({"in_size": [9, 9]}, ValueError, ["'conv' of 'small' must read one map", "size (9, 9)", "(3, (8, 8))"]),
        ({"inputs": ["input", "input"]}, ValueError, ["'conv' of 'small' must read one map"]),
        ({"out_size": [7, 8]}, ValueError, ["'conv' of 'small' must have an out_size of (8, 8), got (7, 8)"]),
        ({"stride": 2}, ValueError, ["'conv' of 'small' must have an out_size of (4, 4), got (8, 8)"]),
        ({"out_channels": 9}, ValueError, ["'add1' of 'small' must read maps of 8 channels, got [9, 9]"]),
    ],
)
def test_a_layer_that_cannot_be_is_one_sentence(changes, error, words):
    data = SMALL.to_dict()
    data["layers"][0] |= changes
    with pytest.raises(error) as caught:
        Workload.from_dict(data)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1
