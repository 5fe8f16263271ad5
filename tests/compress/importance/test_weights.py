"""Scores from weights against a computation of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.importance import channel_scores
from autocompress.core.errors import PlanError
from autocompress.graph.model_graph import ModelGraph

Arrays = dict[str, NDArray[Any]]


def weights_of(graph: ModelGraph) -> Arrays:
    return {name: np.asarray(array) for name, array in graph.initializers.items()}


def scaled(score: NDArray[Any]) -> NDArray[Any]:
    return score / score.mean()


def test_l1_is_the_mean_over_coupled_layers_of_absolute_sums(small: ModelGraph) -> None:
    weights = weights_of(small)
    wanted = np.mean([np.abs(weights[name]).sum((1, 2, 3)) for name in ("a.weight", "b.weight")], axis=0)
    np.testing.assert_allclose(channel_scores(small, small.groups(), "l1")["a"], scaled(wanted), rtol=1e-5)


def test_l2_is_the_mean_over_coupled_layers_of_norms(small: ModelGraph) -> None:
    weights = weights_of(small)
    norms = [np.linalg.norm(weights[name].reshape(16, -1), axis=1) for name in ("a.weight", "b.weight")]
    wanted = np.mean(norms, axis=0)
    np.testing.assert_allclose(channel_scores(small, small.groups(), "l2")["a"], scaled(wanted), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_a_unit_of_several_filters_is_measured_by_all_of_them(order: int, net: Any) -> None:
    made = net(3, 8, 8)
    made.node("DepthToSpace", [made.conv("x", "a", 16, 3)], "d", blocksize=2)
    made.conv("d", "c", 5, 4)
    graph = made.graph("c")
    # The channel of a block of positions comes last in mode DCR: unit c is filters c, c + 4, c + 8, c + 12.
    flat = weights_of(graph)["a.weight"].reshape(4, 4, -1).transpose(1, 0, 2).reshape(4, -1)
    wanted = scaled(np.linalg.norm(flat, order, axis=1))
    np.testing.assert_allclose(channel_scores(graph, graph.groups(), f"l{order}")["a"], wanted, rtol=1e-5)


def test_columns_count_where_a_weight_is_stored_the_other_way(net: Any) -> None:
    made = net(6)
    made.node("MatMul", ["x", made.constant("a", made.normal(6, 8))], "h")
    made.node("MatMul", ["h", made.constant("b", made.normal(8, 2))], "y")
    graph = made.graph("y")
    wanted = scaled(np.abs(weights_of(graph)["a"]).sum(0))
    np.testing.assert_allclose(channel_scores(graph, graph.groups(), "l1")["a"], wanted, rtol=1e-5)


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_filters_of_zeros_score_nothing(method: str, small: ModelGraph) -> None:
    weights = weights_of(small)
    changed = {name: weights[name].copy() for name in ("a.weight", "b.weight")}
    for array in changed.values():
        array[4] = 0
    graph = small.with_initializers(changed)
    assert channel_scores(graph, graph.groups(), method)["a"][4] == 0
    empty = small.with_initializers({name: np.zeros_like(array) for name, array in changed.items()})
    np.testing.assert_array_equal(channel_scores(empty, empty.groups(), method)["a"], np.zeros(16))


def test_the_largest_of_coupled_layers_counts_where_asked(small: ModelGraph) -> None:
    weights = weights_of(small)
    norms = [np.abs(weights[name]).sum((1, 2, 3)) for name in ("a.weight", "b.weight")]
    found = channel_scores(small, small.groups(), "l1", aggregation="max")["a"]
    np.testing.assert_allclose(found, scaled(np.maximum(*norms)), rtol=1e-5)


@pytest.mark.parametrize("method", ["l1", "l2", "geometric_median"])
def test_sum_and_mean_rank_alike(method: str, small: ModelGraph) -> None:
    of_sum, of_mean = (
        channel_scores(small, small.groups(), method, aggregation=aggregation)["a"] for aggregation in ("sum", "mean")
    )
    np.testing.assert_allclose(of_sum, of_mean, rtol=1e-12)


def test_geometric_median_sums_the_distances_to_all_other_filters(small: ModelGraph) -> None:
    weights, wanted = weights_of(small), np.zeros(16)
    for name in ("a.weight", "b.weight"):
        rows = weights[name].reshape(16, -1).astype(np.float64)
        wanted += np.linalg.norm(rows[:, None] - rows, axis=2).sum(1)
    found = channel_scores(small, small.groups(), "geometric_median")["a"]
    np.testing.assert_allclose(found, scaled(wanted), rtol=1e-6)


def test_the_filter_in_the_middle_of_the_others_goes_first(net: Any) -> None:
    made = net(2)
    corners = np.array([[3, 0], [0, 3], [-3, 0], [0, -3], [0.1, 0]], np.float32)
    made.node("Gemm", ["x", made.constant("a.weight", corners)], "a", transB=1)
    made.gemm("a", "b", 2, 5)
    graph = made.graph("b")
    assert channel_scores(graph, graph.groups(), "geometric_median")["a"].argmin() == 4
    assert channel_scores(graph, graph.groups(), "l2")["a"].argmin() == 4


def test_equal_filters_are_at_no_distance(small: ModelGraph) -> None:
    weights = weights_of(small)
    same = {name: np.repeat(weights[name][:1], 16, axis=0) for name in ("a.weight", "b.weight")}
    graph = small.with_initializers(same)
    found = channel_scores(graph, graph.groups(), "geometric_median")["a"]
    np.testing.assert_allclose(found, np.zeros(16), atol=1e-6)


def test_bn_scale_is_the_mean_magnitude_of_coupled_factors(normed: ModelGraph) -> None:
    weights = weights_of(normed)
    wanted = np.abs(weights["a_norm.scale"]) + np.abs(weights["b_norm.scale"])
    np.testing.assert_allclose(channel_scores(normed, normed.groups(), "bn_scale")["a"], scaled(wanted), rtol=1e-6)


def test_bn_scale_is_l2_for_a_group_without(normed: ModelGraph) -> None:
    wanted = np.linalg.norm(weights_of(normed)["fc.weight"], axis=1)
    np.testing.assert_allclose(channel_scores(normed, normed.groups(), "bn_scale")["fc"], scaled(wanted), rtol=1e-5)


def test_bn_scale_is_refused_where_nothing_has_batch_normalization(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match=r"'bn_scale' needs BatchNormalization, .* use 'l2' or 'mixed'"):
        channel_scores(small, small.groups(), "bn_scale")


def test_a_factor_that_is_no_batch_normalization_is_not_read(net: Any) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 8, 3)
    made.node("Mul", ["a", made.constant("factor", made.normal(8, 1, 1))], "scaled")
    made.conv("scaled", "b", 4, 8)
    graph = made.graph("b")
    with pytest.raises(PlanError, match="needs BatchNormalization"):
        channel_scores(graph, graph.groups(), "bn_scale")


def test_lottery_scores_the_trained_magnitudes(small: ModelGraph) -> None:
    wanted = channel_scores(small, small.groups(), "l1")["a"]
    np.testing.assert_array_equal(channel_scores(small, small.groups(), "lottery")["a"], wanted)
