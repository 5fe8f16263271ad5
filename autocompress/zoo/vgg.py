"""VGG networks for small images (Simonyan, Zisserman 2015), with BatchNorm and a flattened classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class VGG(nn.Module):
    """3x3 convolutions with a pool after each stage; the classifier reads the flattened feature map.

    Args:
        stages: channels of the convolutions of each stage.
        hidden: neurons of the classifier's hidden layer.
        image_size: height and width of the images, a multiple of ``2 ** len(stages)``.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        hidden: int = 128,
        image_size: int = 32,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in stages:
            for out_channels in stage:
                layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        side = image_size // 2 ** len(stages)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, image_size, image_size)`` images to ``(n, num_classes)`` logits."""
        return self.classifier(self.features(x).flatten(1))


def vgg11(in_channels: int = 3, num_classes: int = 10) -> VGG:
    """VGG-11 (configuration A), four pools, for images of 32 pixels."""
    return VGG(((64,), (128,), (256, 256), (512, 512)), 512, 32, in_channels, num_classes)


def vgg_tiny(in_channels: int = 3, num_classes: int = 10) -> VGG:
    """Two stages, 8 and 16 channels, for images of 16 pixels: for tests and first tries."""
    return VGG(((8,), (16, 16)), 32, 16, in_channels, num_classes)
