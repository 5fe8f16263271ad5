"""Static integer layers in every granularity, symmetry and width: exact numbers in the runtime's integer kernels."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from autocompress.compress.calibrate import Calibration
from autocompress.compress.quantize import activation_scale, quantize
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import local_target

Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]
KINDS = [
    LayerPlan(weight_bits=bits, activation_bits=8, granularity=granularity, symmetric=symmetric)
    for bits in (2, 3, 4, 6, 8)
    for granularity in ("channel", "tensor")
    for symmetric in (True, False)
]


def stored(graph: ModelGraph, name: str) -> tuple[Any, Any, Any]:
    """Codes, scales and zero points of a weight as they lie in the graph; the last two spread over its channels."""
    arrays = graph.initializers
    codes = next(a for n, a in arrays.items() if n.startswith(f"{name}.weight_q")).astype(np.int64)
    scale, zero = arrays[f"{name}.weight_scale"], arrays.get(f"{name}.weight_zero", np.zeros(()))
    spread = (-1, *[1] * (codes.ndim - 1))
    return (
        codes,
        scale.reshape(spread if scale.ndim else ()),
        zero.astype(np.int64).reshape(spread if zero.ndim else ()),
    )


@pytest.mark.parametrize("plan", KINDS, ids=lambda plan: plan.label)
def test_a_convolution_computes_with_the_integers_in_its_file(
    plan: LayerPlan, net: Any, small_calibration: Calibration, images: Any, run_graph: Run
) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 16, 3)
    graph = made.graph("a")
    low, high = -8.0, 8.0
    calibration = Ranges({"x": (low, high), "a": (-12.0, 12.0)})
    # Without VNNI, kernels add pairs of products in saturating 16 bits.
    quantized = quantize(graph, {"a": plan}, calibration, reduce_range=local_target().runtime().reduce_range)
    codes, scale, zero = stored(quantized, "a")
    assert codes.min() >= -(2 ** (plan.weight_bits - 1)) and codes.max() < 2 ** (plan.weight_bits - 1)
    into, out = activation_scale(low, high), activation_scale(-12.0, 12.0)
    x = np.clip(np.rint(images.astype(np.float32) / into.scale) + into.zero_point, 0, 255).astype(np.int64)
    padded = np.pad(x - into.zero_point, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, codes - zero)
    steps = np.broadcast_to(scale.reshape(-1).astype(np.float64) * into.scale, 16)[:, None, None]
    bias = np.rint(graph.initializers["a.bias"][:, None, None] / steps)
    expected = np.clip(np.rint((sums + bias) * steps / out.scale) + out.zero_point, 0, 255)
    found = run_graph(quantized, images) / out.scale + out.zero_point
    assert np.abs(found - expected).max() < 1.01
    assert (np.abs(found - expected) < 0.01).mean() > 0.995


class Ranges(Calibration):
    """Ranges that a test chooses, and no averages: biases stay."""

    def __init__(self, ranges: dict[str, tuple[float, float]]) -> None:
        super().__init__({})
        self._chosen = ranges

    def range(self, value: str, method: str = "minmax") -> tuple[float, float]:
        return self._chosen[value]


@pytest.mark.parametrize("plan", KINDS, ids=lambda plan: plan.label)
def test_every_kind_runs_in_integer_kernels(
    plan: LayerPlan, small: ModelGraph, small_calibration: Calibration, fused: Fused
) -> None:
    found = fused(quantize(small, dict.fromkeys(("a", "b", "fc"), plan), small_calibration))
    assert (found["QLinearConv"], found["QGemm"], found["Conv"], found["Gemm"]) == (2, 1, 0, 0)


@pytest.mark.parametrize("plan", KINDS[4:], ids=lambda plan: plan.label)
def test_answers_stay_close(
    plan: LayerPlan, small: ModelGraph, small_calibration: Calibration, images: Any, run_graph: Run
) -> None:
    expected = run_graph(small, images)
    found = run_graph(quantize(small, dict.fromkeys(("a", "b", "fc"), plan), small_calibration), images)
    assert np.square(found - expected).mean() < (0.25 if plan.weight_bits == 3 else 0.08) * expected.var()


def test_a_tensor_s_scale_is_one_number_in_the_file(small: ModelGraph, small_calibration: Calibration) -> None:
    plan = LayerPlan(weight_bits=8, activation_bits=8, granularity="tensor")
    arrays = quantize(small, dict.fromkeys(("a", "b", "fc"), plan), small_calibration).initializers
    assert {arrays[f"{name}.weight_scale"].shape for name in ("a", "b", "fc")} == {()}


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_bias_too_large_for_int32_widens_the_whole_tensor_s_scale(net: Any, symmetric: bool, run_graph: Run) -> None:
    made = net(4)
    weight = made.constant("a.weight", made.normal(3, 4, spread=1e-6))
    bias = made.constant("a.bias", np.array([0, 1e4, -2e4], np.float32))
    made.node("Gemm", ["x", weight, bias], "y", transB=1)
    graph = made.graph("y")
    plan = LayerPlan(weight_bits=8, activation_bits=8, granularity="tensor", symmetric=symmetric)
    found = quantize(graph, {"a": plan}, Ranges({"x": (-1.0, 1.0), "y": (-3e4, 3e4)}))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32)
    np.testing.assert_allclose(run_graph(found, x), run_graph(graph, x), rtol=1e-4, atol=0.1)
