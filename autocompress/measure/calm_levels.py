"""The levels at which a reference ran beside earlier comparisons that were calm."""

from __future__ import annotations

import statistics
from collections import deque

from autocompress.core.measurement import PairedTiming

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

    def note(self, timing: PairedTiming) -> None:
        """Take note of a comparison with the reference."""
        if timing.details.get("calm"):
            self._levels.append(float(statistics.median(timing.kept_reference_ms)))
            self._strangers = 0
            return
        # A slower clock never comes back to the old level; a neighbour's spells disagree in themselves now and then.
        self._strangers = self._strangers + 1 if timing.details.get("steady") else 0
        if self._strangers >= STRANGERS:
            self._levels.clear()
            self._strangers = 0
