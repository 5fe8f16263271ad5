"""Graphs and files of small networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize


@pytest.fixture(scope="session")
def conv_graph() -> Callable[..., ModelGraph]:
    """Makes conv - relu - flatten - gemm of ``(batch, 3, 6, 6)`` to ``(batch, 4)``."""

    def make(batch: int | str = "batch", *, gain: float = 1.0) -> ModelGraph:
        rng = np.random.default_rng(5)
        arrays = {
            "a.weight": rng.normal(0, 0.3, (8, 3, 3, 3)),
            "a.bias": rng.normal(0, 0.3, 8),
            "fc.weight": gain * rng.normal(0, 0.2, (4, 128)),
            "fc.bias": rng.normal(0, 0.3, 4),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a"], name="a"),
                helper.make_node("Relu", ["a"], ["r"], name="r"),
                helper.make_node("Flatten", ["r"], ["f"], name="f"),
                helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
            ],
            "conv",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 6, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
            [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return ModelGraph(normalize(ir.from_proto(model)))

    return make


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(11, 3, 6, 6)).astype(np.float32)


@pytest.fixture(scope="session")
def node_model() -> Callable[..., bytes]:
    """Makes a model of a single node from inputs ``name: (type, shape)`` to one output ``y``."""

    def make(op_type: str, inputs: dict[str, tuple[int, list[int | str]]], out: int = TensorProto.FLOAT) -> bytes:
        graph = helper.make_graph(
            [helper.make_node(op_type, list(inputs), ["y"])],
            "node",
            [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
            [helper.make_tensor_value_info("y", out, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return bytes(model.SerializeToString())

    return make
