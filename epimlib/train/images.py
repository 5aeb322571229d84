"""The images of a training, each process its own share of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from epimlib.train import data
from epimlib.train.config import TrainConfig
from epimlib.train.place import Place

Batch = tuple[Tensor, Tensor]
"""Images ``(B, channels, height, width)`` and labels ``(B,)``, on the CPU."""


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
        self.checksum = data.DATASETS[config.data].digest
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
