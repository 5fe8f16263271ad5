"""How much of every weight axis a plan keeps: exact, linear in the channels each group loses, and cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autocompress.core.layer import LayerInfo, PruneGroup, kept_channels
from autocompress.core.plan import DEFAULT


class Shares:
    """Shares of axes that stay, for one graph.

    An axis of ``n`` entries loses ``k`` of them with every channel of a group that is coupled to it, so the share that
    stays is ``1 - sum_g(k_g * removed_g) / n``.

    Args:
        groups: of the graph, blocked ones too.
        sizes: initializer to shape.
    """

    def __init__(self, groups: Sequence[PruneGroup], sizes: Mapping[str, Sequence[int]]) -> None:
        self._groups = [group for group in groups if group.prunable]
        self._channels = np.array([group.channels for group in self._groups], np.float64)
        self._rows: dict[tuple[str, int], NDArray[np.float64]] = {}
        for column, group in enumerate(self._groups):
            for member in group.members:
                if member.initializer not in sizes:
                    continue
                row = self._rows.setdefault((member.initializer, member.axis), self.no_loss())
                row[column] += member.indices.shape[1] / sizes[member.initializer][member.axis]

    def no_loss(self) -> NDArray[np.float64]:
        """``(n_groups,)`` zeros: the row of an axis that loses nothing."""
        return np.zeros(len(self._groups))

    def row(self, initializer: str, axis: int) -> NDArray[np.float64]:
        """``(n_groups,)`` share of an axis that goes with one channel of each prunable group."""
        return self._rows.get((initializer, axis), self.no_loss())

    def axes(self, initializer: str) -> list[int]:
        """Axes of an initializer that lose entries."""
        return [axis for name, axis in self._rows if name == initializer]

    def removed(self, ratios: Mapping[str, float]) -> NDArray[np.float64]:
        """``(n_groups,)`` channels that each prunable group loses at these ratios; ``"*"`` is the default."""
        default = ratios.get(DEFAULT, 0.0)
        kept = [kept_channels(group.channels, ratios.get(group.name, default)) for group in self._groups]
        return self._channels - np.array(kept, np.float64)

    def share(self, initializer: str, removed: NDArray[np.float64]) -> float:
        """Share of an initializer's elements that stays."""
        share = 1.0
        for axis in self.axes(initializer):
            share *= max(0.0, 1.0 - float(self.row(initializer, axis) @ removed))
        return share


class MacModel:
    """Multiply-accumulates of a pruned graph without building it.

    Args:
        layers: of the graph.
        groups: of the graph.
    """

    def __init__(self, layers: Sequence[LayerInfo], groups: Sequence[PruneGroup]) -> None:
        self._shares = Shares(groups, {layer.weight: layer.weight_shape for layer in layers})
        self._macs = np.array([layer.macs for layer in layers], np.float64)
        none = self._shares.no_loss()
        rows: list[list[NDArray[np.float64]]] = [[], []]
        for layer in layers:
            found = [self._shares.row(layer.weight, axis) for axis in self._shares.axes(layer.weight)][:2]
            for index, row in enumerate(found + [none] * (2 - len(found))):
                rows[index].append(row)
        self._rows = [np.array(part).reshape(len(layers), len(none)) for part in rows]

    def macs(self, ratios: Mapping[str, float]) -> float:
        """Multiply-accumulates for one sample with these prune ratios."""
        removed = self._shares.removed(ratios)
        first, second = (np.clip(1.0 - rows @ removed, 0.0, 1.0) for rows in self._rows)
        return float(np.sum(self._macs * first * second))

    def saved(self, ratios: Mapping[str, float]) -> float:
        """Share of the uncompressed graph's multiply-accumulates that these prune ratios save, in ``[0, 1]``."""
        total = float(np.sum(self._macs))
        return 1.0 - self.macs(ratios) / total if total else 0.0
