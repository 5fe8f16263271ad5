"""What every importance has in common: one score a unit, bounded reading, the same for the same seed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.importance import channel_scores
from autocompress.compress.prune import select_kept
from autocompress.core.errors import DataError, PlanError, UnknownNameError
from autocompress.core.plan import AGGREGATIONS, IMPORTANCES, CompressionPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

READS = ("taylor", "fisher", "activation_mean", "apoz", "mixed")


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def scaled(score: NDArray[Any]) -> NDArray[Any]:
    return score / score.mean()


@pytest.mark.parametrize("method", IMPORTANCES)
@pytest.mark.parametrize("aggregation", [None, *AGGREGATIONS])
def test_scores_are_one_on_average_and_leave_blocked_groups_out(
    method: str, aggregation: str | None, normed: ModelGraph, small_data: ArrayDataset
) -> None:
    scores = channel_scores(normed, normed.groups(), method, dataset=small_data, aggregation=aggregation)
    assert {name: score.shape for name, score in scores.items()} == {"a": (12,), "fc": (6,)}
    for score in scores.values():
        assert score.mean() == pytest.approx(1)
        assert (score >= 0).all()


@pytest.mark.parametrize("method", IMPORTANCES)
def test_a_higher_ratio_keeps_a_part_of_what_a_lower_one_keeps(
    method: str, normed: ModelGraph, small_data: ArrayDataset
) -> None:
    scores = channel_scores(normed, normed.groups(), method, dataset=small_data)
    kept = [
        set(select_kept(normed.groups(), scores, CompressionPlan(prune={"a": ratio}))["a"].tolist())
        for ratio in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert all(more > fewer for more, fewer in itertools.pairwise(kept))


def test_random_scores_come_from_the_generator_alone(small: ModelGraph) -> None:
    first, second, other = (channel_scores(small, small.groups(), "random", rng=rng(seed))["a"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, scaled(rng(1).random(16)))
    assert (first != other).any()


def test_an_unknown_importance_gets_the_nearest_name(small: ModelGraph) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'taylor'"):
        channel_scores(small, small.groups(), "tailor")


def test_an_unknown_aggregation_gets_the_nearest_name(small: ModelGraph) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        channel_scores(small, small.groups(), "l1", aggregation="mena")


@pytest.mark.parametrize("method", [name for name in READS if name != "mixed"])
def test_a_method_that_reads_says_what_to_do_without_data(method: str, small: ModelGraph) -> None:
    with pytest.raises(PlanError, match=f"Importance '{method}' needs data: give --data, or use 'l1' or 'l2'"):
        channel_scores(small, small.groups(), method)


@pytest.mark.parametrize("method", READS)
def test_a_method_that_reads_refuses_an_empty_data_set(method: str, normed: ModelGraph, samples: Any) -> None:
    with pytest.raises(DataError, match="Importance needs data, but 'samples' is empty"):
        channel_scores(normed, normed.groups(), method, dataset=samples(np.zeros((0, 3, 8, 8), np.float32)))


@pytest.mark.parametrize("method", READS)
def test_so_many_samples_are_read_each_once(
    method: str, normed: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    data = samples(images)
    channel_scores(normed, normed.groups(), method, dataset=data, samples=20)
    assert len(data.read) == len(set(data.read)) == 20


@pytest.mark.parametrize("method", READS)
def test_scores_are_the_same_for_the_same_generator(method: str, normed: ModelGraph, small_data: ArrayDataset) -> None:
    first, second = (
        channel_scores(normed, normed.groups(), method, dataset=small_data, rng=rng(5), samples=20)["a"]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", READS)
def test_a_fixed_batch_is_kept_to(method: str, fixed: ModelGraph, images: NDArray[np.float32], samples: Any) -> None:
    data = samples(images)
    channel_scores(fixed, fixed.groups(), method, dataset=data, samples=20)
    assert len(data.read) == 18
    with pytest.raises(DataError, match="batches of 6, but there are only 5 samples"):
        channel_scores(fixed, fixed.groups(), method, dataset=samples(images[:5]))


@pytest.mark.parametrize("method", IMPORTANCES)
def test_scoring_leaves_the_graph_as_it_was(method: str, normed: ModelGraph, small_data: ArrayDataset) -> None:
    before = normed.to_bytes()
    channel_scores(normed, normed.groups(), method, dataset=small_data)
    assert normed.to_bytes() == before


@pytest.mark.parametrize("method", ["taylor", "fisher", "bn_scale", "apoz", "geometric_median"])
def test_every_group_of_the_demo_is_scored(method: str, demo: ModelGraph, demo_data: Any) -> None:
    scores = channel_scores(demo, demo.groups(), method, dataset=demo_data.train, samples=16)
    assert {name: score.size for name, score in scores.items()} == {
        group.name: group.channels for group in demo.groups() if group.prunable
    }
    assert all((score > 0).any() for score in scores.values())


def test_mixed_picks_by_the_kind_of_layer(net: Any, small_data: ArrayDataset) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.batch_norm(made.conv("x", "a", 12, 3), "a_norm", 12)], "a_relu")
    made.node("Relu", [made.conv("a_relu", "b", 10, 12)], "b_relu")
    made.node("Flatten", [made.node("GlobalAveragePool", ["b_relu"], "pool")], "flat")
    made.node("Relu", [made.gemm("flat", "fc", 6, 10)], "fc_relu")
    made.gemm("fc_relu", "out", 5, 6)
    graph = made.graph("out")
    found = channel_scores(graph, graph.groups(), "mixed", dataset=small_data)
    for group, method in (("b", "geometric_median"), ("fc", "l2"), ("a", "taylor")):
        alone = [item for item in graph.groups() if item.name == group]
        wanted = channel_scores(graph, alone, method, dataset=small_data)
        np.testing.assert_allclose(found[group], wanted[group], rtol=1e-5)


def test_mixed_needs_no_data_without_batch_normalization(small: ModelGraph) -> None:
    wanted = channel_scores(small, small.groups(), "geometric_median")["a"]
    np.testing.assert_array_equal(channel_scores(small, small.groups(), "mixed")["a"], wanted)
