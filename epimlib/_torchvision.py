"""torchvision, and so timm, beside a torch that it was not compiled for.

PyPI's torchvision for Linux is compiled against a CUDA torch. Beside a CPU torch its compiled operators do not load,
and its import then fails, because it describes the output shapes of two of them (``nms`` and ``qnms``, for object
detection) without asking if they exist. No version of it avoids that, and PyPI has no CPU build.
"""

import functools
import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder


@functools.cache
def ensure_torchvision() -> object:
    """Make ``import torchvision`` and ``import timm`` work; call it before either, without importing them here.

    Where torchvision's compiled operators load, nothing is changed. Otherwise the two are declared. Its Python parts
    (models, transforms, data sets) then work, and the two still raise an error when they are called.

    Returns:
        What keeps the declarations: torch forgets them with it.
    """
    found = importlib.util.find_spec("torchvision")
    if sys.platform != "linux" or found is None or "torchvision" in sys.modules:
        return None
    import torch

    finder = FileFinder(found.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    compiled = finder.find_spec("_C")
    try:
        loaded = compiled is not None and torch.ops.load_library(compiled.origin) is None  # as torchvision itself does
    except OSError:
        loaded = False
    if loaded:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
