"""ConvNeXt (Liu et al. 2022) for small images: depthwise 7x7, LayerNorm over channels moved last, GELU, layer scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm and two linear layers over the channels, scaled, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.scale * self.fc2(F.gelu(self.fc1(out)))
        return x + out.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(n, channels, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A ConvNeXt.

    Args:
        widths: channels of each stage.
        blocks: in each stage.
        patch: side of the stem's patches.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int = 2,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], patch, patch), ChannelNorm(widths[0], eps=1e-6)]
        channels = widths[0]
        for width, depth in zip(widths, blocks, strict=True):
            if width != channels:
                layers += [ChannelNorm(channels, eps=1e-6), nn.Conv2d(channels, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        return self.head(self.norm(self.features(x).mean((2, 3))))


def convnext_small(in_channels: int = 3, num_classes: int = 10) -> ConvNeXt:
    """Three stages of 40 to 160 channels, the widths of ConvNeXt-Atto."""
    return ConvNeXt((40, 80, 160), (2, 2, 6), 2, in_channels, num_classes)


def convnext_tiny(in_channels: int = 3, num_classes: int = 10) -> ConvNeXt:
    """Two stages of one block, 8 and 12 channels: for tests and first tries."""
    return ConvNeXt((8, 12), (1, 1), 2, in_channels, num_classes)
