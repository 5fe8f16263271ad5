"""ResNeXt (Xie et al. 2017) for small images: residual bottlenecks whose 3x3 convolution runs in groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + self.shortcut(x))


class ResNeXt(nn.Module):
    """A ResNeXt.

    Args:
        widths: channels of each stage's 3x3 convolutions; a block gives out twice as many.
        blocks: in each stage.
        groups: of the 3x3 convolutions, the paper's cardinality.
    """

    def __init__(
        self, widths: Sequence[int], blocks: int, groups: int, in_channels: int = 3, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        layers, channels = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(ResNeXtBlock(channels, 2 * width, width, groups, stride))
                channels = 2 * width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.layers(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnext29(in_channels: int = 3, num_classes: int = 10) -> ResNeXt:
    """Three stages of three blocks, 64 to 256 channels in eight groups."""
    return ResNeXt((64, 128, 256), 3, 8, in_channels, num_classes)


def resnext_tiny(in_channels: int = 3, num_classes: int = 10) -> ResNeXt:
    """Two stages of one block, 8 and 16 channels in four groups: for tests and first tries."""
    return ResNeXt((8, 16), 1, 4, in_channels, num_classes)
