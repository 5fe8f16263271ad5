"""Shapes of values, against those of what ONNX Runtime really gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from autocompress.core.errors import ModelError
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.shapes import BATCH, infer_shapes, name_batch_axis, sample_shapes, structure
from autocompress.recover.features import with_outputs

node = helper.make_node
FLOAT = TensorProto.FLOAT


@pytest.mark.parametrize("name", ["yolo", "bert", "shufflenet", "gru"])
def test_shapes_for_one_sample_are_those_of_the_runtime(
    name: str, network_named: Callable[[str], ModelGraph], noise: Callable[..., Any]
) -> None:
    graph = network_named(name)
    inner = [str(v.name) for item in graph.model.graph for v in item.outputs if v.name not in graph.output_names]
    floats = [value for value in inner if graph.values[value].dtype == ir.DataType.FLOAT][::7]
    shown = with_outputs(graph, floats)
    session = onnxruntime.InferenceSession(shown.to_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(floats, dict(zip(graph.input_names, noise(graph, batch=1), strict=True)))
    said = sample_shapes(graph)
    assert {value: said[value] for value in floats} == {
        value: np.asarray(array).shape for value, array in zip(floats, found, strict=True)
    }


def test_a_batch_that_is_folded_into_another_axis_is_counted_for_one_sample(write: Any) -> None:
    graph = write(
        [node("Reshape", ["x", "s"], ["y"])], {"s": np.array([-1, 4])}, {"x": (FLOAT, ["batch", 7, 4])}, {"y": FLOAT}
    )
    assert graph.value_shape("y") == (None, 4)
    assert sample_shapes(graph)["y"] == (7, 4)


def test_a_graph_that_contradicts_itself_is_refused(write: Any) -> None:
    with pytest.raises(ModelError, match="contradicts itself"):
        write(
            [node("MatMul", ["x", "w"], ["y"])],
            {"w": np.ones((5, 3), np.float32)},
            {"x": (FLOAT, [2, 4])},
            {"y": FLOAT},
        )


def test_large_initializers_are_left_out_of_what_inference_copies(write: Any) -> None:
    arrays = {"w": np.ones((64, 64), np.float32), "s": np.array([-1, 8, 8])}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Reshape", ["m", "s"], ["y"])]
    graph = write(nodes, arrays, {"x": (FLOAT, ["batch", 64])}, {"y": FLOAT})
    proto = structure(graph.model)
    assert [tensor.name for tensor in proto.graph.initializer] == ["s"]
    assert {item.name for item in proto.graph.input} == {"x", "w"}
    assert set(graph.initializers) == {"w", "s"}
    infer_shapes(graph.model)
    assert graph.value_shape("y") == (None, 8, 8)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [("n", "n", True), (None, None, True), ("n", None, True), ("n", "m", False), ("n", 2, False)],
)
def test_the_batch_gets_its_name_where_all_inputs_agree(first: Any, second: Any, named: bool) -> None:
    inputs = [ir.Value(name=n, shape=ir.Shape([d, 3])) for n, d in (("a", first), ("b", second))]
    item = ir.Node("", "Add", inputs, outputs=[ir.Value(name="y", shape=ir.Shape([first, 3]))], name="n")
    model = ir.Model(ir.Graph(inputs, item.outputs, nodes=[item], opset_imports={"": 21}), ir_version=10)
    name_batch_axis(model)
    found = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for v in inputs for dim in [v.shape[0]]]  # type: ignore[index]
    assert (found == [BATCH, BATCH]) == named
    if named and first is not None:
        assert item.outputs[0].shape == ir.Shape([BATCH, 3])
