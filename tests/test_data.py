"""Data sets: layouts, counts, checksums, batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from epimlib import data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty folder of data sets."""
    monkeypatch.setenv("EPIM_DATA", str(tmp_path))
    return tmp_path


def small(monkeypatch, name: str, images: tuple[int, int], digest: str | None = None) -> None:
    """Let a data set have only so many images."""
    source = data.DATASETS[name]
    monkeypatch.setitem(data.DATASETS, name, data.Source(source.classes, source.shape, images, digest, source.flip))


def test_digits_are_installed_and_whole():
    assert data.verify("digits") == "1,437 + 360 images in scikit-learn"
    images = data.load("digits")
    assert images.train_images.shape == (1437, 8, 8, 1)
    assert np.bincount(images.test_labels).min() >= 34  # stratified: 360 / 10, within the classes' own sizes
    mean, std = images.statistics()
    pixels = images.train_images / 255
    np.testing.assert_allclose((mean, std), [[pixels.mean()], [pixels.std()]], rtol=1e-12)


def test_checksum_does_not_depend_on_order_but_on_everything_else():
    images = data.load("digits")
    order = np.random.default_rng(0).permutation(1437)

    def digest(**changed):
        return data.digest(data.Images(**{**vars(images), **changed}))

    assert digest(train_images=images.train_images[order], train_labels=images.train_labels[order]) == digest()
    assert digest(train_images=images.train_images[order]) != digest()  # labels of other images
    other = images.test_images.copy()
    other[7, 3, 3, 0] ^= 1
    assert digest(test_images=other) != digest()


def fashion() -> dict[str, np.ndarray]:
    """Return three images for training and two for testing, as the compact file has them."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8), rng.integers(0, 10, 5, dtype=np.uint8)
    return {"x_train": pixels[:3], "y_train": labels[:3], "x_test": pixels[3:], "y_test": labels[3:]}


def official(compact: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Return the official files by name. Their format: two zeros, type, dimensions, sizes, bytes."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {
        f"{name}-ubyte": bytes([0, 0, 8, array.ndim])
        + b"".join(size.to_bytes(4, "big") for size in array.shape)
        + array.tobytes()
        for name, array in zip(names, compact.values(), strict=True)
    }


def test_compact_and_official_fashion_are_read_alike(folder, monkeypatch):
    small(monkeypatch, "fashion-mnist", (3, 2))
    compact = fashion()
    np.savez(folder / "fashion_mnist.npz", **compact)
    first = data.load("fashion-mnist")
    (folder / "fashion_mnist.npz").unlink()
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in official(compact).items():
        (raw / name).write_bytes(content)
    second = data.load("fashion-mnist")
    assert first.train_images.shape == (3, 28, 28, 1)
    assert data.digest(first) == data.digest(second)
    np.testing.assert_array_equal(second.test_images[..., 0], compact["x_test"])
    np.testing.assert_array_equal(second.test_labels, compact["y_test"])


def test_sheets_of_cifar_are_cut_row_by_row(folder, monkeypatch):
    small(monkeypatch, "cifar10", (50000, 10000))
    (folder / "cifar10").mkdir()
    sheet = np.zeros((100, 32, 100, 32, 3), np.uint8)
    sheet[..., 0] = np.arange(100)[:, None, None, None]  # red is the row of a tile, green its column
    sheet[..., 1] = np.arange(100)[None, None, :, None]
    sheet[0, 5, 1, 7] = (200, 201, 202)
    names = [*(f"train_{number}" for number in range(5)), "test"]
    Image.fromarray(sheet.reshape(3200, 3200, 3)).save(folder / "first.webp", lossless=True, quality=0, method=0)
    for name in names:
        (folder / "cifar10" / f"{name}.webp").hardlink_to(folder / "first.webp")
    np.savez(folder / "cifar10" / "labels.npz", **{name: np.arange(10000) % 10 for name in names})
    images = data.load("cifar10")
    assert tuple(images.train_images[234, 0, 0]) == (2, 34, 0)
    assert tuple(images.test_images[1, 5, 7]) == (200, 201, 202)
    assert images.train_labels[10003] == 3


def test_missing_and_damaged_data_are_one_sentence(folder, monkeypatch):
    assert data.verify("cifar10") == f"not in {folder}"
    with pytest.raises(FileNotFoundError, match="no cifar10 in .*; 'epim data cifar10 --fetch' downloads it"):
        data.load("cifar10")
    np.savez(folder / "fashion_mnist.npz", **fashion())
    with pytest.raises(ValueError, match=r"must hold \(60000, 10000\) images of fashion-mnist, got \(3, 2\)"):
        data.verify("fashion-mnist")
    small(monkeypatch, "fashion-mnist", (3, 2), digest="0" * 32)
    with pytest.raises(ValueError, match="must hold the images of fashion-mnist, checksum 000"):
        data.verify("fashion-mnist")
    (folder / "imagenet" / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"must hold \(classes, images\) .* got \(\(1, 0\), \(0, 0\)\)"):
        data.verify("imagenet")
    monkeypatch.setenv("EPIM_DATA", str(folder / "nowhere"))
    with pytest.raises(FileNotFoundError, match="EPIM_DATA must name a folder, got"):
        data.find("cifar10")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_or_flipped_compact_file_is_one_sentence(folder, monkeypatch, save):
    small(monkeypatch, "fashion-mnist", (3, 2))
    place = folder / "fashion_mnist.npz"
    save(place, **fashion())
    whole = place.read_bytes()
    for content in (whole[:-30], whole[: len(whole) // 2], whole[:-1000] + whole[-900:], b"", b"PK truncated"):
        place.write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable copy of fashion-mnist"):
            data.load("fashion-mnist")
    for position in range(200, 400, 20):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        with pytest.raises(ValueError, match="is not a readable copy of fashion-mnist"):
            data.load("fashion-mnist")
    with pytest.raises(ValueError, match="is not a readable copy .*; remove .*fashion_mnist.npz to fetch another copy"):
        data.fetch("fashion-mnist")


def test_fetching_completes_what_an_interrupted_download_left(folder, monkeypatch):
    from epimlib._torchvision import ensure_torchvision

    ensure_torchvision()
    from torchvision.datasets import mnist

    small(monkeypatch, "fashion-mnist", (3, 2))
    files = official(fashion())
    downloads = []

    def download(url, download_root, filename, md5):
        downloads.append(filename)
        (raw / filename.removesuffix(".gz")).write_bytes(files[filename.removesuffix(".gz")])

    monkeypatch.setattr(mnist, "download_and_extract_archive", download)
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for left in ({}, dict.fromkeys(files, b""), files | {"t10k-labels-idx1-ubyte": b"\0\0"}):
        for file in raw.iterdir():
            file.unlink()
        for name, content in left.items():
            (raw / name).write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable copy of fashion-mnist"):
            data.load("fashion-mnist")
        data.fetch("fashion-mnist")
        assert data.verify("fashion-mnist").startswith("3 + 2 images")
    assert len(downloads) == 12
    data.fetch("fashion-mnist")
    assert len(downloads) == 12


def test_without_a_network_fetching_is_one_sentence(folder, monkeypatch):
    import urllib.request

    def refuse(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(OSError, match="cifar10 could not be downloaded into"):
        data.fetch("cifar10")
    (folder / "cifar-10-batches-py").mkdir()  # what an interrupted download leaves is no data set
    with pytest.raises(OSError, match="cifar10 could not be downloaded into"):
        data.fetch("cifar10")
    with pytest.raises(ValueError, match="data set to fetch must be one of 'fashion-mnist', 'cifar10', got 'imagenet'"):
        data.fetch("imagenet")


def labelled(count: int, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return images that are all of one value, and that value as the label."""
    labels = np.arange(count)
    return np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (count, side, side, 1)).copy(), labels


def test_test_batches_are_all_images_in_order():
    images, labels = labelled(10)
    found = list(data.batches(images, labels, 4, ([0.0], [1 / 255])))
    assert [len(y) for _, y in found] == [4, 4, 2]
    torch.testing.assert_close(torch.cat([x[:, 0, 0, 0] for x, _ in found]), torch.arange(10.0))
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)


def test_batches_do_not_depend_on_the_default_device():
    images, labels = labelled(4)
    expected = next(data.batches(images, labels, 4, ([0.5], [0.1])))
    with torch.device("meta"):
        found = next(data.batches(images, labels, 4, ([0.5], [0.1])))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_training_batches_shuffle_and_keep_label_and_image_together():
    images, labels = labelled(100)
    first, again, other = (
        list(data.batches(images, labels, 16, ([0.0], [1 / 255]), seed=seed)) for seed in ((1, 0), (1, 0), (1, 1))
    )
    for x, y in first:
        assert (x == y.reshape(-1, 1, 1, 1)).all()
    numbers = [torch.cat([y for _, y in epoch]).tolist() for epoch in (first, again, other)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert len(set(numbers[0])) == 96  # an incomplete batch is left out


def test_training_images_are_moved_and_mirrored_not_more():
    side = 8
    image = np.arange(side * side, dtype=np.uint8).reshape(1, side, side, 1)
    wide = np.pad(image[0, ..., 0], 1, mode="reflect")
    windows = [wide[y : y + side, x : x + side] for y in range(3) for x in range(3)]
    for flip in (False, True):
        allowed = {w.tobytes() for w in windows} | ({w[:, ::-1].tobytes() for w in windows} if flip else set())
        seen = set()
        for epoch in range(200):
            x, _ = next(data.batches(image, np.zeros(1, int), 1, ([0.0], [1 / 255]), seed=(0, epoch), flip=flip))
            seen.add(x[0, 0].numpy().round().astype(np.uint8).tobytes())
        assert seen == allowed


def test_processes_share_the_images():
    images, labels = labelled(25)
    for seed in (None, (0, 0)):
        parts = [list(data.batches(images, labels, 4, ([0.0], [1.0]), seed, part=(rank, 2))) for rank in range(2)]
        numbers = [torch.cat([y for _, y in part]).tolist() for part in parts]
        assert not set(numbers[0]) & set(numbers[1])
        assert len(numbers[0] + numbers[1]) == (25 if seed is None else 24)
