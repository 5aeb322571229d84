"""Data sets: layouts, counts, checksums, batches."""

import hashlib
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from epimlib.train import data


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
    images = data.read_images("digits")
    assert images.train_images.shape == (1437, 8, 8, 1)
    assert np.bincount(images.test_labels).min() >= 34  # stratified: 360 / 10, within the classes' own sizes
    mean, std = images.statistics()
    pixels = images.train_images / 255
    np.testing.assert_allclose((mean, std), [[pixels.mean()], [pixels.std()]], rtol=1e-12)


def test_checksum_does_not_depend_on_order_but_on_everything_else():
    images = data.read_images("digits")
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
    first = data.read_images("fashion-mnist")
    (folder / "fashion_mnist.npz").unlink()
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in official(compact).items():
        (raw / name).write_bytes(content)
    second = data.read_images("fashion-mnist")
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
    images = data.read_images("cifar10")
    assert tuple(images.train_images[234, 0, 0]) == (2, 34, 0)
    assert tuple(images.test_images[1, 5, 7]) == (200, 201, 202)
    assert images.train_labels[10003] == 3


def test_cifar100_is_read_as_torchvision_fetches_it(folder, monkeypatch):
    from epimlib._torchvision import ensure_torchvision

    ensure_torchvision()
    from torchvision.datasets import CIFAR100

    small(monkeypatch, "cifar100", (3, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    fine = [99, 0, 47, 12, 1]
    parts = {"train": slice(3), "test": slice(3, 5)}
    place = folder / "cifar-100-python"
    place.mkdir()
    meta = {"fine_label_names": [f"class {n}" for n in range(100)]}
    files = {"meta": meta} | {
        name: {"data": pixels[part].reshape(-1, 3072), "fine_labels": fine[part], "coarse_labels": [0] * 5}
        for name, part in parts.items()
    }
    sums = {}
    for name, content in files.items():
        (place / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((place / name).read_bytes()).hexdigest()
    with pytest.raises(
        ValueError, match="is not a readable copy of cifar100: "
    ):  # the files are not those of the data set
        data.read_images("cifar100")
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    images = data.read_images("cifar100")
    np.testing.assert_array_equal(images.train_images, pixels[:3].transpose(0, 2, 3, 1))
    assert images.train_labels.tolist() == fine[:3]
    assert images.test_labels.tolist() == fine[3:]
    assert data.verify("cifar100") == f"3 + 2 images in {place}"


def test_missing_and_damaged_data_are_one_sentence(folder, monkeypatch):
    assert data.verify("cifar10") == f"not in {folder}"
    with pytest.raises(FileNotFoundError, match="no cifar10 in .*; 'epim data cifar10 --fetch' downloads it"):
        data.read_images("cifar10")
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
            data.read_images("fashion-mnist")
    for position in range(200, 400, 20):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        with pytest.raises(ValueError, match="is not a readable copy of fashion-mnist"):
            data.read_images("fashion-mnist")
    with pytest.raises(ValueError, match="is not a readable copy .*; remove .*fashion_mnist.npz to fetch another copy"):
        data.fetch("fashion-mnist")


def changed(**arrays) -> dict[str, np.ndarray]:
    """Return the compact file with other arrays."""
    return {**fashion(), **arrays}


IMAGES, LABELS = "uint8 images (28, 28, 1) of fashion-mnist", "whole numbers as labels of fashion-mnist"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        *(
            (changed(x_train=fashion()["x_train"].astype(kind)), f"{IMAGES}, got {kind} (28, 28, 1)")
            for kind in ("float32", "complex64", "bool", "int8", "uint16")
        ),
        (changed(x_test=np.zeros((2, 32, 32), np.uint8)), f"{IMAGES}, got uint8 (32, 32, 1)"),
        (changed(x_test=np.zeros((2, 28, 28, 3), np.uint8)), f"{IMAGES}, got uint8 (28, 28, 3)"),
        (changed(x_test=np.zeros(2, np.uint8)), f"{IMAGES}, got uint8 ()"),
        (changed(x_test=np.uint8(2)), f"{IMAGES}, got uint8 ()"),
        *(
            (changed(y_train=np.ones(3, kind)), f"{LABELS}, got {kind} (3,)")
            for kind in ("float64", "complex128", "bool")
        ),
        (changed(y_train=np.array(["1", "2", "3"])), f"{LABELS}, got <U1 (3,)"),
        (changed(y_test=np.ones((2, 1), int)), f"{LABELS}, got int64 (2, 1)"),
        (changed(y_test=np.array([0, 10])), "labels of fashion-mnist from 0 to 9, got 0 to 10"),
        (changed(y_test=np.array([-1, 3])), "labels of fashion-mnist from 0 to 9, got -1 to 3"),
        (changed(y_test=np.array([2**63, 1], np.uint64)), "labels of fashion-mnist from 0 to 9, got 1 to 9223372"),
        (changed(y_test=np.zeros(5, int)), "(3, 2) images of fashion-mnist, got (3, 2) with (3, 5) labels"),
        ({"x_train": np.zeros(3)}, "y_train"),
        (changed(x_train=np.array([{}, 3, "a"], object)), "Object arrays cannot be loaded"),
    ],
)
def test_foreign_arrays_are_one_sentence(folder, monkeypatch, content, sentence):
    small(monkeypatch, "fashion-mnist", (3, 2))
    np.savez(folder / "fashion_mnist.npz", **content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}[^\n]*{re.escape(sentence)}[^\n]*$"):
        data.read_images("fashion-mnist")


def test_an_array_that_would_fill_the_memory_is_not_unpacked(folder):
    """A file of kilobytes can unpack to any size, and a header of a few bytes can promise any."""
    with zipfile.ZipFile(folder / "fashion_mnist.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x_train.npy", bytes(300 << 20))
    with pytest.raises(ValueError, match=r"fashion-mnist: an array of 314,572,800 bytes is too large$"):
        data.read_images("fashion-mnist")
    (folder / "fashion_mnist.npz").unlink()
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for content in (bytes([0, 0, 8, 4]) + b"\xff" * 16, bytes([0, 0, 13, 1]) + bytes(9), b"\0\0\x08", b"text"):
        (raw / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(ValueError, match=r"FashionMNIST is not a readable copy of fashion-mnist: [^\n]*$"):
            data.read_images("fashion-mnist")


def test_one_changed_pixel_is_found_by_whoever_reads_the_images(folder, monkeypatch):
    compact = fashion()
    np.savez(folder / "fashion_mnist.npz", **compact)
    small(monkeypatch, "fashion-mnist", (3, 2))
    small(monkeypatch, "fashion-mnist", (3, 2), digest=data.digest(data.read_images("fashion-mnist")))
    data.read_images("fashion-mnist")
    compact["x_test"][1, 27, 27] ^= 1
    np.savez(folder / "fashion_mnist.npz", **compact)
    for read in (data.read_images, data.verify):
        with pytest.raises(ValueError, match="must hold the images of fashion-mnist, checksum "):
            read("fashion-mnist")


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((3200, 3201), "got (3200, 3201)"),
        ((1, 1), "got (1, 1)"),
        ((16000, 12000), "exceeds limit"),
        (None, "cannot identify"),
    ],
)
def test_a_sheet_of_another_size_or_kind_is_one_sentence(folder, size, sentence):
    (folder / "cifar10").mkdir()
    np.savez(folder / "cifar10" / "labels.npz", **{name: [1] for name in ("test", *(f"train_{n}" for n in range(5)))})
    sheet = folder / "cifar10" / "train_0.webp"
    if size is None:
        sheet.write_text("no image")
    else:
        Image.new("L", size).save(sheet, "png")
    with pytest.raises(ValueError, match=f"is not a readable copy of cifar10: .*{re.escape(sentence)}"):
        data.read_images("cifar10")


def test_what_an_old_torchvision_left_is_never_read(folder, monkeypatch):
    """Its processed files are pickles, and torchvision would still prefer them to a download."""
    small(monkeypatch, "fashion-mnist", (3, 2))
    legacy = folder / "FashionMNIST" / "processed"
    legacy.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (legacy / name).write_bytes(b"no tensor")
    with pytest.raises(ValueError, match=r"is not a readable copy of fashion-mnist: .*train-images-idx3-ubyte"):
        data.read_images("fashion-mnist")
    with pytest.raises(ValueError, match=r"processed is of an old torchvision, .*; remove it$"):
        data.fetch("fashion-mnist")


def test_the_checksum_of_imagenet_is_of_its_files(folder):
    root = folder / "imagenet"
    for part in ("train", "val"):
        for kind in ("n01", "n02"):
            (root / part / kind).mkdir(parents=True)
            (root / part / kind / "0.JPEG").write_bytes(b"1234")
    before = data.listing(root)
    assert data.listing(root) == before
    (root / "val" / "n01" / "0.JPEG").write_bytes(b"123")
    assert data.listing(root) != before
    (root / "val" / "n03").mkdir()
    with pytest.raises(ValueError, match="must hold the same classes, 1 to 1,000, in train and val, got 2 and 3$"):
        data.listing(root)
    for number in range(1000):
        for part in ("train", "val"):
            (root / part / f"m{number}").mkdir()
    (root / "train" / "n03").mkdir()
    with pytest.raises(ValueError, match="got 1003 and 1003$"):
        data.listing(root)


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
            data.read_images("fashion-mnist")
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
    sentence = "data set to fetch must be one of 'fashion-mnist', 'cifar10', 'cifar100', got 'imagenet'"
    with pytest.raises(ValueError, match=sentence):
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
