"""Training: resumption, damaged checkpoints, several processes, files of experiments, and the records."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from epimlib import cli, training
from epimlib.design import Design
from epimlib.experiment import SCHEDULES, TrainConfig, build, create, read_experiments
from epimlib.pim.mapping import map_crossbars
from epimlib.plan import EpitomeSpec
from epimlib.runs import RunError, RunRecord, results
from epimlib.training import load_trained, train
from epimlib.workload import trace

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
    run = training._Trainer.epoch

    def killed(self, number, progress):
        if number == epoch:
            raise Killed
        return run(self, number, progress)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "epoch", killed)
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
    images = training.images_of.load("digits")
    x, y = next(training.images_of.batches(images.test_images, images.test_labels, 360, images.statistics()))
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
    step = training._Trainer._step

    def interrupted(self, *batch):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return step(self, *batch)

    monkeypatch.setattr(training._Trainer, "_step", interrupted)
    with pytest.raises(Killed):
        train(QUANTIZED, tmp_path, start=dense, progress=False)
    monkeypatch.setattr(training._Trainer, "_step", step)
    assert len(list(tmp_path.glob("epoch-*.pt"))) == steps // 44
    assert not (tmp_path / "record.json").exists()
    record = train(QUANTIZED, tmp_path, start=dense, progress=False)
    for name, tensor in weights(quantized).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name
    assert record.metrics["accuracy"] == RunRecord.load(quantized).metrics["accuracy"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(dense, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(DENSE, epochs=3)
    finish = training._Trainer.finish
    monkeypatch.setattr(training._Trainer, "finish", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        train(config, tmp_path, progress=False)
    monkeypatch.setattr(training._Trainer, "finish", finish)
    _, third = sorted(tmp_path.glob("epoch-*.pt"))
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1
    third.write_bytes(content)
    trained = []
    epoch = training._Trainer.epoch
    monkeypatch.setattr(training._Trainer, "epoch", lambda self, *a: trained.append(a[0]) or epoch(self, *a))
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
    monkeypatch.setattr(training, "_Trainer", None)
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
        ("data", "mnist", "data must be one of 'digits', 'fashion-mnist', 'cifar10', 'imagenet', got 'mnist'"),
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
        ({"mixup": "a"}, "mixup must be a number of at least 0, got 'a'"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"seed": 2**32}, "seed must be less than 2**32, got 4294967296"),
        (mixed(factor=0), "mixed.factor must be a number above 0, got 0"),
        (mixed(bits=[]), "mixed.bits must be a list of at least one choice, got []"),
        (mixed(bits=3), "mixed.bits must be a list of at least one choice, got 3"),
        (mixed(bits=[1, 3]), "mixed.bits must be at least 2, got 1"),
        (mixed(probes=0), "mixed.probes must be at least 1, got 0"),
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
            "model 'resnet99' cannot be made by timm: Unknown model (resnet99); did you mean 'resn",
        ),
        ({"optimizer": "sdg"}, "Optimizer sdg not found in registry"),
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
    trainer = training._Trainer(config, tmp_path, None, training._place("cpu"))
    rates = []
    for step in (2, 5, trainer.steps * 2 - 1):
        trainer.schedule.step_update(step)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
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
from epimlib import training
from epimlib.experiment import TrainConfig

evaluate, seen, folder = training._Trainer.evaluate, {}, sys.argv[1]

def watched(self):
    seen["bits"] = self.about["bits"]
    seen["images"] = [x for batch, _ in self.images.testing() for x in batch]
    model = self.ema.module if self.ema else self.network
    seen["evaluated"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return evaluate(self)

training._Trainer.evaluate = watched
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
    images = training._Images(config, training._place("cpu"))
    (x, target), (again, _) = images.sample(2), images.sample(2)
    assert x.shape == (8, 3, 32, 32)
    assert len(target) == 8
    assert torch.equal(x, again)


@pytest.mark.parametrize("dirty", [True, False])
def test_a_tree_with_changes_is_named_before_the_hours_are_spent(tmp_path, monkeypatch, capsys, dirty):
    monkeypatch.setattr("epimlib.runs._git_state", lambda folder: ("0123456789", dirty))
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
        ({"runs": {"epitome": {"start": "dens"}}}, "run 'epitome': start must be another run of the file, got 'dens'"),
        ({"runs": {"dense": {"start": "dense"}}}, "run 'dense': start must be another run of the file, got 'dense'"),
        ({"study": None}, "wrong.yaml must be a name, got None"),
        ({"base": None}, "wrong.yaml must be a mapping, got None"),
        ({"runs": ["dense"]}, "wrong.yaml must be a mapping, got ['dense']"),
        ({"runs": {"dense": 5}}, "run 'dense': a run must be a mapping, got 5"),
        ({"seeds": 3}, "run 'dense': seeds must be a list, got 3"),
        ({"runs": {"dense": {"seeds": 3}}}, "run 'dense': seeds must be a list, got 3"),
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
    assert err.rstrip().endswith("epim: interrupted")
    assert not list(folder.glob(".*"))  # nothing half-written


def test_epim_data(capsys):
    assert cli.main(["data", "digits"]) == 0
    assert capsys.readouterr().out == "digits: 1,437 + 360 images in scikit-learn\n"
    assert cli.main(["data", "digit"]) == 2
    assert "data set must be one of 'digits'" in capsys.readouterr().err


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
