"""Classifiers of sequences by LSTM (Hochreiter, Schmidhuber 1997) and GRU (Cho et al. 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RecurrentClassifier(nn.Module):
    """A linear layer on each step, recurrent layers, and a classifier on what the last step leaves.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        features: of each step.
        hidden: state of each recurrent layer.
        layers: recurrent layers on one another.
        bidirectional: whether each layer also runs backwards.
    """

    def __init__(
        self,
        kind: str,
        features: int = 8,
        hidden: int = 64,
        layers: int = 1,
        num_classes: int = 10,
        *,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        make: type[nn.LSTM | nn.GRU] = nn.LSTM if kind == "lstm" else nn.GRU
        self.embed = nn.Linear(features, hidden)
        self.cells = make(hidden, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.fc1 = nn.Linear(hidden * (2 if bidirectional else 1), hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, steps, features)`` to ``(n, num_classes)`` logits."""
        steps, _ = self.cells(torch.relu(self.embed(x)))
        return self.fc2(torch.relu(self.fc1(steps[:, -1])))


def lstm_small(features: int = 8, num_classes: int = 10) -> RecurrentClassifier:
    """Two LSTM layers of 64."""
    return RecurrentClassifier("lstm", features, 64, 2, num_classes)


def lstm_tiny(features: int = 8, num_classes: int = 10) -> RecurrentClassifier:
    """One LSTM layer of 12, both ways: for tests and first tries."""
    return RecurrentClassifier("lstm", features, 12, 1, num_classes, bidirectional=True)


def gru_small(features: int = 8, num_classes: int = 10) -> RecurrentClassifier:
    """Two GRU layers of 64."""
    return RecurrentClassifier("gru", features, 64, 2, num_classes)


def gru_tiny(features: int = 8, num_classes: int = 10) -> RecurrentClassifier:
    """Two GRU layers of 12: for tests and first tries."""
    return RecurrentClassifier("gru", features, 12, 2, num_classes)
