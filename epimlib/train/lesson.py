"""A problem of seconds: what the chapters that train a small network of their own have in common.

`epimlib.train.training` is for runs that are recorded, with configurations, checkpoints and augmentation. Here are only
scikit-learn's digits, a plain network, a plain loop that trains any model, and the weights that the book's own pages
start from: those of a training differ from processor to processor, and what is said of a network holds for them alone.
"""

import dataclasses
import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from epimlib._checks import PROJECT, line, positive, write_bytes
from epimlib.lab.records import RunRecord

BATCH = 50
"""Images of a step."""

NETWORKS = PROJECT / "data" / "networks"


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return 1,200 images and their labels to train with, and the other 597 to test; always the same ones.

    Images have the shape ``(N, 1, 8, 8)`` and values from 0 to 1, float32; labels are int64. The parts
    are not those of `epimlib.train.data.read_images`, and both stay: committed weights were trained on either, and the
    chapters, which look at differences of few images, need more to test with.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    images = torch.tensor(found.images[order], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target[order], dtype=torch.int64)
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def network(stages: Iterable[tuple[int, int, int]], classes: int = 10) -> nn.Sequential:
    """Return 3x3 convolutions, each with batch normalisation and ReLU, then mean pooling and a linear head.

    Args:
        stages: ``(in_channels, out_channels, stride)`` of each convolution.
        classes: outputs of the head.

    Returns:
        Layers ``conv1``, ``norm1``, ``relu1``, ``conv2``, ... ``pool``, ``flat`` and ``head``, with new weights.
    """
    layers = []
    for number, (inp, out, stride) in enumerate(stages, 1):
        layers += [(f"conv{number}", nn.Conv2d(inp, out, 3, stride, 1, bias=False))]
        layers += [(f"norm{number}", nn.BatchNorm2d(out)), (f"relu{number}", nn.ReLU())]
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("head", nn.Linear(out, classes))]
    return nn.Sequential(OrderedDict(layers))


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float = 0.01) -> nn.Module:
    """Train a model in place and return it, in eval mode: cross-entropy, Adam, one cycle of the learning rate.

    Args:
        model: any classifier.
        images, labels: ``(N, ...)`` and ``(N,)``. Their order in each epoch is drawn from torch's own generator.
        epochs: how often each image is seen.
        rate: the largest learning rate of the cycle.
    """
    optimizer = torch.optim.Adam(model.train().parameters())
    steps = positive("epochs", epochs) * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def loss_and_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy [%] of a model in the mode in which it is."""
    logits = model(images)
    return F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).float().mean().item()


def taught(
    name: str, model: nn.Module, parameters: Mapping[str, Any], train: Callable[[nn.Module], Mapping[str, float]]
) -> nn.Module:
    """Return a model with the committed weights, or trained here if those were made with other parameters.

    ``data/networks/name.safetensors`` holds the weights, ``name.json`` beside it the `RunRecord` of their training.
    Which of the two it was is printed. With ``EPIM_TEACH=1`` in the environment every network is trained, and
    what comes out is written to these files.

    Args:
        name: of the files.
        model: of the right shapes; it is changed in place and returned in eval mode.
        parameters: all that decides the weights, as plain data.
        train: trains the model in place and returns what it reached.

    Raises:
        FileNotFoundError: if nothing was committed under this name.
        ValueError: if the weights are damaged or those of another network.
    """
    weights, about = (NETWORKS / f"{name}{suffix}" for suffix in (".safetensors", ".json"))
    parameters = json.loads(json.dumps(parameters))  # as a record holds them: lists in place of tuples
    write = os.environ.get("EPIM_TEACH") == "1"
    if not write and RunRecord.load(about).parameters == parameters:
        try:
            model.load_state_dict(load(weights.read_bytes()))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"{weights} holds no weights of this network: {line(error)}") from error
        print(f"{name}: committed weights")
        return model.eval()
    record, clock = RunRecord.of(name, parameters, datetime.now(UTC)), time.perf_counter()
    metrics = dict(train(model))
    if write:
        state = {key: tensor.detach().contiguous().clone() for key, tensor in model.state_dict().items()}
        write_bytes(weights, save(state))
        dataclasses.replace(record, seconds=round(time.perf_counter() - clock, 3), metrics=metrics).save(about)
    print(f"{name}: {'committed weights' if write else 'trained here'}")
    return model.eval()
