"""The levels at which a reference ran beside earlier comparisons that were calm."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autocompress.core.measurement import TimingPolicy
from autocompress.measure.calm_blocks import highest_calm_ms

#: How many levels are remembered; older ones are forgotten as the machine warms up.
CALM_MEMORY = 16
#: After so many comparisons in a row that agree in themselves at a higher level, that is how fast the machine is now.
STRANGERS = 8


class CalmLevels:
    """What one reference's comparisons have shown of the calm machine."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=CALM_MEMORY)
        self._strangers = 0

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def lowest_ms(self) -> float | None:
        """The calm level as far as it is known, milliseconds; None before the first calm comparison."""
        return min(self._levels, default=None)

    def known_to(self, policy: TimingPolicy) -> TimingPolicy:
        """The policy with the lower of the level that it knows and the one known here."""
        known = [level for level in (policy.calm_ms, self.lowest_ms) if level is not None]
        return replace(policy, calm_ms=min(known, default=None))

    def note(self, kept_ms: Sequence[float], details: Mapping[str, Any]) -> None:
        """Take note of a comparison with the reference.

        Args:
            kept_ms: milliseconds of the reference in the blocks that count.
            details: of the comparison, see :func:`autocompress.measure.rounds.compare`.
        """
        if details.get("calm"):
            self._levels.append(float(statistics.median(kept_ms)))
            self._strangers = 0
            return
        # A slower clock never comes back to the old level; a neighbour's spells disagree in themselves now and then.
        self._strangers = self._strangers + 1 if details.get("steady") else 0
        if self._strangers >= STRANGERS:
            self._levels.clear()
            self._strangers = 0


def disturbance(details: Mapping[str, Any], levels: CalmLevels | None, policy: TimingPolicy) -> tuple[bool, float]:
    """How far a comparison is from calm as far as is known by now, for sorting.

    Args:
        details: of the comparison.
        levels: of its reference; None where others tell nothing of it: then only its own word counts.
        policy: of the comparison.

    Returns:
        Whether it was disturbed, and the level at which the reference ran, milliseconds.
    """
    if levels is None:
        return not details["calm"], 0.0
    level, known = float(details["calm_level_ms"]), levels.known_to(policy).calm_ms
    too_high = known is not None and level > highest_calm_ms(known, policy.calm_tolerance)
    return not details["calm"] or too_high, level
