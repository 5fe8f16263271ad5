"""What a run has learnt about training."""

from __future__ import annotations

from collections.abc import Callable

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
