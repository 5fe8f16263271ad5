"""A network of Inception blocks (Szegedy et al. 2015) for small images: four branches side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the size of the image stays."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, sizes, padding=(sizes[0] // 2, sizes[1] // 2), bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class InceptionBlock(nn.Module):
    """1x1; 3x3; a factored 5x5 (1x5 and 5x1); a pool and 1x1: all put behind one another."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 5 * width
        self.one = _conv(in_channels, width)
        self.three = nn.Sequential(_conv(in_channels, width), _conv(width, 2 * width, 3))
        self.five = nn.Sequential(_conv(in_channels, width), _conv(width, width, (1, 5)), _conv(width, width, (5, 1)))
        self.pool = _conv(in_channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, 5 * width, h, w)``."""
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(pooled)], 1)


class Inception(nn.Module):
    """Inception blocks with a pool after each stage.

    Args:
        widths: of the blocks of each stage.
        stem: channels of the first convolution.
    """

    def __init__(
        self, widths: Sequence[Sequence[int]], stem: int = 32, in_channels: int = 3, num_classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(in_channels, stem, 3)]
        channels = stem
        for stage in widths:
            for width in stage:
                block = InceptionBlock(channels, width)
                layers.append(block)
                channels = block.out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        return self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def inception_small(in_channels: int = 3, num_classes: int = 10) -> Inception:
    """Three stages of two blocks, 160 to 640 channels."""
    return Inception(((32, 32), (64, 64), (128, 128)), 32, in_channels, num_classes)


def inception_tiny(in_channels: int = 3, num_classes: int = 10) -> Inception:
    """Two blocks, 20 and 30 channels: for tests and first tries."""
    return Inception(((4,), (6,)), 8, in_channels, num_classes)
