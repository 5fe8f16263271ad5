"""Models that compute in float64 become float32 ones that compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.graph.float_types import notes, to_float32

node = helper.make_node
RNG = np.random.default_rng(0)
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def model_of(nodes: Sequence[NodeProto], arrays: Mapping[str, NDArray[Any]], kind: int, out: int) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["batch", 6])],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[Any]:
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


LAYERS = [
    node("MatMul", ["x", "w"], ["m"], name="m"),
    node("Relu", ["m"], ["r"], name="r"),
    node("Add", ["r", "b"], ["y"]),
]


def test_a_float64_model_computes_the_same_in_float32() -> None:
    arrays = {"w": RNG.normal(size=(6, 4)), "b": RNG.normal(size=4)}
    model = model_of(LAYERS, arrays, DOUBLE, DOUBLE)
    to_float32(model)
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), np.maximum(x @ arrays["w"], 0) + arrays["b"], rtol=1e-5, atol=1e-5)
    assert all(value.dtype == ir.DataType.FLOAT for value in (*model.graph.inputs, *model.graph.initializers.values()))
    assert [text for text in notes(model) if "float64" in text]


def test_casts_and_constants_of_the_type_become_float32_too() -> None:
    half = numpy_helper.from_array(np.float64(0.5), "")
    nodes = [
        node("Cast", ["x"], ["d"], to=DOUBLE, name="d"),
        node("Constant", [], ["h"], value=half, name="h"),
        node("MatMul", ["d", "w"], ["m"], name="m"),
        node("Mul", ["m", "h"], ["p"], name="p"),
        node("Cast", ["p"], ["y"], to=FLOAT, name="y"),
    ]
    weight = RNG.normal(size=(6, 4))
    model = model_of(nodes, {"w": weight}, FLOAT, FLOAT)
    to_float32(model)
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), 0.5 * (x @ weight), rtol=1e-5, atol=1e-5)
    assert model.graph[0].attributes["to"].value == FLOAT


def test_a_detour_through_float64_without_a_layer_stays() -> None:
    nodes = [
        node("Cast", ["x"], ["d"], to=DOUBLE, name="d"),
        node("ReduceSum", ["d"], ["s"], name="s"),
        node("Cast", ["s"], ["y"], to=FLOAT, name="y"),
    ]
    model = model_of(nodes, {}, FLOAT, FLOAT)
    to_float32(model)
    assert model.graph[0].attributes["to"].value == DOUBLE
    assert notes(model) == ()
