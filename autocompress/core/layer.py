"""What a graph offers to compression: layers to quantize and channel groups to prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["out", "in", "scale", "bias", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One operator with a weight: what a :class:`~autocompress.core.plan.LayerPlan` applies to.

    Args:
        name: stable name; the weight's name without ``.weight`` where it has one.
        op_type: ONNX operator, such as ``Conv``.
        weight: name of the weight initializer.
        weight_shape: as stored in the graph.
        out_shape: of the first output, for one sample; unknown sizes are -1.
        macs: multiply-accumulates for one sample.
        params: weight and bias elements.
        prune_group: name of the group that owns its output channels, if any.
        node: name of the node in the graph.
    """

    name: str
    op_type: str
    weight: str
    weight_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    macs: int
    params: int
    prune_group: str | None
    node: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupMember:
    """One axis of one initializer that loses entries when the group loses channels.

    Args:
        initializer: its name in the graph.
        axis: which axis is sliced.
        indices: ``(channels, k)``; row ``c`` holds the entries of the axis that belong to channel ``c``.
        role: ``out`` for the axis that produces the channels (importance reads these), ``in`` for one that consumes
            them, ``scale`` and ``bias`` for per-channel parameters.
    """

    initializer: str
    axis: int
    indices: NDArray[np.intp]
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PruneGroup:
    """Channels that must leave together.

    Args:
        name: of the first layer that produces them.
        channels: how many units can be removed one by one.
        members: every initializer axis that is coupled.
        blocked: why it cannot be pruned, or None if it can.
    """

    name: str
    channels: int
    members: tuple[GroupMember, ...]
    blocked: str | None = None

    @property
    def prunable(self) -> bool:
        """Whether channels of this group may be removed."""
        return self.blocked is None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipBlock:
    """A residual block ``y = x + f(x)`` that can be skipped whole.

    Args:
        name: what its layers' names have in common.
        layers: of ``f``, in topological order.
        nodes: every node of ``f``.
        join: name of the Add.
        kept: name of ``x``.
        initializers: that nothing but ``f`` reads.
    """

    name: str
    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    join: str
    kept: str
    initializers: tuple[str, ...]


def kept_channels(channels: int, ratio: float, multiple: int = 1) -> int:
    """How many channels stay: at most all, at least one multiple, never more for a higher ratio.

    Args:
        channels: units in the group.
        ratio: share to remove, in ``[0, 1)``.
        multiple: what the runtime's kernels want; a group smaller than one multiple stays whole.

    Returns:
        ``round(channels * (1 - ratio))``, rounded up to the multiple. Rounding up is monotone in ``ratio``.
    """
    wanted = max(1, int(np.floor(channels * (1.0 - ratio) + 0.5)))
    return min(channels, -(-wanted // multiple) * multiple)
