"""Real images: what is found where, how it is fetched and verified, and batches of it.

Small data sets are held in memory whole. They are looked for in the folder that ``EPIM_DATA`` names, else in
``data/cache`` of the clone, in either of two layouts: torchvision's, which can fetch them, or compact files::

    fashion_mnist.npz                               x_train, y_train, x_test, y_test
    cifar10/train_0.webp ... train_4.webp, test.webp    10,000 images each, a lossless sheet of 100 x 100 tiles
    cifar10/labels.npz                              the labels of each sheet, under its name

The digits come with scikit-learn. ImageNet is a folder ``imagenet`` with ``train`` and ``val``, a folder for each class
in both.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epimlib._checks import PROJECT, line, one_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Source:
    """A data set as it should be."""

    classes: int
    shape: tuple[int, int, int]
    """(channels, height, width); ImageNet's images differ in size, this is the usual crop."""
    images: tuple[int, int]
    """Images for training and for testing."""
    digest: str | None
    """`digest` of all images, which depends neither on their order nor on their files; None where only counts are."""
    flip: bool
    """Whether a mirrored image still shows its class."""


DATASETS = {
    # E. Alpaydin and C. Kaynak, 1998, as scikit-learn installs it; the split is ours
    "digits": Source(10, (1, 8, 8), (1437, 360), "b26ce42145a843f262c56637ec338d5e", False),
    # Xiao et al., arXiv 1708.07747
    "fashion-mnist": Source(10, (1, 28, 28), (60000, 10000), "f9a084448544c961e4a7d528ecd92e15", True),
    # Krizhevsky, 2009
    "cifar10": Source(10, (3, 32, 32), (50000, 10000), "37f9214572a7a1643147b3b1c0c6f31f", True),
    # Krizhevsky, 2009; no copy was at hand to compute a checksum of, torchvision compares those of the files
    "cifar100": Source(100, (3, 32, 32), (50000, 10000), None, True),
    # Russakovsky et al., IJCV 2015
    "imagenet": Source(1000, (3, 224, 224), (1281167, 50000), None, True),
}


_LARGEST = 1 << 28
"""Bytes of one array in a file; the largest that is meant is a sixth of it."""

FETCHED = {"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""Data sets that `fetch` can download, and torchvision's names of them."""


@dataclass(frozen=True)
class Images:
    """A data set in memory; images are uint8, ``(N, height, width, channels)``, labels int64, ``(N,)``."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the training images by channel, of values from 0 to 1."""
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(self.train_images, 3, 0)]
        share = np.array(counts) / (self.train_images[..., 0].size)
        values = np.arange(256) / 255
        mean = share @ values
        return mean, np.sqrt(share @ values**2 - mean**2)


def folder() -> Path:
    """Return where data sets are looked for and fetched to: ``EPIM_DATA``, else ``data/cache`` of the clone.

    Raises:
        FileNotFoundError: if ``EPIM_DATA`` names no folder.
    """
    given = os.environ.get("EPIM_DATA")
    if not given:
        return PROJECT / "data" / "cache"
    if not Path(given).is_dir():
        raise FileNotFoundError(f"EPIM_DATA must name a folder, got {given!r}")
    return Path(given)


def find(name: str) -> Path | None:
    """Return the folder or file in which a data set lies, None if there is none."""
    one_of("data set", name, DATASETS)
    base = folder()
    places = {
        "digits": [],
        "fashion-mnist": [base / "fashion_mnist.npz", base / "FashionMNIST"],
        "cifar10": [base / "cifar10", base / "cifar-10-batches-py"],
        "cifar100": [base / "cifar-100-python"],
        "imagenet": [base / "imagenet"],
    }
    return next((place for place in places[name] if place.exists()), None)


def need(name: str) -> Path | None:
    """Return what `find` does, or raise ``FileNotFoundError`` if the data set is not there; the digits always are."""
    place = find(name)
    if place is None and name != "digits":
        how = f"'epim data {name} --fetch' downloads it, or " if name in FETCHED else ""
        raise FileNotFoundError(f"no {name} in {folder()}; {how}EPIM_DATA names the folder that has it")
    return place


def read_images(name: str) -> Images:
    """Return a small data set, verified by the checksum of all its images.

    Args:
        name: ``"digits"``, ``"fashion-mnist"``, ``"cifar10"`` or ``"cifar100"``.

    Raises:
        FileNotFoundError: if it is not there; the sentence says how it is fetched.
        ValueError: if a file is damaged, or images are missing or are not those of the data set.
    """
    readers: dict[str, Callable[[Path], tuple[np.ndarray, ...]]] = {
        "digits": _digits,
        "fashion-mnist": _fashion,
        "cifar10": _cifar,
        "cifar100": _cifar,
    }
    one_of("data set", name, readers)
    place = need(name)
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of a large sheet, which is refused
            arrays = readers[name](place)
    except Exception as error:  # readers raise anything on damaged and foreign files
        raise ValueError(f"{place} is not a readable copy of {name}: {line(error)}") from error
    _check(name, place, *arrays)
    parts = zip(arrays, (np.uint8, np.int64) * 2, strict=True)
    images, source = Images(name, *(np.ascontiguousarray(array, kind) for array, kind in parts)), DATASETS[name]
    if source.digest is not None and (found := digest(images)) != source.digest:
        raise ValueError(f"{place or name} must hold the images of {name}, checksum {source.digest}, got {found}")
    return images


def _check(name: str, place: Path | None, *arrays: np.ndarray) -> None:
    source = DATASETS[name]
    shape = (*source.shape[1:], source.shape[0])
    for pixels, labels in (arrays[:2], arrays[2:]):
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            raise ValueError(f"{place} must hold uint8 images {shape} of {name}, got {pixels.dtype} {pixels.shape[1:]}")
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise ValueError(f"{place} must hold whole numbers as labels of {name}, got {labels.dtype} {labels.shape}")
        if labels.size and not 0 <= labels.min() <= labels.max() < source.classes:
            most, found = source.classes - 1, f"{labels.min()} to {labels.max()}"
            raise ValueError(f"{place} must hold labels of {name} from 0 to {most}, got {found}")
    found, labels = (tuple(len(array) for array in arrays[first::2]) for first in (0, 1))
    if found != source.images or labels != source.images:
        raise ValueError(f"{place} must hold {source.images} images of {name}, got {found} with {labels} labels")


def digest(images: Images) -> str:
    """Return a checksum of all images with their labels and parts, whatever their order."""
    total = 0
    parts = ((b"train", images.train_images, images.train_labels), (b"test", images.test_images, images.test_labels))
    for part, pixels, labels in parts:
        for image, label in zip(pixels, labels.tolist(), strict=True):
            total += int.from_bytes(hashlib.sha256(part + bytes([label]) + image.tobytes()).digest()[:16], "big")
    return f"{total % (1 << 128):032x}"


def listing(root: Path) -> str:
    """Return a checksum of the names and sizes of ImageNet's files: of its 150 GB nothing more is read.

    Raises:
        ValueError: if ``train`` and ``val`` are not both there, with the same classes, at most 1,000.
    """
    parts = [root / part for part in ("train", "val")]
    kinds = [sorted(kind.name for kind in part.iterdir() if kind.is_dir()) if part.is_dir() else [] for part in parts]
    if kinds[0] != kinds[1] or not 0 < len(kinds[0]) <= DATASETS["imagenet"].classes:
        found = " and ".join(map(str, map(len, kinds)))
        raise ValueError(f"{root} must hold the same classes, 1 to 1,000, in train and val, got {found}")
    total = hashlib.sha256()
    for part in parts:
        for kind in kinds[0]:
            for file in sorted(os.scandir(part / kind), key=lambda file: file.name):
                total.update(f"{part.name}/{kind}/{file.name} {file.stat().st_size}\n".encode())
    return total.hexdigest()[:32]


def fetch(name: str) -> None:
    """Download a data set through torchvision into `folder`; nothing happens if it is there, whole.

    What an interrupted download left is completed.

    Raises:
        ValueError: if it cannot be fetched (ImageNet needs an account of its own; the digits are installed), or a
            damaged compact file is in the way.
        OSError: if there is no network.
    """
    one_of("data set to fetch", name, FETCHED)
    base, place = folder(), find(name)
    if place is not None:
        try:
            verify(name)
            return
        except ValueError as error:
            if place in (base / "fashion_mnist.npz", base / "cifar10"):
                raise ValueError(f"{error}; remove {place} to fetch another copy") from error
    from epimlib._torchvision import ensure_torchvision

    ensure_torchvision()
    from torchvision import datasets

    kind = getattr(datasets, FETCHED[name])
    try:
        base.mkdir(parents=True, exist_ok=True)
        if (legacy := base / "FashionMNIST" / "processed").exists() and name == "fashion-mnist":
            raise ValueError(f"{legacy} is of an old torchvision, and would be read in place of a download; remove it")
        if name == "fashion-mnist":  # torchvision verifies the archives only, and keeps what was unpacked from them
            for unpacked in list(base.glob("FashionMNIST/raw/*-ubyte")):
                unpacked.unlink()
        for train in (True, False):
            kind(base, train=train, download=True)  # checks the MD5 of every file
    except (OSError, RuntimeError) as error:
        raise OSError(f"{name} could not be downloaded into {base}: {error}") from error


def verify(name: str) -> str:
    """Return what is found of a data set, as one line; a missing one is no error, a damaged one is.

    Raises:
        ValueError: if images are missing or are not those of the data set.
    """
    place, source = find(name), DATASETS[name]
    if place is None and name != "digits":
        return f"not in {folder()}"
    if name == "imagenet":
        found = tuple(_count(place / part) for part in ("train", "val"))
        if found != (wanted := tuple((source.classes, count) for count in source.images)):
            raise ValueError(f"{place} must hold (classes, images) {wanted} in train and val, got {found}")
        return f"{source.images[0]:,} + {source.images[1]:,} images in {place}"
    read_images(name)
    return f"{source.images[0]:,} + {source.images[1]:,} images in {place or 'scikit-learn'}"


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    size: int,
    statistics: tuple[np.ndarray, np.ndarray],
    seed: tuple[int, int] | None = None,
    flip: bool = False,
    part: tuple[int, int] = (0, 1),
    first: int = 0,
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Yield batches of normalised images, ``(B, channels, height, width)`` in channels-last memory, and labels.

    Args:
        images, labels: as in `Images`.
        size: images of a batch.
        statistics: mean and standard deviation by channel.
        seed: of the run and of the epoch: images come shuffled, moved by up to an eighth of their size over a mirrored
            border, and, with ``flip``, mirrored half of the time; an incomplete batch is left out. None: in order, as
            they are, all of them.
        flip: see ``seed``.
        part: which of how many processes this is; each gets its own images.
        first: number of the first batch that is wanted; those before it are drawn, but not made.
    """
    import torch

    mean, std = (torch.tensor(value, dtype=torch.float32, device="cpu") * 255 for value in statistics)
    side = images.shape[1]
    margin = side // 8
    if seed is not None:
        draw = np.random.default_rng(seed)
        order = draw.permutation(len(images))
        order = order[: len(order) // part[1] * part[1]][part[0] :: part[1]]
        order = order[: len(order) // size * size]
    else:
        order = np.arange(part[0], len(images), part[1])
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        if seed is not None:
            offsets = draw.integers(0, 2 * margin + 1, (len(chosen), 2)).tolist()
            mirrored = draw.random(len(chosen)) < 0.5 * flip
        if start < first * size:
            continue
        pixels = images[chosen]
        if seed is not None:
            wide = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
            for number, (y, x) in enumerate(offsets):  # slices: several times faster than one gather
                window = wide[number, y : y + side, x : x + side]
                pixels[number] = window[:, ::-1] if mirrored[number] else window
        x = torch.from_numpy(pixels).float().sub_(mean).div_(std).permute(0, 3, 1, 2)
        yield x, torch.from_numpy(labels[chosen])


def _digits(_: Path | None) -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)[..., None]
    train, test, *labels = train_test_split(
        pixels,
        data.target.astype(np.int64),
        test_size=DATASETS["digits"].images[1],
        stratify=data.target,
        random_state=0,
    )
    return train, labels[0], test, labels[1]


def _fashion(place: Path) -> tuple[np.ndarray, ...]:
    if place.suffix == ".npz":
        arrays = _npz(place, ("x_train", "y_train", "x_test", "y_test"))
    else:
        names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        arrays = [_idx(place / "raw" / f"{name}-ubyte") for name in names]
    return tuple(array[..., None] if array.ndim == 3 else array for array in arrays)


def _npz(place: Path, names: Iterable[str]) -> list[np.ndarray]:
    with place.open("rb") as file, np.load(file) as data:  # np.load leaves a damaged file open
        if (size := max((entry.file_size for entry in data.zip.infolist()), default=0)) > _LARGEST:
            raise ValueError(f"an array of {size:,} bytes is too large")
        return [data[name] for name in names]


def _idx(place: Path) -> np.ndarray:
    """Return the array of a file of the format idx: two zeros, type 8, dimensions, sizes (big endian), bytes."""
    content = np.fromfile(place, np.uint8, _LARGEST)
    if tuple(content[:3]) != (0, 0, 8):
        raise ValueError(f"{place.name} does not begin as an idx file of bytes")
    first = 4 + 4 * int(content[3])
    return content[first:].reshape(content[4:first].view(">u4").tolist())


def _cifar(place: Path) -> tuple[np.ndarray, ...]:
    if place.name == "cifar10":
        from PIL import Image

        def sheet(name: str) -> np.ndarray:
            with Image.open(place / f"{name}.webp") as image:
                if image.size != (3200, 3200):  # before its pixels are read
                    raise ValueError(f"{name}.webp must have 3200 x 3200 pixels, got {image.size}")
                tiles = np.asarray(image.convert("RGB")).reshape(100, 32, 100, 32, 3)
            return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)

        names = [f"train_{number}" for number in range(5)] + ["test"]
        labels = _npz(place / "labels.npz", names)
        train = np.concatenate([sheet(name) for name in names[:5]])
        return train, np.concatenate(labels[:5]), sheet("test"), labels[5]
    from epimlib._torchvision import ensure_torchvision

    ensure_torchvision()
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR100 if place.name == "cifar-100-python" else CIFAR10
    sets = [kind(place.parent, train=train) for train in (True, False)]
    return tuple(array for data in sets for array in (data.data, np.array(data.targets)))


def _count(part: Path) -> tuple[int, int]:
    """Return the classes and images of a folder of folders."""
    classes = [entry for entry in part.iterdir() if entry.is_dir()] if part.is_dir() else []
    return len(classes), sum(1 for entry in classes for _ in os.scandir(entry))
