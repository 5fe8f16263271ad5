"""What a quality may become by training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from autocompress.core.objective import Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Trial
from autocompress.search.aim import Aim
from autocompress.search.hope import hope_of

QUALITY = Objective(metric="accuracy")
SPACE = SearchSpace(
    choices=(
        Choice(name="distillation:steps", kind="distillation", subject="steps", options=(0, 40, 160), ordered=True),
    )
)


class Store:
    def __init__(self, *trials: Trial) -> None:
        self.items = list(trials)

    def append(self, trial: Trial) -> None:
        self.items.append(trial)

    def trials(self) -> Sequence[Trial]:
        return tuple(self.items)


def _plan(steps: int) -> CompressionPlan:
    return CompressionPlan(prune={"a": 0.5}, distillation=DistillationPlan(steps=steps))


def test_what_can_be_trained_for_longer_may_become_better(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.95, plan=CompressionPlan())
    hope = hope_of(SPACE, Store(baseline), QUALITY, ())
    gaps = [hope(_plan(steps), 0.03) for steps in (0, 40, 160, 320)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.01
    assert gaps[-1] == 0.03
    assert gaps[0] == pytest.approx(Aim.of([baseline], QUALITY, ()).hoped(0.03, 0, (40, 160, 320)))


def test_what_stays_far_from_the_loss_allowed_is_judged_as_it_is(trial_factory: Callable[..., Trial]) -> None:
    hope = hope_of(SPACE, Store(trial_factory(0, accuracy=0.95, plan=CompressionPlan())), QUALITY, ())
    assert hope(_plan(0), 0.4) == 0.4
    assert hope(_plan(0), 0.08) < 0.02


def test_what_is_never_trained_stays_as_it_is(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.95, plan=CompressionPlan())
    assert hope_of(SPACE, Store(baseline), QUALITY, ())(CompressionPlan(), 0.03) == 0.03
    assert hope_of(SearchSpace(choices=()), Store(baseline), QUALITY, ())(_plan(0), 0.03) == 0.03
    assert hope_of(SPACE, Store(), QUALITY, ())(_plan(0), 0.03) == 0.03
