"""Names and work of layers; multiply-accumulates are counted by running the layer on ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper

from autocompress.graph.layers import layer_macs, layer_name, layer_names, weight_value
from autocompress.graph.model_graph import ModelGraph

node = helper.make_node
FLOAT = TensorProto.FLOAT
#: A layer without padding, the shape that it reads and that of its weight.
LAYERS: dict[str, tuple[NodeProto, list[int], list[int]]] = {
    "Conv": (node("Conv", ["x", "w"], ["y"], strides=[2, 1]), [1, 4, 9, 8], [6, 4, 3, 3]),
    "grouped Conv": (node("Conv", ["x", "w"], ["y"], group=2, dilations=[2, 1]), [1, 4, 9, 8], [6, 2, 3, 3]),
    "1-D Conv": (node("Conv", ["x", "w"], ["y"]), [1, 4, 9], [6, 4, 5]),
    "ConvTranspose": (node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), [1, 4, 5, 5], [4, 3, 2, 2]),
    "Gemm": (node("Gemm", ["x", "w"], ["y"]), [1, 6], [6, 5]),
    "Gemm, transposed": (node("Gemm", ["x", "w"], ["y"], transB=1), [1, 6], [5, 6]),
    "MatMul": (node("MatMul", ["x", "w"], ["y"]), [1, 7, 6], [6, 5]),
}


def graph_of(item: NodeProto, shape: list[Any], weight: list[int], write: Any) -> ModelGraph:
    found: ModelGraph = write([item], {"w": np.ones(weight, np.float32)}, {"x": (FLOAT, shape)}, {"y": FLOAT})
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_of_ones_every_multiplication_adds_one(name: str, write: Any) -> None:
    item, shape, weight = LAYERS[name]
    graph = graph_of(item, shape, weight, write)
    with torch.no_grad():
        total = int(graph.to_torch()(torch.ones(shape)).sum())
    assert list(layer_macs(graph).values()) == [total]


@pytest.mark.parametrize("batch", ["batch", 3])
def test_work_is_that_of_one_sample(batch: int | str, write: Any) -> None:
    item, shape, weight = LAYERS["Conv"]
    (one,), (found,) = (layer_macs(graph_of(item, [size, *shape[1:]], weight, write)).values() for size in (1, batch))
    assert found == one


def test_a_recurrent_layer_multiplies_its_gates_for_every_sequence(write: Any) -> None:
    arrays = {"w": np.ones((1, 20, 3), np.float32), "r": np.ones((1, 20, 5), np.float32)}
    item = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5)
    graph = write([item], arrays, {"x": (FLOAT, [1, 6, 3])}, {"y": FLOAT})
    assert list(layer_macs(graph).values()) == [6 * 4 * 5 * (3 + 5)]
    assert [layer.params for layer in graph.layers()] == [20 * 3 + 20 * 5]


def test_a_weight_that_several_nodes_read_gives_numbered_names(write: Any) -> None:
    nodes = [node("MatMul", ["x", "head.weight"], ["a"], name="one"), node("MatMul", ["a", "head.weight"], ["y"])]
    graph = write(nodes, {"head.weight": np.ones((4, 4), np.float32)}, {"x": (FLOAT, [1, 4])}, {"y": FLOAT})
    assert list(layer_names(graph.model).values()) == ["head", "head#2"]


@pytest.mark.parametrize("weight", ["onnx::MatMul_7", "val_3", "/a/Transpose", "12"])
def test_a_weight_without_a_telling_name_gives_the_name_to_the_node(weight: str, write: Any) -> None:
    nodes = [node("MatMul", ["x", weight], ["y"], name="encoder.weight")]
    graph = write(nodes, {weight: np.ones((4, 4), np.float32)}, {"x": (FLOAT, [1, 4])}, {"y": FLOAT})
    assert layer_name(graph.model.graph[0]) == "encoder"


def test_only_a_float_matrix_makes_a_layer(write: Any) -> None:
    arrays = {"w": np.ones((4, 4), np.float32), "v": np.ones(4, np.float32)}
    nodes = [
        node("MatMul", ["x", "v"], ["a"]),
        node("MatMul", ["x", "x"], ["b"]),
        node("Mul", ["x", "w"], ["c"]),
        node("MatMul", ["x", "w"], ["d"]),
    ]
    graph = write(nodes, arrays, {"x": (FLOAT, [4, 4])}, dict.fromkeys("abcd", FLOAT))
    found = [weight_value(each) for each in graph.model.graph]
    assert [None if value is None else value.name for value in found] == [None, None, None, "w"]
