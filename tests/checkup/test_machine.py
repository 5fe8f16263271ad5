"""What short comparisons on a busy machine are made of."""

from __future__ import annotations

from typing import Any

from autocompress.checkup.machine import timer
from autocompress.measure.self_comparison import summary


def run(low: float, ratio: float, high: float, *, rounds_kept: int = 9) -> dict[str, Any]:
    interval = [low, high, 0.95]
    return {"ratio": ratio, "ratio_interval": interval, "calm": True, "kept_share": 0.5, "rounds_kept": rounds_kept}


def test_few_runs_bound_the_share_of_false_alarms() -> None:
    found = timer(summary([run(0.99, 1.0, 1.01)] * 6))
    assert found.ok
    # Wilson's interval of 0 in 6 ends at 39%.
    assert "in 0% (at most 39% at 95%: 6 runs tell no more)" in found.found


def test_runs_with_too_few_calm_rounds_cannot_tell() -> None:
    found = timer(summary([run(0.5, 1.3, 2.0, rounds_kept=2)] * 5 + [run(0.99, 1.0, 1.01)]))
    assert not found.ok
    assert found.found.startswith("cannot tell: 5 of 6 comparisons of 1 s kept too few calm rounds")
    assert "--aa --runs 35" in found.advice


def test_differences_where_there_are_none_are_told() -> None:
    found = timer(summary([run(1.01, 1.02, 1.03)] * 3 + [run(0.99, 1.0, 1.01)] * 3))
    assert not found.ok and "a difference of 1% or more in 50%" in found.found
