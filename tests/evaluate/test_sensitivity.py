"""One choice at a time."""

import json
from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import CandidateError
from autocompress.core.plan import CompressionPlan
from autocompress.core.space import Choice
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.evaluate.sensitivity import sensitivities, single_change

CHOICES = (
    Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8", "int4")),
    Choice(name="ratio:g", kind="ratio", subject="g", options=(0.0, 0.25, 0.5, 0.75), ordered=True),
    Choice(name="importance", kind="importance", subject="importance", options=("l1", "l2")),
)


class Builder:
    """Damages the weight in proportion to what the plan takes away."""

    def __init__(self, runtime: Any, weight: Any) -> None:
        self.runtime, self.weight = runtime, weight
        self.plans: list[CompressionPlan] = []

    def __call__(self, plan: CompressionPlan) -> Any:
        self.plans.append(plan)
        damage = sum(32 - layer.weight_bits for layer in plan.layers.values()) / 100 + sum(plan.prune.values())
        noise = np.random.default_rng(1).normal(size=self.weight.shape).astype(np.float32)
        return self.runtime.build(self.weight + damage * noise)


@pytest.fixture
def build(runtime: Any, weight: Any) -> Builder:
    return Builder(runtime, weight)


def run(build: Builder, inputs: Any, **options: Any) -> dict[str, dict[str, float]]:
    reference = build.runtime.build(build.weight)
    return sensitivities(CHOICES, build=build, reference=reference, dataset=ArrayDataset([inputs]), **options)


def test_every_option_has_a_divergence_that_grows_with_the_damage(build: Builder, inputs: Any) -> None:
    found = run(build, inputs)
    assert set(found) == {"precision:a", "ratio:g"}
    assert found["precision:a"]["fp32"] == found["ratio:g"]["0.0"] == 0.0
    assert 0 < found["precision:a"]["int8"] < found["precision:a"]["int4"]
    assert 0 < found["ratio:g"]["0.25"] < found["ratio:g"]["0.5"] < found["ratio:g"]["0.75"]
    assert json.loads(json.dumps(found)) == found


def test_each_plan_changes_one_thing(build: Builder, inputs: Any) -> None:
    run(build, inputs)
    assert all(len(plan.layers) + len(plan.prune) == 1 for plan in build.plans)
    assert len(build.plans) == 5


def test_middles_come_first_so_that_a_spent_budget_knows_something_of_each(build: Builder, inputs: Any) -> None:
    run(build, inputs)
    assert [(dict(p.prune), len(p.layers)) for p in build.plans[:2]] == [({}, 1), ({"g": 0.5}, 0)]


def test_a_spent_budget_stops_it(build: Builder, inputs: Any) -> None:
    run(build, inputs, budget_seconds=-1.0)
    assert build.plans == []


def test_it_reports_progress_and_stops_when_asked(build: Builder, inputs: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(build, inputs, on_progress=lambda *at: seen.append(at), should_stop=lambda: len(seen) == 3)
    assert seen == [(1, 7), (2, 7), (3, 7)]


def test_only_a_few_samples_are_run(build: Builder, inputs: Any) -> None:
    reference = build.runtime.build(build.weight)
    sensitivities(CHOICES, build=build, reference=reference, dataset=ArrayDataset([inputs]), samples=40, batch_size=32)
    assert reference.batches == [32, 8]


def test_an_option_that_cannot_be_built_is_left_out(build: Builder, inputs: Any) -> None:
    def refuse(plan: CompressionPlan) -> Any:
        if plan.prune:
            raise CandidateError("prune", "no")
        return build(plan)

    reference = build.runtime.build(build.weight)
    found = sensitivities(CHOICES, build=refuse, reference=reference, dataset=ArrayDataset([inputs]))
    assert list(found["ratio:g"]) == ["0.0"]
    assert len(found["precision:a"]) == 3


def test_other_choices_have_no_sensitivity() -> None:
    with pytest.raises(ValueError, match="importance"):
        single_change(CHOICES[2], "l1")
