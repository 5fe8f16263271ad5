"""Healing against the uncompressed graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autocompress.compress.apply import Compressor
from autocompress.core.errors import CandidateError, Interrupted, UnknownNameError
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.evaluate.data import DataBundle
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.distill import Distiller, HealResult
from autocompress.recover.losses import kl_divergence

PLAN = DistillationPlan(steps=20, learning_rate=0.02, batch_size=16)
Same = Callable[[ModelGraph, ModelGraph], bool]


@pytest.fixture(params=["sgd", "adamw"])
def optimizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def distiller(small: ModelGraph, unlabelled: Any) -> Distiller:
    return Distiller(small, unlabelled, threads=1)


def divergence(graph: ModelGraph, teacher: ModelGraph, images: Any) -> float:
    x = torch.from_numpy(images)
    with torch.no_grad():
        return float(kl_divergence(graph.to_torch().eval()(x), teacher.to_torch().eval()(x), 1.0))


def test_healing_lowers_the_divergence_from_the_teacher(
    distiller: Distiller, optimizer: str, small: ModelGraph, small_pruned: ModelGraph, images: Any, unlabelled: Any
) -> None:
    plan = DistillationPlan(steps=60, learning_rate=0.02, batch_size=16)
    healed = Distiller(small, unlabelled, threads=1, optimizer=optimizer).heal(small_pruned, plan, steps=60)
    before = divergence(reestimate_batch_norm(small_pruned, unlabelled), small, images)
    assert divergence(healed.graph, small, images) < 0.6 * before


@pytest.mark.slow
def test_healing_raises_the_accuracy_of_a_pruned_demo(demo: ModelGraph, demo_data: DataBundle) -> None:
    pruned = Compressor(demo).pruned(CompressionPlan(prune={"*": 0.5}))
    distiller = Distiller(demo, demo_data.train, copies=1, threads=1)
    inputs, labels = demo_data.validation.batch(range(400))
    accuracies = []
    for steps in (0, 40):
        healed = distiller.heal(pruned, DistillationPlan(steps=steps, learning_rate=0.02), steps=steps).graph
        with torch.no_grad():
            found = healed.to_torch().eval()(torch.from_numpy(inputs[0])).argmax(1).numpy()
        accuracies.append((found == labels).mean())
    assert accuracies[1] > accuracies[0] + 0.2


def test_structure_and_inputs_stay_and_the_pruned_graph_is_not_changed(
    distiller: Distiller, small_pruned: ModelGraph
) -> None:
    before = small_pruned.digest
    healed = distiller.heal(small_pruned, PLAN, steps=3).graph
    assert {n: a.shape for n, a in healed.initializers.items()} == {
        n: a.shape for n, a in small_pruned.initializers.items()
    }
    assert ModelGraph(small_pruned.model).digest == before != healed.digest


def test_no_steps_re_estimate_batch_normalization_only(
    distiller: Distiller, small_pruned: ModelGraph, unlabelled: Any, same_weights: Same
) -> None:
    found = distiller.heal(small_pruned, DistillationPlan(), steps=0)
    assert found.loss is None
    assert same_weights(found.graph, reestimate_batch_norm(small_pruned, unlabelled))


def test_statistics_are_those_of_the_data_as_they_are_not_of_mixtures(
    distiller: Distiller, small_pruned: ModelGraph, unlabelled: Any, same_weights: Same
) -> None:
    found = distiller.heal(small_pruned, PLAN, steps=5).graph
    assert same_weights(found, reestimate_batch_norm(found, unlabelled))


@pytest.mark.parametrize("bfloat16", [True, False])
def test_two_halves_are_one_whole(
    small: ModelGraph, small_pruned: ModelGraph, unlabelled: Any, optimizer: str, bfloat16: bool, same_weights: Same
) -> None:
    def make() -> Distiller:
        return Distiller(small, unlabelled, threads=1, optimizer=optimizer, bfloat16=bfloat16)

    whole = make().heal(small_pruned, PLAN, steps=20)
    again = make()
    half = again.heal(small_pruned, PLAN, steps=8)
    rest = again.heal(half.graph, PLAN, steps=12, start_step=half.state.step, state=half.state)
    assert rest.state.step == whole.state.step == 20
    assert same_weights(rest.graph, whole.graph)


def test_a_state_can_be_continued_more_than_once(
    small: ModelGraph, small_pruned: ModelGraph, optimizer: str, unlabelled: Any, same_weights: Same
) -> None:
    distiller = Distiller(small, unlabelled, threads=1, optimizer=optimizer)
    half = distiller.heal(small_pruned, PLAN, steps=8)

    def rest() -> HealResult:
        return distiller.heal(half.graph, PLAN, steps=6, start_step=8, state=half.state)

    assert same_weights(rest().graph, rest().graph)


def test_the_same_seed_gives_the_same_weights_and_another_others(
    small: ModelGraph, small_pruned: ModelGraph, unlabelled: Any, same_weights: Same
) -> None:
    first, second, other = (
        Distiller(small, unlabelled, threads=1, seed=seed).heal(small_pruned, PLAN, steps=5).graph for seed in (0, 0, 1)
    )
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_what_a_distiller_healed_before_does_not_matter(
    distiller: Distiller, small: ModelGraph, small_pruned: ModelGraph, unlabelled: Any, same_weights: Same
) -> None:
    distiller.heal(small, PLAN, steps=7)
    fresh = Distiller(small, unlabelled, threads=1).heal(small_pruned, PLAN, steps=5)
    assert same_weights(distiller.heal(small_pruned, PLAN, steps=5).graph, fresh.graph)


def test_the_loss_is_the_mean_over_the_last_steps(distiller: Distiller, small_pruned: ModelGraph) -> None:
    early, late = (distiller.heal(small_pruned, PLAN, steps=steps).loss for steps in (2, 20))
    assert early is not None and late is not None
    assert 0 < late < early


def test_labels_are_never_read(small: ModelGraph, small_pruned: ModelGraph, data: Any) -> None:
    distiller = Distiller(small, data, threads=1)
    assert distiller.heal(small_pruned, PLAN, steps=3).loss is not None
    assert data.asked


def test_a_fixed_batch_is_kept_to(small_fixed: ModelGraph, unlabelled: Any, images: Any) -> None:
    pruned = Compressor(small_fixed).pruned(CompressionPlan(prune={"*": 0.5}))
    healed = Distiller(small_fixed, unlabelled, threads=1).heal(pruned, PLAN, steps=20).graph
    assert healed.input_specs == small_fixed.input_specs
    before = divergence(reestimate_batch_norm(pruned, unlabelled), small_fixed, images[:4])
    assert divergence(healed, small_fixed, images[:4]) < before


def test_a_fixed_batch_of_one_trains_with_the_statistics_it_has(small_one: ModelGraph, unlabelled: Any) -> None:
    found = Distiller(small_one, unlabelled, threads=1, statistics_samples=20).heal(small_one, PLAN, steps=3)
    assert found.loss is not None
    assert all(np.isfinite(array).all() for array in found.graph.initializers.values())


def test_should_stop_is_asked_before_each_step_and_stops(distiller: Distiller, small_pruned: ModelGraph) -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(len(asked) == 3)
        return asked[-1]

    with pytest.raises(Interrupted, match="healing stopped at step 3 of 20"):
        distiller.heal(small_pruned, PLAN, steps=20, should_stop=should_stop)
    assert len(asked) == 4


def test_a_loss_that_is_not_finite_fails_the_candidate(distiller: Distiller, small_pruned: ModelGraph) -> None:
    plan = DistillationPlan(steps=10, learning_rate=1e30, batch_size=16)
    with pytest.raises(CandidateError, match=r"heal: the loss is (nan|inf) at step \d \(learning rate 1e\+30\)"):
        distiller.heal(small_pruned, plan, steps=10)


def test_torchs_threads_are_as_before_even_after_a_failure(distiller: Distiller, small_pruned: ModelGraph) -> None:
    torch.set_num_threads(2)
    distiller.heal(small_pruned, PLAN, steps=1)
    assert torch.get_num_threads() == 2
    with pytest.raises(Interrupted):
        distiller.heal(small_pruned, PLAN, steps=1, should_stop=lambda: True)
    assert torch.get_num_threads() == 2


def test_an_unknown_optimizer_names_the_nearest(small: ModelGraph, unlabelled: Any) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'adamw'"):
        Distiller(small, unlabelled, optimizer="adam")
