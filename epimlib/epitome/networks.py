"""A network by its name: one that is stored, any network of timm, or one in a file.

A network of timm is traced once, on shapes alone, and kept in a folder of the user: ``EPIM_CACHE``, else
``~/.cache/epimlib``.
"""

import hashlib
import importlib.metadata
import os
import re
import warnings
from functools import lru_cache
from pathlib import Path

from epimlib._checks import is_file, line, nearest
from epimlib.epitome import workload
from epimlib.epitome.workload import Workload, stored

TITLES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "mobilenetv2_100": "MobileNetV2",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_tiny": "ConvNeXt-Tiny",
    "vit_tiny_patch16_224": "ViT-Tiny",
}
"""What texts call the stored networks."""
SIZES = range(16, 1025)
"""Heights and widths of an image that a name can ask for."""


def load_network(name: str | Path) -> Workload:
    """Return a stored workload, the network that timm makes of a name, or the workload of a JSON file.

    ``"resnet50"`` is stored, ``"regnety_002"`` is traced, ``"regnety_002@96"`` for images of 96 x 96 pixels,
    ``"mine.json"`` is read. Weights are neither needed nor loaded.

    Raises:
        FileNotFoundError: if there is no such file; if the name is not stored and timm or torch is missing.
        ValueError: if the file is no workload; if timm does not know the name, and the message has the nearest one; if
            the network cannot be traced.
    """
    return Workload.load(name) if is_file(name) else _named(name)


def title(network: Workload) -> str:
    """Return what a text calls a network: one of `TITLES`, else its own name."""
    return TITLES.get(network.name, network.name)


@lru_cache(maxsize=32)
def _named(name: str) -> Workload:
    if name in stored():
        return Workload.load(name)
    given = re.fullmatch(r"(\w+)(?:@([1-9][0-9]{1,3}))?", name)
    if given is None:
        raise ValueError(f"a network is a name such as resnet50 or resnet50@96, or a .json file, got {name!r}")
    size = int(given[2]) if given[2] else None
    if size is not None and size not in SIZES:
        raise ValueError(f"images of {name!r} must have {SIZES[0]} to {SIZES[-1]} rows and columns, got {size}")
    kept = _folder() / f"{name}-{_versions(name)}.json"
    if kept.is_file():
        return Workload.load(kept)
    network = _traced(name, given[1], size)
    try:
        network.save(kept)
    except OSError as error:
        warnings.warn(f"{name} is traced anew each time, for it cannot be kept: {error}", stacklevel=2)
    return network


def _folder() -> Path:
    return Path(os.environ.get("EPIM_CACHE") or Path.home() / ".cache" / "epimlib") / "networks"


def _versions(name: str) -> str:
    """Return a short text of everything that a trace depends on, without importing it."""
    here = Path(workload.__file__)
    digest = hashlib.sha256()
    for source in (here, here.with_name("trace.py"), Path(__file__)):
        digest.update(source.read_bytes())
    for package in ("timm", "torch"):
        try:
            digest.update(importlib.metadata.version(package).encode())
        except importlib.metadata.PackageNotFoundError:
            raise FileNotFoundError(
                f"no stored network {name!r}, and {package}, which could make one of that name, is not installed; "
                f"stored are {', '.join(stored())}"
            ) from None
    return digest.hexdigest()[:16]


def _traced(name: str, of_timm: str, size: int | None) -> Workload:
    import torch

    from epimlib.epitome.trace import trace

    import timm

    known = timm.list_models()
    if of_timm not in known:
        raise ValueError(f"unknown network {name!r}; {nearest(of_timm, {*known, *stored()})}")
    try:
        with torch.device("meta"):
            model = timm.create_model(of_timm)
            if size is not None and hasattr(model, "set_input_size"):  # of a transformer, for its positions
                model.set_input_size(img_size=(size, size))
    except Exception as error:
        raise ValueError(f"timm cannot make the network {name!r}: {line(error)}") from error
    image = None if size is None else (model.pretrained_cfg["input_size"][0], size, size)
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on how timm's models are written
        return trace(model, image, name)
