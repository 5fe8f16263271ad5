"""Layers refitted in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper
from torch import nn

from autocompress.compress.apply import Compressor
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.errors import CandidateError
from autocompress.core.plan import CompressionPlan
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.recover import reconstruct
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.features import with_outputs
from autocompress.recover.reconstruct import Reconstruction
from autocompress.zoo.vit import vit_tiny

HALF = CompressionPlan(prune={"*": 0.5})
IMAGES = ["batch", 3, 8, 8]
Net = Callable[..., ModelGraph]
Same = Callable[[ModelGraph, ModelGraph], bool]


def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], name=f"n_{output}", **attributes)


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


def normal(**shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: (0.3 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def test_the_sum_is_fitted_where_a_branch_lost_what_another_gives(net: Net, unlabelled: ArrayDataset) -> None:
    """``y = conv_2(relu(conv_1 x)) + skip``, where what ``skip`` gives is changed: conv_2 makes up for it."""
    arrays = normal(one=(32, 3, 3, 3), two=(3, 32, 3, 3), skip=(3, 3, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "skip"], ["s"], name="n_s"),
        helper.make_node("Conv", ["x", "one"], ["a"], name="n_a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], name="n_r"),
        helper.make_node("Conv", ["r", "two"], ["b"], name="n_b", pads=[1] * 4),
        helper.make_node("Add", ["b", "s"], ["y"], name="n_y"),
    ]
    teacher = net(nodes, arrays, {"x": IMAGES})
    changed = teacher.with_initializers({"skip": 0.5 * arrays["skip"]})
    images = unlabelled.batch(range(90))[0][0]
    found = Reconstruction(teacher, unlabelled, threads=1).refit(changed, {}, without=["skip"])
    assert error(found, teacher, images) < 0.1 * error(changed, teacher, images)


@pytest.mark.parametrize("terms", [("wide", "small"), ("small", "wide"), ("wide", "one"), ("one", "wide")])
def test_terms_that_are_repeated_in_a_sum_are_fitted_each_for_itself(
    terms: tuple[str, str], net: Net, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    """A term of one position (squeeze and excite), or of one channel."""
    arrays = normal(first=(16, 3, 3, 3), wide_w=(16, 16, 3, 3), small_w=(16, 16, 1, 1), one_w=(1, 16, 3, 3))
    nodes = [
        node("Conv", ["x", "first"], "f", pads=[1] * 4),
        node("Relu", ["f"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        *(
            node("Conv", ["p" if term == "small" else "r", f"{term}_w"], term, pads=[int(term != "small")] * 4)
            for term in terms
        ),
        node("Add", list(terms), "y"),
    ]
    teacher = net(nodes, {name: arrays[name] for name in ("first", *(f"{term}_w" for term in terms))}, {"x": IMAGES})
    compressor = Compressor(teacher)
    pruned = compressor.pruned(HALF)
    found = Reconstruction(teacher, unlabelled, threads=1).refit(pruned, compressor.kept_values(HALF))
    assert error(found, teacher, images) < 0.5 * error(pruned, teacher, images)


def test_a_value_in_two_sums_is_made_up_for_in_both(net: Net, unlabelled: ArrayDataset) -> None:
    arrays = normal(skip=(3, 3, 1, 1), one=(32, 3, 3, 3), two=(3, 32, 3, 3), three=(3, 32, 3, 3))
    nodes = [
        node("Conv", ["x", "skip"], "s"),
        node("Conv", ["x", "one"], "a", pads=[1] * 4),
        node("Relu", ["a"], "r"),
        node("Conv", ["r", "two"], "b", pads=[1] * 4),
        node("Conv", ["r", "three"], "c", pads=[1] * 4),
        node("Add", ["b", "s"], "t"),
        node("Add", ["s", "c"], "u"),
        node("Concat", ["t", "u"], "y", axis=1),
    ]
    teacher = net(nodes, arrays, {"x": IMAGES})
    changed = teacher.with_initializers({"skip": 0.5 * arrays["skip"]})
    images = unlabelled.batch(range(90))[0][0]
    found = Reconstruction(teacher, unlabelled, threads=1).refit(changed, {}, without=["skip"])
    assert error(found, teacher, images) < 0.1 * error(changed, teacher, images)


def test_a_residual_network_is_refitted_where_it_is_not_known_which_channels_stay(
    net: Net, unlabelled: ArrayDataset, images: NDArray[np.float32]
) -> None:
    arrays = normal(stem=(16, 3, 3, 3), inner=(16, 16, 3, 3), last=(16, 16, 3, 3), head=(4, 16, 1, 1))
    nodes = [
        node("Conv", ["x", "stem"], "s", pads=[1] * 4),
        node("Conv", ["s", "inner"], "i", pads=[1] * 4),
        node("Relu", ["i"], "r"),
        node("Conv", ["r", "last"], "l", pads=[1] * 4),
        node("Add", ["s", "l"], "t"),
        node("Conv", ["t", "head"], "y"),
    ]
    teacher = net(nodes, arrays, {"x": IMAGES})
    pruned = Compressor(teacher).pruned(HALF)
    found = Reconstruction(teacher, unlabelled, threads=1).refit(pruned, {})
    assert error(found, teacher, images) < error(pruned, teacher, images)


def test_a_network_for_one_sample_at_a_time_holds_samples_out_too(
    small_one: ModelGraph, unlabelled: ArrayDataset
) -> None:
    lesson = Reconstruction(small_one, unlabelled, threads=1)._lesson
    taught = lesson.values["y"]
    assert (taught.used, len(taught.rows)) == (63, 90)


def test_statistics_that_two_normalizations_share_stay(net: Net, unlabelled: ArrayDataset) -> None:
    vectors = {"scale": np.ones(3), "shift": np.zeros(3), "mean": np.ones(3), "var": np.ones(3)}
    arrays = {name: array.astype(np.float32) for name, array in vectors.items()}
    nodes = [
        node("BatchNormalization", ["x", *vectors], "a"),
        node("Relu", ["a"], "r"),
        node("BatchNormalization", ["r", *vectors], "y"),
    ]
    teacher = net(nodes, arrays, {"x": IMAGES})
    found = Reconstruction(teacher, unlabelled, threads=1).refit(teacher, {})
    np.testing.assert_array_equal(found.initializers["mean"], arrays["mean"])


def test_a_normalization_by_what_the_network_computes_stays(net: Net, unlabelled: ArrayDataset) -> None:
    arrays = normal(scale=(3,), shift=(3,), var=(3,), first=(3, 3, 1, 1))
    nodes = [
        node("ReduceMean", ["x", "axes"], "mean", keepdims=0),
        node("Conv", ["x", "first"], "c"),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], "y"),
    ]
    arrays["var"] = np.square(arrays["var"])
    teacher = net(nodes, {**arrays, "axes": np.array([0, 2, 3])}, {"x": IMAGES})
    changed = teacher.with_initializers({"first": 0.5 * arrays["first"]})
    Reconstruction(teacher, unlabelled, threads=1).refit(changed, {})


def test_a_large_weight_takes_nothing_from_the_number_of_samples(
    net: Net, monkeypatch: pytest.MonkeyPatch, data: Any
) -> None:
    monkeypatch.setattr(reconstruct, "LARGEST_BYTES", 64 * 4 * 192)
    arrays = normal(first=(192, 64), second=(64, 5))
    nodes = [
        node("Flatten", ["x"], "f"),
        node("MatMul", ["f", "first"], "m"),
        node("MatMul", ["m", "second"], "y"),
    ]
    teacher = net(nodes, arrays, {"x": IMAGES})
    Reconstruction(teacher, data, threads=1).refit(teacher, {})
    assert len(set(data.asked)) == 64


def test_sizes_that_the_graph_leaves_open_count(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "LARGEST_BYTES", 20 * 4 * 50 * 16)
    arrays = normal(first=(8, 16), second=(16, 5))
    nodes = [node("MatMul", ["x", "first"], "m"), node("MatMul", ["m", "second"], "y")]
    teacher = net(nodes, arrays, {"x": ["batch", "tokens", 8]})
    samples = np.random.default_rng(0).normal(size=(60, 50, 8)).astype(np.float32)
    found = Reconstruction(teacher, ArrayDataset([samples]), threads=1)
    assert sum(len(batch[0]) for batch in found._batches) == 20


def test_values_that_are_not_finite_are_refused(small: ModelGraph, unlabelled: ArrayDataset) -> None:
    broken = small.with_initializers({"a.weight": np.full_like(small.initializers["a.weight"], 1e38)})
    with pytest.raises(CandidateError, match="values before BatchNormalization of 'n_a_bn' are not finite"):
        Reconstruction(small, unlabelled, threads=1).refit(broken, {}, without=["a.weight"])


@pytest.fixture(scope="module")
def flat() -> ModelGraph:
    """Linear layers with BatchNormalization over vectors, with statistics of standard normal inputs."""
    torch.manual_seed(0)
    parts = [nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    parts += [nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)]
    module = nn.Sequential(*parts).train()
    for _ in range(40):
        module(torch.randn(500, 12))
    return load_model(module.eval(), (torch.zeros(2, 12),))


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_a_handful_of_vectors_does_no_harm(samples: int, flat: ModelGraph) -> None:
    """Statistics of two samples alone made the error a thousandfold."""
    rng = np.random.default_rng(samples)
    few, many = (rng.normal(size=(count, 12)).astype(np.float32) for count in (samples, 400))
    compressor = Compressor(flat)
    pruned = compressor.pruned(HALF)
    found = Reconstruction(flat, ArrayDataset([few]), threads=1).refit(pruned, compressor.kept_values(HALF))
    assert error(found, flat, many) < 1.15 * error(pruned, flat, many)


def test_nothing_is_learned_from_one_sample(small: ModelGraph, small_pruned: ModelGraph, images: Any) -> None:
    data = ArrayDataset([images[:1]])
    assert Reconstruction(small, data, threads=1).refit(small_pruned, {}) is small_pruned


def test_two_images_help_already(small: ModelGraph, unlabelled: ArrayDataset, images: NDArray[np.float32]) -> None:
    teacher = reestimate_batch_norm(small, unlabelled)
    compressor = Compressor(teacher)
    pruned = compressor.pruned(HALF)
    data = ArrayDataset([images[:2]])
    found = Reconstruction(teacher, data, threads=1).refit(pruned, compressor.kept_values(HALF))
    assert error(found, teacher, images[2:]) < 0.5 * error(pruned, teacher, images[2:])


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


@pytest.mark.parametrize(
    "plan",
    [CompressionPlan(skip=("layer2.1",)), CompressionPlan(prune={"layer2.0.conv1": 0.5, "layer2.0.conv2": 0.5})],
    ids=["skip", "prune"],
)
def test_what_lies_before_every_change_is_left_alone_and_it_would_not_have_changed(
    plan: CompressionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = load_graph("demo"), load_data("demo").train
    compressor = Compressor(graph)
    pruned, kept = compressor.pruned(plan), compressor.kept_values(plan)
    asked = Reconstruction(graph, data, samples=32, threads=1).refit(pruned, kept)
    monkeypatch.setattr("autocompress.recover.reconstruct.untouched_values", lambda graph, teacher: frozenset())
    every = Reconstruction(graph, data, samples=32, threads=1).refit(pruned, kept)
    for name, array in every.initializers.items():
        np.testing.assert_array_equal(asked.initializers[name], array, err_msg=name)
