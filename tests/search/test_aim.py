"""What a run has learnt about training."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from autocompress.core.objective import Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.trial import Trial
from autocompress.search.aim import HOPED_LONGER, Aim


def _trained(steps: int, learning_rate: float) -> CompressionPlan:
    return CompressionPlan(prune={"a": 0.5}, distillation=DistillationPlan(steps=steps, learning_rate=learning_rate))


def test_another_way_of_training_as_long_teaches_nothing_of_training_longer(
    trial_factory: Callable[..., Trial],
) -> None:
    best = trial_factory(0, accuracy=0.95, plan=CompressionPlan())
    fast = trial_factory(1, accuracy=0.90, plan=_trained(80, 0.1))
    slow = trial_factory(2, accuracy=0.93, plan=_trained(80, 0.01))
    longer = trial_factory(3, accuracy=0.94, plan=_trained(240, 0.01))
    quality = Objective(metric="accuracy")
    assert Aim.of([best, fast, slow], quality, ()).longer == HOPED_LONGER
    assert Aim.of([best, fast, slow, longer], quality, ()).longer > HOPED_LONGER


QUALITY = Objective(metric="accuracy")
AIM = Aim(quality=QUALITY, best=-0.95, allowed=0.01, error=0.004, sure=0.006, first=0.8, longer=0.4)


def test_each_doubling_closes_as_much() -> None:
    """A small gap, of which training reaches nearly all."""
    assert AIM.hoped(1e-5, 40, [80]) == pytest.approx(0.6e-5, rel=1e-3)
    assert AIM.hoped(1e-5, 40, [160]) == pytest.approx(AIM.hoped(1e-5, 40, [80, 160]), rel=1e-3)
    for gap in (0.004, 0.05, 0.1):
        assert AIM.outlook(gap, 40, [640]) == pytest.approx(AIM.outlook(gap, 40, [80, 160, 320, 640]))
        assert AIM.hoped(gap, 40, [60]) > AIM.hoped(gap, 40, [80]) > AIM.hoped(gap, 40, [90])
    assert AIM.hoped(1e-5, 0, [40]) == pytest.approx(0.2e-5, rel=1e-3)
    assert AIM.hoped(0.02, 40, []) == 0.02


def test_training_closes_less_of_a_large_gap() -> None:
    shares = [1 - AIM.hoped(gap, 40, [80]) / gap for gap in (0.001, 0.05, 0.2)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.2


def test_a_share_is_learnt_whatever_the_lengths_it_was_seen_at(trial_factory: Callable[..., Trial]) -> None:
    """Half of each gap in every doubling, seen over one and over two of them."""
    best = trial_factory(0, accuracy=0.95, plan=CompressionPlan())
    for lengths, gaps in (((40, 80, 160), (0.012, 0.006, 0.003)), ((40, 160, 640), (0.012, 0.003, 0.00075))):
        trials = [
            trial_factory(i + 1, accuracy=0.95 - gap, plan=_trained(steps, 0.1))
            for i, (steps, gap) in enumerate(zip(lengths, gaps, strict=True))
        ]
        learnt = Aim.of([best, *trials], QUALITY, ()).longer
        assert HOPED_LONGER < learnt < 0.55


def test_what_is_unsure_stays_so_in_part() -> None:
    gap, once = AIM.outlook(0.1, 0, [40])
    _, twice = AIM.outlook(0.1, 0, [40, 160])
    _, alone = AIM.outlook(gap, 40, [160])
    assert 0 < alone < twice < math.hypot(once, alone)
    assert AIM.outlook(0.1, 0, []) == (0.1, 0.0)
