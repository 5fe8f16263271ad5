"""MobileNetV2 for small images (Sandler et al. 2018): inverted residuals with depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

#: Expansion, channels, blocks, stride of each stage (table 2 of the paper, first strides 1 as images are small).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        layers = [] if expansion == 1 else [*_conv(in_channels, hidden, 1), nn.ReLU6()]
        layers += [*_conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), *_conv(hidden, out_channels, 1)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        out = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """A MobileNetV2.

    Args:
        width: factor on every stage's channels, which are rounded to multiples of 8.
        stages: expansion, channels, blocks and stride of each stage.
        head: channels of the last 1x1 convolution, before ``width``.
    """

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
        stages: Sequence[tuple[int, int, int, int]] = STAGES,
        head: int = 1280,
    ) -> None:
        super().__init__()
        channels = _multiple_of_8(32 * width)
        layers: list[nn.Module] = [*_conv(in_channels, channels, 3), nn.ReLU6()]
        for expansion, stage_channels, blocks, stride in stages:
            for index in range(blocks):
                out_channels = _multiple_of_8(stage_channels * width)
                layers.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion))
                channels = out_channels
        last = _multiple_of_8(head * width)
        layers += [*_conv(channels, last, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def _multiple_of_8(channels: float) -> int:
    return max(8, int(channels + 4) // 8 * 8)


def mobilenet_v2(width: float = 1.0, in_channels: int = 3, num_classes: int = 10) -> MobileNetV2:
    """MobileNetV2 with strides for images of about 32 pixels."""
    return MobileNetV2(width=width, in_channels=in_channels, num_classes=num_classes)


def mobilenet_tiny(in_channels: int = 3, num_classes: int = 10) -> MobileNetV2:
    """Three stages of a quarter of the width: for tests and first tries."""
    stages = ((1, 32, 1, 1), (6, 48, 2, 2), (6, 64, 2, 2))
    return MobileNetV2(0.25, in_channels, num_classes, stages, head=256)
