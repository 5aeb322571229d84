"""The loop of a training: an epoch, its steps and its evaluation, and going on from a checkpoint."""

import dataclasses
import io
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from epimlib._checks import keys, line, nearest, write_bytes
from epimlib.lab.notebooks import RunError
from epimlib.lab.records import RECORD, RunRecord
from epimlib.train import folder as files
from epimlib.train.build import Network, load_weights
from epimlib.train.config import TrainConfig
from epimlib.train.data import DATASETS
from epimlib.train.images import Batch, ImageNet, InMemory, Place

BETWEEN = 300.0
"""Seconds between checkpoints within an epoch."""
WHOLE = {"step": 0, "total": 0.0, "seconds": 0.0, "processor_seconds": 0.0}
"""What a checkpoint says of an epoch that has not begun: steps done, sum of their losses, time spent."""


class Trainer:
    """Everything that one run needs: network, optimizer, schedule, images."""

    def __init__(
        self, config: TrainConfig, folder: Path, network: Network, images: InMemory | ImageNet, place: Place
    ) -> None:
        from timm.loss import SoftTargetCrossEntropy
        from timm.utils import ModelEmaV3

        self.config, self.folder, self.place, self.images = config, folder, place, images
        self.about, self.steps = network.about, images.steps
        if not self.steps:
            raise ValueError(f"batch_size must be at most the images of a process, got {config.batch_size}")
        torch.use_deterministic_algorithms(config.deterministic)
        # Deterministic mode would also fill every new tensor, a tenth of a step; no operation reads before it writes.
        torch.utils.deterministic.fill_uninitialized_memory = False
        self.network = network.model.to(place.device, memory_format=torch.channels_last).train()
        self.teacher = network.teacher and network.teacher.to(place.device, memory_format=torch.channels_last)
        self.model = DistributedDataParallel(self.network) if place.distributed else self.network
        self.ema = ModelEmaV3(self.network, config.ema) if config.ema else None
        self.optimizer = _optimizer(config, self.network)
        self.schedule = _schedule(config, self.optimizer, self.steps)
        self.mixup = _mixup(config)
        self.soft = SoftTargetCrossEntropy()
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "float16")
        self.history: list[dict[str, float]] = []
        self.within = WHOLE
        self.saved = time.perf_counter()

    @property
    def result(self) -> torch.nn.Module:
        """Return the network that is evaluated and saved."""
        return self.ema.module if self.ema else self.network

    def epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        """Train one epoch, evaluate, and return what is found; the bar moves by one in all."""
        from timm.utils import random_seed

        # NumPy takes 32 bits.
        random_seed((self.config.seed * 100_003 + epoch) % (2**32 - self.place.world), self.place.rank)
        within, self.within = self.within, WHOLE
        clock, work = time.perf_counter() - within["seconds"], time.process_time() - within["processor_seconds"]

        def spent() -> dict[str, float]:
            return {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - work}

        self.model.train()
        total = torch.tensor(float(within["total"]), device=self.place.device)
        batches = self._on_device(self.images.training(epoch, within["step"]))
        if within["step"]:  # the batches before it are left out, what was drawn with them is not
            self.place.set_random(self.random[self.place.rank])
        for step, (x, target) in enumerate(batches, within["step"] + 1):
            self.schedule.step_update(epoch * self.steps + step - 1)
            total += self.step(*(self.mixup(x, target) if self.mixup else (x, target)))
            if self.ema:
                self.ema.update(self.network, epoch * self.steps + step)
            bar.update(1 / self.steps)
            if step < self.steps and self._due(step):
                self.save({"step": step, "total": total.item(), **spent()})
        mean = (self.place.sum(total / self.steps)[0] / self.place.world).item()
        self._require_finite(f"the loss of epoch {epoch + 1}", mean)
        self._agree()
        return {"train_loss": mean, **self.evaluate(), **spent()}

    def step(self, x: Tensor, target: Tensor) -> Tensor:
        """Learn from one batch and return its loss."""
        with torch.autocast(
            self.place.device.type, getattr(torch, self.config.precision), self.config.precision != "float32"
        ):
            loss = self._loss(x, self.model(x), target)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _loss(self, x: Tensor, output: Tensor, target: Tensor) -> Tensor:
        config = self.config
        if target.ndim == 2:  # mixed labels
            loss = self.soft(output, target)
        else:
            loss = F.cross_entropy(output, target, label_smoothing=config.smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher(x) / config.temperature, 1)
        given = F.log_softmax(output / config.temperature, 1)
        distance = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * config.temperature**2
        return loss.lerp(distance, config.distillation)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracy [%] on the test images, or raise `RunError` if the loss is not finite."""
        model = self.result.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for x, target in self._on_device(self.images.testing()):
            output = model(x).float()
            right, loss = (output.argmax(1) == target).sum(), F.cross_entropy(output, target, reduction="sum")
            sums += torch.tensor([right.item(), loss.item(), len(target)], dtype=torch.float64)
        right, loss, count = self.place.sum(sums.float().to(self.place.device)).tolist()
        self._require_finite("the loss on the test images", loss)
        return {"accuracy": 100 * right / count, "loss": loss / count}

    def _on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for x, target in batches:
            x = x.to(self.place.device, memory_format=torch.channels_last, non_blocking=True)
            yield x, target.to(self.place.device, non_blocking=True)

    def _require_finite(self, what: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(f"{what} is {loss}; try a learning rate below {self.config.lr}")

    def _agree(self) -> None:
        """Let all processes have the same buffers: ranges of inputs and averages are of each one's own images."""
        from timm.utils import distribute_bn

        if self.place.distributed:
            distribute_bn(self.network, self.place.world, reduce=True)
            for buffer in self.result.buffers():  # all evaluate what is saved
                torch.distributed.broadcast(buffer, 0)

    def _due(self, step: int) -> bool:
        """Return whether to write a checkpoint within the epoch; the first process decides for all, now and then."""
        due = time.perf_counter() - self.saved >= BETWEEN
        if not self.place.distributed or step % 20:
            return due and not self.place.distributed
        decided = torch.tensor(float(due), device=self.place.device)
        torch.distributed.broadcast(decided, 0)
        return bool(decided)

    def save(self, within: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and, without ``within``, after an epoch, the history.

        All processes must call this; the first one writes.
        """
        random = [None if within is None else self.place.random()]
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
        files.write_checkpoint(self.folder, len(self.history), state["within"]["step"], state)
        if not within:
            files.write_history(self.folder, self.history)

    def finish(self, record: RunRecord) -> RunRecord:
        """Write the weights and, last, the record with what was found; return the record."""
        last = self.history[-1] if self.history else self.evaluate()
        sizes = {name: self.about[name] for name in ("parameters", "crossbars", "crossbars_dense")}
        metrics = {name: last[name] for name in ("accuracy", "loss", "train_loss") if name in last}
        metrics |= {"epochs": self.config.epochs, **sizes, "factor": sizes["crossbars_dense"] / sizes["crossbars"]}
        metrics["processor_seconds"] = round(sum(row["processor_seconds"] for row in self.history), 1)
        seconds = round(sum(row["seconds"] for row in self.history), 1)
        record = dataclasses.replace(record, seconds=seconds, metrics=metrics)
        if self.place.rank == 0:
            write_bytes(self.folder / files.WEIGHTS, files.saved(self.result.state_dict()))
            record.save(self.folder / RECORD)
            for checkpoint in files.checkpoints(self.folder):
                checkpoint.unlink()
        if self.place.distributed:
            torch.distributed.barrier()
        return record

    def resume(self) -> None:
        """Load the latest whole checkpoint, if there is one.

        Raises:
            ValueError: if it is of another run, or of other numbers of threads or processes.
        """
        found = files.latest_checkpoint(self.folder)
        if found is None:
            return
        path, content = found
        on_cpu = self.place.device.type == "cpu"  # elsewhere threads do not add up
        fixed = {name: count for name, count in self.place.count.items() if on_cpu or name == "processes"}
        try:
            names = ["model", "optimizer", "scaler", "ema", "history", "within", "random", *self.place.count]
            state = torch.load(io.BytesIO(content), map_location=self.place.device, weights_only=True)
            begun = {name: count for name, count in keys("a checkpoint", state, names).items() if name in fixed}
            if begun == fixed:
                self._load(state)
        except Exception as error:  # foreign content raises anything; half of it may be loaded: no other is tried
            raise ValueError(f"{path} is no checkpoint of this run; remove it: {line(error)}") from error
        if begun != fixed:
            raise ValueError(f"{self.folder} was begun with {begun}, not {fixed}; its weights depend on that")

    def _load(self, state: Mapping[str, Any]) -> None:
        history = state["history"]
        numbers = [isinstance(n, float) for row in history for n in keys("an epoch", row, files.FOUND).values()]
        if not isinstance(history, list) or not all(numbers):
            raise ValueError(f"history must be a list of numbers for every epoch, got {history}")
        within = keys("within", state["within"], WHOLE)
        if any(type(within[name]) is not type(WHOLE[name]) for name in WHOLE) or not 0 <= within["step"] < self.steps:
            raise ValueError(f"within must be of {self.steps} steps and like {WHOLE}, got {within}")
        if within["step"]:
            self.place.set_random(state["random"][self.place.rank])
        load_weights(self.network, state["model"])
        if [set(group) for group in state["optimizer"]["param_groups"]] != [*map(set, self.optimizer.param_groups)]:
            raise ValueError("its optimizer is another one")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            load_weights(self.ema.module, state["ema"])
        self.history, self.within, self.random = history, within, state["random"]


def _mixup(config: TrainConfig) -> Any:
    if not (config.mixup or config.cutmix):
        return None
    from timm.data import Mixup

    classes = DATASETS[config.data].classes
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=classes)


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
        raise ValueError(f"optimizer {config.optimizer!r} cannot be made by timm: {line(error)}") from error
    if getattr(found, "is_second_order", False):
        raise ValueError(f"optimizer must do with first derivatives, got {config.optimizer!r}")
    return found


def _schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Return the schedule of the learning rate, which is updated in every step."""
    from timm.scheduler import create_scheduler_v2

    schedule, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=max(config.epochs, 1) * (1 - config.warmup),
        warmup_lr=0.0,
        warmup_epochs=config.warmup * config.epochs,
        warmup_prefix=True,
        decay_rate=1.0,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return schedule
