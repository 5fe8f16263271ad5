"""A machine that runs in simulated time, and small models for a real runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

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
