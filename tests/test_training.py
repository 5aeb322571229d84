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
from epimlib.experiment import TrainConfig, build, create, read_experiments
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
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.epim",
    ]
    arguments = [
        "train",
        str(path),
        "--output",
        str(tmp_path),
        "--records",
        str(tmp_path / "records"),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = results("two", tmp_path / "records")
    assert list(table.run) == ["dense", "quantized"]
    assert (table.accuracy > 60).all()
    alone = RunRecord.load(dense).metrics["loss"]  # the same batches in all, though other images are together
    assert table.loss[0] == pytest.approx(alone, rel=0.5)


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
    ],
)
def test_a_wrong_file_of_experiments_is_one_sentence(tmp_path, capsys, change, sentence):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENTS, **change}))
    assert cli.main(["train", str(path)]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


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


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves images to the garbage collector
def test_the_paper_s_experiment_runs_on_a_tiny_folder(tmp_path, monkeypatch):
    """ResNet-50, epitomes, 3 and 5 bits: the committed configuration, on images of 64 pixels and without a download."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("n01440764", "n01443537"):
            folder = tmp_path / "imagenet" / part / kind
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
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
