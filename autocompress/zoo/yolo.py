"""A small detector in the style of YOLO (Redmon et al. 2016; Wang et al. 2020): split stages, a pyramid, two heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvAct(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        return F.silu(self.bn(self.conv(x)))


class SplitStage(nn.Module):
    """A stage whose channels are split in two: one half passes through convolutions, then all are joined."""

    def __init__(self, channels: int, depth: int = 1) -> None:
        super().__init__()
        self.inner = channels // 2
        self.enter = ConvAct(channels, channels)
        self.blocks = nn.ModuleList(ConvAct(self.inner, self.inner, 3) for _ in range(depth))
        self.leave = ConvAct((2 + depth) * self.inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        parts = list(self.enter(x).split(self.inner, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """Boxes and classes at two strides.

    Args:
        width: channels of the finer map; the coarser has twice as many.
        depth: convolutions in each split stage.
    """

    def __init__(self, width: int = 32, depth: int = 1, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = ConvAct(in_channels, width // 2, 3, 2)
        self.down1 = ConvAct(width // 2, width, 3, 2)
        self.stage1 = SplitStage(width, depth)
        self.down2 = ConvAct(width, 2 * width, 3, 2)
        self.stage2 = SplitStage(2 * width, depth)
        self.lateral = ConvAct(2 * width, width)
        self.merge = ConvAct(2 * width, width, 3)
        self.fine = nn.Conv2d(width, 4 + 1 + num_classes, 1)
        self.coarse = nn.Conv2d(2 * width, 4 + 1 + num_classes, 1)

    def _decode(self, x: Tensor, stride: int) -> Tensor:
        """``(n, 5 + num_classes, h, w)`` to ``(n, h * w, 5 + num_classes)``: centre, size, object, classes."""
        centre, size, scores = x.split((2, 2, 1 + self.num_classes), 1)
        box = torch.cat([centre.sigmoid() * stride, (size.clamp(max=8.0)).exp() * stride], 1)
        return torch.cat([box, scores.sigmoid()], 1).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, in_channels, h, w)`` to the predictions at stride 4, then at stride 8."""
        fine = self.stage1(self.down1(self.stem(x)))
        coarse = self.stage2(self.down2(fine))
        up = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        fine = self.merge(torch.cat([fine, up], 1))
        return self._decode(self.fine(fine), 4), self._decode(self.coarse(coarse), 8)


def yolo_small(in_channels: int = 3, num_classes: int = 10) -> Detector:
    """32 and 64 channels, two convolutions in each split stage."""
    return Detector(32, 2, in_channels, num_classes)


def yolo_tiny(in_channels: int = 3, num_classes: int = 10) -> Detector:
    """8 and 16 channels: for tests and first tries."""
    return Detector(8, 1, in_channels, num_classes)
