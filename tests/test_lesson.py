"""What the chapters that train a small network have in common."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from epimlib.lesson import BATCH, digits, evaluate, fit, network

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
    loss, accuracy = evaluate(nn.Identity(), logits, torch.tensor([0, 1, 0, 1]))
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
    assert evaluate(model, *tested)[1] > 60  # guessing: 10


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_must_be_positive(epochs):
    with pytest.raises(ValueError, match=f"epochs must be at least 1, got {epochs}"):
        fit(nn.Linear(1, 2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), epochs)
