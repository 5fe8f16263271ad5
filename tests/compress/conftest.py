"""Small graphs with known weights, and the demo network with its data."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.compress.fold import fold_batch_norm
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.zoo.demo import demo_model

Node = tuple[str, Sequence[str], str, Mapping[str, Any]]


class Net:
    """Writes a graph node by node; inputs and outputs have a free batch axis."""

    def __init__(self, *shape: int, name: str = "x") -> None:
        self.rng = np.random.default_rng(7)
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._input = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self._arrays[name] = array
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(onnx.helper.make_node(op_type, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def conv(self, source: str, name: str, out: int, into: int, kernel: int = 3, **attributes: Any) -> str:
        spread = 1 / np.sqrt(into * kernel * kernel)
        weight = self.constant(f"{name}.weight", self.normal(out, into, kernel, kernel, spread=spread))
        bias = self.constant(f"{name}.bias", self.normal(out, spread=0.2))
        return self.node("Conv", [source, weight, bias], name, pads=[kernel // 2] * 4, **attributes)

    def gemm(self, source: str, name: str, out: int, into: int) -> str:
        weight = self.constant(f"{name}.weight", self.normal(out, into, spread=1 / np.sqrt(into)))
        bias = self.constant(f"{name}.bias", self.normal(out, spread=0.2))
        return self.node("Gemm", [source, weight, bias], name, transB=1)

    def batch_norm(self, source: str, name: str, channels: int) -> str:
        draw = self.rng.uniform
        arrays = {
            "scale": draw(-1.5, 1.5, channels),
            "shift": self.rng.normal(0, 0.3, channels),
            "mean": self.rng.normal(0, 0.3, channels),
            "var": draw(0.5, 1.5, channels),
        }
        names = [self.constant(f"{name}.{key}", array.astype(np.float32)) for key, array in arrays.items()]
        return self.node("BatchNormalization", [source, *names], name)

    def normal(self, *shape: int, spread: float = 1.0) -> NDArray[np.float32]:
        return self.rng.normal(0, spread, shape).astype(np.float32)

    def graph(self, *outputs: str, opset: int = 21) -> ModelGraph:
        graph = onnx.helper.make_graph(
            self._nodes,
            "net",
            [self._input],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self._arrays.items()],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        return ModelGraph(normalize(ir.from_proto(model)))


def chain() -> Net:
    """conv - relu - conv - relu - pool - gemm, with a shortcut around the second conv: names a, b, fc."""
    net = Net(3, 8, 8)
    net.node("Relu", [net.conv("x", "a", 16, 3)], "a_relu")
    net.node("Add", [net.conv("a_relu", "b", 16, 16), "a_relu"], "sum")
    net.node("Relu", ["sum"], "b_relu")
    net.node("GlobalAveragePool", ["b_relu"], "pool")
    net.node("Flatten", ["pool"], "flat")
    net.gemm("flat", "fc", 5, 16)
    return net


def session(graph: ModelGraph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])


def run(graph: ModelGraph, x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(session(graph).run(None, {graph.input_names[0]: x})[0])


@pytest.fixture
def net() -> type[Net]:
    return Net


@pytest.fixture(scope="session")
def small() -> ModelGraph:
    return chain().graph("fc")


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(48, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def small_data(images: NDArray[np.float32]) -> ArrayDataset:
    return ArrayDataset([images])


@pytest.fixture(scope="session")
def small_calibration(small: ModelGraph, small_data: ArrayDataset) -> Calibration:
    return calibrate(small, small_data)


@pytest.fixture(scope="session")
def run_graph() -> Callable[[ModelGraph, NDArray[Any]], NDArray[Any]]:
    return run


@pytest.fixture
def fused(tmp_path: Path) -> Callable[[ModelGraph], collections.Counter[str]]:
    """How often each operator is in the graph that ONNX Runtime runs in the end."""

    def count(graph: ModelGraph) -> collections.Counter[str]:
        path = tmp_path / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
        return collections.Counter(node.op_type for node in onnx.load(path).graph.node)

    return count


@pytest.fixture(scope="session")
def demo() -> ModelGraph:
    return load_model(demo_model(), (np.zeros((2, 1, 28, 28), np.float32),))


@pytest.fixture(scope="session")
def demo_folded(demo: ModelGraph) -> ModelGraph:
    return fold_batch_norm(demo)


@pytest.fixture(scope="session")
def demo_data() -> DataBundle:
    return load_data("demo")


@pytest.fixture(scope="session")
def demo_calibration(demo_folded: ModelGraph, demo_data: DataBundle) -> Calibration:
    return calibrate(demo_folded, demo_data.train)
