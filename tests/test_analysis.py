"""What ``analyze`` tells of a compiling runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.analysis import analyze


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Conv and a ConvTranspose."""
    rng = np.random.default_rng(0)
    arrays = {"down.weight": rng.normal(size=(8, 3, 3, 3)), "up.weight": rng.normal(size=(8, 4, 2, 2))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "down.weight"], ["a"], name="down", strides=[2, 2]),
            helper.make_node("Relu", ["a"], ["r"], name="r"),
            helper.make_node("ConvTranspose", ["r", "up.weight"], ["y"], name="up", strides=[2, 2]),
        ],
        "hourglass",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    path = tmp_path / "hourglass.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="TVM is not installed")
def test_each_layer_says_what_it_computes_in_and_why_it_is_not_integers(model: Path) -> None:
    result = analyze(str(model), target="raspberry-pi-5", runtime="tvm")
    kernels = {kernel["layer"]: kernel for kernel in result["kernels"]}
    assert kernels["down"]["kernel"] == "int8"
    assert kernels["up"]["kernel"] == "float32"
    assert kernels["up"]["reason"] == "there is no integer ConvTranspose"


def test_a_runtime_that_compiles_nothing_tells_no_kernels(model: Path) -> None:
    assert "kernels" not in analyze(str(model), target="raspberry-pi-4b")
