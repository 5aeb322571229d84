"""Designs: which layers get which epitome, and what a design refuses."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epimlib import Design, EpitomeSpec, Workload
from epimlib.epitome.workload import Layer


def network(*layers):
    return Workload("net", (3, 8, 8), layers)


NET = network(
    Layer("small", "conv", 8, 8, 3),
    Layer("large", "conv", 64, 64, 3),
    Layer("depthwise", "conv", 64, 64, 3, groups=64),
    Layer("grouped", "conv", 512, 512, 3, groups=2),
    Layer("pool", "pool", 64, 64, 2),
    Layer("wide", "conv", 64, 64, 7),
    Layer("head", "linear", 512, 100),
)


# Uniform designs ---------------------------------------------------------------------------------------------


def test_a_uniform_design_leaves_what_would_not_shrink_dense():
    """128 x 32: a 4x4 window holds 8 channels, 4096 elements; a 2x2 window holds 32, also 4096.

    ``small`` has 576 elements already. ``wide`` would need 8 x 8 word lines for each channel and has 2 channels.
    ``head`` has 51,200 elements. Grouped convolutions, and what has no weight, are never named.
    """
    design = Design.uniform(NET, rows=128, cols=32)
    assert {name: spec.epitome for name, spec in design.items()} == {
        "large": (32, 8, 4, 4),
        "wide": (32, 2, 8, 8),
        "head": (32, 32, 2, 2),
    }
    assert all(spec.wrap == spec.grid[0] for spec in design.values())


def test_a_layer_of_which_not_one_channel_fits_stays_dense():
    assert set(Design.uniform(NET, rows=63, cols=32)) == {"small", "large", "head"}
    assert set(Design.uniform(NET, rows=48, cols=32, family="channel")) == {"small", "large", "head"}
    assert set(Design.uniform(NET, rows=49, cols=32, family="channel")) == {"small", "large", "wide", "head"}


def test_wrapping_and_family_reach_every_layer():
    unwrapped = Design.uniform(NET, rows=128, cols=32, wrap=1)
    assert {spec.wrap for spec in unwrapped.values()} == {1}
    clipped = Design.uniform(NET, rows=128, cols=32, wrap=3)  # 64 / 32 = 2 output blocks, 100 / 32 are 4
    assert {name: spec.wrap for name, spec in clipped.items()} == {"large": 2, "wide": 2, "head": 3}
    channel = Design.uniform(NET, rows=128, cols=32, family="channel")
    assert all(spec.epitome[2:] == spec.kernel_size for spec in channel.values())


layers = st.builds(
    lambda number, out, inp, kernel, groups: Layer(
        f"layer{number}", "conv", inp * groups, out * groups, kernel, groups=groups
    ),
    st.integers(0, 10**9),
    st.integers(1, 96),
    st.integers(1, 96),
    st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 5)]),
    st.sampled_from([1, 1, 1, 2]),
)


@settings(max_examples=60)
@given(
    st.lists(layers, max_size=6, unique_by=lambda layer: layer.name),
    st.integers(1, 256),
    st.integers(1, 64),
    st.just("full") | st.integers(1, 5),
    st.sampled_from(["window", "channel"]),
)
def test_every_uniform_design_fits_and_saves(chosen, rows, cols, wrap, family):
    workload = network(*chosen)
    design = Design.uniform(workload, rows, cols, wrap, family)
    assert design.check(workload) is design
    for layer in chosen:
        weight = math.prod(layer.weight_shape)
        spec = design.get(layer.name)
        if spec is not None:
            assert layer.groups == 1
            assert spec.shape == layer.weight_shape
            assert spec.rows <= rows
            assert spec.cols <= cols
            assert math.prod(spec.epitome) < weight
        elif layer.groups == 1:
            window = math.prod(k + (family == "window") for k in layer.kernel_size)
            arguments = (layer.out_channels, layer.in_channels, layer.kernel_size)
            assert rows < window or EpitomeSpec.for_crossbars(*arguments, rows, cols, wrap, family) == (
                EpitomeSpec.dense(*arguments)
            )


def test_resnet50_with_1024_by_256():
    """The layers of ResNet-50 with more elements than 1024 rows of their columns, at most 256, counted by hand."""
    design = Design.uniform(Workload.load("resnet50"), rows=1024, cols=256)
    larger = (
        [f"layer2.{block}.conv2" for block in range(4)]  # 128 columns of 128 x 9 = 1152 rows
        + [f"layer3.{block}.conv2" for block in range(6)]  # 256 columns of 256 x 9 rows
        + ["layer3.0.downsample.0", "layer4.0.conv1"]  # 512 x 1024
        + [f"layer4.{block}.conv{number}" for block in range(3) for number in (1, 2, 3)]
        + ["layer4.0.downsample.0", "fc"]
    )
    assert set(design) == set(larger)
    assert all(spec.rows <= 1024 and spec.cols <= 256 for spec in design.values())


# Values ------------------------------------------------------------------------------------------------------


def test_a_design_is_an_immutable_mapping():
    spec = EpitomeSpec(64, 64, 3, (32, 8, 4, 4))
    given_layers = {"large": spec}
    design = Design(given_layers)
    given_layers["wide"] = spec
    assert dict(design) == {"large": spec}
    assert (design["large"], len(design), "wide" in design, design.get("wide")) == (spec, 1, False, None)
    with pytest.raises(TypeError):
        design["wide"] = spec
    with pytest.raises(KeyError):
        design["wide"]
    assert len(Design()) == 0


def test_designs_are_compared_by_value():
    one, two = EpitomeSpec(64, 64, 3, (32, 8, 4, 4)), EpitomeSpec(512, 100, 1, (32, 32, 2, 2))
    assert Design({"a": one, "b": two}) == Design({"b": two, "a": one})
    assert hash(Design({"a": one, "b": two})) == hash(Design({"b": two, "a": one}))
    assert Design({"a": one}) != Design({"a": two})
    assert Design({"a": one}) != {"a": one}
    assert eval(repr(Design({"a": one}))) == Design({"a": one})


@pytest.mark.parametrize("family", ["window", "channel"])
def test_a_design_survives_json(family):
    design = Design.uniform(Workload.load("resnet50"), rows=512, cols=128, wrap=2, family=family)
    again = Design.from_dict(json.loads(json.dumps(design.to_dict())))
    assert again == design
    assert list(again) == list(design)


def test_a_design_prints_its_layers():
    assert str(Design({"large": EpitomeSpec(64, 64, 3, (32, 8, 4, 4))})) == "large: E (32, 8, 4, 4), wrap 1"
    assert str(Design()) == "every layer dense"


# What cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("lrge", (64, 64, 3), ["'lrge'", "'net'", "did you mean 'large'?"]),
        ("pool", (64, 64, 2), ["'pool'", "'net'"]),  # has no weight
        ("depthwise", (64, 1, 3), ["'depthwise'", "grouped"]),
        ("grouped", (512, 256, 3), ["'grouped'", "grouped"]),
        ("large", (64, 64, 5), ["'large'", "(64, 64, 5, 5)", "(64, 64, 3, 3)"]),
        ("head", (512, 100, 1), ["'head'", "(512, 100, 1, 1)", "(100, 512, 1, 1)"]),
    ],
)
def test_a_design_for_another_network_is_one_sentence(name, shape, words):
    design = Design({name: EpitomeSpec.dense(*shape)})
    with pytest.raises(ValueError, match="^design ") as caught:
        design.check(NET)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_a_design_of_one_network_is_refused_by_another():
    with pytest.raises(ValueError, match="which 'resnet18' lacks"):
        Design.uniform(Workload.load("resnet50"), rows=1024, cols=256).check(Workload.load("resnet18"))
    head = Design.uniform(Workload.load("resnet50"), rows=1024, cols=256)
    with pytest.raises(ValueError, match=r"layer 'fc' is for a weight \(1000, 2048, 1, 1\)"):
        head.check(Workload.load("resnet50").with_classes(10))


@pytest.mark.parametrize("layers", ["resnet50", 7, [1, 2], ["large"]])
def test_what_is_no_mapping_is_no_design(layers):
    with pytest.raises(TypeError, match="design must be a mapping from layer name to EpitomeSpec, got ") as caught:
        Design(layers)
    assert repr(layers) in str(caught.value)


@pytest.mark.parametrize("value", [None, "dense", (32, 8, 4, 4), {"epitome": (32, 8, 4, 4)}])
def test_what_is_no_specification_is_refused(value):
    with pytest.raises(TypeError, match="design of layer 'large' must be an EpitomeSpec, got ") as caught:
        Design({"large": value})
    assert repr(value) in str(caught.value)


def test_foreign_data_is_refused_by_name():
    good = Design({"large": EpitomeSpec(64, 64, 3, (32, 8, 4, 4))}).to_dict()
    with pytest.raises(ValueError, match="^a design must be a mapping, got list$"):
        Design.from_dict([good])
    with pytest.raises(ValueError, match=r"^unknown key 'layer' in a design; did you mean 'layers'\?$"):
        Design.from_dict({"layer": {}})
    with pytest.raises(ValueError, match="^a design lacks 'layers'$"):
        Design.from_dict({})
    with pytest.raises(ValueError, match="^layers of a design must be a mapping, got list$"):
        Design.from_dict({"layers": []})
    with pytest.raises(ValueError, match="^an epitome specification must be a mapping, got str$"):
        Design.from_dict({"layers": {"large": "dense"}})
    del good["layers"]["large"]["epitome"]
    with pytest.raises(ValueError, match="^an epitome specification lacks 'epitome'$"):
        Design.from_dict(good)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"rows": 0}, ValueError, ["rows", "at least 1", "0"]),
        ({"rows": 64.0}, TypeError, ["rows", "whole number", "64.0"]),
        ({"cols": -1}, ValueError, ["cols", "at least 1", "-1"]),
        ({"cols": True}, TypeError, ["cols", "whole number", "True"]),
        ({"family": "windows"}, ValueError, ["family", "'window', 'channel'", "'windows'"]),
        ({"wrap": "half"}, TypeError, ["wrap", "'full'", "'half'"]),
        ({"wrap": 0}, ValueError, ["wrap", "at least 1", "0"]),
    ],
)
def test_a_uniform_design_that_cannot_be_is_one_sentence(changes, error, words):
    with pytest.raises(error) as caught:
        Design.uniform(NET, **{"rows": 128, "cols": 32, **changes})
    message = str(caught.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words), message
