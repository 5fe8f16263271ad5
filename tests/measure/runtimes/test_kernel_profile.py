"""Kernels as ONNX Runtime tells them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.kernel_profile import profile_kernels
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    """MatMul - Relu - MatMul."""
    weights = {name: np.ones((8, 8), np.float32) for name in ("w1", "w2")}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "net", values[:1], values[1:], tensors),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    return ModelGraph(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))


def test_one_time_for_every_kernel_and_run(graph: ModelGraph) -> None:
    artifact, times = profile_kernels(OnnxRuntime(), graph, runs=3)
    assert [kernel.op_type for kernel in times.kernels] == ["MatMul", "Relu", "MatMul"]
    assert times.kernels[0].weight == (8, 8)
    assert times.microseconds.shape == (3, 3)
    assert artifact.run((np.ones((1, 8), np.float32),))[0].shape == (1, 8)


def test_kernels_are_told_without_a_time(graph: ModelGraph) -> None:
    _, times = profile_kernels(OnnxRuntime(), graph, runs=0)
    assert len(times.kernels) == 3
    assert times.microseconds.shape == (0, 3)
