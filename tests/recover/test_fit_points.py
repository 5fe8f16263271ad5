"""Which layers can be refitted, and to what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.fit_points import FitPoint, fit_points
from autocompress.recover.reconstruct import Reconstruction

Net = Callable[..., ModelGraph]


def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], name=f"n_{output}", **attributes)


def point_of(nodes: list[NodeProto], net: Net, **shapes: tuple[int, ...]) -> tuple[FitPoint | None, ModelGraph]:
    """The point of the layer that reads ``x``, of 6 numbers a sample, and the graph."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    graph = net(nodes, arrays, {"x": [4, 6]})
    return fit_points(graph).get(nodes[0].name), graph


@pytest.mark.parametrize("order", [("m", "b"), ("b", "m")])
@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_the_addition_behind_a_product_is_its_bias(order: tuple[str, str], shape: tuple[int, ...], net: Net) -> None:
    point, _ = point_of([node("MatMul", ["x", "w"], "m"), node("Add", list(order), "y")], net, w=(6, 5), b=shape)
    assert point is not None and (point.bias, point.output, point.total) == ("b", "y", None)


@pytest.mark.parametrize(
    ("width", "shape"),
    [
        pytest.param(1, (1,), id="one number"),
        pytest.param(4, (4, 1), id="of samples"),
        pytest.param(5, (4, 5), id="of both"),
    ],
)
def test_an_addition_that_is_no_bias_stays(width: int, shape: tuple[int, ...], net: Net) -> None:
    nodes = [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"], "y")]
    point, graph = point_of(nodes, net, w=(6, width), b=shape)
    assert point is not None and (point.bias, point.output, point.total) == (None, "m", None)
    refits(graph)


@pytest.mark.parametrize("shape", [(), (1,), (4, 5)])
def test_a_gemm_whose_bias_is_no_vector_stays(shape: tuple[int, ...], net: Net) -> None:
    point, graph = point_of([node("Gemm", ["x", "w", "b"], "y")], net, w=(6, 5), b=shape)
    assert point is None
    refits(graph)


@pytest.mark.parametrize("transposed", [0, 1])
def test_inputs_are_counted_along_the_weights_axis_of_inputs(transposed: int, net: Net) -> None:
    shape = (5, 6) if transposed else (6, 5)
    point, _ = point_of([node("Gemm", ["x", "w", "b"], "y", transB=transposed)], net, w=shape, b=(5,))
    assert point is not None and (point.inputs, point.bias) == (6, "b")


def test_a_value_that_is_added_to_itself_has_no_other_term(net: Net) -> None:
    point, graph = point_of([node("MatMul", ["x", "w"], "m"), node("Add", ["m", "m"], "y")], net, w=(6, 5))
    assert point is not None and point.total is None
    refits(graph)


def test_a_weight_that_two_layers_read_stays(net: Net) -> None:
    nodes = [node("MatMul", ["x", "w"], "m"), node("MatMul", ["m", "w"], "y")]
    assert point_of(nodes, net, w=(6, 6))[0] is None


def refits(graph: ModelGraph) -> None:
    """Another network of the same structure can be refitted to the graph."""
    changed = graph.with_initializers({name: 0.5 * array for name, array in graph.initializers.items()})
    samples = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    Reconstruction(graph, ArrayDataset([samples]), threads=1).refit(changed, {})
