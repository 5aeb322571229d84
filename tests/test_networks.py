"""Networks, designs and hardware of a user: by name or file, and one sentence for each mistake."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from epimlib import Design, Hardware, Workload, cli
from epimlib.epitome import networks
from epimlib.epitome.networks import load_network
from epimlib.epitome.trace import trace
from epimlib.lab.parameters import ParameterError, named, parse_parameters, resolve
from tests.test_runs import PROFILE, write

import timm

RESNET18 = Workload.load("resnet18")
GOOD = {
    "workload.json": RESNET18,
    "design.json": Design.uniform(RESNET18, rows=512, cols=128),
    "hardware.yaml": Hardware.preset("isaac").replace({"crossbar.rows": 256, "adc.rate": 1e9, "rules": "events"}),
    "hardware.json": Hardware.preset("default"),
}
LINES = (
    PROFILE
    + """network: str = "resnet18"  # network [name], any network
preset: str = "default"  # accelerator [name], any hardware
design: str = ""  # design, else uniform epitomes [file], any design
many: list[str] = ["resnet18"]  # networks [name], any network, 1..2 values, distinct
"""
)
PARAMETERS = parse_parameters(LINES)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a folder of files, good and bad ones, and be in it; networks of timm are kept below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPIM_CACHE", str(tmp_path / "cache"))
    networks._named.cache_clear()
    for name, value in GOOD.items():
        value.save(name)
    Path("truncated.json").write_text(Path("workload.json").read_text()[:1000])
    Path("truncated.yaml").write_text(Path("hardware.yaml").read_text()[:500])
    Path("list.json").write_text("[]")
    Path("empty.yaml").touch()
    Path("huge.json").write_bytes(b" " * ((64 << 20) + 1))
    Path("huge.yaml").write_bytes(b" " * ((64 << 10) + 1))
    Path("folder.json").mkdir()
    layers = json.loads(Path("workload.json").read_text())
    layers["layers"][3]["in_channels"] = 7
    Path("edges.json").write_text(json.dumps(layers))
    yield tmp_path
    networks._named.cache_clear()


@pytest.mark.parametrize("name", GOOD)
def test_what_is_saved_is_loaded_again(folder, name):
    kind = type(GOOD[name])
    if name.endswith(".json") and kind is Hardware:
        Path(name).write_text(json.dumps(GOOD[name].to_dict()))
    assert kind.load(name) == kind.load(Path(name)) == GOOD[name]
    assert kind.load(name).to_dict() == GOOD[name].to_dict()


@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_written_whole_or_not_at_all(folder, name, monkeypatch):
    before = Path(name).read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    there = sorted(os.listdir())
    with pytest.raises(OSError, match=f"No space left on device: '{name}'"):
        GOOD[name].save(name)
    assert Path(name).read_bytes() == before
    assert sorted(os.listdir()) == there


def test_stored_names_need_no_torch(folder):
    program = "import sys; from epimlib.epitome.networks import load_network\n"
    program += "print(load_network('resnet50@96').name, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["resnet50@96", "False"]
    assert load_network("resnet18") == RESNET18


def test_a_network_of_timm_is_traced_once_and_kept(folder, monkeypatch):
    network = load_network("regnetz_005")
    with torch.device("meta"):
        model = timm.create_model("regnetz_005")
    weights = sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight") and p.ndim > 1)
    assert sum(torch.Size(layer.weight_shape).numel() for layer in network.weighted) == weights
    assert network.input_size == (3, 224, 224)
    assert load_network("resnet18@160").layers == trace(timm.create_model("resnet18"), (3, 160, 160)).layers
    smaller = load_network("vit_tiny_patch16_224@96")
    assert smaller["blocks.0.attn.qkv"].positions == (96 // 16) ** 2 + 1
    assert smaller.name == "vit_tiny_patch16_224@96"

    monkeypatch.setattr(networks, "_traced", None)  # so that tracing would fail
    networks._named.cache_clear()
    assert load_network("regnetz_005") == network
    assert sorted(path.name[:9] for path in (folder / "cache" / "networks").iterdir()) == [
        "regnetz_0",
        "resnet18@",
        "vit_tiny_",
    ]


def test_a_network_that_cannot_be_kept_is_traced_all_the_same(folder, monkeypatch):
    monkeypatch.setenv("EPIM_CACHE", str(folder / "workload.json"))
    monkeypatch.setattr(networks, "_traced", lambda *_: RESNET18)
    with pytest.warns(UserWarning, match="regnety_002 is traced anew each time, for .*workload.json"):
        assert load_network("regnety_002") is RESNET18


def test_without_timm_the_stored_ones_are_named(folder, monkeypatch):
    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    sentence = "no stored network 'regnety_002', and timm, .* is not installed; stored are .*resnet50, resnet50@96"
    with pytest.raises(FileNotFoundError, match=sentence):
        load_network("regnety_002")


def test_a_network_that_cannot_be_traced_is_one_sentence(folder, monkeypatch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"input_size": (3, 8, 8), "num_classes": 5}
            self.num_classes = 5
            self.cell = torch.nn.Conv1d(24, 5, 3)

        def forward(self, x):
            return self.cell(x.flatten(1, 2))

    def broken(name):
        raise RuntimeError("needs what\nis not here")

    monkeypatch.setattr(timm, "create_model", lambda name: Model())
    with pytest.raises(ValueError, match="^operation 'conv1d' after 'input' has a weight, of a kind unknown here$"):
        load_network("regnety_002")
    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(ValueError, match="^timm cannot make the network 'regnety_002': needs what is not here$"):
        load_network("regnety_002")


MISTAKES = [
    ("network=missing.json", "network: no workload at missing.json"),
    ("network=folder.json", "network: no workload at folder.json"),
    ("network=truncated.json", "network: truncated.json is not a readable workload: Expecting"),
    ("network=list.json", "network: list.json is no workload: a workload must be a mapping, got list"),
    ("network=design.json", "network: design.json is no workload: a workload lacks 'name', 'input_size'"),
    ("network=hardware.yaml", "network: hardware.yaml is no workload: unknown key 'rules' in a workload"),
    (
        "network=edges.json",
        "network: edges.json is no workload: layer 'layer1.0.conv2' of 'resnet18' must read",
    ),
    ("network=huge.json", "network: huge.json is not a readable workload: it has more than 65536 KiB"),
    ("network=regnety_02", "network: unknown network 'regnety_02'; did you mean 'regnety_032'?"),
    ("network=resnet50@2000", "network: images of 'resnet50@2000' must have 16 to 1024 rows and columns, got 2000"),
    ("network=resnet50@", "network: a network is a name such as resnet50 or resnet50@96, or a .json file, got"),
    ("network=../resnet50", "network: a network is a name such as resnet50 or resnet50@96, or a .json file, got"),
    ("network=", "network: a network is a name such as resnet50 or resnet50@96, or a .json file, got ''"),
    ("many=resnet18,missing.json", "many: no workload at missing.json"),
    ("many=resnet18,resnet18", "the values of many must be distinct"),
    ("preset=missing.yaml", "preset: no hardware description at missing.yaml"),
    ("preset=truncated.yaml", "preset: truncated.yaml is not a readable hardware description: while parsing"),
    ("preset=empty.yaml", "preset: empty.yaml is no hardware description: a hardware description must be a mapping"),
    ("preset=workload.json", "preset: workload.json is no hardware description: unknown key 'input_size'"),
    ("preset=huge.yaml", "preset: huge.yaml is not a readable hardware description: it has more than 64 KiB"),
    ("preset=isac", "preset: unknown preset 'isac'; did you mean 'isaac'?"),
    ("design=missing.json", "design: no design at missing.json"),
    ("design=workload.json", "design: workload.json is no design: unknown key 'name' in a design"),
    ("design=list.json", "design: list.json is no design: a design must be a mapping, got list"),
    ("design=uniform", "design: no design at uniform"),
]


@pytest.mark.parametrize(("given", "sentence"), MISTAKES, ids=lambda value: value if "=" in value else "")
def test_a_bad_value_is_one_sentence_before_anything_runs(folder, given, sentence):
    name, _, text = given.partition("=")
    with pytest.raises(ParameterError) as caught:
        named(PARAMETERS, name).parse(text)
    assert str(caught.value).startswith(sentence), caught.value
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_refuses_before_a_kernel_starts(folder, monkeypatch, capsys):
    monkeypatch.setattr("papermill.execute_notebook", None)
    notebook = write(folder / "notebooks" / "03_mapping.ipynb", cell=LINES)
    mistakes = {
        "network=missing.json": "network: no workload at missing.json",
        "design=design.json network=resnet50": "design of layer 'layer",
        "design=design.json network=vit_tiny_patch16_224": "design names layer 'layer",
    }
    for given, sentence in mistakes.items():
        arguments = [word for value in given.split() for word in ("-p", value)]
        assert cli.main(["run", str(notebook), *arguments]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"epim: {sentence}"), error
    assert not Path("runs").exists()


def test_a_file_is_known_by_its_absolute_path_and_a_name_by_itself(folder):
    given = {"network": "workload.json", "preset": "hardware.yaml", "design": "design.json", "many": ["resnet50"]}
    values = resolve(PARAMETERS, given)
    assert {name: values[name] for name in given} == {
        "network": str(folder / "workload.json"),
        "preset": str(folder / "hardware.yaml"),
        "design": str(folder / "design.json"),
        "many": ["resnet50"],
    }
    assert named(PARAMETERS, "design").parse("") == ""


def test_what_is_named_is_part_of_the_line():
    assert [p.range for p in PARAMETERS[1:]] == [
        "any network", "any hardware", "any design", "any network, 1..2 values, distinct",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the range of rows must be low..high"):
        parse_parameters(PROFILE + "rows: int = 3  # rows [1], any network")
    with pytest.raises(ValueError, match="line 2: network: unknown network 'resnet5'"):
        parse_parameters(PROFILE + 'network: str = "resnet5"  # network [name], any network')
