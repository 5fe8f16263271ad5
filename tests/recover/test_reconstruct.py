"""Layers refitted in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.compress.apply import Compressor
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.plan import CompressionPlan
from autocompress.evaluate.data import DataBundle
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.features import with_outputs
from autocompress.recover.reconstruct import Reconstruction
from autocompress.zoo.vit import vit_tiny

HALF = CompressionPlan(prune={"*": 0.5})
Same = Callable[[ModelGraph, ModelGraph], bool]


def answers(graph: ModelGraph, images: NDArray[np.float32]) -> Any:
    with torch.no_grad():
        found = graph.to_torch().eval()(torch.from_numpy(images))
    return found.numpy() if isinstance(found, torch.Tensor) else [value.numpy() for value in found]


def error(graph: ModelGraph, teacher: ModelGraph, images: NDArray[np.float32]) -> float:
    wanted = answers(teacher, images)
    return float(np.square(answers(graph, images) - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


@pytest.mark.parametrize("folded", [False, True])
def test_a_pruned_network_answers_more_like_its_teacher(
    folded: bool, small: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    teacher = fold_batch_norm(small) if folded else small
    compressor = Compressor(teacher)
    pruned = compressor.pruned(HALF)
    found = Reconstruction(teacher, unlabelled, threads=1).refit(pruned, compressor.kept_values(HALF))
    assert error(found, teacher, images) < 0.5 * error(reestimate_batch_norm(pruned, unlabelled), teacher, images)


def test_a_network_that_lost_nothing_stays_as_it_is(
    small: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    # Statistics that fit the data: new ones would be others.
    teacher = reestimate_batch_norm(small, unlabelled)
    found = Reconstruction(teacher, unlabelled, threads=1).refit(teacher, {})
    np.testing.assert_allclose(answers(found, images), answers(teacher, images), rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_weights(
    small: ModelGraph, small_pruned: ModelGraph, unlabelled: ArrayDataset, same_weights: Same
) -> None:
    first, second = (Reconstruction(small, unlabelled, threads=1).refit(small_pruned, {}) for _ in range(2))
    assert same_weights(first, second)


def test_statistics_behind_a_refitted_layer_are_those_of_what_it_gives_now(
    small: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    compressor = Compressor(small)
    found = Reconstruction(small, unlabelled, threads=1).refit(compressor.pruned(HALF), compressor.kept_values(HALF))
    values = answers(with_outputs(found, ["b"]), images)[1]
    np.testing.assert_allclose(found.initializers["b.mean"], values.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.initializers["b.var"], values.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_weights_that_are_left_out_stay(small: ModelGraph, small_pruned: ModelGraph, unlabelled: ArrayDataset) -> None:
    found = Reconstruction(small, unlabelled, threads=1).refit(small_pruned, {}, without=["fc.weight"])
    np.testing.assert_array_equal(found.initializers["fc.weight"], small_pruned.initializers["fc.weight"])


@pytest.mark.parametrize("batch", ["small_fixed", "small_one"])
def test_a_fixed_batch_is_kept_to(
    batch: str, request: pytest.FixtureRequest, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    teacher: ModelGraph = request.getfixturevalue(batch)
    compressor = Compressor(teacher)
    pruned = compressor.pruned(HALF)
    found = Reconstruction(teacher, unlabelled, threads=1).refit(pruned, compressor.kept_values(HALF))
    size = teacher.input_specs[0].shape[0]
    part = images[:size]
    wanted = answers(teacher, part)
    off, before = (np.square(answers(graph, part) - wanted).sum() for graph in (found, pruned))
    assert off < 0.5 * before


def test_the_sum_is_fitted_where_a_branch_lost_what_another_gives(unlabelled: ArrayDataset) -> None:
    """``y = conv_2(relu(conv_1 x)) + skip``, where what ``skip`` gives is changed: conv_2 makes up for it."""
    rng = np.random.default_rng(0)
    arrays = {
        name: (0.3 * rng.normal(size=shape)).astype(np.float32)
        for name, shape in {"one": (32, 3, 3, 3), "two": (3, 32, 3, 3), "skip": (3, 3, 1, 1)}.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "skip"], ["s"], name="n_s"),
        helper.make_node("Conv", ["x", "one"], ["a"], name="n_a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], name="n_r"),
        helper.make_node("Conv", ["r", "two"], ["b"], name="n_b", pads=[1] * 4),
        helper.make_node("Add", ["b", "s"], ["y"], name="n_y"),
    ]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph(
        nodes, "sum", value[:1], value[1:], [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    teacher = ModelGraph(normalize(ir.from_proto(model)))
    changed = teacher.with_initializers({"skip": 0.5 * arrays["skip"]})
    images = unlabelled.batch(range(90))[0][0]
    found = Reconstruction(teacher, unlabelled, threads=1).refit(changed, {}, without=["skip"])
    assert error(found, teacher, images) < 0.1 * error(changed, teacher, images)


def test_labels_are_never_read(small: ModelGraph, small_pruned: ModelGraph, data: Any) -> None:
    Reconstruction(small, data, threads=1).refit(small_pruned, {})
    assert data.asked


def test_a_transformer_without_half_of_its_heads() -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32)
    teacher = load_model(vit_tiny().eval(), (torch.from_numpy(images[:2]),))
    compressor = Compressor(teacher)
    pruned = compressor.pruned(HALF)
    found = Reconstruction(teacher, ArrayDataset([images]), threads=1).refit(pruned, compressor.kept_values(HALF))
    assert error(found, teacher, images) < 0.5 * error(pruned, teacher, images)


@pytest.mark.slow
def test_the_demo_without_half_of_its_channels_is_useful_again(demo: ModelGraph, demo_data: DataBundle) -> None:
    compressor = Compressor(demo)
    pruned = compressor.pruned(HALF)
    inputs, labels = demo_data.validation.batch(range(1000))

    def accuracy(graph: ModelGraph) -> float:
        return float((answers(graph, inputs[0]).argmax(1) == labels).mean())

    found = Reconstruction(demo, demo_data.train, threads=1).refit(pruned, compressor.kept_values(HALF))
    assert accuracy(found) > accuracy(reestimate_batch_norm(pruned, demo_data.train)) + 0.4
