"""Integer graphs: their numbers, and that ONNX Runtime fuses them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.compress.quantize import activation_scale, quantize
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.plan import CALIBRATORS, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import local_target

#: For what compares with whole-range arithmetic: without VNNI, uint8 x int8 kernels add pairs in saturating 16 bits.
EXACT = pytest.mark.skipif(local_target().runtime().reduce_range, reason="8-bit weights saturate on this machine")
INT8, INT4, INT2 = (LayerPlan(weight_bits=bits, activation_bits=8) for bits in (8, 4, 2))
Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]


def everywhere(graph: ModelGraph, plan: LayerPlan = INT8) -> dict[str, LayerPlan]:
    return {layer.name: plan for layer in graph.layers()}


class Integers:
    """The same arithmetic once more, in numpy, from the definition: real = (code - zero) * scale."""

    def __init__(self, graph: ModelGraph, ranges: Mapping[str, tuple[float, float]], bottom: int) -> None:
        self.weights, self.ranges, self.bottom = graph.initializers, ranges, bottom

    def encode(self, real: Any, name: str) -> tuple[Any, float, int]:
        low, high = self.ranges[name]
        scale = (high - low) / 255
        zero = int(np.clip(np.rint(self.bottom - low / scale), self.bottom, self.bottom + 255))
        return np.clip(np.rint(real / scale) + zero, self.bottom, self.bottom + 255), scale, zero

    def through(self, real: Any, name: str) -> Any:
        codes, scale, zero = self.encode(real, name)
        return (codes - zero) * scale

    def layer(self, name: str, top: int = 127) -> tuple[Any, Any]:
        weight = self.weights[f"{name}.weight"].astype(np.float64)
        scale = np.abs(weight).reshape(len(weight), -1).max(1) / top
        shape = (-1, *[1] * (weight.ndim - 1))
        return np.rint(weight / scale.reshape(shape)) * scale.reshape(shape), self.weights[f"{name}.bias"]

    def conv(self, real: Any, name: str) -> Any:
        weight, bias = self.layer(name)
        padded = np.pad(real, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]

    def chain(self, x: Any) -> Any:
        x = self.through(x, "x")
        a = self.through(np.maximum(self.conv(x, "a"), 0), "a_relu")
        b = self.through(self.conv(a, "b"), "b")
        pooled = self.through(self.through(np.maximum(a + b, 0), "b_relu").mean((2, 3)), "pool")
        weight, bias = self.layer("fc")
        return pooled @ weight.T + bias


@EXACT
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_outputs_are_those_of_integer_arithmetic_in_numpy(
    activation_type: str, small: ModelGraph, small_calibration: Calibration, images: Any, run_graph: Run
) -> None:
    made = quantize(small, everywhere(small), small_calibration, activation_type=activation_type)
    ranges = {name: small_calibration.range(name) for name in ("x", "a_relu", "b", "b_relu", "pool")}
    expected = Integers(small, ranges, 0 if activation_type == "uint8" else -128).chain(images.astype(np.float64))
    found = run_graph(made, images)
    # A value on a rounding boundary may fall to either side and move one code on.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(found - expected).mean() < 0.002 * np.abs(expected).max()


def test_every_operator_of_the_small_net_has_its_integer_kernel(
    small: ModelGraph, small_calibration: Calibration, fused: Fused
) -> None:
    found = fused(quantize(small, everywhere(small), small_calibration))
    assert {k: found[k] for k in ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm")} == {
        "QLinearConv": 2,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    }
    assert not {"Conv", "Gemm", "Add", "Relu", "DequantizeLinear"} & set(found)
    assert found["QuantizeLinear"] == 1


@pytest.mark.parametrize("plan", [INT8, INT4, INT2], ids=lambda plan: plan.label)
def test_the_demo_net_has_a_linear_conv_for_every_conv(
    plan: LayerPlan, demo_folded: ModelGraph, demo_calibration: Calibration, fused: Fused
) -> None:
    found = fused(quantize(demo_folded, everywhere(demo_folded, plan), demo_calibration))
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (21, 9, 1)
    assert (found["Conv"], found["Gemm"], found["Add"], found["DequantizeLinear"], found["Relu"]) == (0, 0, 0, 0, 0)
    assert found["QuantizeLinear"] == 1
    assert found["Transpose"] <= 2


def test_fewer_bits_are_fewer_bytes(demo_folded: ModelGraph, demo_calibration: Calibration) -> None:
    sizes = [
        quantize(demo_folded, everywhere(demo_folded, plan), demo_calibration).size_bytes()
        for plan in (INT8, INT4, INT2)
    ]
    weights = sum(layer.params for layer in demo_folded.layers())
    assert sizes[0] < 0.35 * demo_folded.size_bytes()
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.05)
    assert sizes[1] - sizes[2] == pytest.approx(weights / 4, rel=0.05)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_the_demo_net_keeps_its_answers_in_int8(
    calibrator: str, demo_folded: ModelGraph, demo_calibration: Calibration, demo_data: Any, run_graph: Run
) -> None:
    (x,), _ = demo_data.validation.batch(range(500))
    made = quantize(demo_folded, everywhere(demo_folded), demo_calibration, calibrator=calibrator)
    agreement = (run_graph(made, x).argmax(1) == run_graph(demo_folded, x).argmax(1)).mean()
    assert agreement >= 0.94


PRECISIONS = (
    None,
    INT8,
    INT4,
    LayerPlan(weight_bits=8),
    LayerPlan(weight_bits=4),
    LayerPlan(weight_bits=16),
    LayerPlan(weight_bits=16, activation_bits=16),
)


@given(st.lists(st.sampled_from(PRECISIONS), min_size=22, max_size=22))
@settings(max_examples=12, deadline=None)
def test_any_mix_of_precisions_runs_and_stays_close(mix: list[LayerPlan | None]) -> None:
    graph, calibration, x, expected, run = MIXED
    names = [layer.name for layer in graph.layers()]
    plans = {name: plan for name, plan in zip(names, mix, strict=True) if plan is not None}
    found = run(quantize(graph, plans, calibration), x)
    assert found.dtype == np.float32
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.85


MIXED: Any = None


@pytest.fixture(autouse=True, scope="module")
def mixed(demo_folded: ModelGraph, demo_calibration: Calibration, demo_data: Any, run_graph: Run) -> None:
    """Hypothesis and function-scoped fixtures do not mix."""
    global MIXED
    (x,), _ = demo_data.validation.batch(range(64))
    MIXED = (demo_folded, demo_calibration, x, run_graph(demo_folded, x), run_graph)


def test_inputs_and_outputs_keep_their_names_and_types(demo_folded: ModelGraph, demo_calibration: Calibration) -> None:
    for plan in (INT8, LayerPlan(weight_bits=16, activation_bits=16)):
        made = quantize(demo_folded, everywhere(demo_folded, plan), demo_calibration)
        assert made.output_names == demo_folded.output_names
        assert made.input_specs == demo_folded.input_specs
        assert made.model.graph.outputs[0].dtype == demo_folded.model.graph.outputs[0].dtype


@EXACT
def test_a_quantized_output_keeps_its_name(net: Any, small_data: ArrayDataset, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "features")
    graph = made.graph(made.conv("features", "y", 4, 8), "features")
    found = quantize(graph, everywhere(graph), calibrate(graph, small_data))
    assert found.output_names == ("y", "features")
    np.testing.assert_allclose(run_graph(found, images), run_graph(graph, images), atol=0.1)


def test_the_float_graph_is_not_changed(demo_folded: ModelGraph, demo_calibration: Calibration) -> None:
    before = demo_folded.to_bytes()
    for plan in (INT8, LayerPlan(weight_bits=4), LayerPlan(weight_bits=16, activation_bits=16)):
        quantize(demo_folded, everywhere(demo_folded, plan), demo_calibration)
    assert demo_folded.to_bytes() == before


def test_the_same_arguments_give_the_same_bytes(demo_folded: ModelGraph, demo_calibration: Calibration) -> None:
    names = list(everywhere(demo_folded))
    cycle = (INT8, INT4, LayerPlan(weight_bits=16, activation_bits=16), LayerPlan(weight_bits=2))
    plans = {name: cycle[index % 4] for index, name in enumerate(names)}
    backwards = dict(reversed(plans.items()))
    assert (
        quantize(demo_folded, plans, demo_calibration).to_bytes()
        == quantize(demo_folded.clone(), backwards, demo_calibration).to_bytes()
    )


def test_a_float_layer_beside_integer_ones_reads_what_was_never_quantized(
    net: Any, small_data: ArrayDataset, images: Any, run_graph: Run
) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    graph = made.graph(made.conv("ra", "b", 4, 8), made.conv("ra", "c", 4, 8))
    found = quantize(graph, {"c": INT8}, calibrate(graph, small_data))
    np.testing.assert_array_equal(run_graph(found, images), run_graph(graph, images))


def test_a_clip_is_fused(net: Any, small_data: ArrayDataset, fused: Fused) -> None:
    made = net(3, 8, 8)
    bounds = [made.constant("zero", np.array(0, np.float32)), made.constant("six", np.array(0.6, np.float32))]
    made.node("Clip", [made.conv("x", "a", 8, 3), *bounds], "ra")
    made.node("Clip", [made.conv("ra", "b", 8, 8), *bounds], "rb")
    made.node("GlobalAveragePool", ["rb"], "pool")
    graph = made.graph(made.gemm(made.node("Flatten", ["pool"], "flat"), "y", 4, 8))
    found = fused(quantize(graph, everywhere(graph), calibrate(graph, small_data)))
    assert (found["QLinearConv"], found["Clip"], found["Conv"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("op_type", "kernel"),
    [("MaxPool", "NhwcMaxPool"), ("AveragePool", "QLinearAveragePool"), ("LeakyRelu", "QLinearLeakyRelu"),
     ("Sigmoid", "QLinearSigmoid"), ("Concat", "QLinearConcat"), ("Mul", "QLinearMul")],
)  # fmt: skip
def test_operators_between_layers_have_integer_kernels(
    op_type: str, kernel: str, net: Any, small_data: ArrayDataset, fused: Fused
) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    several = op_type in ("Concat", "Mul")
    inputs = ["ra", made.conv("ra", "b", 8, 8)] if several else ["ra"]
    attributes = {
        "MaxPool": {"kernel_shape": [2, 2]}, "AveragePool": {"kernel_shape": [2, 2]}, "Concat": {"axis": 1}
    }.get(op_type, {})  # fmt: skip
    made.node(op_type, inputs, "middle", **attributes)
    graph = made.graph(made.conv("middle", "y", 4, 16 if op_type == "Concat" else 8))
    found = fused(quantize(graph, everywhere(graph), calibrate(graph, small_data)))
    assert found[kernel] == 1
    assert (found["Conv"], found["DequantizeLinear"], found["QuantizeLinear"]) == (0, 1, 1)


@EXACT
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_of_either_layout_is_fused(transposed: int, net: Any, fused: Fused, run_graph: Run) -> None:
    made = net(6)
    made.constant("fc.weight", made.normal(*((4, 6) if transposed else (6, 4))))
    made.node("Gemm", ["x", "fc.weight", made.constant("fc.bias", made.normal(4))], "y", transB=transposed)
    graph = made.graph("y")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    made_graph = quantize(graph, everywhere(graph), calibrate(graph, ArrayDataset([x])))
    assert fused(made_graph)["QGemm"] == 1
    np.testing.assert_allclose(run_graph(made_graph, x), run_graph(graph, x), atol=0.1)


@EXACT
def test_a_matmul_is_fused(net: Any, fused: Fused, run_graph: Run) -> None:
    made = net(5, 6)
    made.node("MatMul", ["x", made.constant("m.weight", made.normal(6, 4))], "y")
    graph = made.graph("y")
    x = np.random.default_rng(0).normal(size=(16, 5, 6)).astype(np.float32)
    found = quantize(graph, everywhere(graph), calibrate(graph, ArrayDataset([x])))
    assert fused(found)["MatMulIntegerToFloat"] == 1
    np.testing.assert_allclose(run_graph(found, x), run_graph(graph, x), atol=0.1)


def test_a_large_bias_behind_tiny_weights_survives(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 4, 3)
    made.constant("a.weight", made.normal(4, 3, 3, 3) * np.array([0.1, 1e-9, 0, 1e-6], np.float32).reshape(4, 1, 1, 1))
    made.constant("a.bias", np.array([0.1, 3.0, -2.0, 1.0], np.float32))
    graph = made.graph("a")
    found = quantize(graph, everywhere(graph), calibrate(graph, ArrayDataset([images])))
    np.testing.assert_allclose(run_graph(found, images), run_graph(graph, images), atol=0.1)


def test_seven_bit_weights_are_half_as_large(small: ModelGraph, small_calibration: Calibration) -> None:
    made = quantize(small, everywhere(small), small_calibration, reduce_range=True)
    assert max(int(np.abs(made.initializers[f"{name}.weight_q8"]).max()) for name in ("a", "b", "fc")) == 63


def test_integer_compute_without_ranges_says_what_to_do(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="--data, or use activation_bits 32"):
        quantize(small, everywhere(small), None)


def test_unknown_layers_and_types_are_named(small: ModelGraph, small_calibration: Calibration) -> None:
    with pytest.raises(UnknownNameError, match="layer 'fcc'; did you mean 'fc'"):
        quantize(small, {"fcc": INT8}, small_calibration)
    with pytest.raises(UnknownNameError, match="activation type 'u8'"):
        quantize(small, everywhere(small), small_calibration, activation_type="u8")


@given(st.floats(-100, 100), st.floats(-100, 100), st.sampled_from(["uint8", "int8"]))
def test_zero_is_exact_and_the_range_is_covered_to_half_a_step(a: float, b: float, activation_type: str) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    found = activation_scale(low, high, activation_type)
    bottom = 0 if activation_type == "uint8" else -128
    assert bottom <= found.zero_point <= bottom + 255
    step = float(found.scale)
    assert (bottom - found.zero_point) * step <= low + 0.51 * step
    assert (bottom + 255 - found.zero_point) * step >= high - 0.51 * step


@given(st.floats(0.0625, 1024, width=32))
def test_integers_of_a_rectified_value_end_within_its_bound(high: float) -> None:
    found = activation_scale(0.0, high)
    assert found.zero_point == 0
    assert np.float32(255) * found.scale <= np.float32(high)
