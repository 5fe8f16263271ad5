"""U-Net (Ronneberger et al. 2015): the image halved and doubled again, with every size handed across."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net for segmentation.

    Args:
        widths: channels at each resolution, the finest first.
        upsample: ``"transposed"`` doubles the size by a transposed convolution, ``"resize"`` by interpolation and a 1x1
            convolution.
    """

    def __init__(
        self, widths: Sequence[int], upsample: str = "transposed", in_channels: int = 3, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.transposed = upsample == "transposed"
        self.down = nn.ModuleList(
            _double(before, width) for before, width in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        ups, merges = [], []
        for width, before in zip(widths[-2::-1], widths[:0:-1], strict=True):
            ups.append(nn.ConvTranspose2d(before, width, 2, 2) if self.transposed else nn.Conv2d(before, width, 1))
            merges.append(_double(2 * width, width))
        self.up, self.merge = nn.ModuleList(ups), nn.ModuleList(merges)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes, h, w)`` logits."""
        skips = []
        for index, down in enumerate(self.down):
            x = down(x if index == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            if not self.transposed:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def unet_small(in_channels: int = 3, num_classes: int = 10) -> UNet:
    """Four resolutions, 16 to 128 channels."""
    return UNet((16, 32, 64, 128), "transposed", in_channels, num_classes)


def unet_tiny(in_channels: int = 3, num_classes: int = 10) -> UNet:
    """Three resolutions, 6 to 12 channels, transposed convolutions: for tests and first tries."""
    return UNet((6, 8, 12), "transposed", in_channels, num_classes)


def unet_resize_tiny(in_channels: int = 3, num_classes: int = 10) -> UNet:
    """The same with interpolation in place of transposed convolutions."""
    return UNet((6, 8, 12), "resize", in_channels, num_classes)
