"""What the chapters that train a small network have in common."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from epimlib.lab.notebooks import Notebook, find_notebook
from epimlib.lab.records import RunRecord
from epimlib.train import lesson
from epimlib.train.lesson import BATCH, NETWORKS, digits, fit, loss_and_accuracy, network, taught

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_digits_are_scikit_learns_each_in_one_part_only():
    (x, labels), (x_test, labels_test) = digits()
    assert x.shape == (1200, 1, 8, 8)
    assert x_test.shape == (597, 1, 8, 8)
    assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)
    found = {(int(label), *(16 * image).flatten().int().tolist()) for image, label in zip(x, labels, strict=True)}
    found |= {(int(n), *(16 * image).flatten().int().tolist()) for image, n in zip(x_test, labels_test, strict=True)}
    source = load_digits()
    assert found == {(n, *row) for n, row in zip(source.target.tolist(), source.data.astype(int).tolist(), strict=True)}
    assert len(found) == 1797  # all differ, so none is in both


def test_the_digits_are_the_same_each_time():
    for once, again in zip(digits(), digits(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))


def test_the_network_has_the_stages_asked_for():
    model = network([(1, 4, 1), (4, 6, 2)], classes=3)
    assert [name for name, _ in model.named_children()] == [
        "conv1", "norm1", "relu1", "conv2", "norm2", "relu2", "pool", "flat", "head",
    ]  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == (4 * 9 + 2 * 4) + (6 * 4 * 9 + 2 * 6) + (6 * 3 + 3)
    assert model[:6](torch.zeros(2, 1, 8, 8)).shape == (2, 6, 4, 4)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_evaluation_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)], [math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    loss, accuracy = loss_and_accuracy(nn.Identity(), logits, torch.tensor([0, 1, 0, 1]))
    assert loss == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert accuracy == 75


def test_a_fit_sees_each_image_once_an_epoch():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.seen = nn.Linear(1, 2), []

        def forward(self, x):
            assert self.training
            self.seen.append(x.flatten())
            return self.head(x)

    x = torch.arange(120.0)[:, None]
    model = fit(Counter(), x, (x[:, 0] > 60).long(), epochs=2)
    assert not model.training
    assert [len(batch) for batch in model.seen] == [BATCH, BATCH, 20] * 2
    first, second = torch.cat(model.seen[:3]), torch.cat(model.seen[3:])
    assert torch.equal(first.sort()[0], x[:, 0])
    assert torch.equal(second.sort()[0], x[:, 0])
    assert not torch.equal(first, second)


def test_a_fit_learns_and_its_seed_repeats_it():
    (x, labels), tested = digits()

    def trained():
        torch.manual_seed(3)
        return fit(network([(1, 16, 1), (16, 32, 2)]), x, labels, epochs=3)

    model, again = trained(), trained()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
    assert loss_and_accuracy(model, *tested)[1] > 60  # guessing: 10


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_must_be_positive(epochs):
    with pytest.raises(ValueError, match=f"epochs must be at least 1, got {epochs}"):
        fit(nn.Linear(1, 2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), epochs)


class TestTaught:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """Return the folder of committed weights, with those of a layer that was taught to be all sevens."""
        monkeypatch.setattr(lesson, "NETWORKS", tmp_path)
        monkeypatch.setenv("EPIM_TEACH", "1")
        taught("seven", nn.Linear(2, 3), {"value": 7, "shape": (2, 3)}, self.sevens)
        monkeypatch.delenv("EPIM_TEACH")
        return tmp_path

    @staticmethod
    def sevens(model):
        for parameter in model.parameters():
            nn.init.constant_(parameter, 7)
        return {"loss": 0.5, "accuracy": 90.0}

    @staticmethod
    def never(model):
        raise AssertionError("trained, though the weights were there")

    def test_committed_weights_are_read(self, folder, capsys):
        model = taught("seven", nn.Linear(2, 3), {"value": 7, "shape": (2, 3)}, self.never)
        assert all((parameter == 7).all() for parameter in model.parameters())
        assert not model.training
        assert capsys.readouterr().out == "seven: committed weights\n"

    def test_their_record_says_how_they_were_made(self, folder):
        record = RunRecord.load(folder / "seven.json")
        assert (record.notebook, record.parameters) == ("seven", {"value": 7, "shape": [2, 3]})
        assert record.metrics == {"loss": 0.5, "accuracy": 90.0}
        assert {"python", "torch"} <= set(record.versions)

    def test_other_parameters_are_trained_and_leave_the_files_alone(self, folder, capsys):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        model = taught("seven", nn.Linear(2, 3), {"value": 8, "shape": (2, 3)}, lambda model: {})
        assert not (model.weight == 7).any()
        assert not model.training
        assert capsys.readouterr().out.endswith("seven: trained here\n")
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    def test_weights_of_another_network_are_refused(self, folder):
        with pytest.raises(ValueError, match="seven.safetensors holds no weights of this network: .*size mismatch"):
            taught("seven", nn.Linear(3, 2), {"value": 7, "shape": (2, 3)}, self.never)
        with pytest.raises(ValueError, match="holds no weights of this network: .*Missing key"):
            taught("seven", nn.Sequential(nn.Linear(2, 3)), {"value": 7, "shape": (2, 3)}, self.never)

    @pytest.mark.parametrize("end", [0, 20, -1])
    def test_truncated_weights_are_refused(self, folder, end):
        path = folder / "seven.safetensors"
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(ValueError, match="seven.safetensors holds no weights of this network"):
            taught("seven", nn.Linear(2, 3), {"value": 7, "shape": (2, 3)}, self.never)

    def test_a_name_without_weights_is_said(self, folder):
        with pytest.raises(FileNotFoundError, match="eight.json"):
            taught("eight", nn.Linear(2, 3), {}, self.never)


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_network_was_taught_with_the_defaults_of_its_chapter(path):
    record = RunRecord.load(path)
    chapter = Notebook.load(find_notebook(path.stem.partition("-")[0]))
    defaults = {parameter.name: parameter.default for parameter in chapter.parameters}
    shared = record.parameters.keys() & defaults.keys()
    assert {"epochs", "seed"} <= shared
    for name in shared:
        wanted = defaults[name] if isinstance(defaults[name], list) else [defaults[name]]
        assert record.parameters[name] in wanted
    assert path.with_suffix(".safetensors").is_file()


def test_a_committed_network_is_as_good_as_its_record_says():
    record = RunRecord.load(NETWORKS / "09_quantization-dense.json")
    model = taught(record.notebook, network(record.parameters["stages"]), record.parameters, TestTaught.never)
    loss, accuracy = loss_and_accuracy(model, *digits()[1])
    assert loss == pytest.approx(record.metrics["loss"], rel=1e-4)
    assert accuracy == pytest.approx(record.metrics["accuracy"], abs=1.01 * 100 / 597)  # an image may lie between two
