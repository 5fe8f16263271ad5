"""Layers taken apart at full rank compute what they computed, whatever their attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.factor_nodes import canonical, take_apart
from autocompress.compress.factors import factorize, spectra
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, NDArray[Any]], NDArray[Any]]
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"pads": [1, 2, 0, 1]},
    "strided": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    "dilated": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "same": {"auto_pad": "SAME_UPPER", "strides": [2, 1]},
}


def apart(graph: ModelGraph, method: str) -> ModelGraph:
    """The graph with its first layer, ``a``, taken apart at full rank."""
    copy = graph.clone()
    layer = graph.layers()[0]
    node = next(node for node in copy.model.graph if node.name == layer.node)
    weight = canonical(node, graph.initializers[layer.weight]).astype(np.float64)
    found = spectra(weight, method)
    parts = factorize(weight, method, [len(item.energies) for item in found], found)
    factors = take_apart(copy.model.graph, node, method, layer.name, parts)
    del copy.model.graph.initializers[layer.weight]
    made = ModelGraph(copy.model)
    assert {item.name: item.weight_shape for item in made.layers()} == factors
    return made


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("method", ["spatial", "tucker2"])
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution(method: str, attributes: dict[str, Any], net: Any, run_graph: Run) -> None:
    made = net(5, 11, 9)
    weight, bias = made.constant("a.weight", made.normal(7, 5, 3, 3)), made.constant("a.bias", made.normal(7))
    made.node("Conv", ["x", weight, bias], "y", **attributes)
    graph, x = made.graph("y"), noise(2, 5, 11, 9)
    found = apart(graph, method)
    np.testing.assert_allclose(run_graph(found, x), run_graph(graph, x), atol=1e-4)


@pytest.mark.parametrize("method", ["spatial", "tucker2"])
def test_shapes_between_factors_are_what_they_are_at_run_time(method: str, net: Any) -> None:
    made = net(5, 11, 9)
    made.node("Conv", ["x", made.constant("a.weight", made.normal(7, 5, 3, 3))], "y", **CONVOLUTIONS["strided"])
    found = apart(made.graph("y"), method)
    from autocompress.graph.shapes import infer_shapes

    again = found.clone()
    infer_shapes(again.model)
    names = [str(node.outputs[0].name) for node in found.model.graph]
    assert [again.value_shape(name) for name in names] == [found.value_shape(name) for name in names]


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}])
def test_a_convolution_of_one_position(attributes: dict[str, Any], net: Any, run_graph: Run) -> None:
    made = net(5, 8, 8)
    weight, bias = made.constant("a.weight", made.normal(7, 5, 1, 1)), made.constant("a.bias", made.normal(7))
    made.node("Conv", ["x", weight, bias], "y", **attributes)
    graph, x = made.graph("y"), noise(2, 5, 8, 8)
    np.testing.assert_allclose(run_graph(apart(graph, "svd"), x), run_graph(graph, x), atol=1e-4)


def test_a_convolution_along_time(net: Any, run_graph: Run) -> None:
    made = net(5, 20)
    made.node("Conv", ["x", made.constant("a.weight", made.normal(7, 5, 3))], "y", strides=[2], pads=[1, 1])
    graph, x = made.graph("y"), noise(2, 5, 20)
    np.testing.assert_allclose(run_graph(apart(graph, "tucker2"), x), run_graph(graph, x), atol=1e-4)


@pytest.mark.parametrize("attributes", [{"transB": 1}, {}, {"transB": 1, "alpha": 0.5, "beta": 2.0}])
def test_a_gemm(attributes: dict[str, Any], net: Any, run_graph: Run) -> None:
    made = net(6)
    shape = (8, 6) if attributes.get("transB") else (6, 8)
    made.node(
        "Gemm",
        ["x", made.constant("a.weight", made.normal(*shape)), made.constant("a.bias", made.normal(8))],
        "y",
        **attributes,
    )
    graph, x = made.graph("y"), noise(4, 6)
    np.testing.assert_allclose(run_graph(apart(graph, "svd"), x), run_graph(graph, x), atol=1e-4)


def test_a_matrix_product_over_tokens(net: Any, run_graph: Run) -> None:
    made = net(5, 6)
    made.node("MatMul", ["x", made.constant("a.weight", made.normal(6, 8))], "y")
    graph, x = made.graph("y"), noise(2, 5, 6)
    np.testing.assert_allclose(run_graph(apart(graph, "svd"), x), run_graph(graph, x), atol=1e-4)


def test_the_last_factor_writes_the_same_value_with_the_bias(net: Any) -> None:
    made = net(5, 8, 8)
    made.conv("x", "a", 7, 5)
    last = list(apart(made.graph("a"), "tucker2").model.graph)[-1]
    assert last.name == "a.2"
    assert [value.name for value in last.inputs] == ["a.1", "a.2.weight", "a.bias"]
    assert last.outputs[0].name == "a"


def test_factors_of_a_layer_that_its_node_names_carry_that_name(net: Any) -> None:
    made = net(5, 8, 8)
    made.node("Conv", ["x", made.constant("onnx::Conv_5", made.normal(7, 5, 3, 3))], "y")
    graph = made.graph("y").clone()
    graph.model.graph[0].name = "/conv/Conv"
    found = apart(ModelGraph(graph.model), "spatial")
    assert [layer.name for layer in found.layers()] == ["/conv/Conv.0", "/conv/Conv.1"]
