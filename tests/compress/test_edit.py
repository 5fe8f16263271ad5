"""Edits keep a graph valid, in order, and its names its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.compress.edit import Editor

FLOAT = ir.DataType.FLOAT
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


@pytest.fixture
def model() -> ir.Model:
    """``y = relu(x * w) + x``."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["m"], name="mul"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "x"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.float32([1, -2, 3]), "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def run(model: ir.Model) -> Any:
    """The only output, of a model that ONNX's checker takes: names once, nodes in order."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def test_names_are_never_given_twice(model: ir.Model) -> None:
    editor = Editor(model.graph)
    assert [editor.fresh(name) for name in ("w", "x", "r", "new", "new")] == ["w.2", "x.2", "r.2", "new", "new.2"]
    assert editor.array(np.float32([1]), "w").name == "w.3"


def test_a_node_before_another_is_read_by_those_that_are_told_to(model: ir.Model) -> None:
    graph, editor = model.graph, Editor(model.graph)
    scaled = editor.before(graph[2], "Mul", [graph[1].outputs[0], editor.array(np.float32(5), "five")], "r", FLOAT)
    editor.replace(graph[1].outputs[0], scaled, [graph.node("add")], output=False)
    np.testing.assert_allclose(run(model), 5 * relu(X * [1, -2, 3]) + X, rtol=1e-6)


def test_a_node_behind_the_output_takes_over_its_name(model: ir.Model) -> None:
    editor, output = Editor(model.graph), model.graph.outputs[0]
    negated = editor.after(output, "Neg", [output], "negated", FLOAT)
    editor.replace(output, negated, [], output=True)
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model), -(relu(X * [1, -2, 3]) + X), rtol=1e-6)


def test_a_node_behind_an_input_comes_first(model: ir.Model) -> None:
    graph, editor = model.graph, Editor(model.graph)
    doubled = editor.after(graph.inputs[0], "Add", [graph.inputs[0], graph.inputs[0]], "d", FLOAT)
    editor.replace(graph.inputs[0], doubled, [graph.node("mul")], output=False)
    np.testing.assert_allclose(run(model), relu(2 * X * [1, -2, 3]) + X, rtol=1e-6)


def test_a_node_is_supplanted_under_its_name(model: ir.Model) -> None:
    graph, editor = model.graph, Editor(model.graph)
    node = graph.node("relu")
    editor.supplant(node, editor.before(node, "Abs", list(node.inputs), "anything", FLOAT))
    assert [value.name for item in graph for value in item.outputs] == ["m", "r", "y"]
    np.testing.assert_allclose(run(model), np.abs(X * [1, -2, 3]) + X, rtol=1e-6)


def test_several_outputs_come_from_one_node(model: ir.Model) -> None:
    graph, editor = model.graph, Editor(model.graph)
    scale, _ = editor.split_before(
        graph[2], "Dropout", [graph[1].outputs[0]], {"kept": FLOAT, "mask": ir.DataType.BOOL}
    )
    editor.replace(graph[1].outputs[0], scale, [graph.node("add")], output=False)
    np.testing.assert_allclose(run(model), relu(X * [1, -2, 3]) + X, rtol=1e-6)


def test_only_what_nobody_reads_is_dropped(model: ir.Model) -> None:
    editor = Editor(model.graph)
    editor.array(np.float32([1]), "spare")
    editor.drop_unused()
    assert list(model.graph.initializers) == ["w"]
