"""ShuffleNetV2 (Ma et al. 2018) for small images: half the channels pass by, then all are shuffled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def channel_shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """Interleave the channels of ``groups`` groups, by reshape and transpose; ``(n, c, h, w)`` stays."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _branch(in_channels: int, channels: int, stride: int, *, first: bool) -> nn.Sequential:
    """Depthwise 3x3 and 1x1 convolutions; with a 1x1 convolution before them where ``first``."""
    layers: list[nn.Module] = []
    if first:
        layers += [nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    layers += [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers)


class ShuffleBlock(nn.Module):
    """At stride 1 half the channels pass by; at stride 2 both branches read all channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.stride = stride
        self.left: nn.Module = nn.Identity() if stride == 1 else _branch(in_channels, half, stride, first=False)
        self.right = _branch(in_channels if stride != 1 else half, half, stride, first=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        left, right = x.chunk(2, 1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat([self.left(left), self.right(right)], 1))


class ShuffleNetV2(nn.Module):
    """A ShuffleNetV2.

    Args:
        stages: channels and blocks of each stage; every stage begins with a block of stride 2.
        stem: channels of the first convolution.
        head: channels of the last 1x1 convolution.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int]],
        stem: int = 24,
        head: int = 1024,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        blocks, channels = [], stem
        for wide, repeats in stages:
            for index in range(repeats):
                blocks.append(ShuffleBlock(channels, wide, 2 if index == 0 else 1))
                channels = wide
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(channels, head, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(head)
        self.fc = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def shufflenet_v2(in_channels: int = 3, num_classes: int = 10) -> ShuffleNetV2:
    """ShuffleNetV2 1x with strides for images of about 32 pixels."""
    return ShuffleNetV2(((116, 4), (232, 8), (464, 4)), in_channels=in_channels, num_classes=num_classes)


def shufflenet_tiny(in_channels: int = 3, num_classes: int = 10) -> ShuffleNetV2:
    """Two stages of two blocks, 16 and 24 channels: for tests and first tries."""
    return ShuffleNetV2(((16, 2), (24, 2)), 8, 32, in_channels, num_classes)
