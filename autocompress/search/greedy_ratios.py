"""Prune ratios that save a share of a cost at the least sensitivity, found step by step."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

from autocompress.core.space import Choice

#: A choice's prune ratio by its name; what is not named stays whole.
Ratios = Mapping[str, float]


def least_sensitive(
    goals: Sequence[float],
    choices: Sequence[Choice],
    sensitivities: Mapping[str, Mapping[str, float]],
    saved: Callable[[Ratios], float],
) -> dict[float, dict[str, float]]:
    """Ratios for each saving that can be reached; the step that costs the least KL for what it saves comes next.

    Args:
        goals: shares of the cost to save.
        choices: of prune ratios.
        sensitivities: choice name to ``str(option)`` to KL of the outputs; options without one are not taken.
        saved: share of the cost that ratios save.

    Returns:
        Goal to the ratios above 0, in the order of ``goals``.
    """
    known = {c.name: c for c in choices if len(sensitivities.get(c.name, {})) > 1}
    harms = {name: {float(option): kl for option, kl in sensitivities[name].items()} for name in known}
    current: dict[str, float] = dict.fromkeys(known, 0.0)
    reached: dict[float, dict[str, float]] = {}
    now = 0.0
    # By what a step cost for what it saved when it was last asked; only the best is asked again.
    queue = [(-math.inf, name, float(option)) for name, c in known.items() for option in c.options if float(option) > 0]
    idle: list[tuple[float, str, float]] = []
    heapq.heapify(queue)
    while queue and len(reached) < len(goals):
        stale, name, ratio = heapq.heappop(queue)
        harm = _harm(harms[name], ratio, current[name])
        if harm is None:
            continue
        gain = saved({**current, name: ratio}) - now
        if gain <= 0:
            # It may save something once others are taken.
            idle.append((-math.inf, name, ratio))
            continue
        price = harm / gain
        if price > stale and queue and price > queue[0][0]:
            heapq.heappush(queue, (price, name, ratio))
            continue
        current[name], now = ratio, now + gain
        for waiting in idle:
            heapq.heappush(queue, waiting)
        idle.clear()
        for goal in goals:
            if now >= goal and goal not in reached:
                reached[goal] = {name: ratio for name, ratio in current.items() if ratio > 0}
    return {goal: reached[goal] for goal in goals if goal in reached}


def _harm(known: Mapping[float, float], ratio: float, before: float) -> float | None:
    """The KL that a wider step adds; None where it is no step, or not known."""
    if ratio <= before or ratio not in known:
        return None
    # A noisy reading may fall; a step never counts as winning quality back.
    return max(known[ratio] - known.get(before, 0.0), 0.0)
