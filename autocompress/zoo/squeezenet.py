"""SqueezeNet (Iandola et al. 2016) for small images: fire modules, and a convolution as classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fire(nn.Module):
    """A 1x1 convolution that squeezes, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, 2 * expand, h, w)``."""
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


class SqueezeNet(nn.Module):
    """A SqueezeNet.

    Args:
        fires: squeezed and expanded channels of the fire modules of each stage; a pool comes after each stage.
        stem: channels of the first convolution.
    """

    def __init__(
        self,
        fires: Sequence[Sequence[tuple[int, int]]],
        stem: int = 64,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, stem, 3, padding=1), nn.ReLU()]
        channels = stem
        for stage in fires:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeeze, expand in stage:
                layers.append(Fire(channels, squeeze, expand))
                channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        return F.adaptive_avg_pool2d(self.classifier(self.features(x)), 1).flatten(1)


def squeezenet(in_channels: int = 3, num_classes: int = 10) -> SqueezeNet:
    """SqueezeNet 1.1 with strides for images of about 32 pixels."""
    fires = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
    return SqueezeNet(fires, 64, in_channels, num_classes)


def squeezenet_tiny(in_channels: int = 3, num_classes: int = 10) -> SqueezeNet:
    """Two fire modules: for tests and first tries."""
    return SqueezeNet((((4, 8),), ((6, 12),)), 8, in_channels, num_classes)
