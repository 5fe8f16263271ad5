"""Folded graphs compute what unfolded ones do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from autocompress.compress.fold import fold_batch_norm
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]


def operators(graph: ModelGraph) -> list[str]:
    return [node.op_type for node in graph.model.graph]


def test_a_convolution_takes_the_normalization_in(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.batch_norm(made.conv("x", "a", 6, 3), "y", 6)
    graph = made.graph("y")
    folded = fold_batch_norm(graph)
    assert operators(folded) == ["Conv"]
    np.testing.assert_allclose(run_graph(folded, images), run_graph(graph, images), atol=1e-5)


def test_a_convolution_without_bias_gets_one_named_after_its_weight(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Conv", ["x", made.constant("a.weight", made.normal(6, 3, 1, 1))], "a")
    made.batch_norm("a", "y", 6)
    graph = made.graph("y")
    folded = fold_batch_norm(graph)
    assert set(folded.initializers) == {"a.weight", "a.bias"}
    np.testing.assert_allclose(run_graph(folded, images), run_graph(graph, images), atol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_transposed_convolution_of_any_group_is_folded(group: int, net: Any, run_graph: Run) -> None:
    made = net(4, 5, 5)
    made.constant("a.weight", made.normal(4, 4 // group, 2, 2))
    made.node("ConvTranspose", ["x", "a.weight"], "a", group=group, strides=[2, 2])
    made.batch_norm("a", "y", 4)
    graph = made.graph("y")
    folded = fold_batch_norm(graph)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
    assert operators(folded) == ["ConvTranspose"]
    np.testing.assert_allclose(run_graph(folded, x), run_graph(graph, x), atol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_of_either_layout_is_folded(transposed: int, net: Any, run_graph: Run) -> None:
    made = net(4)
    made.constant("a.weight", made.normal(*((6, 4) if transposed else (4, 6))))
    made.node("Gemm", ["x", "a.weight"], "a", transB=transposed)
    made.batch_norm("a", "y", 6)
    graph = made.graph("y")
    folded = fold_batch_norm(graph)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert operators(folded) == ["Gemm"]
    np.testing.assert_allclose(run_graph(folded, x), run_graph(graph, x), atol=1e-5)


def half_net(net: Any, spread: float) -> ModelGraph:
    """A convolution and its normalization in float16, between Casts."""
    made = net(3, 8, 8)
    made.node("Cast", ["x"], "h", to=onnx.TensorProto.FLOAT16)
    made.constant("a.weight", made.normal(4, 3, 3, 3, spread=0.2).astype(np.float16))
    made.node("Conv", ["h", "a.weight"], "a")
    vectors = {"scale": np.full(4, spread), "shift": np.zeros(4), "mean": np.ones(4), "var": np.full(4, 0.5)}
    names = [made.constant(f"n.{name}", array.astype(np.float16)) for name, array in vectors.items()]
    made.node("Cast", [made.node("BatchNormalization", ["a", *names], "n")], "y", to=onnx.TensorProto.FLOAT)
    return made.graph("y")


def test_a_layer_in_float16_stays_in_float16(net: Any, images: Any, run_graph: Run) -> None:
    graph = half_net(net, 1.5)
    folded = fold_batch_norm(graph)
    assert operators(folded) == ["Cast", "Conv", "Cast"]
    assert {array.dtype for array in folded.initializers.values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(run_graph(folded, images), run_graph(graph, images), atol=0.02)


def test_a_product_past_float16_is_not_folded(net: Any) -> None:
    assert "BatchNormalization" in operators(fold_batch_norm(half_net(net, 6e4)))


def test_a_layer_that_something_else_reads_is_left_alone(net: Any) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 6, 3)
    made.node("Add", [made.batch_norm("a", "bn", 6), "a"], "y")
    assert "BatchNormalization" in operators(fold_batch_norm(made.graph("y")))


def test_values_keep_their_names(demo: ModelGraph, demo_folded: ModelGraph) -> None:
    assert {v.name for n in demo_folded.model.graph for v in n.outputs} < {
        v.name for n in demo.model.graph for v in n.outputs
    }
    assert demo_folded.output_names == demo.output_names


def test_layers_keep_their_names(demo: ModelGraph, demo_folded: ModelGraph) -> None:
    assert [layer.name for layer in demo_folded.layers()] == [layer.name for layer in demo.layers()]


def test_the_graph_itself_is_not_changed(net: Any) -> None:
    made = net(3, 8, 8)
    made.batch_norm(made.conv("x", "a", 6, 3), "y", 6)
    graph = made.graph("y")
    before = graph.to_bytes()
    fold_batch_norm(graph)
    assert graph.to_bytes() == before
