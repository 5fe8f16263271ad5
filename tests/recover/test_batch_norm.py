"""Running statistics from the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper

from autocompress.compress.fold import fold_batch_norm
from autocompress.core.errors import CandidateError, DataError
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import clean_batches, fixed_batch, reestimate_batch_norm, update_statistics


class Nothing:
    """No samples."""

    name, labelled = "nothing", False

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Any) -> Any:
        raise AssertionError("there is nothing to read")


def by_hand(graph: ModelGraph, images: Any) -> dict[str, np.ndarray]:
    """Mean and variance of both convolutions' outputs over all images in one pass."""
    w = {name: torch.from_numpy(np.array(array)) for name, array in graph.initializers.items()}
    found: dict[str, np.ndarray] = {}
    x = torch.from_numpy(images)
    for name in ("a", "b"):
        x = F.conv2d(x, w[f"{name}.weight"], padding=1).double()
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        found[f"{name}.mean"], found[f"{name}.var"] = mean.numpy(), var.numpy()
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        x = (x * w[f"{name}.scale"][:, None, None] + w[f"{name}.shift"][:, None, None]).relu().float()
    return found


def test_statistics_are_those_of_an_independent_pass(small: ModelGraph, data: Any, images: Any) -> None:
    found = reestimate_batch_norm(small, data, batch_size=len(images))
    for name, wanted in by_hand(small, images).items():
        np.testing.assert_allclose(found.initializers[name], wanted, rtol=1e-3, atol=1e-5)


def test_the_first_layers_statistics_do_not_depend_on_the_batches(small: ModelGraph, data: Any, images: Any) -> None:
    wanted = by_hand(small, images)
    for size in (7, 30):
        found = reestimate_batch_norm(small, data, batch_size=size)
        np.testing.assert_allclose(found.initializers["a.mean"], wanted["a.mean"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.initializers["a.var"], wanted["a.var"], rtol=3e-3)


def test_nothing_but_statistics_changes(small: ModelGraph, data: Any) -> None:
    found = reestimate_batch_norm(small, data)
    changed = {n for n in small.initializers if not np.array_equal(small.initializers[n], found.initializers[n])}
    assert changed == {"a.mean", "a.var", "b.mean", "b.var"}


def test_the_graph_given_stays_as_it_was(small: ModelGraph, data: Any) -> None:
    before = small.digest
    reestimate_batch_norm(small, data)
    assert (np.array(small.initializers["a.mean"]) == 0).all()
    assert ModelGraph(small.model).digest == before


def test_doing_it_twice_changes_nothing_more(small: ModelGraph, data: Any, same_weights: Any) -> None:
    once = reestimate_batch_norm(small, data)
    assert same_weights(reestimate_batch_norm(once, data), once)


@pytest.mark.parametrize(("samples", "changes"), [(1, False), (31, False), (32, True)])
def test_statistics_of_a_handful_of_vectors_are_not_taken(samples: int, changes: bool, net: Any) -> None:
    vectors = {"scale": np.ones(6), "shift": np.zeros(6), "mean": np.ones(6), "var": np.ones(6)}
    nodes = [helper.make_node("BatchNormalization", ["x", *vectors], ["y"], name="n_y")]
    graph = net(nodes, {name: array.astype(np.float32) for name, array in vectors.items()}, {"x": ["batch", 6]})
    rows = np.random.default_rng(0).normal(size=(samples, 6)).astype(np.float32)
    found = reestimate_batch_norm(graph, ArrayDataset([rows]))
    assert (found is not graph) == changes
    if changes:
        np.testing.assert_allclose(found.initializers["mean"], rows.mean(0), atol=1e-5)


def test_one_image_has_positions_enough(small: ModelGraph, data: Any, images: Any) -> None:
    data.images = images[:1]
    found = reestimate_batch_norm(small, data)
    wanted = by_hand(small, images[:1])
    np.testing.assert_allclose(found.initializers["a.mean"], wanted["a.mean"], rtol=1e-4, atol=1e-5)


def test_a_graph_without_batch_normalization_is_given_back(small: ModelGraph, data: Any) -> None:
    folded = fold_batch_norm(small)
    assert reestimate_batch_norm(folded, data) is folded
    assert data.asked == []


def test_samples_are_spread_over_the_data_and_batches_nearly_equal(small: ModelGraph, data: Any) -> None:
    sizes = [len(batch[0]) for batch in clean_batches(small, data, 31, 15)]
    assert sizes == [11, 10, 10]
    assert data.asked == np.linspace(0, 89, 31).astype(int).tolist()


def test_a_fixed_batch_is_kept_to(small_fixed: ModelGraph, data: Any, images: Any) -> None:
    assert fixed_batch(small_fixed) == 4
    assert [len(batch[0]) for batch in clean_batches(small_fixed, data, 90, 64)] == [4] * 22
    found = reestimate_batch_norm(small_fixed, data)
    wanted = by_hand(small_fixed, images[np.asarray(data.asked[-88:])])
    np.testing.assert_allclose(found.initializers["a.mean"], wanted["a.mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.initializers["a.var"], wanted["a.var"], rtol=1e-2)


def test_fewer_samples_than_a_fixed_batch_fill_it_up(small_fixed: ModelGraph, data: Any, images: Any) -> None:
    data.images = images[:3]
    found = reestimate_batch_norm(small_fixed, data)
    wanted = by_hand(small_fixed, images[[0, 1, 2, 0]])
    np.testing.assert_allclose(found.initializers["b.mean"], wanted["b.mean"], rtol=1e-3, atol=1e-5)


def test_any_batch_size_will_do_where_the_axis_is_free(small: ModelGraph) -> None:
    assert fixed_batch(small) is None


def test_the_module_is_left_in_the_mode_it_was_in(small: ModelGraph, data: Any) -> None:
    for training in (True, False):
        module = GraphModule(small).train(training)
        update_statistics(module, clean_batches(small, data, 20, 10))
        assert module.training is training
        assert module.momentum is None


def test_no_batches_leave_the_statistics_alone(small: ModelGraph) -> None:
    module = GraphModule(small)
    update_statistics(module, [])
    assert (module.initializer("a.mean") == 0).all() and (module.initializer("a.var") == 1).all()


def test_statistics_that_are_not_finite_fail_the_candidate(small: ModelGraph, data: Any) -> None:
    broken = small.with_initializers({"a.weight": np.full_like(small.initializers["a.weight"], 3e38)})
    with pytest.raises(CandidateError, match="heal: statistics of BatchNormalization are not finite"):
        reestimate_batch_norm(broken, data)


def test_data_without_samples_are_refused(small: ModelGraph) -> None:
    with pytest.raises(DataError, match="'nothing' is empty"):
        reestimate_batch_norm(small, Nothing())
