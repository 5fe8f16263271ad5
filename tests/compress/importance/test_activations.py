"""Scores from activations against a computation of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autocompress.compress.importance import channel_scores
from autocompress.graph.model_graph import ModelGraph


def scaled(score: NDArray[Any]) -> NDArray[Any]:
    return score / score.mean()


def read_values(graph: ModelGraph, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the two layers of ``small`` read that read the channels of its one group."""
    w = {name: torch.from_numpy(np.asarray(array)) for name, array in graph.initializers.items()}
    first = F.relu(F.conv2d(torch.from_numpy(x), w["a.weight"], w["a.bias"], padding=1))
    second = F.relu(F.conv2d(first, w["b.weight"], w["b.bias"], padding=1) + first)
    return first.numpy(), second.mean((2, 3)).numpy()


@pytest.mark.parametrize("aggregation", [None, "max"])
def test_activation_mean_is_the_mean_magnitude_of_what_layers_read(
    aggregation: str | None, small: ModelGraph, images: NDArray[np.float32], small_data: Any
) -> None:
    first, second = read_values(small, images)
    means = np.stack([np.abs(first).mean((0, 2, 3)), np.abs(second).mean(0)])
    wanted = means.max(0) if aggregation == "max" else means.mean(0)
    found = channel_scores(small, small.groups(), "activation_mean", dataset=small_data, aggregation=aggregation)["a"]
    np.testing.assert_allclose(found, scaled(wanted), rtol=1e-4)


def test_apoz_is_the_share_of_values_other_than_zero(
    small: ModelGraph, images: NDArray[np.float32], small_data: Any
) -> None:
    first, second = read_values(small, images)
    wanted = (first != 0).mean((0, 2, 3)) + (second != 0).mean(0)
    found = channel_scores(small, small.groups(), "apoz", dataset=small_data)["a"]
    np.testing.assert_allclose(found, scaled(wanted), rtol=1e-4)


def test_a_channel_that_is_always_zero_scores_nothing(net: Any, small_data: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 6, 3)], "a_relu")
    made.conv("a_relu", "b", 4, 6)
    graph = made.graph("b")
    bias = np.asarray(graph.initializers["a.bias"]).copy()
    bias[2] = -1e3
    graph = graph.with_initializers({"a.bias": bias})
    for method in ("apoz", "activation_mean"):
        scores = channel_scores(graph, graph.groups(), method, dataset=small_data)["a"]
        assert scores[2] == 0
        assert np.count_nonzero(scores) == 5


def test_apoz_is_l2_where_nothing_is_ever_zero(net: Any, small_data: Any) -> None:
    made = net(3, 8, 8)
    made.node("Sigmoid", [made.conv("x", "a", 6, 3)], "a_act")
    made.conv("a_act", "b", 4, 6)
    graph = made.graph("b")
    found = channel_scores(graph, graph.groups(), "apoz", dataset=small_data)["a"]
    np.testing.assert_array_equal(found, channel_scores(graph, graph.groups(), "l2")["a"])


def test_entries_of_a_flattened_channel_count_together(net: Any, images: NDArray[np.float32], small_data: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 6, 3, strides=[4, 4])], "a_relu")
    made.node("Flatten", ["a_relu"], "flat")
    made.gemm("flat", "fc", 4, 24)
    graph = made.graph("fc")
    w = {name: torch.from_numpy(np.asarray(array)) for name, array in graph.initializers.items()}
    values = F.relu(F.conv2d(torch.from_numpy(images), w["a.weight"], w["a.bias"], padding=1, stride=4)).numpy()
    found = channel_scores(graph, graph.groups(), "activation_mean", dataset=small_data)["a"]
    np.testing.assert_allclose(found, scaled(values.mean((0, 2, 3))), rtol=1e-4)


def test_channels_on_the_last_axis_are_found(net: Any, samples: Any) -> None:
    made = net(5, 7)
    made.node("MatMul", ["x", made.constant("a", made.normal(7, 6))], "h")
    made.node("Relu", ["h"], "r")
    made.node("MatMul", ["r", made.constant("b", made.normal(6, 2))], "y")
    graph = made.graph("y")
    x = np.random.default_rng(0).normal(size=(9, 5, 7)).astype(np.float32)
    wanted = np.maximum(x @ np.asarray(graph.initializers["a"]), 0).mean((0, 1))
    found = channel_scores(graph, graph.groups(), "activation_mean", dataset=samples(x))["a"]
    np.testing.assert_allclose(found, scaled(wanted), rtol=1e-4)
