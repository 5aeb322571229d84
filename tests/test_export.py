"""Quantized models in files: what comes back, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from epimlib import EpitomeSpec
from epimlib.epitome.layers import epitomize
from epimlib.pim.hardware import Crossbar
from epimlib.quant.export import load_quantized, save_quantized
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import calibrate, integer_weights, parametrization, quantize

CROSSBAR = Crossbar(rows=20, cols=6, cell_bits=2, polarity=2, packing="channel")
DESIGN = {"0": EpitomeSpec(12, 6, (3, 3), (6, 3, 4, 4), wrap="full"), "5": EpitomeSpec(8, 12, (1, 1), (8, 8, 1, 1))}
IMAGES = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))


pytestmark = pytest.mark.usefixtures("one_thread")


def dense(seed=0, classes=5):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes))


def quantized(**options):
    model, _ = epitomize(dense(), DESIGN)
    model.train()(IMAGES)
    config = QuantConfig(bits=3, granularity="crossbar", range="mse", crossbar=CROSSBAR, **options)
    model = quantize(model.eval(), config, bits={"7": 9})
    calibrate(model, IMAGES)
    return model


@pytest.fixture
def saved(tmp_path):
    model = quantized()
    save_quantized(model, tmp_path / "net.safetensors")
    return model, tmp_path / "net.safetensors"


@pytest.mark.parametrize("learned", [False, True])
def test_a_model_comes_back_with_the_same_logits_integers_and_configs(tmp_path, learned):
    model = quantized(learned=learned)
    save_quantized(model, tmp_path / "folder" / "net.safetensors")
    given = dense(seed=7)
    before = [p.clone() for p in given.parameters()]
    loaded = load_quantized(tmp_path / "folder" / "net.safetensors", given)
    assert all(torch.equal(a, b) for a, b in zip(before, given.parameters(), strict=True))
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
    ours, theirs = integer_weights(model), integer_weights(loaded)
    assert list(ours) == list(theirs) == ["0", "5", "7"]
    for name in ours:
        assert torch.equal(ours[name].weight, theirs[name].weight)
        assert torch.equal(torch.as_tensor(ours[name].scale), torch.as_tensor(theirs[name].scale))
        assert parametrization(model[int(name)])[0].config == parametrization(loaded[int(name)])[0].config
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["net.json", "net.safetensors"]


def test_a_loaded_model_can_be_trained_on(saved):
    model = load_quantized(saved[1], dense()).train()
    model(IMAGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_single_layer_is_a_model_too(tmp_path):
    layer = quantize(nn.Linear(3, 2), QuantConfig(bits=5))
    calibrate(layer, torch.randn(4, 3))
    save_quantized(layer, tmp_path / "layer.safetensors")
    assert torch.equal(load_quantized(tmp_path / "layer.safetensors", nn.Linear(3, 2)).weight, layer.eval().weight)


def test_an_epitome_alone_is_a_model_too(tmp_path):
    spec = DESIGN["0"]
    layer, _ = epitomize(nn.Conv2d(6, 12, 3), {"": spec})
    layer = quantize(layer, QuantConfig(bits=5))
    calibrate(layer, IMAGES)
    save_quantized(layer, tmp_path / "layer.safetensors")
    loaded = load_quantized(tmp_path / "layer.safetensors", nn.Conv2d(6, 12, 3))
    assert torch.equal(loaded(IMAGES), layer.eval()(IMAGES))


def test_a_layer_with_two_names_is_stored_as_integers_under_both(tmp_path):
    def twice():
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.ReLU(), layer)

    model = quantize(twice(), QuantConfig(bits=5))
    x = torch.randn(8, 4)
    calibrate(model, x)
    save_quantized(model, tmp_path / "net.safetensors")
    loaded = load_quantized(tmp_path / "net.safetensors", twice())
    assert loaded[0] is loaded[2]
    assert torch.equal(loaded(x), model.eval()(x))


def test_the_files_hold_integers_of_few_bytes_and_plain_data(saved):
    state = load_file(saved[1])
    assert state["0.parametrizations.epitome.original"].dtype == torch.int8
    assert state["0.parametrizations.epitome.original"].abs().max() <= 3
    assert state["7.parametrizations.weight.original"].dtype == torch.int16
    description = json.loads(saved[1].with_suffix(".json").read_text())
    assert description["layers"]["0"]["bits"] == 3
    assert description["design"]["layers"]["0"]["epitome"] == [6, 3, 4, 4]


def test_only_quantized_models_and_one_ending(tmp_path, saved):
    with pytest.raises(ValueError, match="model must have a quantized layer; quantize it first"):
        save_quantized(dense(), tmp_path / "other.safetensors")
    for call in (lambda path: save_quantized(saved[0], path), lambda path: load_quantized(path, dense())):
        with pytest.raises(ValueError, match=r"path must end in .safetensors, got '.*other.pt'"):
            call(tmp_path / "other.pt")
    assert not list(tmp_path.glob("other*"))


def test_a_missing_file(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="no description of a quantized model at .*nothing.json"):
        load_quantized(tmp_path / "nothing.safetensors", dense())
    saved[1].unlink()
    with pytest.raises(FileNotFoundError, match="no quantized model at .*net.safetensors"):
        load_quantized(saved[1], dense())


def test_truncated_and_foreign_files(saved):
    path, about = saved[1], saved[1].with_suffix(".json")
    data, text = path.read_bytes(), about.read_text()
    for other in (data[:-10], data[:3], b"", data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="net.safetensors is not the file that .*net.json describes"):
            load_quantized(path, dense())
    path.write_bytes(data)
    for content, message in (
        (text[: len(text) // 2], "net.json is not a readable description of a quantized model"),
        ("[]", "net.json, a description of a quantized model, must be a mapping, got list"),
        ('{"format": "x"}', "net.json, a description of a quantized model, lacks 'sha256', 'design', 'layers'"),
        (text.replace("version 1", "version 9"), "format of .*net.json must be one of 'epimlib .* version 1', got"),
        (text.replace('"granularity"', '"granulrity"', 1), "unknown key 'granulrity'.* did you mean 'granularity'"),
        (text.replace('"7": {', '"9": {'), "net.json names layer '9', which the model lacks"),
        (
            text.replace('"7": {', '"6": {'),
            "net.json names layer '6', which must be a convolution or linear layer, got a ReLU",
        ),
        (text.replace('"7": {', '"1": {'), "names layer '1', which must be a .* got a BatchNorm2d"),
        (json.dumps(json.loads(text) | {"layers": []}), "layers of .*net.json must be a mapping, got list"),
        (json.dumps(json.loads(text) | {"layers": {"0": {"bits": "3"}}}), "bits must be a whole number, got '3'"),
        (json.dumps(json.loads(text) | {"design": []}), "a design must be a mapping, got list"),
    ):
        about.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_quantized(path, dense())


def test_another_model(saved):
    with pytest.raises(ValueError, match=r"'7.bias' has shape \(5,\) in the file, \(6,\) in the model"):
        load_quantized(saved[1], dense(classes=6))
    with pytest.raises(ValueError, match="is for another model: '8.bias' is not in the file"):
        load_quantized(saved[1], dense().append(nn.Linear(5, 5)))
    with pytest.raises(ValueError, match="design names layer '0', which the model lacks"):
        load_quantized(saved[1], nn.Sequential(nn.ReLU(), *list(dense())[1:]))


def test_a_model_of_another_precision(tmp_path):
    """Loading float64 steps into a float32 model would round them."""
    model = quantize(nn.Linear(6, 3).double(), QuantConfig(bits=3))
    x = torch.randn(4, 6, dtype=torch.float64)
    calibrate(model, x)
    save_quantized(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="'bias' is torch.float64 in the file, torch.float32 in the model"):
        load_quantized(tmp_path / "m.safetensors", nn.Linear(6, 3))
    again = load_quantized(tmp_path / "m.safetensors", nn.Linear(6, 3).double())
    assert torch.equal(again(x), model.eval()(x))


def test_nothing_half_written_when_the_disk_refuses(tmp_path, saved, monkeypatch):
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}

    def refuse(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        save_quantized(saved[0], saved[1])
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_file_of_another_model_with_a_right_checksum(saved):
    import hashlib

    path, about = saved[1], saved[1].with_suffix(".json")
    save_file({"a": torch.zeros(1)}, path)
    description = json.loads(about.read_text())
    about.write_text(json.dumps(description | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(ValueError, match="is for another model: '0.bias' is not in the file"):
        load_quantized(path, dense())
    path.write_bytes(b"no tensors")
    about.write_text(json.dumps(description | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(ValueError, match="net.safetensors and .*net.json are no readable quantized model"):
        load_quantized(path, dense())
