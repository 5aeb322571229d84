"""ResNet-9, a network that learns small images in few epochs.

Eight 3x3 convolutions and a classifier, by D. Page ("How to train your ResNet", 2018), written with timm's layers
and registered with timm: ``timm.create_model("resnet9", width=16)``.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from epimlib._checks import keys, positive
from epimlib._torchvision import ensure_torchvision

ensure_torchvision()

from timm.layers import ConvNormAct, SelectAdaptivePool2d  # noqa: E402
from timm.models import register_model  # noqa: E402


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = ConvNormAct(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class ResNet9(nn.Module):
    """The network; images ``(N, in_chans, H, W)`` with H and W divisible by 8 become logits ``(N, num_classes)``.

    Args:
        num_classes, in_chans: as in every timm model.
        width: channels of the first convolution; the following have 2, 2, 2, 4, 8, 8, 8 times as many.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = ConvNormAct(in_chans, w, 3)
        self.conv1, self.pool1 = ConvNormAct(w, 2 * w, 3), nn.MaxPool2d(2)
        self.residual1 = _Residual(2 * w)
        self.conv2, self.pool2 = ConvNormAct(2 * w, 4 * w, 3), nn.MaxPool2d(2)
        self.conv3, self.pool3 = ConvNormAct(4 * w, 8 * w, 3), nn.MaxPool2d(2)
        self.residual2 = _Residual(8 * w)
        self.pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.head = nn.Linear(8 * w, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual1(self.pool1(self.conv1(self.stem(x))))
        x = self.residual2(self.pool3(self.conv3(self.pool2(self.conv2(x)))))
        return self.head(self.pool(x))


def check_options(name: str, pretrained: bool, options: Mapping[str, None]) -> None:
    """Raise ``ValueError`` if trained weights of one of our networks are wanted, or an option is none of its own."""
    of_timm = ["pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]  # it always passes these
    keys(f"the options of {name}", options, [], [*of_timm, "num_classes", "in_chans", "width"])
    if pretrained:
        raise ValueError(f"pretrained must be False: {name} has no trained weights to load")


@register_model
def resnet9(
    pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, width: int = 16, **options: None
) -> ResNet9:
    """Return a new `ResNet9`.

    Raises:
        TypeError, ValueError: if ``pretrained``, since there are no such weights, an option is unknown, or the width is
            no positive whole number.
    """
    check_options("resnet9", pretrained, options)
    return ResNet9(num_classes, in_chans, positive("width", width))
