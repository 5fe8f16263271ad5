"""Healing in rising budgets, remembered by structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autocompress.compress.apply import Compressor
from autocompress.core.errors import Interrupted
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.reconstruct import Reconstruction
from autocompress.recover.staged import StagedHealing

HEALING = DistillationPlan(reconstruct=False, steps=16, learning_rate=0.02, batch_size=16)
PLAN = CompressionPlan(prune={"*": 0.5}, distillation=HEALING)
Same = Callable[[ModelGraph, ModelGraph], bool]


class Steps:
    """Asked at each step, so it counts them; says stop at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.count, self.stop_at = 0, stop_at

    def __call__(self) -> bool:
        self.count += 1
        return self.count == self.stop_at

    def since(self, before: int) -> int:
        return self.count - before


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def staged(small: ModelGraph, unlabelled: Any, steps: Steps) -> StagedHealing:
    return StagedHealing(small, unlabelled, threads=1, should_stop=steps)


@pytest.fixture
def make(small: ModelGraph, unlabelled: Any) -> Callable[[], StagedHealing]:
    return lambda: StagedHealing(small, unlabelled, threads=1)


def test_it_continues_from_a_quarter_to_the_whole(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph, make: Any, same_weights: Same
) -> None:
    staged.heal(small_pruned, PLAN, 0.25)
    assert steps.count == 4
    whole = staged.heal(small_pruned, PLAN, 1.0)
    assert steps.count == 16
    assert same_weights(whole, make().heal(small_pruned, PLAN))


def test_plans_that_differ_in_bits_only_are_trained_once(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph
) -> None:
    first = staged.heal(small_pruned, PLAN, 0.25)
    bits = PLAN.replace(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    assert staged.heal(small_pruned, bits, 0.25) is first
    assert steps.count == 4


def test_every_budget_of_a_structure_is_remembered(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph
) -> None:
    quarter, whole = (staged.heal(small_pruned, PLAN, share) for share in (0.25, 1.0))
    before = steps.count
    assert staged.heal(small_pruned, PLAN, 0.25) is quarter
    assert staged.heal(small_pruned, PLAN, 1.0) is whole
    assert steps.count == before


@pytest.mark.parametrize("shares", [(0.25, 0.5, 0.375), (0.5, 0.25, 1.0), (0.25, 1.0, 0.5), (0.5, 0.25, 0.375)])
def test_budgets_in_any_order_give_what_each_gives_alone(
    staged: StagedHealing, small_pruned: ModelGraph, make: Any, shares: tuple[float, ...], same_weights: Same
) -> None:
    found = [staged.heal(small_pruned, PLAN, share) for share in shares]
    for share, graph in zip(shares, found, strict=True):
        assert same_weights(graph, make().heal(small_pruned, PLAN, share))


def test_another_way_to_heal_is_trained_anew(staged: StagedHealing, steps: Steps, small_pruned: ModelGraph) -> None:
    staged.heal(small_pruned, PLAN, 0.25)
    hotter = PLAN.replace(distillation=replace(HEALING, temperature=4.0))
    staged.heal(small_pruned, hotter, 0.25)
    assert steps.count == 8


def test_no_steps_refit_in_closed_form_only(
    staged: StagedHealing,
    steps: Steps,
    small: ModelGraph,
    small_pruned: ModelGraph,
    unlabelled: Any,
    same_weights: Same,
) -> None:
    plan = CompressionPlan(prune={"*": 0.5})
    found = staged.heal(small_pruned, plan)
    assert same_weights(found, Reconstruction(small, unlabelled, threads=1).refit(small_pruned, {}))
    assert staged.heal(small_pruned, plan) is found


def test_a_plan_that_does_not_refit_gets_new_statistics_only(
    staged: StagedHealing, small_pruned: ModelGraph, unlabelled: Any, same_weights: Same
) -> None:
    plan = CompressionPlan(prune={"*": 0.5}, distillation=DistillationPlan(reconstruct=False))
    assert same_weights(staged.heal(small_pruned, plan), reestimate_batch_norm(small_pruned, unlabelled))


def test_training_begins_at_the_refitted_network(
    staged: StagedHealing, small_pruned: ModelGraph, same_weights: Same
) -> None:
    refitted = staged.heal(small_pruned, CompressionPlan(prune={"*": 0.5}))
    both = PLAN.replace(distillation=replace(HEALING, reconstruct=True))
    assert same_weights(staged.heal(small_pruned, both), staged.heal(refitted, PLAN))


def test_a_refit_stops_too(staged: StagedHealing, steps: Steps, small_pruned: ModelGraph) -> None:
    steps.stop_at = 3
    with pytest.raises(Interrupted):
        staged.heal(small_pruned, CompressionPlan(prune={"*": 0.5}))


def test_the_structure_used_longest_ago_is_forgotten(small: ModelGraph, small_pruned: ModelGraph, data: Any) -> None:
    staged = StagedHealing(small, data, threads=1, capacity=2)
    healing = DistillationPlan(steps=1, batch_size=16)
    plans = [
        CompressionPlan(prune={"*": 0.5}, importance=name, distillation=healing) for name in ("l1", "l2", "random")
    ]
    first, second = (staged.heal(small_pruned, plan) for plan in plans[:2])
    assert staged.heal(small_pruned, plans[0]) is first
    staged.heal(small_pruned, plans[2])
    assert staged.heal(small_pruned, plans[0]) is first
    assert staged.heal(small_pruned, plans[1]) is not second


def test_should_stop_stops_and_what_was_healed_before_is_kept(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph, make: Any, same_weights: Same
) -> None:
    quarter = staged.heal(small_pruned, PLAN, 0.25)
    steps.stop_at = 10
    with pytest.raises(Interrupted):
        staged.heal(small_pruned, PLAN, 1.0)
    assert staged.heal(small_pruned, PLAN, 0.25) is quarter
    before = steps.count
    whole = staged.heal(small_pruned, PLAN, 1.0)
    assert steps.since(before) == 12
    assert same_weights(whole, make().heal(small_pruned, PLAN))


def test_labels_are_never_read(small: ModelGraph, small_pruned: ModelGraph, data: Any) -> None:
    StagedHealing(small, data, threads=1).heal(small_pruned, PLAN, 0.25)
    assert data.asked


def test_factors_of_low_rank_are_trained(small: ModelGraph, make: Any) -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(rank=RankPlan(ratio=0.25))}, distillation=HEALING)
    compressor = Compressor(small)
    thin = compressor.pruned(plan)
    factors = [f"{name}.weight" for item in compressor.ranks(plan).values() for name in item.factors]
    assert factors
    healed = make().heal(thin, plan)
    assert all((healed.initializers[name] != thin.initializers[name]).any() for name in factors)
    assert healed.initializers.keys() == thin.initializers.keys()


def test_another_rank_is_another_structure(staged: StagedHealing, steps: Steps, small_pruned: ModelGraph) -> None:
    staged.heal(small_pruned, PLAN, 0.25)
    staged.heal(small_pruned, PLAN.replace(layers={"*": LayerPlan(rank=RankPlan(ratio=0.25))}), 0.25)
    assert steps.count == 8


@pytest.mark.parametrize("length", [40, 32])
def test_a_longer_plan_goes_on_from_where_the_rate_of_a_shorter_one_began_to_fall(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph, make: Any, same_weights: Same, length: int
) -> None:
    """The stable part of 16 steps has 10: a quarter of 40 is there, a quarter of 32 looks at two steps more."""
    staged.heal(small_pruned, PLAN)
    longer = PLAN.replace(distillation=replace(HEALING, steps=length))
    before = steps.count
    quarter = staged.heal(small_pruned, longer, 0.25)
    assert steps.since(before) == 0
    assert same_weights(quarter, make().heal(small_pruned, longer, 10 / length))
    whole = staged.heal(small_pruned, longer)
    assert steps.since(before) == length - 10
    assert same_weights(whole, make().heal(small_pruned, longer))


def test_a_shorter_plan_after_a_longer_one_is_trained_from_the_start(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph, make: Any, same_weights: Same
) -> None:
    staged.heal(small_pruned, PLAN.replace(distillation=replace(HEALING, steps=40)))
    before = steps.count
    found = staged.heal(small_pruned, PLAN)
    assert steps.since(before) == 16
    assert same_weights(found, make().heal(small_pruned, PLAN))


def test_trained_weights_are_forgotten_while_they_are_too_large(
    small: ModelGraph,
    unlabelled: Any,
    steps: Steps,
    small_pruned: ModelGraph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autocompress.recover.staged.memory_bytes", lambda: 1)
    staged = StagedHealing(small, unlabelled, threads=1, should_stop=steps)
    quarter = staged.heal(small_pruned, PLAN, 0.25)
    # The last one stays.
    assert staged.heal(small_pruned, PLAN, 0.25) is quarter
    staged.heal(small_pruned, PLAN.replace(importance="random"), 0.25)
    before = steps.count
    staged.heal(small_pruned, PLAN, 0.25)
    assert steps.since(before) == 4


def test_where_memory_is_not_known_nothing_is_forgotten_for_it(
    small: ModelGraph, unlabelled: Any, steps: Steps, small_pruned: ModelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.recover.staged.memory_bytes", lambda: 0)
    staged = StagedHealing(small, unlabelled, threads=1, should_stop=steps)
    staged.heal(small_pruned, PLAN, 0.25)
    staged.heal(small_pruned, PLAN.replace(importance="random"), 0.25)
    before = steps.count
    staged.heal(small_pruned, PLAN, 0.25)
    assert steps.since(before) == 0


def test_one_sample_a_step_is_trained_from_the_start_every_time(
    staged: StagedHealing, steps: Steps, small_pruned: ModelGraph, make: Any, same_weights: Same
) -> None:
    alone = PLAN.replace(distillation=replace(HEALING, batch_size=1, steps=4))
    staged.heal(small_pruned, alone, 0.5)
    before = steps.count
    whole = staged.heal(small_pruned, alone)
    assert steps.since(before) == 4
    assert same_weights(whole, make().heal(small_pruned, alone))
