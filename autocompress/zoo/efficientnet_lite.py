"""EfficientNet-Lite: EfficientNet (Tan, Le 2019) without gates and with ReLU6, as edge devices want it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

#: Expansion, kernel, channels, blocks and stride of each stage of EfficientNet-Lite0, for about 32 pixels.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 1),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, h / stride, w / stride)``."""
        out = self.conv(x)
        return x + out if self.shortcut else out


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite.

    Args:
        width: factor on every stage's channels, which are rounded to multiples of 8.
        depth: factor on every stage's blocks, rounded up, but for the first and the last stage.
        stages: as :data:`STAGES`.
        stem: channels of the first convolution.
        head: channels of the last 1x1 convolution.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
        stages: Sequence[tuple[int, int, int, int, int]] = STAGES,
        stem: int = 32,
        head: int = 1280,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()
        )
        blocks, channels = [], stem
        for number, (expansion, kernel, wide, repeats, stride) in enumerate(stages):
            out_channels = max(8, int(wide * width + 4) // 8 * 8)
            inner = 0 < number < len(stages) - 1
            for index in range(math.ceil(repeats * depth) if inner else repeats):
                blocks.append(MBConv(channels, out_channels, kernel, stride if index == 0 else 1, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(channels, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6())
        self.fc = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def efficientnet_lite0(in_channels: int = 3, num_classes: int = 10) -> EfficientNetLite:
    """EfficientNet-Lite0 with strides for images of about 32 pixels."""
    return EfficientNetLite(in_channels=in_channels, num_classes=num_classes)


def efficientnet_lite_tiny(in_channels: int = 3, num_classes: int = 10) -> EfficientNetLite:
    """Three stages of 8 channels: for tests and first tries."""
    stages = ((1, 3, 8, 1, 1), (3, 3, 8, 1, 2), (3, 5, 8, 2, 1))
    return EfficientNetLite(1.0, 1.0, in_channels, num_classes, stages, stem=8, head=24)
