"""A machine that runs in simulated time, and small models for a real runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize

Load = Callable[[float], float]


class SimulatedClock:
    """Seconds that pass only when a simulated model runs.

    Args:
        load: seconds since the start to a factor on every model's time: drift, or a busy neighbour.
        noise: standard deviation of each call's log time.
        seed: of the noise.
    """

    def __init__(self, load: Load = lambda seconds: 1.0, *, noise: float = 0.0, seed: int = 0) -> None:
        self.seconds = 0.0
        self.load = load
        self._noise = noise
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> float:
        return self.seconds

    def model(self, ms: float, *, sensitivity: float = 1.0) -> Callable[[], None]:
        """A model of ``ms`` milliseconds a call on the calm machine.

        Args:
            ms: of a calm call.
            sensitivity: how much of the load's slow-down it suffers.
        """

        def call() -> None:
            slower = 1.0 + sensitivity * (self.load(self.seconds) - 1.0)
            self.seconds += ms * 1e-3 * slower * float(np.exp(self._rng.normal(0.0, self._noise)))

        return call


@pytest.fixture
def simulated_clock() -> type[SimulatedClock]:
    """The class :class:`SimulatedClock`."""
    return SimulatedClock


@pytest.fixture
def linear_model() -> Callable[..., bytes]:
    """Makes a model ``y = x @ w`` of ``(batch, 4)`` to ``(batch, 3)``; ``w`` holds 0, 1, 2, ..."""

    def make(batch: int | str = "n", weight: np.ndarray | None = None) -> bytes:
        w = np.arange(12, dtype=np.float32).reshape(4, 3) if weight is None else weight
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
            [numpy_helper.from_array(w, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return bytes(model.SerializeToString())

    return make


@pytest.fixture
def linear_file(linear_model: Callable[..., bytes], tmp_path: Path) -> Path:
    """The linear model as a file."""
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear_model())
    return path


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
