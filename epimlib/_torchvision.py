"""Import torchvision beside a torch that it was not compiled for.

PyPI's torchvision for Linux is compiled against a CUDA torch. Beside a CPU torch its compiled operators do
not load, and the import then fails, because it describes the output shapes of two of them (``nms`` and
``qnms``, for object detection) without asking if they exist. timm imports torchvision, so it fails as well.
"""

import sys

_declared = []  # torch forgets a declaration when its Library object is collected


def ensure_torchvision() -> None:
    """Make ``import torchvision``, and so ``import timm``, work; call it before either.

    Where torchvision imports by itself nothing is changed. Otherwise the two operators are declared, so that
    the import succeeds; torchvision's Python parts (models, transforms, data sets) then work, and its
    compiled operators still raise torchvision's own error when they are called.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    # The failed import left submodules behind that the next one would not bind to the package.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision  # noqa: F401
