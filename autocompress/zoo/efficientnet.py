"""EfficientNet (Tan, Le 2019) for small images, and its Lite form without gates and with ReLU6, for edge devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Expansion, kernel, channels, blocks and stride of each stage of EfficientNet-B0 and -Lite0, for about 32 pixels.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 1),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
TINY_STAGES = ((1, 3, 8, 1, 1), (3, 3, 8, 1, 2), (3, 5, 8, 2, 1))


class SqueezeExcite(nn.Module):
    """Scales every channel by a sigmoid computed from the means of all, by 1x1 convolutions."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, gate, 1x1 projection; a shortcut where the shape stays."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, *, lite: bool
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        act = nn.ReLU6 if lite else nn.SiLU
        self.shortcut = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            act(),
        ]
        if not lite:
            layers.append(SqueezeExcite(hidden, in_channels // 4))
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        out = self.conv(x)
        return x + out if self.shortcut else out


class EfficientNet(nn.Module):
    """An EfficientNet.

    Args:
        stages: as :data:`STAGES`.
        stem: channels of the first convolution.
        head: channels of the last 1x1 convolution.
        lite: ReLU6 in place of SiLU, and no gates.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int, int, int]] = STAGES,
        stem: int = 32,
        head: int = 1280,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        lite: bool = False,
    ) -> None:
        super().__init__()
        act = nn.ReLU6 if lite else nn.SiLU
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), act())
        blocks, channels = [], stem
        for expansion, kernel, out_channels, repeats, stride in stages:
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(MBConv(channels, out_channels, kernel, step, expansion, lite=lite))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(channels, head, 1, bias=False), nn.BatchNorm2d(head), act())
        self.fc = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def efficientnet_b0(in_channels: int = 3, num_classes: int = 10) -> EfficientNet:
    """EfficientNet-B0 with strides for images of about 32 pixels."""
    return EfficientNet(in_channels=in_channels, num_classes=num_classes)


def efficientnet_tiny(in_channels: int = 3, num_classes: int = 10) -> EfficientNet:
    """Three stages of 8 channels: for tests and first tries."""
    return EfficientNet(TINY_STAGES, 8, 24, in_channels, num_classes)


def efficientnet_lite0(in_channels: int = 3, num_classes: int = 10) -> EfficientNet:
    """EfficientNet-Lite0 with strides for images of about 32 pixels."""
    return EfficientNet(in_channels=in_channels, num_classes=num_classes, lite=True)


def efficientnet_lite_tiny(in_channels: int = 3, num_classes: int = 10) -> EfficientNet:
    """Three stages of 8 channels: for tests and first tries."""
    return EfficientNet(TINY_STAGES, 8, 24, in_channels, num_classes, lite=True)
