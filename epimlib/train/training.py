"""Training: one loop for dense, epitome and quantized networks, with checkpoints and exact resumption.

`train` makes what an `epimlib.train.config.TrainConfig` describes, in a folder of its own (`epimlib.train.folder`).
Every epoch draws its randomness from the seed and its own number. So a run that was interrupted, at whatever moment, is
continued by the same call from its latest whole checkpoint, and ends with the very weights of an uninterrupted one.
The number of threads is part of that: it decides in which order numbers are added, and so the weights.
Under ``torchrun`` the processes share the batches (DistributedDataParallel); the first one writes. `check_runs` finds
in seconds what hours of training would find out.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tqdm import tqdm

from epimlib._checks import line, write_json
from epimlib.lab.notebooks import RunError
from epimlib.lab.records import RECORD, RunRecord
from epimlib.train.build import Network, build, load_weights
from epimlib.train.config import Run, TrainConfig
from epimlib.train.data import DATASETS, need
from epimlib.train.folder import WEIGHTS, checkpoints, read_about, read_weights, require_same
from epimlib.train.images import Batch, ImageNet, InMemory, Place, images_of
from epimlib.train.trainer import Trainer


def train(
    config: TrainConfig,
    folder: str | Path,
    start: str | Path | None = None,
    device: str = "auto",
    progress: bool | tqdm = True,
    tensorboard: bool = False,
    name: str = "train",
) -> RunRecord:
    """Train a network, or go on with it, or return the record if it is finished.

    Args:
        config: what is trained and how.
        folder: of this run alone.
        start: the folder of the finished run that ``config.start`` means.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``, the best that is there.
        progress: whether to show a progress bar on a terminal; or one of `epochs_bar`, which several trainings share.
        tensorboard: whether to write events for TensorBoard too; it must be installed.
        name: of the run in its record.

    Returns:
        The record. Its metrics are ``accuracy`` [%] and ``loss`` on the test images after the last epoch; then
        ``train_loss``, ``epochs``, ``parameters`` (weights and epitomes), ``crossbars``, ``crossbars_dense`` (the dense
        32-bit network on the same crossbars) and ``factor``, their ratio.

    Raises:
        FileNotFoundError: if the start or the images are missing.
        ValueError: if the folder holds another run or one of another number of threads or processes, the configuration
            does not fit the network, a file is damaged, the device is not there, or TensorBoard is wanted and not
            installed.
        RunError: if the loss is no longer finite, the disk or the memory is full, or another step fails.
    """
    folder = Path(folder)
    shared = progress if isinstance(progress, tqdm) else None
    if (folder / RECORD).is_file():
        record = RunRecord.load(folder)
        require_same(folder, record.parameters, config)
        if shared is not None:
            _skip(shared, config.epochs)
        return record
    place = Place.of(device)
    images = images_of(config, place)
    network = _network(config, folder, start, images, place)
    trainer = Trainer(config, folder, network, images, place)
    if place.rank == 0:  # not before: a request that fails must leave the folder to the next one
        write_json(folder / "network.json", {"config": config.to_dict(), **network.about})
    trainer.resume()
    writer = _writer(folder) if tensorboard and place.rank == 0 else None
    record = RunRecord.of(name, config.to_dict(), datetime.now(UTC))
    machine, versions = record.machine | place.count, record.versions | {config.data: images.checksum}
    record = dataclasses.replace(record, machine=machine, versions=versions)
    shown = progress is not False and place.rank == 0
    if record.dirty and shown:
        tqdm.write(f"files differ from commit {record.commit[:7]}, and the record will say so", file=sys.stderr)
    try:
        with epochs_bar(config.epochs, shown) if shared is None else contextlib.nullcontext(shared) as bar:
            _epochs(trainer, bar, writer)
        return trainer.finish(record)
    except RunError:
        raise
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or line(error)}"
        raise RunError(f"{what} (the same call goes on from the latest checkpoint)") from error
    except (MemoryError, RuntimeError) as error:  # of torch: the memory is full, an operation is not there
        raise RunError(f"the training in {folder} failed: {line(error)}") from error


def load_trained(folder: str | Path, start: str | Path | None = None) -> Network:
    """Return the network of a finished run, with its weights, in eval mode.

    Args:
        folder: of the run.
        start: as for `train`. Without it there is no teacher, and a network whose shapes its start has decided (the
            methods ``low-rank`` and ``channels``) does not come back.

    Raises:
        FileNotFoundError: if the run is not there or not finished.
        ValueError: if its files are damaged, or its start is needed.
    """
    folder = Path(folder)
    config = TrainConfig.from_dict(RunRecord.load(folder).parameters)
    about, state = read_about(folder), read_weights(folder)
    first = None if config.start is None or start is None else read_weights(Path(start))
    try:
        network = build(config, first, bits=about["bits"])
        load_weights(network.model, state)
    except ValueError as error:
        reason = line(error)
        if config.start is not None and start is None:
            reason = f"start must be the folder of the run {config.start!r}, got None"
        raise ValueError(f"the network of {folder} does not come back: {reason}") from error
    return Network(network.model.eval(), None if first is None else network.teacher, about)


def epochs_bar(epochs: int, shown: bool = True) -> tqdm:
    """Return a progress bar of so many epochs, which is silent where its output is no terminal."""
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} epochs [{elapsed}<{remaining}{postfix}]"
    return tqdm(total=epochs, bar_format=form, disable=None if shown else True)


def _skip(bar: tqdm, epochs: float) -> None:
    """Count epochs that were trained before, which say nothing of how long the others take."""
    if not bar.disable:
        bar.initial += epochs
        bar.update(epochs)


def _epochs(trainer: Trainer, bar: tqdm, writer: Any) -> None:
    """Train the epochs that are left, with a checkpoint after each."""
    history, epochs = trainer.history, trainer.config.epochs
    bar.set_description(trainer.folder.name)
    bar.set_postfix_str("")  # of the run before
    _skip(bar, len(history) + trainer.within["step"] / trainer.steps)
    for epoch in range(len(history), epochs):
        history.append(trainer.epoch(epoch, bar))
        bar.set_postfix({name: f"{history[-1][name]:.4g}" for name in ("train_loss", "accuracy")})
        trainer.save()
        for name, value in history[-1].items() if writer else ():
            writer.add_scalar(name, value, epoch)
    if writer:
        writer.close()


def _network(
    config: TrainConfig, folder: Path, start: str | Path | None, images: InMemory | ImageNet, place: Place
) -> Network:
    """Return the network; what took time to decide is read from the folder of a run that has begun."""
    weights = None
    if config.start is not None:
        if start is None:
            raise ValueError(f"start must be the folder of the run {config.start!r}, got None")
        weights = read_weights(Path(start))
    if checkpoints(folder) or (folder / WEIGHTS).is_file():
        about = read_about(folder)
        require_same(folder, about["config"], config)
        return build(config, weights, bits=about["bits"])
    if config.mixed is None:
        return build(config, weights)
    # The first process decides for all: with other bits each would train another network, of the same shapes.
    batch = images.sample(config.mixed.get("batches", 1)) if place.rank == 0 else None
    if not place.distributed:
        return build(config, weights, batch)
    # A group of their own, since the others wait for longer than a step may take.
    waiting = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
    network = build(config, weights, batch) if place.rank == 0 else None
    bits = [network and network.about["bits"]]
    torch.distributed.broadcast_object_list(bits, 0, waiting)
    return network or build(config, weights, bits=bits[0])


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("events for TensorBoard need it: pip install tensorboard") from error
    return SummaryWriter(folder)


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
    states: dict[str, dict[str, torch.Tensor]] = {}
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
            images, (x, target) = _noise(config, place)
            network = _rough(config, states.get(config.start), (x[:2], target[:2]))
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


def _noise(config: TrainConfig, place: Place) -> tuple[SimpleNamespace, Batch]:
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


def _rough(config: TrainConfig, start: dict[str, torch.Tensor] | None, batch: Batch) -> Network:
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
