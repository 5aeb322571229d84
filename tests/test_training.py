"""Training: resumption, damaged checkpoints, several processes, files of experiments, and the records."""

import csv
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from epimlib import cli
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.trace import trace
from epimlib.lab import results
from epimlib.lab.notebooks import RunError
from epimlib.lab.records import RunRecord
from epimlib.pim.mapping import map_crossbars
from epimlib.train import data, trainer, training
from epimlib.train.build import build, create
from epimlib.train.config import SCHEDULES, TrainConfig, read_experiments
from epimlib.train.images import Place, images_of
from epimlib.train.resnet20 import resnet20
from epimlib.train.trainer import Trainer
from epimlib.train.training import load_trained, train

ROOT = Path(__file__).parents[1]
DENSE = TrainConfig(data="digits", model="resnet9", model_options={"width": 4}, epochs=2, batch_size=32, warmup=0.2)
SMALLER = {"rows": 72, "cols": 16, "wrap": "full", "dense": ["stem.conv", "head"]}
QUANTIZED = dataclasses.replace(
    DENSE,
    epochs=3,
    lr=0.02,
    start="dense",
    design=SMALLER,
    distillation=0.5,
    quantize={"bits": 3, "granularity": "crossbar", "range": "mse", "learned": True},
    layer_bits={"stem.conv": 9, "head": 9},
    mixed={"bits": [3, 5], "factor": 14.0, "probes": 2},
    hardware_options={"crossbar.rows": 32, "crossbar.cols": 32},
    smoothing=0.1,
    ema=0.9,
)


pytestmark = pytest.mark.usefixtures("one_thread")
# timm leaves images to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def any_algorithm():
    """Leave torch as it was: training allows deterministic algorithms only."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """Return the folder of a trained dense network."""
    folder = tmp_path_factory.mktemp("dense")
    train(DENSE, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def quantized(dense, tmp_path_factory) -> Path:
    """Return the folder of a quantized epitome network, trained without an interruption."""
    folder = tmp_path_factory.mktemp("quantized")
    train(QUANTIZED, folder, start=dense, progress=False)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def tiny_imagenet(folder: Path, training: tuple[int, int], testing: tuple[int, int]) -> None:
    """Make images of noise, so many of each of two classes."""
    rng = np.random.default_rng(0)
    for part, counts in (("train", training), ("val", testing)):
        for kind, count in zip(("n01440764", "n01443537"), counts, strict=True):
            place = folder / "imagenet" / part / kind
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.JPEG")


def two_processes(*arguments: str, **environment: str) -> None:
    """Run a module or a script in two processes that know of each other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def kill_before(epoch: int, monkeypatch: pytest.MonkeyPatch, config: TrainConfig, folder: Path) -> None:
    """Train, and stop where an epoch would begin."""
    run = Trainer.epoch

    def killed(self, number, progress):
        if number == epoch:
            raise Killed
        return run(self, number, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", killed)
        with pytest.raises(Killed):
            train(config, folder, progress=False)


def test_training_learns_and_its_record_says_what_it_was(dense):
    record = RunRecord.load(dense)
    assert record.notebook == "train"
    assert TrainConfig.from_dict(record.parameters) == DENSE
    assert record.metrics["accuracy"] > 80  # 10 classes
    assert record.metrics["factor"] == 1
    assert record.metrics["parameters"] == sum(t.numel() for t in weights(dense).values() if t.ndim > 1)
    rows = list(csv.DictReader((dense / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["accuracy"]) == record.metrics["accuracy"]
    assert record.seconds == pytest.approx(sum(float(row["seconds"]) for row in rows), abs=0.1)
    assert not list(dense.glob("epoch-*"))


def test_the_trained_network_comes_back(quantized):
    network = load_trained(quantized)
    images = data.read_images("digits")
    x, y = next(data.batches(images.test_images, images.test_labels, 360, images.statistics()))
    accuracy = (network.model(x).argmax(1) == y).double().mean().item() * 100
    assert accuracy == pytest.approx(RunRecord.load(quantized).metrics["accuracy"])
    assert set(network.about["bits"].values()) <= {3, 5, 9}


def test_crossbars_of_a_quantized_epitome_network_are_the_mapping_s(quantized):
    metrics, network = RunRecord.load(quantized).metrics, load_trained(quantized)
    workload, hardware = trace(create(QUANTIZED), (1, 8, 8)), QUANTIZED.on_hardware()
    design = Design.from_dict(network.about["design"])
    assert "head" not in design
    assert len(design) >= 3
    assert metrics["crossbars"] == map_crossbars(workload, hardware, design, network.about["bits"]).crossbars
    assert metrics["crossbars_dense"] == map_crossbars(workload, hardware, None, 32).crossbars
    assert metrics["factor"] == metrics["crossbars_dense"] / metrics["crossbars"] >= 14.0


@pytest.mark.parametrize(("method", "blocks"), [("low-rank", 17), ("channels", 14)])
def test_a_network_that_its_start_has_shaped_comes_back_with_it(dense, tmp_path, method, blocks):
    """Of random weights these methods keep other ranks and channels."""
    config = dataclasses.replace(DENSE, epochs=0, start="dense", shrink={"method": method, "blocks": blocks})
    record = train(config, tmp_path, start=dense, progress=False)
    network = load_trained(tmp_path, start=dense)
    assert all(torch.equal(tensor, weights(tmp_path)[name]) for name, tensor in network.model.state_dict().items())
    assert network.about["crossbars"] == record.metrics["crossbars"]
    with pytest.raises(ValueError, match="does not come back: start must be the folder of the run 'dense', got None$"):
        load_trained(tmp_path)


def test_the_teacher_comes_back_with_the_start_only(dense, quantized):
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(load_trained(quantized, dense).teacher(x), load_trained(dense).model(x))
    assert load_trained(quantized).teacher is None


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("steps", [3, 44, 60])
def test_an_interrupted_run_ends_with_the_same_weights(dense, quantized, tmp_path, monkeypatch, steps):
    """44 steps make an epoch: the run is killed within the first epoch, at an epoch's end and within the second."""
    left = [steps]
    step = Trainer.step

    def interrupted(self, *batch):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(Killed):
        train(QUANTIZED, tmp_path, start=dense, progress=False)
    monkeypatch.setattr(Trainer, "step", step)
    assert len(list(tmp_path.glob("epoch-*.pt"))) == steps // 44
    assert not (tmp_path / "record.json").exists()
    record = train(QUANTIZED, tmp_path, start=dense, progress=False)
    for name, tensor in weights(quantized).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name
    assert record.metrics["accuracy"] == RunRecord.load(quantized).metrics["accuracy"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(dense, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(DENSE, epochs=3)
    finish = Trainer.finish
    monkeypatch.setattr(Trainer, "finish", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        train(config, tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "finish", finish)
    _, third = sorted(tmp_path.glob("epoch-*.pt"))
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1
    third.write_bytes(content)
    trained = []
    epoch = Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self, *a: trained.append(a[0]) or epoch(self, *a))
    train(config, tmp_path, progress=False)
    assert trained == [2]
    assert f"{third} is damaged" in capsys.readouterr().out
    whole = tmp_path / "whole"
    train(config, whole, progress=False)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name


def test_after_damaged_checkpoints_new_ones_are_kept(tmp_path, monkeypatch):
    """They are numbered below the damaged ones, since the run begins anew."""
    config = dataclasses.replace(DENSE, epochs=5, batch_size=256)
    kill_before(4, monkeypatch, config, tmp_path)
    damaged = sorted(tmp_path.glob("epoch-*.pt"))
    assert [path.name[:10] for path in damaged] == ["epoch-0003", "epoch-0004"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-5])
    kill_before(3, monkeypatch, config, tmp_path)
    left = sorted(tmp_path.glob("epoch-*.pt"))
    assert [path.name[:10] for path in left] == ["epoch-0002", "epoch-0003"]
    assert not {*left} & {*damaged}
    kill_before(3, monkeypatch, config, tmp_path)  # it goes on from there
    assert sorted(tmp_path.glob("epoch-*.pt")) == left


def test_a_request_that_failed_leaves_its_folder_to_the_next_one(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="sdg"):
        train(dataclasses.replace(DENSE, optimizer="sdg"), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    kill_before(0, monkeypatch, DENSE, tmp_path)
    other = dataclasses.replace(DENSE, lr=0.2)
    kill_before(1, monkeypatch, other, tmp_path)  # of the first one there is nothing but what it was to be
    with pytest.raises(ValueError, match=r"holds a run with lr = 0.2, not 0.1; take another folder"):
        train(DENSE, tmp_path, progress=False)


def test_a_tuple_is_the_list_that_a_file_makes_of_it(tmp_path):
    config = dataclasses.replace(DENSE, epochs=0, design={**SMALLER, "dense": ("stem.conv", "head")})
    record = train(config, tmp_path, progress=False)
    assert train(config, tmp_path) == record


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("weights.pt", b"hello world", "weights.pt is damaged, or no file of weights"),
        ("weights.pt", b"", "weights.pt is damaged, or no file of weights"),
        ("weights.pt", 5000, "weights.pt is damaged, or no file of weights"),
        ("weights.pt", [1, 2], "weights.pt must hold tensors by name, got list"),
        ("weights.pt", {"head": 1}, "weights.pt must hold tensors by name, got dict"),
        ("network.json", b"{}", "network.json lacks 'config', 'design', 'bits'"),
        ("network.json", b"[]", "network.json must be a mapping, got list"),
        ("network.json", b"{", "network.json is not a readable description of a network"),
    ],
)
def test_a_damaged_or_foreign_file_is_named(dense, tmp_path, name, content, sentence):
    for file in ("weights.pt", "network.json", "record.json"):
        (tmp_path / file).write_bytes((dense / file).read_bytes())
    if isinstance(content, int):
        content = (dense / name).read_bytes()[:content]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    sentence = f"^{re.escape(str(tmp_path))}.{re.escape(sentence)}[^\n]*$"
    with pytest.raises(ValueError, match=sentence):
        load_trained(tmp_path)
    (tmp_path / "record.json").unlink()
    config, folder = (QUANTIZED, tmp_path / "next") if name == "weights.pt" else (DENSE, tmp_path)
    with pytest.raises(ValueError, match=sentence):
        train(config, folder, start=tmp_path, progress=False)


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(dense, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "Trainer", None)
    assert train(DENSE, dense) == RunRecord.load(dense)
    with pytest.raises(ValueError, match=r"holds a run with lr = 0.1, not 0.2; take another folder"):
        train(dataclasses.replace(DENSE, lr=0.2), dense)


def test_mistakes_are_one_sentence(dense, tmp_path):
    with pytest.raises(ValueError, match="start must be the folder of the run 'dense', got None"):
        train(QUANTIZED, tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="no .*weights.pt; the run is not finished"):
        train(QUANTIZED, tmp_path / "b", start=tmp_path)
    other = dataclasses.replace(QUANTIZED, model_options={"width": 8})
    with pytest.raises(ValueError, match="the start 'dense' is another network than this run's"):
        train(other, tmp_path / "c", start=dense)
    (tmp_path / "weights.pt").write_bytes((dense / "weights.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match="weights.pt is damaged"):
        train(QUANTIZED, tmp_path / "d", start=tmp_path)
    with pytest.raises(RunError, match=r"the loss of epoch 1 is nan; try a learning rate below 100"):
        train(dataclasses.replace(DENSE, lr=100, epochs=1, optimizer="sgd"), tmp_path / "e", progress=False)
    with pytest.raises(ValueError, match="batch_size must be at most the images of a process, got 2000"):
        train(dataclasses.replace(DENSE, batch_size=2000), tmp_path / "f")
    for name, value, sentence in [
        (
            "data",
            "mnist",
            "data must be one of 'digits', 'fashion-mnist', 'cifar10', 'cifar100', 'imagenet', got 'mnist'",
        ),
        ("lr", -1, "lr must be a number from 0 to 100, got -1"),
        ("precision", "int8", "precision must be one of 'float32', 'bfloat16', 'float16', got 'int8'"),
        ("distillation", 0.5, "distillation 0.5 needs a start, the network to learn from"),
        ("mixed", {"bits": [3, 5], "factor": 20}, "mixed needs quantize, which says how"),
        ("mixed", {"bit": [3]}, "unknown key 'bit' in mixed; did you mean 'bits'?"),
    ]:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            dataclasses.replace(DENSE, **{name: value})
    with pytest.raises(
        ValueError, match="design leaves layer 'heat' dense, which the network lacks; did you mean 'head'"
    ):
        build(dataclasses.replace(DENSE, design={**SMALLER, "dense": ["heat"]}))


LAYERS = [*(f"{name}.conv" for name in ("stem", "conv1", "conv2", "conv3")), "head"]
LAYERS += [f"residual{stage}.conv{number}.conv" for stage in (1, 2) for number in (1, 2)]
MIXED = {"quantize": {"bits": 3}, "mixed": {"bits": [3, 5], "factor": 8, "probes": 1}}


def mixed(**changes) -> dict:
    return {**MIXED, "mixed": {**MIXED["mixed"], **changes}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 16}, "image_size must be None for digits, whose images have one size, got 16"),
        ({"data": "imagenet", "image_size": 0}, "image_size must be at least 1, got 0"),
        ({"data": "imagenet", "image_size": "64"}, "image_size must be a whole number, got '64'"),
        ({"layer_bits": {"head": 9}}, "layer_bits needs quantize, which says how"),
        ({"layer_bits": {"head": 17}, "quantize": {}}, "layer_bits of 'head' must be at most 16, got 17"),
        ({"layer_bits": None}, "layer_bits must be a mapping, got None"),
        ({"model": 9}, "model must be a name, got 9"),
        ({"start": ["dense"]}, "start must be a name, got ['dense']"),
        ({"warmup": 1}, "warmup must be less than 1, which leaves no epoch to the schedule, got 1"),
        *(
            ({"schedule": name}, f"schedule must be one of 'poly', 'cosine', 'tanh', got {name!r}")
            for name in ("plateau", "none", "cosin")
        ),
        ({"mixup": 0.2, "batch_size": 127}, "batch_size must be even for mixup and cutmix, which mix pairs, got 127"),
        ({"cutmix": 0.2, "batch_size": 127}, "batch_size must be even for mixup and cutmix, which mix pairs, got 127"),
        ({"mixup": "a"}, "mixup must be a number from 0 to 100, got 'a'"),
        ({"weight_decay": -1}, "weight_decay must be a number from 0 to 100, got -1"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
        (mixed(factor=0), "mixed.factor must be above 0, got 0"),
        (mixed(bits=[]), "mixed.bits must be a list of at least one choice, got []"),
        (mixed(bits=3), "mixed.bits must be a list of at least one choice, got 3"),
        (mixed(bits=[1, 3]), "mixed.bits must be at least 2, got 1"),
        (mixed(probes=0), "mixed.probes must be at least 1, got 0"),
        (mixed(probes=1001), "mixed.probes must be at most 1000, got 1001"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(changes, sentence):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
        dataclasses.replace(DENSE, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model": "resnet99"},
            "model must be one that timm knows, got 'resnet99'; did you mean 'resn",
        ),
        ({"optimizer": "sdg"}, "optimizer must be one that timm knows, got 'sdg'; did you mean 'sgd"),
        ({**MIXED, "layer_bits": {"haed": 9}}, "layer_bits names layer 'haed', which the network lacks; did you mean"),
        (
            {"quantize": {}, "layer_bits": {"haed": 9}},
            "layer_bits names layer 'haed', which the network lacks; did you",
        ),
        (mixed(factor=1000), "mixed.factor must be at most 16 for these bits, got 1000"),
        ({**MIXED, "layer_bits": dict.fromkeys(LAYERS, 9)}, "mixed needs a layer that layer_bits does not name"),
    ],
)
def test_what_the_network_does_not_fit_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}[^\n]*$"):
        train(dataclasses.replace(DENSE, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_falls(tmp_path, schedule):
    config = dataclasses.replace(DENSE, schedule=schedule, batch_size=256)
    place = Place.of("cpu")
    made = Trainer(config, tmp_path, build(config), images_of(config, place), place)
    rates = []
    for step in (2, 5, made.steps * 2 - 1):
        made.schedule.step_update(step)
        rates.append(made.optimizer.param_groups[0]["lr"])
    assert 0.1 >= rates[0] > rates[1] > rates[2] >= 0


def test_large_seeds_are_seeds_too(tmp_path):
    config = dataclasses.replace(DENSE, epochs=1, batch_size=256, seed=50_000)
    assert train(config, tmp_path / "a", progress=False).metrics["accuracy"] > 0
    train(dataclasses.replace(config, seed=2**32 - 1), tmp_path / "b", progress=False)


def test_teacher_is_the_network_of_the_start(dense):
    state = weights(dense)
    network = build(dataclasses.replace(QUANTIZED, mixed=None), state)
    x = torch.randn(4, 1, 8, 8)
    model = create(DENSE)
    model.load_state_dict(state)
    torch.testing.assert_close(network.teacher(x), model.eval()(x))
    assert not any(p.requires_grad for p in network.teacher.parameters())


def test_a_run_may_start_from_an_epitome_network(dense, tmp_path):
    config = dataclasses.replace(DENSE, design=SMALLER, start="dense", epochs=0)
    train(config, tmp_path / "epitome", start=dense, progress=False)
    state = weights(tmp_path / "epitome")
    follower = build(dataclasses.replace(config, start="epitome", quantize={"bits": 9}), state)
    assert torch.equal(follower.model.conv3.conv.parametrizations.epitome.original, state["conv3.conv.epitome"])


def test_two_processes_train_together(dense, tmp_path):
    """Each has half of each batch's images, both the same weights, and one of them writes."""
    path = tmp_path / "two.yaml"
    base = {"data": "digits", "model": "resnet9", "model_options": {"width": 4}, "batch_size": 16, "warmup": 0.2}
    epitome = {"epochs": 1, "start": "dense", "design": SMALLER, "quantize": {"bits": 4, "learned": True}}
    runs = {"dense": {"epochs": 2}, "quantized": epitome}
    path.write_text(yaml.safe_dump({"study": "two", "seeds": [0], "base": base, "runs": runs}))
    output = ["--output", str(tmp_path), "--records", str(tmp_path / "records")]
    two_processes("-m", "tests.epim", "train", str(path), *output, "--device", "cpu")
    table = results("two", tmp_path / "records")
    assert list(table.run) == ["dense", "quantized"]
    assert (table.accuracy > 60).all()
    alone = RunRecord.load(dense).metrics["loss"]  # the same batches in all, though other images are together
    assert table.loss[0] == pytest.approx(alone, rel=0.5)


WATCHED = """
import json, os, sys, torch
from epimlib.train import training
from epimlib.train.config import TrainConfig
from epimlib.train.trainer import Trainer

evaluate, seen, folder = Trainer.evaluate, {}, sys.argv[1]

def watched(self):
    seen["bits"] = self.about["bits"]
    seen["images"] = [x for batch, _ in self.images.testing() for x in batch]
    model = self.ema.module if self.ema else self.network
    seen["evaluated"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return evaluate(self)

Trainer.evaluate = watched
training.train(TrainConfig.from_dict(json.loads(sys.argv[2])), folder, device="cpu", progress=False)
torch.save(seen, f"{folder}-{os.environ['RANK']}.pt")
"""


def test_two_processes_train_and_evaluate_one_network(tmp_path):
    """On other images each would find other bits and other ranges; five images for testing are 3 and 2."""
    tiny_imagenet(tmp_path, (8, 8), (3, 2))
    (tmp_path / "watched.py").write_text(WATCHED)
    config = TrainConfig(
        data="imagenet", model="resnet9", model_options={"width": 4}, epochs=1, batch_size=4, image_size=32, lr=0.01,
        ema=0.5, quantize={"granularity": "crossbar"},
        mixed={"bits": list(range(2, 10)), "factor": 16, "probes": 1},
        hardware_options={"crossbar.rows": 16, "crossbar.cols": 16},
    )  # fmt: skip
    run = tmp_path / "run"
    two_processes(str(tmp_path / "watched.py"), str(run), json.dumps(config.to_dict()), EPIM_DATA=str(tmp_path))
    first, second = (torch.load(f"{run}-{rank}.pt") for rank in (0, 1))
    assert first["bits"] == second["bits"]
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, first["evaluated"][name]), name
        assert torch.equal(tensor, second["evaluated"][name]), name
    images = torch.stack(first["images"] + second["images"])
    assert [len(first["images"]), len(second["images"])] == [3, 2]
    assert len(images.unique(dim=0)) == 5


@unclosed
def test_images_for_the_sensitivities_are_the_same_each_time(tmp_path, monkeypatch):
    tiny_imagenet(tmp_path, (8, 8), (1, 1))
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    config = TrainConfig(data="imagenet", model="resnet9", epochs=1, batch_size=4, image_size=32)
    found = images_of(config, Place.of("cpu"))
    (x, target), (again, _) = found.sample(2), found.sample(2)
    assert x.shape == (8, 3, 32, 32)
    assert len(target) == 8
    assert torch.equal(x, again)


@pytest.mark.parametrize("dirty", [True, False])
def test_a_tree_with_changes_is_named_before_the_hours_are_spent(tmp_path, monkeypatch, capsys, dirty):
    monkeypatch.setattr("epimlib.lab.records._git_state", lambda folder: ("0123456789", dirty))
    assert train(dataclasses.replace(DENSE, epochs=0), tmp_path).dirty is dirty
    assert ("files differ from commit 0123456, and the record will say so" in capsys.readouterr().err) is dirty


def test_events_for_tensorboard_hold_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(DENSE, tmp_path, progress=False, tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    for name in ("train_loss", "accuracy", "loss"):
        written = [event.value for event in events.Scalars(name)]
        assert written == pytest.approx([float(row[name]) for row in rows])


def test_without_tensorboard_its_events_are_refused_before_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"need it: pip install tensorboard"):
        train(DENSE, tmp_path, progress=False, tensorboard=True)


EXPERIMENTS = {
    "study": "tiny",
    "seeds": [0, 1],
    "base": {"data": "digits", "model": "resnet9", "model_options": {"width": 4}, "epochs": 1, "batch_size": 64},
    "runs": {"dense": {}, "epitome": {"start": "dense", "design": SMALLER, "seeds": [1]}},
}


def test_epim_train_makes_folders_and_records(tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    options = ["--output", str(tmp_path / "runs"), "--records", str(tmp_path / "records"), "--threads", "1"]
    assert cli.main(["train", str(path), *options, "--device", "cpu"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "tiny dense-s0",
        "tiny dense-s1",
        "tiny epitome-s1",
    ]
    table = results("tiny", tmp_path / "records")
    assert list(zip(table.run, table.seed, strict=True)) == [("dense", 0), ("dense", 1), ("epitome", 1)]
    assert table.accuracy[0] != table.accuracy[1]
    record = RunRecord.load(tmp_path / "records" / "tiny" / "epitome-s1.json")
    assert record == RunRecord.load(tmp_path / "runs" / "tiny" / "epitome-s1")
    assert record.notebook == "train tiny/epitome-s1"
    assert cli.main(["train", str(path), *options, "--run", "epitome", "--seed", "0"]) == 0
    assert len(results("tiny", tmp_path / "records")) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"studies": 1}, "unknown key 'studies' in"),
        (
            {"runs": {"dense": {"epoch": 1}}},
            "run 'dense': unknown key 'epoch' in a training configuration; did you mean",
        ),
        ({"runs": {"dense": {"epochs": "1"}}}, "run 'dense': epochs must be a whole number, got '1'"),
        (
            {"runs": {"epitome": {"start": "dens"}}},
            "run 'epitome': start must be an earlier run of the file, got 'dens'",
        ),
        ({"runs": {"dense": {"start": "dense"}}}, "run 'dense': start must be an earlier run of the file, got 'dense'"),
        (
            {"study": None},
            "wrong.yaml must be a name, got None",
        ),
        ({"base": None}, "wrong.yaml must be a mapping, got None"),
        ({"runs": ["dense"]}, "wrong.yaml must be a mapping, got ['dense']"),
        ({"runs": {"dense": 5}}, "run 'dense': a run must be a mapping, got 5"),
        ({"seeds": 3}, "run 'dense': seeds must be a list of different seeds, at least one, got 3"),
        (
            {"runs": {"dense": {"seeds": 3}}},
            "run 'dense': seeds must be a list of different seeds, at least one, got 3",
        ),
    ],
)
def test_a_wrong_file_of_experiments_is_one_sentence(tmp_path, capsys, change, sentence):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENTS, **change}))
    assert cli.main(["train", str(path)]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--threads", "-1"], "threads must be at least 1, got -1"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--device", "gpu"], "device must be one of 'auto', 'cpu', got 'gpu'"),
        (["--device", "cuda"], "device must be one of 'auto', 'cpu', got 'cuda'"),
    ],
)
def test_a_wrong_option_of_training_is_one_sentence(tmp_path, capsys, monkeypatch, option, sentence):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    assert cli.main(["train", str(path), "--output", str(tmp_path), *option]) == 2
    assert capsys.readouterr().err == f"epim: {sentence}\n"
    assert list(tmp_path.iterdir()) == [path]


NAMES = [
    "..",
    "../../evil",
    "/abs",
    "a/b",
    "a\\b",
    "",
    None,
    "a\nb",
    " a",
    "a ",
    ".a",
    "-a",
    "a.",
    "a\0",
    "a:b",
    3,
]
NAMES += [True, 1.5, "a" * 101, "$HOME", "~", "con|", "a..\\b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_studies_and_runs_are_names(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(training, "train", None)
    place = tmp_path / "here" / "and" / "there"
    place.mkdir(parents=True)
    path = place / "wrong.yaml"
    for change in ({"study": name}, {"runs": {name: {}}}, {"runs": {"dense": {}, name: {}}}):
        path.write_text(yaml.safe_dump({**EXPERIMENTS, **change}), encoding="utf-8")
        assert cli.main(["train", str(path), "--output", str(place), "--records", str(place)]) == 2
        err = capsys.readouterr().err
        assert re.search("wrong.yaml must be a name( of at most 100 letters, digits and, within, .*)?, got ", err)
        assert err.count("\n") == 1
    for change, sentence in (
        ({"start": name}, "start must be a"),
        ({"design": name}, "the file of a design must be a name of at most 100 letters, digits"),
    ):
        if isinstance(name, str):
            path.write_text(yaml.safe_dump({**EXPERIMENTS, "runs": {"dense": change}}), encoding="utf-8")
            assert cli.main(["train", str(path), "--output", str(place)]) == 2
            assert f"run 'dense': {sentence}" in capsys.readouterr().err
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


EPITOME = {"start": "dense", "design": SMALLER}
REFUSED = [
    # what the file lists
    ({"runs": {}}, "wrong.yaml must name at least one run, got {}"),
    ({"seeds": []}, "seeds must be a list of different seeds, at least one, got []"),
    ({"seeds": [0, 0]}, "seeds must be a list of different seeds, at least one, got [0, 0]"),
    ({"seeds": [1.5]}, "seed must be a whole number, got 1.5"),
    ({"seeds": ["0"]}, "seed must be a whole number, got '0'"),
    ({"seeds": [True]}, "seed must be a whole number, got True"),
    ({"seeds": [-1]}, "seed must be at least 0, got -1"),
    ({"seeds": None}, "seeds must be a list of different seeds, at least one, got None"),
    ({"seed": 3}, "unknown key 'seed' in"),
    ({"base": {**EXPERIMENTS["base"], "seed": 3}}, "base must not name 'seed'"),
    ({"base": {**EXPERIMENTS["base"], "seeds": [3]}}, "base must not name 'seeds'"),
    ({"seed": 3}, "run 'second': a run must not name 'seed'"),
    ({"seeds": []}, "run 'second': seeds must be a list of different seeds, at least one, got []"),
    # of the second run: one number
    ({"lr": "1.0e-3"}, "lr must be a number from 0 to 100, got '1.0e-3', which is a text in YAML: a number has no "),
    ({"lr": "0.1"}, "got '0.1', which is a text in YAML"),
    ({"lr": "fast"}, "lr must be a number from 0 to 100, got 'fast'"),
    ({"lr": math.nan}, "lr must be a number from 0 to 100, got '.nan'"),
    ({"lr": math.inf}, "lr must be a number from 0 to 100, got '.inf'"),
    ({"lr": True}, "lr must be a number from 0 to 100, got True"),
    ({"weight_decay": 1e300}, "weight_decay must be a number from 0 to 100, got 1e+300"),
    ({"temperature": 1e300}, "temperature must be a number from 0 to 100, got 1e+300"),
    ({"mixup": 1e300}, "mixup must be a number from 0 to 100, got 1e+300"),
    ({"ema": "0.9"}, "ema must be a number from 0 to 1, got '0.9'"),
    ({"epochs": 1.0}, "epochs must be a whole number, got 1.0"),
    ({"epochs": 10000}, "epochs must be at most 9999, got 10000"),
    ({"epochs": 10**30}, f"epochs must be at most 9999, got {10**30}"),
    ({"epochs": 10**40}, "is not a readable file of experiments: a number has 41 digits"),
    ({"batch_size": 1438}, "batch_size must be at most the images of a process, got 1438"),
    ({"batch_size": 10**7}, "batch_size must be at most 1048576, got 10000000"),
    ({"workers": -1}, "workers must be at least 0, got -1"),
    ({"deterministic": "false"}, "deterministic must be one of False, True, got 'false'"),
    ({"auto_augment": "rand"}, "auto_augment must be None for digits, which has its own, got 'rand'"),
    # the network
    ({"model": "resnet99"}, "model must be one that timm knows, got 'resnet99'; did you mean 'resn"),
    ({"model": "hf-hub:a/b"}, "model must be one that timm knows, got 'hf-hub:a/b'"),
    ({"model": ""}, "model must be one that timm knows, got ''"),
    ({"model_options": {"widht": 8}}, "unknown key 'widht' in the options of resnet9; did you mean 'width'?"),
    ({"model_options": {"width": "8"}}, "width must be a whole number, got '8'"),
    ({"model_options": {"width": 0}}, "width must be at least 1, got 0"),
    ({"model_options": {"width": True}}, "width must be a whole number, got True"),
    ({"model_options": {"width": [8]}}, "width must be a whole number, got [8]"),
    ({"model_options": {"num_classes": 3}}, "model_options must not name 'num_classes', which data decides"),
    ({"model_options": {"in_chans": 3}}, "model_options must not name 'in_chans', which data decides"),
    ({"model_options": {"checkpoint_path": "x"}}, "model_options must not name 'checkpoint_path', which start decides"),
    ({"model_options": {"pretrained": True}}, "pretrained must be False: timm has no trained weights of 'resnet9'"),
    ({"model_options": {1: 2}}, "model_options must have names as keys, got 1"),
    ({"model": "resnet18", "model_options": {"act_layer": "nope"}}, "} cannot be made: "),
    ({"model": "resnet18", "model_options": {"widht": 8}}, "} cannot be made: "),
    ({"model": "resnet18", "model_options": {"features_only": True}}, "run 'second' of 'tiny' cannot be trained: "),
    ({"model": "vit_tiny_patch16_224", "model_options": {}}, "run 'second' of 'tiny' cannot be trained: "),
    # the optimizer
    ({"optimizer": "nope"}, "optimizer must be one that timm knows, got 'nope'"),
    ({"optimizer": ""}, "optimizer must be one that timm knows, got ''"),
    ({"optimizer": "adahessian"}, "optimizer must do with first derivatives, got 'adahessian'"),
    ({"optimizer": "fusedadam"}, "optimizer 'fusedadam' cannot be made by timm: "),
    ({"optimizer": "bnbadam"}, "optimizer 'bnbadam' cannot be made by timm: "),
    # the design
    ({**EPITOME, "design": {**SMALLER, "dense": 3}}, "dense of a design must be a list of layers, got 3"),
    ({**EPITOME, "design": {**SMALLER, "dense": "head"}}, "dense of a design must be a list of layers, got 'head'"),
    ({**EPITOME, "design": {**SMALLER, "dense": [3]}}, "design leaves layer 3 dense, which the network lacks"),
    ({**EPITOME, "design": {**SMALLER, "wrap": "ful"}}, "wrap (if not 'full') must be a whole number, got 'ful'"),
    ({**EPITOME, "design": {**SMALLER, "rows": "72"}}, "rows must be a whole number, got '72'"),
    ({**EPITOME, "design": {**SMALLER, "rows": 0}}, "rows must be at least 1, got 0"),
    ({**EPITOME, "design": {**SMALLER, "family": 3}}, "family must be one of 'window', 'channel', got 3"),
    ({**EPITOME, "design": {"rows": 72}}, "design of a training configuration lacks 'cols'"),
    ({**EPITOME, "design": {"layers": 3}}, "layers of a design must be a mapping, got int"),
    ({**EPITOME, "design": {"layers": {"heat": {}}}}, "run 'second' of 'tiny' cannot be trained: "),
    # the other ways to make it smaller
    ({"shrink": {"method": "widht", "blocks": 9}}, "method must be one of"),
    ({"shrink": {"method": "width", "blocks": "9"}}, "blocks must be a whole number, got '9'"),
    ({"shrink": {"method": "width", "blocks": 0}}, "blocks must be at least 1, got 0"),
    ({"shrink": {"method": "width", "blocks": 10**9}}, "blocks must be at most "),
    ({"shrink": {"method": "low-rank", "blocks": 10**9}}, "blocks must be at most "),
    ({"shrink": {"method": "low-rank"}}, "shrink of a training configuration lacks 'blocks'"),
    # the quantizer
    ({"quantize": {"crossbar": 3}}, "unknown key 'crossbar' in quantize"),
    ({"quantize": {"bit": 3}}, "unknown key 'bit' in quantize; did you mean 'bits'?"),
    ({"quantize": {1: 2}}, "quantize must have names as keys, got 1"),
    ({"quantize": {"bits": "3"}}, "bits must be a whole number, got '3'"),
    ({"quantize": {"learned": 1}}, "learned must be one of False, True, got 1"),
    ({"quantize": {}, "layer_bits": {9: 3}}, "layer_bits must have names as keys, got 9"),
    ({"quantize": {}, "layer_bits": {"head": "9"}}, "layer_bits of 'head' must be a whole number, got '9'"),
    ({"quantize": {}, "mixed": {"bits": [3, 5], "factor": "3.0e+1"}}, "got '3.0e+1', which is a text in YAML"),
    ({"quantize": {}, "mixed": {"bits": [3, 5], "factor": 1000}}, "mixed.factor must be at most "),
    # the hardware
    ({"hardware": "nope"}, "unknown preset 'nope'"),
    ({"hardware_options": {"crossbar.cell_bits": 1000}}, "crossbar.cell_bits must be at most 16, got 1000"),
    ({"hardware_options": {"crossbar.row": 9}}, "unknown hardware value 'crossbar.row'; did you mean 'crossbar.rows'?"),
    ({"hardware_options": {"crossbar.rows": "x"}}, "crossbar.rows"),
    # the start
    ({"start": "third"}, "start must be an earlier run of the file, got 'third'"),
    ({"start": "second"}, "start must be an earlier run of the file, got 'second'"),
    ({"start": "dense", "model_options": {"width": 8}}, "the start 'dense' is another network than this run's: "),
    ({"distillation": 0.5}, "distillation 0.5 needs a start, the network to learn from"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), REFUSED)
def test_everything_is_checked_before_the_first_run_starts(tmp_path, capsys, monkeypatch, change, sentence):
    monkeypatch.setattr(training, "train", None)
    whole = change.keys() <= EXPERIMENTS.keys() | {"seed"} and "run 'second'" not in sentence
    runs = (
        {}
        if whole
        else {"runs": {"dense": {"seeds": [0]}, "second": {"seeds": [0], **change}, "third": {"start": "second"}}}
    )
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENTS, **(change if whole else runs)}))
    assert cli.main(["train", str(path), "--output", str(tmp_path), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err) < 1000
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_check_starts_nothing_and_tells_sizes_and_time(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    request = ["train", str(path), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", None)
        assert cli.main([*request, "--check"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "seeds", "epochs", "parameters", "crossbars", "factor", "estimate", "[h:min:s]"]
    assert list(tmp_path.iterdir()) == [path]
    assert cli.main(request) == 0
    for row, seeds in zip(rows, (2, 1), strict=True):
        name, *numbers, time_needed = row.split()
        metrics = RunRecord.load(tmp_path / "runs" / "tiny" / f"{name}-s1").metrics
        found = [seeds, 1, metrics["parameters"], metrics["crossbars"], float(f"{metrics['factor']:.6g}")]
        assert [float(number) for number in numbers] == found
        assert re.fullmatch(r"\d:\d\d:\d\d", time_needed)


def test_a_start_that_will_not_be_there_is_found_before(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiny.yaml"
    request = ["train", str(path), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    missing = "weights.pt; the run is not finished, or its weights were not kept\n"
    monkeypatch.setattr(training, "train", None)
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    assert cli.main([*request, "--run", "epitome"]) == 2
    assert capsys.readouterr().err.endswith(missing)
    path.write_text(yaml.safe_dump({**EXPERIMENTS, "seeds": [0]}))  # dense with the seed 0, its follower with 1
    assert cli.main(request) == 2
    assert capsys.readouterr().err.endswith(missing)


def test_a_finished_run_that_the_file_no_longer_describes_is_found_before(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiny.yaml"
    runs = {"first": {}, "second": {"lr": 0.2}}
    path.write_text(yaml.safe_dump({**EXPERIMENTS, "seeds": [0], "runs": runs}))
    request = ["train", str(path), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    assert cli.main([*request, "--run", "second"]) == 0
    path.write_text(yaml.safe_dump({**EXPERIMENTS, "seeds": [0], "runs": {**runs, "second": {"lr": 0.3}}}))
    monkeypatch.setattr(training, "train", None)
    assert cli.main(request) == 2
    assert "holds a run with lr = 0.2, not 0.3; take another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "device", ["cpu:x", "cpu:0", "cpu:", "cuda:99", "cuda:-1", "cuda:", "", "cpu:0:0", "mps:x", "tpu"]
)
def test_a_device_that_is_not_there_is_one_sentence(device):
    with pytest.raises(ValueError, match=f"^device must be .*, got {device!r}$"):
        Place.of(device)


LONG = [
    {"mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1},
    {"optimizer": "adamw", "lr": 0.01, "ema": 0.9},
    {"model": "mobilenetv3_small_050", "model_options": {"drop_rate": 0.3}},
    {"quantize": {"bits": 3, "granularity": "channel", "range": "mse", "learned": True}, "design": SMALLER},
]


@pytest.mark.parametrize("changes", LONG)
def test_a_kill_within_a_long_epoch_loses_minutes_and_changes_nothing(tmp_path, monkeypatch, changes):
    config = dataclasses.replace(DENSE, **changes)  # 44 steps each epoch
    record = train(config, tmp_path / "whole", progress=False)
    monkeypatch.setattr(trainer, "BETWEEN", 0.0)
    step, done = Trainer.step, itertools.count()

    def interrupted(self, *batch):
        if next(done) == 50:
            raise Killed
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", progress=False)
    found = sorted(file.name.split(".")[0] for file in (tmp_path / "parts").glob("*.pt"))
    assert found == ["epoch-0001_0000005", "epoch-0001_0000006"]
    monkeypatch.setattr(Trainer, "step", lambda self, *batch: next(done) and step(self, *batch))
    first = next(done) + 1
    other = train(config, tmp_path / "parts", progress=False)
    assert next(done) - first == 88 - 50
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name
    assert other.metrics["train_loss"] == record.metrics["train_loss"]
    assert other.metrics["accuracy"] == record.metrics["accuracy"]


@unclosed
def test_a_kill_within_an_epoch_of_imagenet_changes_nothing(tmp_path, monkeypatch):
    """Its augmentation draws from the same generators as the network."""
    tiny_imagenet(tmp_path, (6, 6), (1, 1))
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    config = TrainConfig(
        data="imagenet", model="mobilenetv3_small_050", model_options={"drop_rate": 0.3}, epochs=1, batch_size=2,
        image_size=32, mixup=0.2, auto_augment="rand-m7-mstd0.5",
    )  # fmt: skip
    train(config, tmp_path / "whole", progress=False)
    monkeypatch.setattr(trainer, "BETWEEN", 0.0)
    step, done = Trainer.step, itertools.count()

    def interrupted(self, *batch):
        if next(done) == 3:
            raise Killed
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", progress=False)
    record = train(config, tmp_path / "parts", progress=False)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name
    assert record.versions["imagenet"] == data.listing(tmp_path / "imagenet")


KILLED = """
import json, os, sys, torch
from epimlib.train import trainer, training
from epimlib.train.config import TrainConfig
from epimlib.train.trainer import Trainer

config, folder = TrainConfig.from_dict(json.loads(sys.argv[2])), sys.argv[1]
step, done = Trainer.step, []

def interrupted(self, *batch):
    if len(done) == 30:
        raise KeyboardInterrupt
    done.append(1)
    return step(self, *batch)

training.train(config, f"{folder}/whole", device="cpu", progress=False)
trainer.BETWEEN, Trainer.step = 0.0, interrupted
try:
    training.train(config, f"{folder}/parts", device="cpu", progress=False)
except KeyboardInterrupt:
    torch.distributed.barrier()
done.clear()
training.train(config, f"{folder}/parts", device="cpu", progress=False)
assert len(done) == 44 - 20, len(done)
"""


def test_two_processes_go_on_within_an_epoch(tmp_path):
    """The first one decides when a checkpoint is due, each has its own random numbers in it."""
    (tmp_path / "killed.py").write_text(KILLED)
    config = dataclasses.replace(DENSE, epochs=1, batch_size=16, mixup=0.2)
    two_processes(str(tmp_path / "killed.py"), str(tmp_path), json.dumps(config.to_dict()))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name
    assert RunRecord.load(tmp_path / "whole").machine["processes"] == 2


def put(folder: Path, content) -> Path:
    """Put another content in place of a folder's latest checkpoint, under its right checksum."""
    path = sorted(folder.glob("epoch-*.pt"))[-1]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = content if isinstance(content, bytes) else buffer.getvalue()
    path.unlink()
    other = path.with_name(f"{path.name[:10]}.{hashlib.sha256(data).hexdigest()[:16]}.pt")
    other.write_bytes(data)
    return other


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> tuple[Path, dict]:
    """Return a folder with one checkpoint of three epochs, with EMA, and what is in it."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        kill_before(1, patch, BEGUN, folder)
    (path,) = folder.glob("epoch-*.pt")
    return folder, torch.load(path, weights_only=True)


BEGUN = dataclasses.replace(DENSE, epochs=3, batch_size=256, ema=0.9)
ROW = {"train_loss": 1.0, "accuracy": 1.0, "loss": 1.0, "seconds": 1.0, "processor_seconds": 1.0}
HALF = {"step": 2, "total": 1.0, "seconds": 1.0, "processor_seconds": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        b"text", b"", [1, 2], 3, None, {}, Path("x"), torch.zeros(3), {"history": {}},
        *({"model": value} for value in ({}, 3, None, {"head.weight": torch.zeros(1)}, {"head.weight": 3})),
        *({"optimizer": value} for value in ({}, 3, None, {"state": {}, "param_groups": []})),
        {"optimizer": {"state": {}, "param_groups": [{"params": []}, {"params": []}]}},
        {"ema": None},
        *({"history": value} for value in (3, None, [{}], [3], [{**ROW, "loss": "1"}], [{**ROW, "loss": None}], "abc")),
        *({"within": value} for value in (3, None, {}, {**HALF, "step": -1}, {**HALF, "step": 5})),
        {"within": {**HALF, "step": 2.0}},
        {"within": {**HALF, "total": None}}, {"within": {**HALF, "total": torch.ones(3)}},
        *({"within": HALF, "random": value} for value in (None, [], [None], [[1, 2, 3]], 3)),
        {"extra": 1},
    ],
)  # fmt: skip
def test_a_checkpoint_with_foreign_content_is_one_sentence(begun, tmp_path, change):
    shutil.copytree(begun[0], tmp_path / "run")
    path = put(tmp_path / "run", {**begun[1], **change} if isinstance(change, dict) and change else change)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is no checkpoint of this run; remove it: [^\n]*$"):
        train(BEGUN, tmp_path / "run", progress=False)
    assert path.exists()


@pytest.mark.parametrize("kind", [torch.complex64, torch.bool, torch.float64, torch.float16, torch.int32])
def test_weights_of_another_type_are_refused(begun, dense, tmp_path, kind):
    shutil.copytree(begun[0], tmp_path / "run")
    state = begun[1]["model"]
    put(tmp_path / "run", {**begun[1], "model": {**state, "head.weight": state["head.weight"].to(kind)}})
    with pytest.raises(ValueError, match=f"head.weight must be torch.float32, got {kind}$"):
        train(BEGUN, tmp_path / "run", progress=False)
    shutil.copytree(dense, tmp_path / "dense")
    state = weights(dense)
    torch.save({**state, "head.weight": state["head.weight"].to(kind)}, tmp_path / "dense" / "weights.pt")
    with pytest.raises(ValueError, match=f"head.weight must be torch.float32, got {kind}$"):
        load_trained(tmp_path / "dense")
    with pytest.raises(
        ValueError, match=f"the start 'dense' is another .*head.weight must be torch.float32, got {kind}$"
    ):
        train(dataclasses.replace(DENSE, start="dense"), tmp_path / "next", tmp_path / "dense", progress=False)


def test_a_network_whose_loss_is_no_number_has_failed(dense, tmp_path):
    shutil.copytree(dense, tmp_path / "dense")
    torch.save({**weights(dense), "head.bias": torch.full((10,), -3e38)}, tmp_path / "dense" / "weights.pt")
    state = torch.load(tmp_path / "dense" / "weights.pt")
    torch.save({**state, "head.weight": state["head.weight"] * 1e38}, tmp_path / "dense" / "weights.pt")
    config = dataclasses.replace(DENSE, start="dense", epochs=0)
    with pytest.raises(RunError, match="^the loss on the test images is (nan|inf); try a learning rate below 0.1$"):
        train(config, tmp_path / "next", tmp_path / "dense", progress=False)
    assert not (tmp_path / "next" / "record.json").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(dense, tmp_path, value):
    shutil.copytree(dense, tmp_path / "dense")
    torch.save({**weights(dense), "head.bias": torch.full((10,), value)}, tmp_path / "dense" / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt must hold finite numbers, got others in 'head.bias'$"):
        load_trained(tmp_path / "dense")


def test_momenta_of_another_shape_end_the_training_in_one_sentence(begun, tmp_path):
    shutil.copytree(begun[0], tmp_path / "run")
    state = {**begun[1]["optimizer"], "state": {0: {"momentum_buffer": torch.zeros(3, 5)}}}
    put(tmp_path / "run", {**begun[1], "optimizer": state})
    with pytest.raises(RunError, match=f"^the training in {re.escape(str(tmp_path / 'run'))} failed: [^\n]*$"):
        train(BEGUN, tmp_path / "run", progress=False)


def test_another_number_of_threads_is_refused(begun, tmp_path):
    """They add up in another order, and the weights would be others."""
    shutil.copytree(begun[0], tmp_path / "run")
    torch.set_num_threads(2)
    try:
        with pytest.raises(
            ValueError, match=r"run was begun with {'threads': 1, 'processes': 1}, not {'threads': 2, 'pro"
        ):
            train(BEGUN, tmp_path / "run", progress=False)
    finally:
        torch.set_num_threads(1)
    record = train(BEGUN, tmp_path / "run", progress=False)
    assert record.machine["threads"] == record.machine["processes"] == 1
    assert record.versions["digits"] == data.DATASETS["digits"].digest


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "{folder}: No space left on device (the same call goes on"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "/x/y: No space left on device (the same call goes on",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied (the same call goes on"),
        (
            RuntimeError("CUDA out of memory.\n Tried to allocate"),
            "the training in {folder} failed: CUDA out of memory. Tried",
        ),
    ],
)
@pytest.mark.parametrize("name", ["save", "finish"])
def test_a_full_disk_is_a_failure_of_the_work_and_names_a_path(tmp_path, capsys, monkeypatch, name, error, sentence):
    path, folder = tmp_path / "tiny.yaml", tmp_path / "tiny" / "dense-s0"
    path.write_text(yaml.safe_dump({**EXPERIMENTS, "seeds": [0], "runs": {"dense": {}}}))
    request = ["train", str(path), "--output", str(tmp_path), "--device", "cpu"]

    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, name, full)
        assert cli.main(request) == 1
    assert sentence.format(folder=folder) in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "record.json").exists()
    assert cli.main(request) == 0


def test_records_that_cannot_be_kept_are_found_before(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "train", None)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    request = ["train", str(path), "--output", str(tmp_path / "runs"), "--records", str(path)]
    assert cli.main(request) == 2
    assert str(path) in capsys.readouterr().err


def test_a_file_of_experiments_may_name_the_file_of_a_design(tmp_path, capsys):
    spec = EpitomeSpec(32, 16, (3, 3), (16, 8, 4, 4), (8, 8))
    path, file = tmp_path / "tiny.yaml", tmp_path / "finer.json"
    path.write_text(yaml.safe_dump({**EXPERIMENTS, "runs": {"finer": {"design": "finer.json"}}}))
    assert cli.main(["train", str(path)]) == 2
    assert capsys.readouterr().err == f"epim: no design at {file}\n"
    file.write_text(json.dumps(Design({"conv3.conv": spec}).to_dict()))
    config = read_experiments(path)[0].config
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config  # a record needs no further file
    network = build(config)
    assert network.model.conv3.conv.spec == spec
    assert Design.from_dict(network.about["design"]) == Design({"conv3.conv": spec})
    file.write_text(json.dumps(Design({"conv9.conv": spec}).to_dict()))
    with pytest.raises(ValueError, match="design names layer 'conv9.conv', which"):
        build(read_experiments(path)[0].config)


def test_requests_for_what_is_not_there(tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "no.yaml")]) == 2
    assert "no file of experiments at" in capsys.readouterr().err
    (tmp_path / "no.yaml").write_text("study: [")
    assert cli.main(["train", str(tmp_path / "no.yaml")]) == 2
    assert "is not a readable file of experiments" in capsys.readouterr().err
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENTS))
    assert cli.main(["train", str(path), "--run", "epitom"]) == 2
    assert "has no run 'epitom'; did you mean 'epitome'?" in capsys.readouterr().err


def test_the_command_line_can_be_interrupted(tmp_path):
    path = tmp_path / "long.yaml"
    long = {**EXPERIMENTS, "seeds": [0], "runs": {"dense": {"epochs": 5000}}}
    path.write_text(yaml.safe_dump(long))
    command = [sys.executable, "-m", "tests.epim", "train", str(path), "--output", str(tmp_path), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "tiny" / "dense-s0"
    while len(list(folder.glob("epoch-*.pt"))) < 2:
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.rstrip().endswith(f"epim: interrupted; the same command goes on in {folder}")
    assert not list(folder.glob(".*"))  # nothing half-written


def test_epim_data(capsys):
    assert cli.main(["data", "digits"]) == 0
    assert capsys.readouterr().out == "digits: 1,437 + 360 images in scikit-learn\n"
    assert cli.main(["data", "digit"]) == 2
    assert "data set must be one of 'digits'" in capsys.readouterr().err


def test_fetching_that_fetched_nothing_has_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    assert cli.main(["data", "imagenet"]) == 0
    assert cli.main(["data", "digits", "--fetch"]) == 0
    capsys.readouterr()
    assert cli.main(["data", "imagenet", "--fetch"]) == 1
    sentence = "epim: imagenet cannot be downloaded without an account; EPIM_DATA names the folder that has it\n"
    assert capsys.readouterr().err == sentence

    def refuse(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert cli.main(["data", "cifar10", "--fetch"]) == 1
    assert re.search(r"cifar10 could not be downloaded into [^\n]*no network[^\n]*\n$", capsys.readouterr().err)


def test_a_resnet20_has_its_layers_and_no_trained_weights():
    config = TrainConfig(data="cifar100", model="resnet20", epochs=1)
    network = create(config)
    layers = {name: tuple(p.shape) for name, p in network.named_parameters() if p.ndim > 1}
    assert len(layers) == 20 + 2  # with two shortcuts
    plain = sum(math.prod(shape) for name, shape in layers.items() if "shortcut" not in name)
    assert plain == 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 64 * 100
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    with pytest.raises(ValueError, match="pretrained must be False: resnet20 has no trained weights to load"):
        resnet20(pretrained=True)
    with pytest.raises(ValueError, match="unknown key 'widht' in the options of resnet20; did you mean 'width'"):
        resnet20(widht=8)


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_of_the_committed_experiments_can_be_built(path):
    """Mixed precision apart: its sensitivities need images."""
    for run in read_experiments(path, seeds=[0]):
        options = {name: value for name, value in run.config.model_options.items() if name != "pretrained"}
        config = dataclasses.replace(run.config, mixed=None, start=None, distillation=0, model_options=options)
        about = build(config).about
        assert about["crossbars"] <= about["crossbars_dense"]


@pytest.mark.parametrize(
    ("folder", "study"),
    [(f"{study}{on}", study) for study in ("fashion-mnist", "cifar10") for on in ("", "-intel")],
)
def test_every_record_is_of_a_run_that_its_file_still_describes(folder, study):
    runs = {run.folder: run.config for run in read_experiments(ROOT / "data" / "experiments" / f"{study}.yaml")}
    for path in (ROOT / "data" / "results" / folder).glob("*.json"):
        record = RunRecord.load(path)
        assert TrainConfig.from_dict(record.parameters) == runs[path.stem], path
        assert record.dirty is False, path
        assert record.metrics["factor"] == record.metrics["crossbars_dense"] / record.metrics["crossbars"]


@unclosed
def test_the_paper_s_experiment_runs_on_a_tiny_folder(tmp_path, monkeypatch):
    """ResNet-50, epitomes, 3 and 5 bits: the committed configuration, on images of 64 pixels and without a download."""
    tiny_imagenet(tmp_path, (2, 2), (2, 2))
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    small = {"batch_size": 2, "image_size": 64, "workers": 0, "deterministic": True, "precision": "float32"}
    folders = {}
    for run in read_experiments(ROOT / "data" / "experiments" / "imagenet-resnet50.yaml"):
        config = dataclasses.replace(run.config, model_options={}, epochs=min(run.config.epochs, 1), **small)
        if config.mixed:
            config = dataclasses.replace(config, mixed={**config.mixed, "batches": 1, "probes": 1})
        folders[run.name] = tmp_path / run.name
        record = train(config, folders[run.name], start=folders.get(config.start), device="cpu", progress=False)
        assert 0 <= record.metrics["accuracy"] <= 100
    assert record.metrics["crossbars_dense"] == 13888  # shared with the headline's count, real head
    assert record.metrics["factor"] >= 30.65
    network = load_trained(folders["q35"])
    assert {3, 5} <= set(network.about["bits"].values())
