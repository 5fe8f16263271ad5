"""Scores of channels against a computation of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autocompress.compress.importance import channel_scores, taylor_scores
from autocompress.core.errors import DataError, PlanError, UnknownNameError
from autocompress.core.plan import IMPORTANCES
from autocompress.core.protocols import Batch
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

Arrays = dict[str, NDArray[Any]]


class Samples:
    """A dataset that gives its labels as they are, and remembers which samples were read."""

    name = "samples"
    labelled = True

    def __init__(self, images: NDArray[np.float32], labels: NDArray[Any] | None = None) -> None:
        self.images = images
        self.labels = labels
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> tuple[Batch, NDArray[Any] | None]:
        self.read.extend(int(index) for index in indices)
        return (self.images[indices],), None if self.labels is None else self.labels[indices]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights_of(graph: ModelGraph) -> Arrays:
    return {name: np.asarray(array) for name, array in graph.initializers.items()}


def run_masked(weights: Arrays, x: NDArray[np.float32], mask: torch.Tensor) -> torch.Tensor:
    """The network of ``small``, with what reads the 16 channels of its one group multiplied by a mask."""
    w = {name: torch.from_numpy(array) for name, array in weights.items()}
    first = F.relu(F.conv2d(torch.from_numpy(x), w["a.weight"], w["a.bias"], padding=1))
    second = F.conv2d(first * mask[:, None, None], w["b.weight"], w["b.bias"], padding=1)
    pooled = F.relu(second + first).mean((2, 3))
    return F.linear(pooled * mask, w["fc.weight"], w["fc.bias"])


def slopes(weights: Arrays, x: NDArray[np.float32], loss: Any) -> NDArray[np.float64]:
    """Derivative of a loss of the outputs to the mask."""
    mask = torch.ones(16, requires_grad=True)
    loss(run_masked(weights, x, mask)).backward()
    assert mask.grad is not None
    return mask.grad.numpy().astype(np.float64)


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


@pytest.mark.parametrize("method", IMPORTANCES)
def test_scores_are_one_on_average_and_leave_blocked_groups_out(
    method: str, small: ModelGraph, small_data: ArrayDataset
) -> None:
    scores = channel_scores(small, small.groups(), method, dataset=small_data)
    assert scores.keys() == {"a"}
    assert scores["a"].shape == (16,)
    assert scores["a"].mean() == pytest.approx(1)
    assert (scores["a"] >= 0).all()


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


def test_random_scores_come_from_the_generator_alone(small: ModelGraph) -> None:
    first, second, other = (channel_scores(small, small.groups(), "random", rng=rng(seed))["a"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, scaled(rng(1).random(16)))
    assert (first != other).any()


def test_an_unknown_importance_gets_the_nearest_name(small: ModelGraph) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'taylor'"):
        channel_scores(small, small.groups(), "tailor")


def test_taylor_without_data_says_what_to_do(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="Importance 'taylor' needs data: give --data, or use 'l1' or 'l2'"):
        channel_scores(small, small.groups(), "taylor")


def log_odds(logits: torch.Tensor, labels: NDArray[Any], signs: NDArray[Any]) -> torch.Tensor:
    p = logits.softmax(1).gather(1, torch.from_numpy(labels)[:, None])[:, 0]
    return ((p / (1 - p)).log() * torch.from_numpy(signs)).sum()


def test_taylor_with_labels_is_the_squared_slope_of_the_log_odds(
    small: ModelGraph, images: NDArray[np.float32]
) -> None:
    labels = np.arange(48) % 5
    found = taylor_scores(small, small.groups()[:1], Samples(images, labels), rng=rng(), samples=40)["a"]
    draw, wanted = rng(), np.zeros(16)
    chosen = np.sort(draw.permutation(48)[:40])
    for part in (chosen[:16], chosen[16:32], chosen[32:]):
        signs = draw.choice(np.array([-1, 1], np.float32), len(part))
        wanted += slopes(weights_of(small), images[part], lambda y, p=part, s=signs: log_odds(y, labels[p], s)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "labels", [None, np.zeros(48, np.float32), np.zeros((48, 2), np.int64)], ids=["none", "real", "2d"]
)
def test_taylor_without_class_labels_is_the_squared_slope_of_a_projection(
    labels: NDArray[Any] | None, small: ModelGraph, images: NDArray[np.float32]
) -> None:
    found = taylor_scores(small, small.groups()[:1], Samples(images, labels), rng=rng(), samples=20)["a"]
    draw, wanted = rng(), np.zeros(16)
    chosen = np.sort(draw.permutation(48)[:20])
    for part in (chosen[:16], chosen[16:]):
        onto = torch.from_numpy(draw.standard_normal((len(part), 5)).astype(np.float32))
        wanted += slopes(weights_of(small), images[part], lambda y, onto=onto: (y * onto).sum()) ** 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_taylor_without_labels_ranks_by_how_much_the_outputs_change(
    small: ModelGraph, images: NDArray[np.float32]
) -> None:
    found = np.mean(
        [taylor_scores(small, small.groups()[:1], Samples(images), rng=rng(seed))["a"] for seed in range(40)], 0
    )
    weights, changes = weights_of(small), np.zeros(16)
    for channel in range(16):
        mask = torch.ones(16)
        mask[channel] = 0.99
        change = run_masked(weights, images, mask) - run_masked(weights, images, torch.ones(16))
        changes[channel] = (change.double() / 0.01).square().sum()
    assert np.corrcoef(np.log(found), np.log(changes))[0, 1] > 0.95


def test_a_channel_that_nothing_reads_scores_nothing(small: ModelGraph, small_data: ArrayDataset) -> None:
    weights = weights_of(small)
    changed = {name: weights[name].copy() for name in ("b.weight", "fc.weight")}
    for array in changed.values():
        array[:, 4] = 0
    graph = small.with_initializers(changed)
    scores = channel_scores(graph, graph.groups(), "taylor", dataset=small_data)["a"]
    assert scores[4] == 0
    assert np.count_nonzero(scores) == 15


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_label_that_no_class_has_is_refused(wrong: int, small: ModelGraph, images: NDArray[np.float32]) -> None:
    labels = np.zeros(48, np.int64)
    labels[7] = wrong
    with pytest.raises(DataError, match=f"Labels must be within 0 to 4, but they go from .*{wrong}"):
        taylor_scores(small, small.groups(), Samples(images, labels), rng=rng())


def test_taylor_reads_so_many_samples_each_once(small: ModelGraph, images: NDArray[np.float32]) -> None:
    data = Samples(images)
    channel_scores(small, small.groups(), "taylor", dataset=data, samples=20)
    assert len(data.read) == len(set(data.read)) == 20


def test_taylor_is_the_same_for_the_same_generator(small: ModelGraph, small_data: ArrayDataset) -> None:
    first, second = (
        channel_scores(small, small.groups(), "taylor", dataset=small_data, rng=rng(5))["a"] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", IMPORTANCES)
def test_scoring_leaves_the_graph_as_it_was(method: str, small: ModelGraph, small_data: ArrayDataset) -> None:
    before = small.to_bytes()
    channel_scores(small, small.groups(), method, dataset=small_data)
    assert small.to_bytes() == before


def test_every_group_of_the_demo_is_scored(demo: ModelGraph, demo_data: Any) -> None:
    scores = channel_scores(demo, demo.groups(), "taylor", dataset=demo_data.train, samples=32)
    assert {name: score.size for name, score in scores.items()} == {
        group.name: group.channels for group in demo.groups() if group.prunable
    }
    assert all((score > 0).any() for score in scores.values())
