"""ResNet-20, the usual network for CIFAR's images.

A stem and nine blocks of two 3x3 convolutions, by He et al. (arXiv 1512.03385, section 4.2), written with timm's layers
and registered with timm: ``timm.create_model("resnet20")``. Where a block changes the size, its shortcut is a 1x1
convolution; theirs has no parameters, takes every other pixel and fills up with zeros.
"""

from itertools import pairwise

from torch import Tensor, nn

from epimlib._checks import positive
from epimlib._torchvision import ensure_torchvision

ensure_torchvision()

from epimlib.train.resnet9 import check_options  # noqa: E402

from timm.layers import ConvNormAct, SelectAdaptivePool2d  # noqa: E402
from timm.models import register_model  # noqa: E402


class _Block(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(inputs, channels, 3, stride=stride)
        self.conv2 = ConvNormAct(channels, channels, 3, apply_act=False)
        same = inputs == channels and stride == 1
        self.shortcut = nn.Identity() if same else ConvNormAct(inputs, channels, 1, stride=stride, apply_act=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.shortcut(x))


class ResNet20(nn.Module):
    """The network; images ``(N, in_chans, H, W)`` become logits ``(N, num_classes)``.

    Args:
        num_classes, in_chans: as in every timm model.
        width: channels of the stem and of the first three blocks; the next three have twice as many, the last four
            times.
    """

    def __init__(self, num_classes: int = 100, in_chans: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = ConvNormAct(in_chans, width, 3)
        sizes = [width * 2**stage for stage in (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)]  # of the stem, then of the blocks
        self.blocks = nn.Sequential(*(_Block(i, own, own // i) for i, own in pairwise(sizes)))
        self.pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))))


@register_model
def resnet20(
    pretrained: bool = False, num_classes: int = 100, in_chans: int = 3, width: int = 16, **options: None
) -> ResNet20:
    """Return a new `ResNet20`.

    Raises:
        TypeError, ValueError: if ``pretrained``, since there are no such weights, an option is unknown, or the width is
            no positive whole number.
    """
    check_options("resnet20", pretrained, options)
    return ResNet20(num_classes, in_chans, positive("width", width))
