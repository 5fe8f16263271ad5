"""Residual networks with squeeze-and-excitation (Hu et al. 2018) for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the means of all."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SEBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcite(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.se(self.bn2(self.conv2(out))) + self.shortcut(x))


class SENet(nn.Module):
    """A residual network of squeeze-and-excitation blocks.

    Args:
        widths: channels of each stage; every stage after the first halves the resolution.
        blocks: blocks in each stage.
    """

    def __init__(self, widths: Sequence[int], blocks: int = 2, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        layers = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for index in range(blocks):
                layers.append(SEBlock(channels, width, 2 if stage > 0 and index == 0 else 1))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.layers(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def se_resnet14(in_channels: int = 3, num_classes: int = 10) -> SENet:
    """Three stages of two blocks, 32 to 128 channels."""
    return SENet((32, 64, 128), 2, in_channels, num_classes)


def senet_tiny(in_channels: int = 3, num_classes: int = 10) -> SENet:
    """Two stages of one block, 8 and 16 channels: for tests and first tries."""
    return SENet((8, 16), 1, in_channels, num_classes)
