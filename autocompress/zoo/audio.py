"""1-D convolutions for audio (M5, Dai et al. 2017): from the waveform to classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class AudioNet(nn.Module):
    """Convolutions over time with a pool after each, and a mean over what is left of time.

    Args:
        widths: channels of each convolution.
        kernel: of the first convolution; the others have 3.
        stride: of the first convolution.
    """

    def __init__(
        self, widths: Sequence[int], kernel: int = 80, stride: int = 16, in_channels: int = 1, num_classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for index, width in enumerate(widths):
            conv = (
                nn.Conv1d(channels, width, kernel, stride) if index == 0 else nn.Conv1d(channels, width, 3, padding=1)
            )
            layers += [conv, nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, samples)`` waveforms to ``(n, num_classes)`` logits."""
        return self.fc(self.features(x).mean(-1))


def audio_m5(in_channels: int = 1, num_classes: int = 10) -> AudioNet:
    """Four convolutions, 32 to 64 channels, for about a second at 8 kHz."""
    return AudioNet((32, 32, 64, 64), 80, 16, in_channels, num_classes)


def audio_tiny(in_channels: int = 1, num_classes: int = 10) -> AudioNet:
    """Three convolutions, 8 to 12 channels, for 256 samples: for tests and first tries."""
    return AudioNet((8, 12, 12), 16, 4, in_channels, num_classes)
