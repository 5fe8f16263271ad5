"""Layers of a network without BatchNormalization get their channels' means and variances back after pruning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.compress.apply import Compressor
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.plan import CompressionPlan
from autocompress.evaluate.data import DataBundle
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.features import with_outputs
from autocompress.recover.moments import match_moments, output_moments
from autocompress.recover.staged import StagedHealing

HALF = CompressionPlan(prune={"*": 0.5})


@pytest.fixture(scope="module")
def folded(small: ModelGraph) -> ModelGraph:
    """The small net as a user's file has it: no BatchNormalization is left."""
    return fold_batch_norm(small)


@pytest.fixture(scope="module")
def compressor(folded: ModelGraph) -> Compressor:
    return Compressor(folded)


def values(graph: ModelGraph, name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        found = GraphModule(with_outputs(graph, [name])).eval()(torch.from_numpy(images))
    return np.asarray(found[-1].numpy())


def test_moments_are_numpys(folded: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]) -> None:
    found = output_moments(folded, unlabelled)
    assert set(found) == {"a_bn", "b_bn", "y"}
    for name in ("a_bn", "b_bn"):
        array = values(folded, name, images).astype(np.float64)
        np.testing.assert_allclose(found[name].mean, array.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].variance, array.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_what_batch_normalization_corrects_is_left_to_it(small: ModelGraph, unlabelled: ArrayDataset) -> None:
    assert set(output_moments(small, unlabelled)) == {"y"}


def test_an_unpruned_network_stays_as_it_is(
    folded: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    found = match_moments(folded, output_moments(folded, unlabelled), unlabelled, {})
    for before, after in zip(folded.initializers.items(), found.initializers.items(), strict=True):
        assert before[0] == after[0]
        # The variance of 64 outputs of a linear layer is estimated without bias, so a little larger.
        np.testing.assert_allclose(after[1], before[1], rtol=2e-2, atol=0.05)


def test_kept_channels_have_the_moments_they_had(
    folded: ModelGraph, compressor: Compressor, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    pruned, kept = compressor.pruned(HALF), compressor.kept_values(HALF)
    wanted = output_moments(folded, unlabelled)
    found = output_moments(match_moments(pruned, wanted, unlabelled, kept), unlabelled)
    shifted = output_moments(pruned, unlabelled)
    for name in ("a_bn", "b_bn", "y"):
        entries = kept.get(name, {}).get(1, np.arange(len(wanted[name].mean)))
        mean, variance = wanted[name].mean[entries], wanted[name].variance[entries]
        spread = np.sqrt(variance)
        assert np.abs(found[name].mean - mean).max() < 0.05 * spread.max()
        assert np.abs(np.sqrt(found[name].variance) / spread - 1).max() < 0.1
        if name != "a_bn":
            assert np.abs(shifted[name].mean - mean).max() > 0.1 * spread.max()


def test_structure_and_names_stay(folded: ModelGraph, compressor: Compressor, unlabelled: ArrayDataset) -> None:
    pruned = compressor.pruned(HALF)
    found = match_moments(pruned, output_moments(folded, unlabelled), unlabelled, compressor.kept_values(HALF))
    assert [node.op_type for node in found.model.graph] == [node.op_type for node in pruned.model.graph]
    assert {n: a.shape for n, a in found.initializers.items()} == {n: a.shape for n, a in pruned.initializers.items()}
    assert set(found.values) == set(pruned.values)
    assert found.output_names == pruned.output_names


def test_without_moments_batch_normalization_is_re_estimated(
    small_pruned: ModelGraph, unlabelled: ArrayDataset, same_weights: Any
) -> None:
    assert same_weights(
        match_moments(small_pruned, {}, unlabelled, {}), reestimate_batch_norm(small_pruned, unlabelled)
    )


@pytest.mark.slow
def test_the_folded_demo_keeps_more_of_its_accuracy(demo: ModelGraph, demo_data: DataBundle) -> None:
    graph = fold_batch_norm(demo)
    compressor = Compressor(graph, dataset=demo_data.train)
    plan = CompressionPlan(prune={"*": 0.3}, importance="taylor")
    pruned = compressor.pruned(plan)
    healed = StagedHealing(graph, demo_data.train, kept=compressor.kept_values, threads=1).heal(pruned, plan)
    (images,), labels = demo_data.validation.batch(np.arange(1000))
    assert labels is not None
    right = [
        float((GraphModule(g).eval()(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())
        for g in (pruned, healed)
    ]
    assert right[1] > right[0] + 0.2
