"""Layers between DequantizeLinear and QuantizeLinear, against ONNX Runtime on the same bytes."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.core.compile_target import CompileTarget
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import TvmArtifact, TvmRuntime

STEP = 0.05


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A quantized layer to test."""

    op_type: str
    weight: tuple[int, ...]
    data: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    axis: int = 0
    activation: str = "uint8"
    zero_point: int = 0
    bias: bool = True
    largest: int = 63
    packed: bool = False

    def model(self) -> bytes:
        """x -> Q -> DQ -> layer -> Relu -> Q -> DQ -> y, per-channel 7-bit weights: x86 without VNNI is exact then."""
        rng = np.random.default_rng(3)
        kind = np.dtype(self.activation)
        low, high = (-8, 8) if self.packed else (-self.largest, self.largest + 1)
        channels = self.weight[self.axis]
        arrays: dict[str, np.ndarray] = {
            "w": rng.integers(low, high, self.weight).astype(np.int8),
            "ws": rng.uniform(0.01, 0.03, channels).astype(np.float32),
            "wz": np.zeros(channels, np.int8),
            "xs": np.float32(STEP),
            "xz": np.array(self.zero_point, kind),
            "ys": np.float32(0.25),
            "yz": np.array(self.zero_point, kind),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=self.axis),
        ]
        inputs = ["xd", "wd"]
        if self.bias and self.op_type != "MatMul":
            outputs = self.attributes.get("group", 1) * self.weight[1] if self.op_type == "ConvTranspose" else channels
            arrays["b"] = rng.normal(0, 0.5, outputs).astype(np.float32)
            inputs.append("b")
        nodes += [
            helper.make_node(self.op_type, inputs, ["a"], name="layer", **self.attributes),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
        ]
        return _model(nodes, arrays, self.data, packed=self.packed)


def _model(nodes: list[NodeProto], arrays: dict[str, np.ndarray], data: tuple[int, ...], *, packed: bool) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items() if not (packed and name == "w")]
    if packed:
        values = arrays["w"].ravel().tolist()
        tensors.append(helper.make_tensor("w4", TensorProto.INT4, arrays["w"].shape, values))
        nodes.insert(0, helper.make_node("Cast", ["w4"], ["w"], to=TensorProto.INT8))
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(data))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


CONV = Layer(op_type="Conv", weight=(8, 4, 3, 3), data=(1, 4, 6, 6), attributes={"pads": [1, 1, 1, 1]})
INTEGER = {
    "conv": CONV,
    "padding is the zero point": Layer(
        op_type="Conv", weight=(8, 4, 3, 3), data=(1, 4, 6, 6), attributes={"pads": [1, 0, 1, 2]}, zero_point=117
    ),
    "strided, int8 activations": Layer(
        op_type="Conv",
        weight=(8, 4, 3, 3),
        data=(1, 4, 7, 7),
        attributes={"pads": [1, 1, 1, 1], "strides": [2, 2]},
        activation="int8",
        zero_point=-128,
    ),
    "dilated, odd sizes": Layer(
        op_type="Conv", weight=(6, 5, 3, 3), data=(1, 5, 9, 8), attributes={"dilations": [2, 2], "pads": [1, 1, 1, 1]}
    ),
    "conv1d": Layer(op_type="Conv", weight=(5, 3, 3), data=(1, 3, 9), attributes={"pads": [1, 1]}, zero_point=9),
    "gemm": Layer(op_type="Gemm", weight=(5, 7), data=(1, 7), attributes={"transB": 1}, zero_point=99),
    "matmul": Layer(op_type="MatMul", weight=(7, 5), data=(1, 3, 7), axis=1, zero_point=31),
    "4-bit weights": Layer(op_type="Conv", weight=(8, 4, 1, 1), data=(1, 4, 6, 6), packed=True),
}


def _agree(runtime: TvmRuntime, model: bytes, shape: tuple[int, ...]) -> TvmArtifact:
    """Outputs are those of ONNX Runtime but for results that fall on the edge between two steps."""
    x = np.random.default_rng(4).normal(0, 2, shape).astype(np.float32)
    artifact = runtime.build(model)
    (found,), (expected,) = artifact.run((x,)), OnnxRuntime().build(model).run((x,))
    steps = np.abs(found - expected) / 0.25
    assert steps.max() <= 1.01
    assert np.mean(steps > 0.5) < 0.02
    return artifact


@pytest.mark.parametrize("name", INTEGER)
def test_a_quantized_layer_runs_in_integers(tvm_runtime: TvmRuntime, name: str) -> None:
    layer = INTEGER[name]
    artifact = _agree(tvm_runtime, layer.model(), layer.data)
    assert [told["kernel"] for told in artifact.told["layers"]] == ["int8"]


FLOATS = {
    "TVM has no integer ConvTranspose": Layer(op_type="ConvTranspose", weight=(4, 3, 2, 2), data=(1, 4, 5, 5)),
    "it sums over channels of a group only, too few for a dot product": Layer(
        op_type="Conv", weight=(4, 1, 3, 3), data=(1, 4, 6, 6), attributes={"group": 4}, bias=False
    ),
}


@pytest.mark.parametrize("reason", FLOATS)
def test_what_has_no_integer_kernel_is_computed_in_floats_and_says_why(tvm_runtime: TvmRuntime, reason: str) -> None:
    layer = FLOATS[reason]
    artifact = _agree(tvm_runtime, layer.model(), layer.data)
    assert artifact.told["layers"] == [
        {"node": "layer", "op_type": layer.op_type, "kernel": "float32", "reason": reason}
    ]


@pytest.mark.parametrize(
    ("triple", "mcpu", "weights", "reason"),
    [
        ("x86_64-linux-gnu", "cascadelake", 127, ""),
        ("x86_64-linux-gnu", "haswell", 64, ""),
        ("x86_64-linux-gnu", "haswell", 127, "two of its products can exceed 16 bits"),
        ("x86_64-linux-gnu", "nehalem", 64, "this processor has no dot product of 8-bit numbers"),
        ("aarch64-linux-gnu", "cortex-a76", 127, ""),
        ("armv7l-linux-gnueabihf", "cortex-a76", 127, "this processor has no dot product of 8-bit numbers"),
    ],
)
def test_a_processor_decides_what_is_exact_in_integers(
    tvm_runtime: TvmRuntime, triple: str, mcpu: str, weights: int, reason: str
) -> None:
    runtime = TvmRuntime(worker=tvm_runtime.worker, target=CompileTarget(triple=triple, mcpu=mcpu))
    (told,) = runtime.explain(replace(CONV, largest=weights).model())
    assert told["kernel"] == ("float32" if reason else "int8")
    assert told["reason"].startswith(reason)


def test_layers_of_one_shape_share_a_kernel_whatever_their_scales(tvm_runtime: TvmRuntime) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    nodes = []
    last = "x"
    for number in range(3):
        arrays |= {
            f"w{number}": rng.integers(-63, 64, (4, 4, 1, 1)).astype(np.int8),
            f"ws{number}": rng.uniform(0.01, 0.03, 4).astype(np.float32),
            f"s{number}": np.float32(0.05 + 0.01 * number),
            f"z{number}": np.array(0, np.uint8),
        }
        scale = [f"s{number}", f"z{number}"]
        nodes += [
            helper.make_node("QuantizeLinear", [last, *scale], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", *scale], [f"d{number}"]),
            helper.make_node("DequantizeLinear", [f"w{number}", f"ws{number}"], [f"wd{number}"], axis=0),
            helper.make_node("Conv", [f"d{number}", f"wd{number}"], [f"c{number}"], name=f"conv{number}"),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        ]
        last = f"r{number}"
    nodes += [
        helper.make_node("QuantizeLinear", [last, "s0", "z0"], ["last"]),
        helper.make_node("DequantizeLinear", ["last", "s0", "z0"], ["y"]),
    ]
    model = _model(nodes, arrays, (1, 4, 6, 6), packed=False)
    kernels = tvm_runtime.build(model).told["kernels"]
    # The last one ends in a DequantizeLinear of the output, so it is another kernel.
    assert max(kernel["calls"] for kernel in kernels) == 2


#: Of x86, by processor.
INSTRUCTIONS = {
    "cascadelake": r"vpdpbusd\s.*%zmm",
    "alderlake": r"vpdpbusd\s.*%ymm",
    "skylake-avx512": r"vpmaddubsw\s.*%zmm",
    "haswell": r"vpmaddubsw\s.*%ymm",
}


@pytest.mark.parametrize("mcpu", INSTRUCTIONS)
def test_an_untuned_kernel_has_the_processors_dot_product(tvm_runtime: TvmRuntime, tmp_path: Path, mcpu: str) -> None:
    if shutil.which("objdump") is None or "x86_64" not in tvm_runtime.worker.ask("hello")["triple"]:
        pytest.skip("this machine does not read code of x86")
    runtime = TvmRuntime(worker=tvm_runtime.worker, target=CompileTarget(triple="x86_64-linux-gnu", mcpu=mcpu))
    told = runtime.export(runtime.build(CONV.model()), tmp_path)
    listing = subprocess.run(["objdump", "-d", str(tmp_path / told["library"])], capture_output=True, text=True)
    assert re.search(INSTRUCTIONS[mcpu], listing.stdout)
