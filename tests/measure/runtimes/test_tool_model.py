"""What a vendor's tool is told of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.errors import ModelError
from autocompress.core.tool import ToolCommand
from autocompress.measure.runtimes.probe_nets import residual_net
from autocompress.measure.runtimes.tool_model import (
    check_readable,
    ncnn_shape,
    precision_arguments,
    precisions_in,
)

TOOL = ToolCommand(argv=("t", "{model}"), output="trtexec", fp16=("--fp16",), int8=("--int8",), two_to_four=("--sp",))
# Tencent/ncnn benchmark/squeezenet.param, first lines.
PARAM = """7767517
48 56
Input                    data                     0 1 data -23330=4,3,227,227,3 0=227 1=227 2=3
Convolution              conv1                    1 1 data conv1_relu_conv1 0=64 1=3 3=2 5=1 6=1728 9=1
"""


def half_weights_only() -> bytes:
    """Weights kept in float16 and cast back: it computes in float32."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "v"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.zeros((4, 3), np.float16), "w")],
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("model", "half", "quantized"),
    [
        (lambda: residual_net("fp32"), False, False),
        (lambda: residual_net("fp16"), True, False),
        (lambda: residual_net("int8"), False, True),
        (half_weights_only, False, False),
        (lambda: b"no model", False, False),
    ],
)
def test_precisions_are_those_that_are_computed_in(model: Callable[[], bytes], half: bool, quantized: bool) -> None:
    assert precisions_in(model()) == (half, quantized)


def test_a_model_gets_the_arguments_of_its_precisions(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(residual_net("fp16"))
    assert precision_arguments(path, TOOL, sparse=False) == ("--fp16",)
    assert precision_arguments(residual_net("int8"), TOOL, sparse=True) == ("--sp", "--int8")
    assert precision_arguments(residual_net("fp32"), TOOL, sparse=False) == ()


def test_weights_beside_the_model_are_not_needed(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(residual_net("fp16"))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert precisions_in(tmp_path / "m.onnx") == (True, False)


def test_another_kind_of_file_is_refused() -> None:
    tool = ToolCommand(argv=("benchmark_model", "{model}"), output="benchmark_model", reads="tflite")
    check_readable("a.tflite", tool)
    with pytest.raises(ModelError, match=r"benchmark_model reads \.tflite files, but got 'a\.onnx': convert it first"):
        check_readable("a.onnx", tool)


def test_an_ncnn_network_tells_its_input() -> None:
    assert ncnn_shape(PARAM.encode()) == "[227,227,3]"


def test_an_ncnn_network_without_a_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"needs 0=width 1=height 2=channels"):
        ncnn_shape(b"7767517\n1 1\nInput data 0 1 data\n")
