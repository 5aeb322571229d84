"""Training: one loop for dense, epitome and quantized networks, with checkpoints and exact resumption.

`train` makes what an `epimlib.train.config.TrainConfig` describes, in a folder of its own::

    network.json                what was built: design, bits, crossbars
    epoch-0007.3f0c….pt         everything that the next epoch needs; the two latest are kept, the name has a checksum
    epoch-0007_0000123.4a….pt   the same within a long epoch, after so many of its steps
    history.csv                 loss and accuracy of every epoch
    weights.pt, record.json     written last, when the run is finished

Every epoch draws its randomness from the seed and its own number. So a run that was interrupted, at whatever moment, is
continued by the same call from its latest whole checkpoint, and ends with the very weights of an uninterrupted one.
The number of threads is part of that: it decides in which order numbers are added, and so the weights.
Under ``torchrun`` the processes share the batches (DistributedDataParallel); the first one writes.
"""

import csv
import dataclasses
import hashlib
import io
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from epimlib._checks import keys, nearest, one_of, read_json, write_bytes, write_json, write_text
from epimlib._torchvision import ensure_torchvision
from epimlib.lab.notebooks import RunError
from epimlib.lab.records import RECORD, RunRecord
from epimlib.train import data as images_of
from epimlib.train.build import Network, build
from epimlib.train.config import Run, TrainConfig, load_weights, sentence

KEPT = 2
"""Checkpoints that are kept: the second is for a damaged first."""
BETWEEN = 300.0
"""Seconds between checkpoints within an epoch."""
FOUND = ("train_loss", "accuracy", "loss", "seconds", "processor_seconds")
"""What the history says of an epoch."""
WHOLE = {"step": 0, "total": 0.0, "seconds": 0.0, "processor_seconds": 0.0}
"""What a checkpoint says of an epoch that has not begun: steps done, sum of their losses, time spent."""


def train(
    config: TrainConfig,
    folder: str | Path,
    start: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
) -> RunRecord:
    """Train a network, or go on with it, or return the record if it is finished.

    Args:
        config: what is trained and how.
        folder: of this run alone.
        start: the folder of the finished run that ``config.start`` means.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``, the best that is there.
        progress: whether to show progress bars.
        tensorboard: whether to write events for TensorBoard too; it must be installed.

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
    if (folder / RECORD).is_file():
        record = RunRecord.load(folder)
        _same(folder, record.parameters, config)
        return record
    place = _place(device)
    images = _Images(config, place)
    network = _network(config, folder, start, images, place)
    trainer = _Trainer(config, folder, network, images, place)
    if place.rank == 0:  # not before: a request that fails must leave the folder to the next one
        write_json(folder / "network.json", {"config": config.to_dict(), **network.about})
    trainer.resume()
    writer = _writer(folder) if tensorboard and place.rank == 0 else None
    record = RunRecord.of("train", config.to_dict(), datetime.now(UTC))
    machine, versions = record.machine | place.count, record.versions | {config.data: images.checksum}
    record = dataclasses.replace(record, machine=machine, versions=versions)
    if record.dirty and progress and place.rank == 0:
        tqdm.write(f"files differ from commit {record.commit[:7]}, and the record will say so", file=sys.stderr)
    history, progress = trainer.history, progress and place.rank == 0
    try:
        with tqdm(initial=len(history), total=config.epochs, desc=folder.name, disable=not progress) as bar:
            for epoch in range(len(history), config.epochs):
                history.append(trainer.epoch(epoch, progress))
                bar.set_postfix({name: f"{history[-1][name]:.4g}" for name in ("train_loss", "accuracy")})
                bar.update()
                trainer.save()
                for name, value in history[-1].items() if writer else ():
                    writer.add_scalar(name, value, epoch)
        if writer:
            writer.close()
        return trainer.finish(history, record)
    except RunError:
        raise
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or sentence(error)}"
        raise RunError(f"{what} (the same call goes on from the latest checkpoint)") from error
    except (MemoryError, RuntimeError) as error:  # of torch: the memory is full, an operation is not there
        raise RunError(f"the training in {folder} failed: {sentence(error)}") from error


def check(runs: Sequence[Run], output: str | Path, device: str = "auto") -> list[tuple[Any, ...]]:
    """Make the network of every run and train it for two steps on noise, so that a mistake is found before the first
    run starts. Nothing is written.

    Args:
        runs: of `read_experiments`, in the order in which they will be trained.
        output: the folder of their folders, ``<study>/<run>-s<seed>``.
        device: as for `train`.

    Returns:
        One mapping for each run and all its seeds, with name, number of seeds, epochs, parameters, crossbars, factor,
        and an estimate of the seconds that they take. Weights are new here, so what depends on trained ones
        (``mixed``, ranks and channels) is an estimate too.

    Raises:
        FileNotFoundError: if images are missing, or a start that is neither among the runs nor finished.
        ValueError: if a run cannot be trained, or its folder holds another one.
    """
    place = _place(device)
    from timm.data import create_transform
    from timm.models import is_model_pretrained

    world, place = place.world, SimpleNamespace(**{**vars(place), "rank": 0, "world": 1, "distributed": False})
    rows, states, planned = {}, {}, set()
    for run in runs:
        config, source = run.config, images_of.DATASETS[run.config.data]
        folder, begin = Path(output) / run.study / run.folder, f"{run.config.start}-s{run.config.seed}"
        try:
            if (folder / RECORD).is_file():
                _same(folder, RunRecord.load(folder).parameters, config)
            if config.start is not None and begin not in planned:
                states[config.start] = _weights(folder.parent / begin)
            planned.add(run.folder)
            if run.name in rows:
                rows[run.name] = (run.name, rows[run.name][1] + 1, *rows[run.name][2:])
                continue
            images_of.need(config.data)
            steps = SimpleNamespace(steps=source.images[0] // world // config.batch_size)
            if not steps.steps:
                raise ValueError(f"batch_size must be at most the images of a process, got {config.batch_size}")
            if config.auto_augment is not None:
                create_transform(config.input_size, is_training=True, auto_augment=config.auto_augment)
            pixels = (1 << 14 if place.device.type == "cpu" else 1 << 26) // math.prod(config.input_size[1:])
            count = max(2, min(config.batch_size, pixels))
            x, y = torch.randn(count, *config.input_size), torch.arange(count) % source.classes
            options = dict(config.model_options)
            if options.pop("pretrained", False) and not is_model_pretrained(config.model):
                raise ValueError(f"pretrained must be False: timm has no trained weights of {config.model!r}")
            mixed = config.mixed and {**config.mixed, "probes": 1}
            plain = dataclasses.replace(config, model_options=options, mixed=mixed)
            network = build(plain, states.get(config.start), (x[:2], y[:2]))
            states[run.name] = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
            trainer = _Trainer(config, folder, network, steps, place)
            for _ in range(2):  # the first one is slow
                clock = time.perf_counter()
                trainer._step(x.to(place.device), y.to(place.device)).item()
                seconds = (time.perf_counter() - clock) / count
        except FileNotFoundError:
            raise
        except Exception as error:  # of timm and torch: anything
            raise ValueError(f"run {run.name!r} of {run.study!r} cannot be trained: {sentence(error)}") from error
        # Without gradients an image takes a third.
        seconds *= config.epochs * (source.images[0] + source.images[1] / 3) / world
        sizes = (network.about[name] for name in ("parameters", "crossbars"))
        factor = network.about["crossbars_dense"] / network.about["crossbars"]
        rows[run.name] = (run.name, 1, config.epochs, *sizes, factor, seconds)
    return [(*row[:-1], row[-1] * row[1]) for row in rows.values()]


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
    about, state = _about(folder), _weights(folder)
    first = None if config.start is None or start is None else _weights(Path(start))
    try:
        network = build(config, first, bits=about["bits"])
        load_weights(network.model, state)
    except ValueError as error:
        reason = sentence(error)
        if config.start is not None and start is None:
            reason = f"start must be the folder of the run {config.start!r}, got None"
        raise ValueError(f"the network of {folder} does not come back: {reason}") from error
    return Network(network.model.eval(), None if first is None else network.teacher, about)


def _network(
    config: TrainConfig, folder: Path, start: str | Path | None, images: "_Images", place: SimpleNamespace
) -> Network:
    """Return the network; what took time to decide is read from the folder of a run that has begun."""
    weights = None
    if config.start is not None:
        if start is None:
            raise ValueError(f"start must be the folder of the run {config.start!r}, got None")
        weights = _weights(Path(start))
    if any(folder.glob("epoch-*.pt")) or (folder / "weights.pt").is_file():
        about = _about(folder)
        _same(folder, about["config"], config)
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


class _Trainer:
    """Everything that one run needs: network, optimizer, schedule, images."""

    def __init__(
        self, config: TrainConfig, folder: Path, network: Network, images: "_Images", place: SimpleNamespace
    ) -> None:
        ensure_torchvision()
        from timm.loss import SoftTargetCrossEntropy
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.config, self.folder, self.place, self.images = config, folder, place, images
        torch.use_deterministic_algorithms(config.deterministic)
        # Deterministic mode would also fill every new tensor, a tenth of a step; no operation reads before it writes.
        torch.utils.deterministic.fill_uninitialized_memory = False
        self.about = network.about
        self.network = network.model.to(place.device, memory_format=torch.channels_last).train()
        self.teacher = network.teacher and network.teacher.to(place.device, memory_format=torch.channels_last)
        self.model = DistributedDataParallel(self.network) if place.distributed else self.network
        self.ema = ModelEmaV3(self.network, config.ema) if config.ema else None
        self.optimizer = _optimizer(config, self.network)
        self.steps = images.steps
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            config.schedule,
            num_epochs=max(config.epochs, 1) * (1 - config.warmup),
            warmup_lr=0.0,
            warmup_epochs=config.warmup * config.epochs,
            warmup_prefix=True,
            decay_rate=1.0,
            step_on_epochs=False,
            updates_per_epoch=self.steps,
        )
        self.soft = SoftTargetCrossEntropy()
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "float16")
        self.history: list[dict[str, float]] = []
        self.within = WHOLE
        self.saved = time.perf_counter()

    def resume(self) -> None:
        """Load the latest whole checkpoint, if there is one."""
        for path in sorted(self.folder.glob("epoch-*.pt"), reverse=True):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] != path.name.split(".")[1]:
                tqdm.write(f"{path} is damaged: its checksum is another one; the checkpoint before it is used")
                continue
            on_cpu = self.place.device.type == "cpu"  # elsewhere threads do not add up
            fixed = {name: count for name, count in self.place.count.items() if on_cpu or name == "processes"}
            try:
                names = ["model", "optimizer", "scaler", "ema", "history", "within", "random", *self.place.count]
                state = torch.load(io.BytesIO(content), map_location=self.place.device, weights_only=True)
                begun = {name: count for name, count in keys("a checkpoint", state, names).items() if name in fixed}
                if begun == fixed:
                    self._load(state)
            except Exception as error:  # foreign content raises anything; half of it may be loaded: no other is tried
                raise ValueError(f"{path} is no checkpoint of this run; remove it: {sentence(error)}") from error
            if begun != fixed:
                raise ValueError(f"{self.folder} was begun with {begun}, not {fixed}; its weights depend on that")
            return

    def _load(self, state: Mapping[str, Any]) -> None:
        numbers = [isinstance(n, float) for row in state["history"] for n in keys("an epoch", row, FOUND).values()]
        if not isinstance(state["history"], list) or not all(numbers):
            raise ValueError(f"history must be a list of numbers for every epoch, got {state['history']}")
        within = keys("within", state["within"], WHOLE)
        if any(type(within[name]) is not type(WHOLE[name]) for name in WHOLE) or not 0 <= within["step"] < self.steps:
            raise ValueError(f"within must be of {self.steps} steps and like {WHOLE}, got {within}")
        if within["step"]:
            _set_random(self.place.device, state["random"][self.place.rank])
        load_weights(self.network, state["model"])
        if [set(group) for group in state["optimizer"]["param_groups"]] != [*map(set, self.optimizer.param_groups)]:
            raise ValueError("its optimizer is another one")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            load_weights(self.ema.module, state["ema"])
        self.history, self.within, self.random = state["history"], within, state["random"]

    def save(self, within: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and the history, each whole or not at all, and drop other checkpoints but the latest.

        All processes must call this; the first one writes. Without ``within`` an epoch has ended.
        """
        random = [None if within is None else _random(self.place.device)]
        if within and self.place.distributed:
            mine, random = random[0], [None] * self.place.world
            torch.distributed.all_gather_object(random, mine)
        self.saved = time.perf_counter()
        if self.place.rank > 0:
            return
        state = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "history": self.history,
            "within": within or WHOLE,
            "random": random,
            **self.place.count,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        number = f"epoch-{len(self.history):04d}" + (f"_{within['step']:07d}" if within else "")
        path = self.folder / f"{number}.{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.pt"
        write_bytes(path, buffer.getvalue())
        found = sorted(self.folder.glob("epoch-*.pt"))
        # What is not before this one is damaged, else the run would have gone on from there.
        before = [other for other in found if other.name < number]
        for old in {*found} - {path, *before[-(KEPT - 1) :]}:
            old.unlink()
        if within:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, ["epoch", *FOUND], lineterminator="\n")
        table.writeheader()
        table.writerows({"epoch": number + 1, **row} for number, row in enumerate(self.history))
        write_text(self.folder / "history.csv", text.getvalue())

    def epoch(self, epoch: int, progress: bool) -> dict[str, float]:
        """Train one epoch, evaluate, and return what is found."""
        from timm.utils import distribute_bn, random_seed

        # NumPy takes 32 bits.
        random_seed((self.config.seed * 100_003 + epoch) % (2**32 - self.place.world), self.place.rank)
        within, self.within = self.within, WHOLE
        clock, work = time.perf_counter() - within["seconds"], time.process_time() - within["processor_seconds"]
        self.model.train()
        total = torch.tensor(float(within["total"]), device=self.place.device)
        batches = self.images.training(epoch, within["step"])
        if within["step"]:  # the batches before it are left out, what was drawn with them is not
            _set_random(self.place.device, self.random[self.place.rank])
        with tqdm(
            total=self.steps, initial=within["step"], desc=f"epoch {epoch + 1}", leave=False, disable=not progress
        ) as bar:
            for step, (x, target) in enumerate(batches, within["step"] + 1):
                self.schedule.step_update(epoch * self.steps + step - 1)
                total += self._step(x, target)
                if self.ema:
                    self.ema.update(self.network, epoch * self.steps + step)
                bar.update()
                if step < self.steps and self._due(step):
                    spent = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - work}
                    self.save({"step": step, "total": total.item(), **spent})
        mean = self._sum(total / self.steps)[0] / self.place.world
        if not torch.isfinite(mean):
            raise RunError(
                f"the loss of epoch {epoch + 1} is {mean.item()}; try a learning rate below {self.config.lr}"
            )
        if self.place.distributed:
            distribute_bn(self.network, self.place.world, reduce=True)
            # Ranges of inputs and averaged buffers are of each process's own images. All evaluate what is saved.
            for buffer in self.result.buffers():
                torch.distributed.broadcast(buffer, 0)
        found = {"train_loss": mean.item(), **self.evaluate()}
        return {**found, "seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - work}

    def _due(self, step: int) -> bool:
        """Return whether to write a checkpoint within the epoch; the first process decides for all, now and then."""
        due = time.perf_counter() - self.saved >= BETWEEN
        if not self.place.distributed or step % 20:
            return due and not self.place.distributed
        decided = torch.tensor(float(due), device=self.place.device)
        torch.distributed.broadcast(decided, 0)
        return bool(decided)

    def _step(self, x: Tensor, target: Tensor) -> Tensor:
        config = self.config
        with torch.autocast(self.place.device.type, getattr(torch, config.precision), config.precision != "float32"):
            output = self.model(x)
            if target.ndim == 2:  # mixed labels
                loss = self.soft(output, target)
            else:
                loss = F.cross_entropy(output, target, label_smoothing=config.smoothing)
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = F.log_softmax(self.teacher(x) / config.temperature, 1)
                given = F.log_softmax(output / config.temperature, 1)
                distance = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * config.temperature**2
                loss = loss.lerp(distance, config.distillation)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    @property
    def result(self) -> torch.nn.Module:
        """Return the network that is evaluated and saved."""
        return self.ema.module if self.ema else self.network

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracy [%] on the test images, or raise `RunError` if the loss is not finite."""
        model = self.result.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for x, target in self.images.testing():
            output = model(x).float()
            right, loss = (output.argmax(1) == target).sum(), F.cross_entropy(output, target, reduction="sum")
            sums += torch.tensor([right.item(), loss.item(), len(target)], dtype=torch.float64)
        right, loss, count = self._sum(sums.float().to(self.place.device)).tolist()
        if not math.isfinite(loss):
            raise RunError(f"the loss on the test images is {loss}; try a learning rate below {self.config.lr}")
        return {"accuracy": 100 * right / count, "loss": loss / count}

    def _sum(self, value: Tensor) -> Tensor:
        value = value.reshape(-1)
        if self.place.distributed:
            torch.distributed.all_reduce(value)
        return value

    def finish(self, history: list[dict[str, float]], record: RunRecord) -> RunRecord:
        """Write the weights and, last, the record with what was found; return the record."""
        last = history[-1] if history else self.evaluate()
        about = self.about
        metrics = {name: last[name] for name in ("accuracy", "loss", "train_loss") if name in last} | {
            "epochs": self.config.epochs,
            "parameters": about["parameters"],
            "crossbars": about["crossbars"],
            "crossbars_dense": about["crossbars_dense"],
            "factor": about["crossbars_dense"] / about["crossbars"],
            "processor_seconds": round(sum(row["processor_seconds"] for row in history), 1),
        }
        seconds = round(sum(row["seconds"] for row in history), 1)
        record = dataclasses.replace(record, seconds=seconds, metrics=metrics)
        if self.place.rank == 0:
            buffer = io.BytesIO()
            torch.save(self.result.state_dict(), buffer)
            write_bytes(self.folder / "weights.pt", buffer.getvalue())
            record.save(self.folder / RECORD)
            for checkpoint in self.folder.glob("epoch-*.pt"):
                checkpoint.unlink()
        if self.place.distributed:
            torch.distributed.barrier()
        return record


class _Images:
    """Batches for training and for testing, on the device."""

    def __init__(self, config: TrainConfig, place: SimpleNamespace) -> None:
        self.config, self.place = config, place
        self.source = images_of.DATASETS[config.data]
        self.mixup = None
        if config.mixup or config.cutmix:
            from timm.data import Mixup

            self.mixup = Mixup(
                config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=self.source.classes
            )
        if config.data == "imagenet":
            self.loaders = [self._loader("train"), self._loader("val")]
            self.steps = len(self.loaders[0])
            self.checksum = images_of.listing(images_of.need("imagenet"))
        else:
            self.held = images_of.load(config.data)  # verified
            self.checksum = self.source.digest
            self.statistics = self.held.statistics()
            self.steps = len(self.held.train_images) // place.world // config.batch_size
        if not self.steps:
            raise ValueError(f"batch_size must be at most the images of a process, got {config.batch_size}")

    def _loader(self, split: str) -> Any:
        from timm.data import create_dataset, create_loader

        root = images_of.need("imagenet")
        config, training = self.config, split == "train"
        dataset = part = create_dataset("", str(root), split=split, is_training=training)
        if not training:  # timm's own sampler would fill up with images that are counted twice
            part = torch.utils.data.Subset(dataset, range(self.place.rank, len(dataset), self.place.world))
        loader = create_loader(
            part,
            config.input_size,
            config.batch_size,
            is_training=training,
            auto_augment=config.auto_augment,
            num_workers=config.workers,
            distributed=self.place.distributed and training,
            device=self.place.device,
            use_prefetcher=False,
            persistent_workers=False,  # so that an epoch's augmentation depends on its number alone
        )
        dataset.transform = part.transform  # which timm has given to the part
        return loader

    def training(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of an epoch, from number ``first`` on."""
        config = self.config
        if config.data == "imagenet":
            if self.place.distributed:
                self.loaders[0].sampler.set_epoch(epoch)
            found = iter(self.loaders[0])
            for _ in range(first):  # read once more, since the workers draw from one batch to the next
                next(found)
        else:
            held, part = self.held, (self.place.rank, self.place.world)
            found = images_of.batches(
                held.train_images, held.train_labels, config.batch_size, self.statistics, (config.seed, epoch),
                self.source.flip, part, first,
            )  # fmt: skip
        return (self.mixup(x, target) if self.mixup else (x, target) for x, target in self._on_device(found))

    def testing(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test images."""
        if self.config.data == "imagenet":
            return self._on_device(iter(self.loaders[1]))
        held, part = self.held, (self.place.rank, self.place.world)
        return self._on_device(
            images_of.batches(held.test_images, held.test_labels, self.config.batch_size, self.statistics, part=part)
        )

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return batches of training images as one, on the CPU, always the same ones."""
        if self.config.data == "imagenet":
            from timm.utils import random_seed

            random_seed(self.config.seed)
            # Of all images, not of a process's share.
            loader = torch.utils.data.DataLoader(
                self.loaders[0].dataset, self.config.batch_size, shuffle=True, num_workers=self.config.workers
            )
            found = [batch for _, batch in zip(range(count), loader, strict=False)]
            return torch.cat([x for x, _ in found]), torch.cat([target for _, target in found])
        held, size = self.held, count * self.config.batch_size
        return next(images_of.batches(held.train_images[:size], held.train_labels[:size], size, self.statistics))

    def _on_device(self, found: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, target in found:
            x = x.to(self.place.device, memory_format=torch.channels_last, non_blocking=True)
            yield x, target.to(self.place.device, non_blocking=True)


def _place(device: str) -> SimpleNamespace:
    """Return device, rank and number of processes; under torchrun the process group is joined."""
    ensure_torchvision()
    from timm.utils.distributed import init_distributed_device_so, is_distributed_env

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [kind for kind, found in there.items() if found]
    chips = [f"cuda:{number}" for number in range(torch.cuda.device_count() * ("cuda" in there))]
    one_of("device", device, ["auto", *there, *chips])
    if device == "auto":
        device = there[0]
    if is_distributed_env() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        found = {"device": device, "global_rank": rank, "world_size": world, "distributed": True}
    else:
        found = init_distributed_device_so(device)
    return SimpleNamespace(
        device=torch.device(found["device"]),
        rank=found["global_rank"],
        world=found["world_size"],
        distributed=found["distributed"],
        count={"threads": torch.get_num_threads(), "processes": found["world_size"]},
    )


def _optimizer(config: TrainConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if config.optimizer not in known:
        hint = nearest(config.optimizer, known)
        raise ValueError(f"optimizer must be one that timm knows, got {config.optimizer!r}; {hint}")
    try:
        found = create_optimizer_v2(
            network, config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=0.9
        )
    except Exception as error:  # some need a package that is not there, and say so in their own ways
        raise ValueError(f"optimizer {config.optimizer!r} cannot be made by timm: {sentence(error)}") from error
    if getattr(found, "is_second_order", False):
        raise ValueError(f"optimizer must do with first derivatives, got {config.optimizer!r}")
    return found


def _random(device: torch.device) -> list[Any]:
    """Return the states of all generators that training draws from, as plain data and tensors."""
    name, words, *rest = np.random.get_state()  # noqa: NPY002  (timm's mixup draws from it)
    states = [random.getstate(), (name, words.tolist(), *rest), torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, getattr(torch, device.type).get_rng_state()]


def _set_random(device: torch.device, states: list[Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2].cpu())
    if device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[3].cpu())


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("events for TensorBoard need it: pip install tensorboard") from error
    return SummaryWriter(folder)


def _same(folder: Path, there: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise if a folder is of a run with another configuration."""
    wanted = config.to_dict()
    for name in wanted | dict(there):
        if there.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} holds a run with {name} = {there.get(name)!r}, not {wanted.get(name)!r}; take another folder"
            )


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / "network.json"
    names = ["config", "design", "bits", "crossbars", "crossbars_dense", "parameters"]
    return keys(f"{path}", read_json(path, "description of a network"), names)


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "weights.pt"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; the run is not finished, or its weights were not kept")
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file raises anything, and says it in paragraphs
        raise ValueError(f"{path} is damaged, or no file of weights") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(state).__name__}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} must hold finite numbers, got others in {name!r}")
    return state
