"""What is constant becomes an initializer: values against ONNX's reference, and computed Reshape targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autocompress.graph.folding import fix_reshapes, fold, own_initializers
from autocompress.graph.shapes import infer_shapes

node = helper.make_node
WEIGHT = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
Dims = Sequence[int | str]


def proto_of(
    nodes: Sequence[NodeProto], arrays: Mapping[str, NDArray[Any]], shape: Dims = (2, 4), out: Dims | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CONSTANTS: dict[str, list[NodeProto]] = {
    "transposed twice": [node("Transpose", ["w"], ["t"]), node("Transpose", ["t"], ["v"])],
    "scaled": [node("Mul", ["w", "s"], ["v"])],
    "normalized": [node("ReduceL2", ["w", "a"], ["n"]), node("Div", ["w", "n"], ["v"])],
    "put together": [
        node("Slice", ["w", "three", "six", "one"], ["r"]),
        node("Slice", ["w", "zero", "three", "one"], ["l"]),
        node("Concat", ["r", "l"], ["v"], axis=1),
    ],
    "picked": [node("Gather", ["w", "order"], ["v"], axis=1)],
}
ARRAYS: dict[str, NDArray[Any]] = {
    "w": WEIGHT,
    "s": np.float32([2, 3, 4, 5, 6, 7]),
    "a": np.array([0]),
    **{name: np.array([number]) for name, number in (("zero", 0), ("one", 1), ("three", 3), ("six", 6))},
    "order": np.array([5, 0, 1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_one_layer_with_the_values_of_the_reference_is_left(name: str) -> None:
    nodes = [*CONSTANTS[name], node("MatMul", ["x", "v"], ["y"])]
    used = {source for item in nodes for source in item.input}
    proto = proto_of(nodes, {key: array for key, array in ARRAYS.items() if key in used})
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    wanted: Any = ReferenceEvaluator(proto).run(["y"], {"x": x})[0]
    model = ir.from_proto(proto)
    fold(model)
    assert [item.op_type for item in model.graph] == ["MatMul"]
    weight = model.graph[0].inputs[1]
    assert weight is not None and weight.const_value is not None
    np.testing.assert_allclose(x @ weight.const_value.numpy(), wanted, rtol=1e-6)


def test_a_shared_initializer_is_held_once_for_each_identity() -> None:
    nodes = [
        node("Identity", ["w"], ["v"]),
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["x", "v"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    model = ir.from_proto(proto_of(nodes, {"w": WEIGHT}))
    own_initializers(model.graph)
    assert sorted(model.graph.initializers) == ["v", "w"]
    assert [item.op_type for item in model.graph] == ["MatMul", "MatMul", "Add"]


def reshaped(target: Sequence[int], shape: Dims, out: Dims) -> tuple[bool, list[int] | None]:
    """Whether a Reshape to a target that is computed was fixed, and to what."""
    nodes = [node("Mul", ["t", "n"], ["s"]), node("Reshape", ["x", "s"], ["y"])]
    arrays = {"t": np.array(target), "n": np.ones(len(target), np.int64)}
    model = ir.from_proto(proto_of(nodes, arrays, shape, out))
    infer_shapes(model)
    model.graph.outputs[0].shape = ir.Shape(out)
    changed = fix_reshapes(model.graph)
    target_value = model.graph[-1].inputs[1]
    assert target_value is not None
    tensor = target_value.const_value
    return changed, None if tensor is None or not target_value.is_initializer() else tensor.numpy().tolist()


def test_a_target_is_fixed_where_one_size_is_open_at_most() -> None:
    assert reshaped([2, 2, 2], (2, 4), (2, 2, 2)) == (True, [2, 2, 2])
    assert reshaped([-1, 2, 2], ("batch", 4), ("batch", 2, 2)) == (True, [-1, 2, 2])


def test_the_factor_that_inference_leaves_open_beside_the_batch_is_worked_out() -> None:
    assert reshaped([0, -1, 3], ("batch", 4, 6), ("batch", "k", 3)) == (True, [-1, 8, 3])


def test_a_target_stays_computed_where_more_is_open() -> None:
    assert reshaped([0, -1], ("batch", "time", 4), ("batch", "k")) == (False, None)
