"""Checking before the first run: what hours of training would find out is found in seconds."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from epimlib._checks import line
from epimlib.lab.records import RECORD, RunRecord
from epimlib.train.build import Network, build
from epimlib.train.config import Run, TrainConfig
from epimlib.train.data import DATASETS, need
from epimlib.train.folder import read_weights, require_same
from epimlib.train.place import Place
from epimlib.train.trainer import Trainer

State = dict[str, torch.Tensor]


def check_runs(runs: Sequence[Run], output: str | Path, device: str = "auto") -> list[tuple[Any, ...]]:
    """Make the network of every run and train it for two steps on noise, so that a mistake is found before the first
    run starts. Nothing is written.

    Args:
        runs: of `read_experiments`, in the order in which they will be trained.
        output: the folder of their folders, ``<study>/<run>-s<seed>``.
        device: as for `train`.

    Returns:
        One tuple for each run and all its seeds, of name, number of seeds, epochs, parameters, crossbars, factor, and
        an estimate of the seconds that they take. Weights are new here, so what depends on trained ones
        (``mixed``, ranks and channels) is an estimate too.

    Raises:
        FileNotFoundError: if images are missing, or a start that is neither among the runs nor finished.
        ValueError: if a run cannot be trained, or its folder holds another one.
    """
    place = Place.of(device)
    seeds, planned = Counter(run.name for run in runs), set()
    rows: dict[str, tuple[Any, ...]] = {}
    states: dict[str, State] = {}
    for run in runs:
        config, folder = run.config, Path(output) / run.study / run.folder
        try:
            if (folder / RECORD).is_file():
                require_same(folder, RunRecord.load(folder).parameters, config)
            if config.start is not None and (begin := f"{config.start}-s{config.seed}") not in planned:
                states[config.start] = read_weights(folder.parent / begin)
            planned.add(run.folder)
            if run.name in rows:
                continue
            images, (x, target) = _images(config, place)
            network = _network(config, states.get(config.start), (x[:2], target[:2]))
            states[run.name] = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
            alone = dataclasses.replace(place, rank=0, world=1)
            trainer = Trainer(config, folder, network, images, alone)
            seconds = _seconds(trainer, x.to(place.device), target.to(place.device)) / place.world
        except FileNotFoundError:
            raise
        except Exception as error:  # of timm and torch: anything
            raise ValueError(f"run {run.name!r} of {run.study!r} cannot be trained: {line(error)}") from error
        about, count = network.about, seeds[run.name]
        sizes = (about["parameters"], about["crossbars"], about["crossbars_dense"] / about["crossbars"])
        rows[run.name] = (run.name, count, config.epochs, *sizes, seconds * count)
    return list(rows.values())


def _images(config: TrainConfig, place: Place) -> tuple[SimpleNamespace, tuple[torch.Tensor, torch.Tensor]]:
    """Return how many steps an epoch has, and a batch of noise in place of its images, which must be there."""
    from timm.data import create_transform

    need(config.data)
    source = DATASETS[config.data]
    if config.auto_augment is not None:
        create_transform(config.input_size, is_training=True, auto_augment=config.auto_augment)
    pixels = (1 << 14 if place.device.type == "cpu" else 1 << 26) // math.prod(config.input_size[1:])
    count = max(2, min(config.batch_size, pixels))
    batch = torch.randn(count, *config.input_size), torch.arange(count) % source.classes
    return SimpleNamespace(steps=source.images[0] // place.world // config.batch_size), batch


def _network(config: TrainConfig, start: State | None, batch: tuple[torch.Tensor, torch.Tensor]) -> Network:
    """Return the network of a run, without a download and with a rough Hessian."""
    from timm.models import is_model_pretrained

    options = dict(config.model_options)
    if options.pop("pretrained", False) and not is_model_pretrained(config.model):
        raise ValueError(f"pretrained must be False: timm has no trained weights of {config.model!r}")
    mixed = config.mixed and {**config.mixed, "probes": 1}
    return build(dataclasses.replace(config, model_options=options, mixed=mixed), start, batch)


def _seconds(trainer: Trainer, x: torch.Tensor, target: torch.Tensor) -> float:
    """Return an estimate of the seconds that one process would train."""
    for _ in range(2):  # the first one is slow
        clock = time.perf_counter()
        trainer.step(x, target).item()
        seconds = (time.perf_counter() - clock) / len(x)
    training, testing = DATASETS[trainer.config.data].images
    return seconds * trainer.config.epochs * (training + testing / 3)  # without gradients an image takes a third
