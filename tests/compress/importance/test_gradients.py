"""Scores from gradients against a computation of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autocompress.compress.importance import channel_scores, taylor_scores
from autocompress.compress.importance.gradients import fisher_scores
from autocompress.core.errors import DataError
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

Arrays = dict[str, NDArray[Any]]


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


def log_odds(logits: torch.Tensor, labels: NDArray[Any], signs: NDArray[Any]) -> torch.Tensor:
    p = logits.softmax(1).gather(1, torch.from_numpy(labels)[:, None])[:, 0]
    return ((p / (1 - p)).log() * torch.from_numpy(signs)).sum()


def test_taylor_with_labels_is_the_squared_slope_of_the_log_odds(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    labels = np.arange(48) % 5
    found = taylor_scores(small, small.groups()[:1], samples(images, labels), rng=rng(), samples=40)["a"]
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
    labels: NDArray[Any] | None, small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    found = taylor_scores(small, small.groups()[:1], samples(images, labels), rng=rng(), samples=20)["a"]
    draw, wanted = rng(), np.zeros(16)
    chosen = np.sort(draw.permutation(48)[:20])
    for part in (chosen[:16], chosen[16:]):
        onto = torch.from_numpy(draw.standard_normal((len(part), 5)).astype(np.float32))
        wanted += slopes(weights_of(small), images[part], lambda y, onto=onto: (y * onto).sum()) ** 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_taylor_without_labels_ranks_by_how_much_the_outputs_change(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    found = np.mean(
        [taylor_scores(small, small.groups()[:1], samples(images), rng=rng(seed))["a"] for seed in range(40)], 0
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
def test_a_label_that_no_class_has_is_refused(
    wrong: int, small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    labels = np.zeros(48, np.int64)
    labels[7] = wrong
    with pytest.raises(DataError, match=f"Labels must be within 0 to 4, but they go from .*{wrong}"):
        taylor_scores(small, small.groups(), samples(images, labels), rng=rng())


def reader_slopes(weights: Arrays, x: NDArray[np.float32], signs: NDArray[Any]) -> Arrays:
    """Weight times derivative of a signed sum of log-odds, for the two weights that read the channels of ``small``."""
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in weights.items()}
    first = F.relu(F.conv2d(torch.from_numpy(x), tensors["a.weight"], tensors["a.bias"], padding=1))
    second = F.conv2d(first, tensors["b.weight"], tensors["b.bias"], padding=1)
    logits = F.linear(F.relu(second + first).mean((2, 3)), tensors["fc.weight"], tensors["fc.bias"])
    (logits * torch.from_numpy(signs)).sum().backward()
    found = {}
    for name in ("b.weight", "fc.weight"):
        gradient = tensors[name].grad
        assert gradient is not None
        found[name] = (tensors[name].detach() * gradient).numpy().astype(np.float64)
    return found


def batch_slopes(small: ModelGraph, images: NDArray[np.float32]) -> list[Arrays]:
    """:func:`reader_slopes` of the batches of 16 and 4 that 20 samples make."""
    draw = rng()
    chosen = np.sort(draw.permutation(48)[:20])
    return [
        reader_slopes(weights_of(small), images[part], draw.standard_normal((len(part), 5)).astype(np.float32))
        for part in (chosen[:16], chosen[16:])
    ]


def by_channel(array: NDArray[Any]) -> NDArray[Any]:
    return array.sum(axis=tuple(axis for axis in range(array.ndim) if axis != 1))


def test_fisher_is_half_the_sum_of_squared_products_of_weight_and_gradient(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    found = fisher_scores(small, small.groups()[:1], samples(images), rng=rng(), samples=20)["a"]
    wanted = sum(
        by_channel(product**2) / 2 for products in batch_slopes(small, images) for product in products.values()
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_fisher_can_take_the_layer_that_would_lose_most(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    found = fisher_scores(small, small.groups()[:1], samples(images), rng=rng(), samples=20, aggregation="max")["a"]
    batches = batch_slopes(small, images)
    losses = [sum(by_channel(batch[name] ** 2) / 2 for batch in batches) for name in ("b.weight", "fc.weight")]
    np.testing.assert_allclose(found, np.maximum(*losses), rtol=1e-3)


def test_taylor_adds_up_squares_of_layers_where_asked(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    found = taylor_scores(small, small.groups()[:1], samples(images), rng=rng(), samples=20, aggregation="sum")["a"]
    wanted = sum(by_channel(product) ** 2 for products in batch_slopes(small, images) for product in products.values())
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_fisher_of_batches_estimates_that_of_single_samples(
    small: ModelGraph, images: NDArray[np.float32], samples: Any
) -> None:
    """Random signs: what one sample's gradient has with another's cancels out on average."""
    found = np.mean(
        [fisher_scores(small, small.groups()[:1], samples(images[:24]), rng=rng(seed))["a"] for seed in range(24)],
        axis=0,
    )
    wanted = np.zeros(16)
    for sample in range(24):
        for onto in np.eye(5, dtype=np.float32):
            products = reader_slopes(weights_of(small), images[sample : sample + 1], onto[None])
            wanted += sum(by_channel(product**2) / 2 for product in products.values())
    assert np.corrcoef(np.log(found), np.log(wanted))[0, 1] > 0.95
    assert 0.7 < found.sum() / wanted.sum() < 1.4


@pytest.mark.parametrize("scores", [taylor_scores, fisher_scores])
def test_a_group_without_readers_scores_nothing(scores: Any, small: ModelGraph, samples: Any, images: Any) -> None:
    group = small.groups()[0]
    makers = replace(group, members=tuple(member for member in group.members if member.role == "out"))
    np.testing.assert_array_equal(scores(small, [makers], samples(images), rng=rng(), samples=4)["a"], np.zeros(16))
