"""MobileNetV1 (Howard et al. 2017): a chain of depthwise and 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

#: Channels and stride of each pair of convolutions, for images of about 32 pixels.
STAGES = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)


class MobileNetV1(nn.Module):
    """A MobileNetV1.

    Args:
        width: factor on every number of channels.
        stem: channels of the first convolution, before ``width``.
        stages: channels, before ``width``, and stride of each depthwise pair.
    """

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
        stem: int = 32,
        stages: Sequence[tuple[int, int]] = STAGES,
    ) -> None:
        super().__init__()
        channels = max(1, int(stem * width))
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for wide, stride in stages:
            out_channels = max(1, int(wide * width))
            layers += [
                nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def mobilenet_v1(width: float = 1.0, in_channels: int = 3, num_classes: int = 10) -> MobileNetV1:
    """MobileNetV1 with strides for images of about 32 pixels."""
    return MobileNetV1(width, in_channels, num_classes)


def mobilenet_v1_tiny(in_channels: int = 3, num_classes: int = 10) -> MobileNetV1:
    """Three depthwise pairs, up to 32 channels: for tests and first tries."""
    return MobileNetV1(0.25, in_channels, num_classes, stages=((64, 1), (128, 2), (128, 1)))
