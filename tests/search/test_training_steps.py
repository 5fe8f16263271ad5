"""The numbers of training steps that trials climb."""

from __future__ import annotations

from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.search.training_steps import TrainingSteps

CHOICE = Choice(name="distillation:steps", kind="distillation", subject="steps", options=(0, 40, 160), ordered=True)
STEPS = TrainingSteps(CHOICE)


def _plan(steps: int) -> CompressionPlan:
    return CompressionPlan(prune={"a": 0.5}, distillation=DistillationPlan(steps=steps))


def test_a_space_without_training_has_none() -> None:
    assert TrainingSteps.of(SearchSpace(choices=())) is None
    assert TrainingSteps.of(SearchSpace(choices=(CHOICE,))) == STEPS


def test_steps_are_climbed_one_by_one_and_once_past_the_space() -> None:
    assert [STEPS.lengths(_plan(steps)) for steps in (0, 40, 100, 160)] == [(40, 160), (160,), (160,), ()]
    assert [STEPS.lengths(_plan(steps), beyond=True) for steps in (40, 160, 320)] == [(160, 320), (320,), ()]
    assert STEPS.lengths(CompressionPlan()) == ()
