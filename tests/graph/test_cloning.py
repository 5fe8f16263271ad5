from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from autocompress.graph.cloning import clone_model


@pytest.fixture
def model() -> ir.Model:
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Clip", ["h", "", "w"], ["y"], name="second"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 4])],
    )
    proto = helper.make_model(graph, producer_name="someone", opset_imports=[helper.make_opsetid("", 21)])
    helper.set_model_props(proto, {"key": "value"})
    return ir.from_proto(proto)


def serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def test_a_clone_serializes_to_the_same_bytes(model: ir.Model) -> None:
    assert serialized(clone_model(model)) == serialized(model)


def test_changing_a_clone_leaves_the_model_as_it_was(model: ir.Model) -> None:
    before = serialized(model)
    copy = clone_model(model)
    copy.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 2), np.float32), name="w")
    copy.graph.initializers["w"].shape = ir.Shape([4, 2])
    node = copy.graph[1]
    node.name = "other"
    node.outputs[0].shape = ir.Shape([1])
    node.replace_input_with(0, copy.graph.inputs[0])
    copy.graph.remove(copy.graph[0])
    copy.metadata_props["key"] = "else"
    assert serialized(model) == before


def test_weights_are_shared(model: ir.Model) -> None:
    assert clone_model(model).graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_a_shape_that_two_models_share_cannot_be_changed_in_place(model: ir.Model) -> None:
    shape = clone_model(model).graph[0].outputs[0].shape
    assert shape is not None
    with pytest.raises(TypeError, match="frozen"):
        shape[0] = 1


def test_subgraphs_are_cloned_too() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", 1, ["n"])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "net",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, ["n"])],
        [helper.make_tensor_value_info("y", 1, ["n"])],
    )
    model = ir.from_proto(helper.make_model(graph))
    copy = clone_model(model)
    assert copy.graph[0].attributes["then_branch"].value is not model.graph[0].attributes["then_branch"].value
