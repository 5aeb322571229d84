"""Where a training runs, on which device and as which of how many processes, and the images of each process."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epimlib._checks import one_of
from epimlib._torchvision import ensure_torchvision
from epimlib.train import data
from epimlib.train.config import TrainConfig

Batch = tuple[Tensor, Tensor]
"""Images ``(B, channels, height, width)`` and labels ``(B,)``, on the CPU."""


@dataclass(frozen=True)
class Place:
    """A device, and which of the processes this is."""

    device: torch.device
    rank: int
    world: int
    """Processes that train together."""

    @classmethod
    def of(cls, device: str) -> "Place":
        """Return the place of this process; under torchrun it joins the process group.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``, the best that is there.

        Raises:
            ValueError: if the device is not there.
        """
        ensure_torchvision()
        from timm.utils.distributed import init_distributed_device_so, is_distributed_env

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        there = [kind for kind, found in there.items() if found]
        chips = [f"cuda:{number}" for number in range(torch.cuda.device_count() * ("cuda" in there))]
        one_of("device", device, ["auto", *there, *chips])
        device = there[0] if device == "auto" else device
        if is_distributed_env() and torch.distributed.is_initialized():
            return cls(torch.device(device), torch.distributed.get_rank(), torch.distributed.get_world_size())
        found = init_distributed_device_so(device)
        return cls(torch.device(found["device"]), found["global_rank"], found["world_size"])

    @property
    def distributed(self) -> bool:
        """Return whether other processes train too."""
        return self.world > 1

    @property
    def count(self) -> dict[str, int]:
        """Return the numbers of threads and processes: they decide in which order numbers are added."""
        return {"threads": torch.get_num_threads(), "processes": self.world}

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, as a vector."""
        value = value.reshape(-1)
        if self.distributed:
            torch.distributed.all_reduce(value)
        return value

    def random(self) -> list[Any]:
        """Return the states of all generators that training draws from, as plain data and tensors."""
        name, words, *rest = np.random.get_state()  # noqa: NPY002  (timm's mixup draws from it)
        states = [random.getstate(), (name, words.tolist(), *rest), torch.get_rng_state()]
        if self.device.type == "cpu":
            return states
        return [*states, getattr(torch, self.device.type).get_rng_state()]

    def set_random(self, states: list[Any]) -> None:
        """Go on with the states that ``random`` has returned."""
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2].cpu())
        if self.device.type != "cpu":
            getattr(torch, self.device.type).set_rng_state(states[3].cpu())


def images_of(config: TrainConfig, place: Place) -> "InMemory | ImageNet":
    """Return the images of a configuration.

    Both kinds have ``steps``, the batches of an epoch for each process, and ``checksum``, of the data set.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if they are damaged.
    """
    return (ImageNet if config.data == "imagenet" else InMemory)(config, place)


class InMemory:
    """A small data set, with an augmentation of our own."""

    def __init__(self, config: TrainConfig, place: Place) -> None:
        self.config = config
        self.held = data.read_images(config.data)  # verified
        self.statistics, self.part = self.held.statistics(), (place.rank, place.world)
        self.checksum = data.DATASETS[config.data].digest or data.digest(self.held)
        self.steps = len(self.held.train_images) // place.world // config.batch_size

    def training(self, epoch: int, first: int) -> Iterator[Batch]:
        """Return the batches of an epoch, from number ``first`` on."""
        held, config = self.held, self.config
        seed, flip = (config.seed, epoch), data.DATASETS[config.data].flip
        size, statistics = config.batch_size, self.statistics
        return data.batches(held.train_images, held.train_labels, size, statistics, seed, flip, self.part, first)

    def testing(self) -> Iterator[Batch]:
        """Return the test images."""
        held, size = self.held, self.config.batch_size
        return data.batches(held.test_images, held.test_labels, size, self.statistics, part=self.part)

    def sample(self, count: int) -> Batch:
        """Return batches of training images as one, always the same ones."""
        held, size = self.held, count * self.config.batch_size
        return next(data.batches(held.train_images[:size], held.train_labels[:size], size, self.statistics))


class ImageNet:
    """A folder of images, read and augmented by timm."""

    def __init__(self, config: TrainConfig, place: Place) -> None:
        self.config, self.place = config, place
        self.loaders = [self._loader("train"), self._loader("val")]
        self.steps = len(self.loaders[0])
        self.checksum = data.listing(data.need("imagenet"))

    def _loader(self, split: str) -> Any:
        from timm.data import create_dataset, create_loader

        root = data.need("imagenet")
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

    def training(self, epoch: int, first: int) -> Iterator[Batch]:
        """Return the batches of an epoch, from number ``first`` on."""
        if self.place.distributed:
            self.loaders[0].sampler.set_epoch(epoch)
        found = iter(self.loaders[0])
        for _ in range(first):  # read once more, since the workers draw from one batch to the next
            next(found)
        return found

    def testing(self) -> Iterator[Batch]:
        """Return the test images."""
        return iter(self.loaders[1])

    def sample(self, count: int) -> Batch:
        """Return batches of training images as one, always the same ones."""
        from timm.utils import random_seed

        random_seed(self.config.seed)
        # Of all images, not of a process's share.
        loader = torch.utils.data.DataLoader(
            self.loaders[0].dataset, self.config.batch_size, shuffle=True, num_workers=self.config.workers
        )
        found = [batch for _, batch in zip(range(count), loader, strict=False)]
        return torch.cat([x for x, _ in found]), torch.cat([target for _, target in found])
