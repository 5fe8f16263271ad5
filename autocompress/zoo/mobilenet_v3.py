"""MobileNetV3 (Howard et al. 2019) for small images: hard-swish and squeeze-and-excite with a hard sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Stage:
    """One inverted residual block: kernel, hidden and output channels, gate, hard-swish or ReLU, stride."""

    kernel: int
    hidden: int
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


#: MobileNetV3-Small (table 2); the first strides are left out for images of about 32 pixels.
SMALL = (
    Stage(3, 16, 16, True, False, 1),
    Stage(3, 72, 24, False, False, 2),
    Stage(3, 88, 24, False, False, 1),
    Stage(5, 96, 40, True, True, 2),
    *(Stage(5, 240, 40, True, True, 1),) * 2,
    Stage(5, 120, 48, True, True, 1),
    Stage(5, 144, 48, True, True, 1),
    Stage(5, 288, 96, True, True, 2),
    *(Stage(5, 576, 96, True, True, 1),) * 2,
)


class HardSqueezeExcite(nn.Module):
    """Scales every channel by a hard sigmoid computed from the means of all, by 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, int(channels / 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to the same shape."""
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(gate))


class Block(nn.Module):
    """An inverted residual block with an optional gate behind the depthwise convolution."""

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        self.shortcut = stage.stride == 1 and in_channels == stage.channels
        act = nn.Hardswish if stage.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if stage.hidden != in_channels:
            layers += [nn.Conv2d(in_channels, stage.hidden, 1, bias=False), nn.BatchNorm2d(stage.hidden), act()]
        pad, hidden = stage.kernel // 2, stage.hidden
        layers += [
            nn.Conv2d(hidden, hidden, stage.kernel, stage.stride, pad, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            act(),
        ]
        if stage.squeeze:
            layers.append(HardSqueezeExcite(hidden))
        layers += [nn.Conv2d(hidden, stage.channels, 1, bias=False), nn.BatchNorm2d(stage.channels)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, channels, h / stride, w / stride)``."""
        out = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV3(nn.Module):
    """A MobileNetV3.

    Args:
        stages: its blocks in order.
        stem: channels of the first convolution.
        head: channels of the last 1x1 convolution.
        hidden: neurons of the classifier's hidden layer.
    """

    def __init__(
        self,
        stages: Sequence[Stage] = SMALL,
        stem: int = 16,
        head: int = 576,
        hidden: int = 1024,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        blocks, channels = [], stem
        for stage in stages:
            blocks.append(Block(channels, stage))
            channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(channels, head, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(head)
        self.fc1 = nn.Linear(head, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = self.blocks(F.hardswish(self.bn1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(F.hardswish(self.bn2(self.conv2(x))), 1).flatten(1)
        return self.fc2(F.hardswish(self.fc1(x)))


def mobilenet_v3_small(in_channels: int = 3, num_classes: int = 10) -> MobileNetV3:
    """MobileNetV3-Small with strides for images of about 32 pixels."""
    return MobileNetV3(in_channels=in_channels, num_classes=num_classes)


def mobilenet_v3_tiny(in_channels: int = 3, num_classes: int = 10) -> MobileNetV3:
    """Three blocks, up to 48 channels: for tests and first tries."""
    stages = (
        Stage(3, 8, 8, True, False, 1),
        Stage(3, 24, 12, False, False, 2),
        Stage(5, 32, 12, True, True, 1),
    )
    return MobileNetV3(stages, 8, 48, 32, in_channels, num_classes)
