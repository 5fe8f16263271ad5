"""What every importance needs: the parts of a group's arrays that belong to each unit, and one score from several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.layer import GroupMember, PruneGroup, Role

Score = NDArray[np.float64]
Scores = dict[str, Score]


def of_role(group: PruneGroup, role: Role) -> Iterator[GroupMember]:
    """A group's members of one role: ``out`` makes the channels, ``in`` reads them, ``scale`` scales them."""
    return (member for member in group.members if member.role == role)


def sum_by_unit(array: NDArray[Any], member: GroupMember) -> Score:
    """``(channels,)`` sums of the entries that belong to each unit."""
    others = tuple(axis for axis in range(array.ndim) if axis != member.axis)
    entries = array.sum(axis=others, dtype=np.float64)
    result: Score = entries[member.indices].sum(axis=1)
    return result


def rows_by_unit(array: NDArray[Any], member: GroupMember) -> NDArray[Any]:
    """``(channels, entries)``: everything that belongs to each unit, as one vector a unit."""
    entries = np.moveaxis(array, member.axis, 0)[member.indices]
    return entries.reshape(len(member.indices), -1)


def aggregate(scores: Sequence[Score], aggregation: str) -> Score:
    """One ``(channels,)`` score from those of a group's coupled members: ``sum``, ``mean`` or ``max``."""
    joined: Score = _AGGREGATIONS[aggregation](np.stack(scores), axis=0)
    return joined


def normalized(score: Score) -> Score:
    """Scaled to a mean of one; zeros stay."""
    mean = float(score.mean())
    return score / mean if mean > 0 else score


_AGGREGATIONS: dict[str, Any] = {"sum": np.sum, "mean": np.mean, "max": np.max}
