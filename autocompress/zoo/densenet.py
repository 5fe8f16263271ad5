"""Densely connected networks for small images (Huang et al. 2017): every layer reads all before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 bottleneck, BatchNorm, ReLU, 3x3; its output is put behind its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, in_channels + growth, h, w)``."""
        out = self.conv1(torch.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.bn2(out)))], dim=1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, then half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / 2, w / 2)``."""
        return F.avg_pool2d(self.conv(torch.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A DenseNet-BC with a compression of one half.

    Args:
        blocks: dense layers in each block.
        growth: channels that each dense layer adds.
    """

    def __init__(self, blocks: Sequence[int], growth: int, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for index, depth in enumerate(blocks):
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if index + 1 < len(blocks):
                layers.append(Transition(channels, channels // 2))
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = torch.relu(self.bn(self.features(self.conv1(x))))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def densenet40(in_channels: int = 3, num_classes: int = 10) -> DenseNet:
    """DenseNet-BC of 40 layers, growth 12."""
    return DenseNet((6, 6, 6), 12, in_channels, num_classes)


def densenet_tiny(in_channels: int = 3, num_classes: int = 10) -> DenseNet:
    """Two blocks of two layers, growth 8: for tests and first tries."""
    return DenseNet((2, 2), 8, in_channels, num_classes)
