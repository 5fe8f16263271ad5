"""Integer layers that find their activation ranges at run time, against integer arithmetic in numpy."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from autocompress.compress.quantize import quantize
from autocompress.compress.weights import quantize_weight
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import local_target

Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]


def dynamic(bits: int = 8, granularity: str = "channel") -> LayerPlan:
    return LayerPlan(weight_bits=bits, activation_bits=8, dynamic=True, granularity=granularity)


def encode(x: Any) -> tuple[Any, float, int]:
    """DynamicQuantizeLinear's definition: the batch's own range, zero included, in uint8."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_linear_layer_is_integer_arithmetic_in_one_kernel(
    op_type: str, bits: int, net: Any, run_graph: Run, fused: Fused
) -> None:
    made = net(20)
    weight = made.normal(20, 6)
    constant = made.constant("a.weight", weight if op_type == "MatMul" else np.ascontiguousarray(weight.T))
    bias = np.zeros(6, np.float32)
    if op_type == "MatMul":
        made.node("MatMul", ["x", constant], "y")
    else:
        bias = made.normal(6)
        made.node("Gemm", ["x", constant, made.constant("a.bias", bias)], "y", transB=1)
    graph = made.graph("y")
    x = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    codes, scale, zero = encode(x)
    # Without VNNI, kernels add pairs of products in saturating 16 bits.
    seven = local_target().runtime().reduce_range
    quantized = quantize_weight(weight, bits, 1, reduce_range=seven and bits == 8)
    expected = ((codes - zero) @ quantized.values.astype(np.int64)) * (quantized.scale * scale) + bias
    found = quantize(graph, {"a": dynamic(bits)}, None, reduce_range=seven)
    np.testing.assert_allclose(run_graph(found, x), expected, rtol=1e-4, atol=1e-4)
    assert fused(found) == {"DynamicQuantizeMatMul": 1}


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_convolution_with_stride_padding_and_groups_is_integer_arithmetic(
    granularity: str, net: Any, run_graph: Run, fused: Fused
) -> None:
    made = net(4, 8, 8)
    made.conv("x", "a", 6, 2, group=2, strides=[2, 2])
    graph = made.graph("a")
    x = np.random.default_rng(0).normal(0.4, 1, size=(3, 4, 8, 8)).astype(np.float32)
    codes, scale, zero = encode(x)
    weight = graph.initializers["a.weight"]
    if granularity == "channel":
        quantized = quantize_weight(weight, 8, 0)
        values, steps = quantized.values.astype(np.int64), quantized.scale
    else:
        steps = np.full(6, np.abs(weight).max() / 127, np.float32)
        values = np.rint(weight / steps[0]).astype(np.int64)
    windows = sliding_window_view(np.pad(codes - zero, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    windows = windows[:, :, ::2, ::2].reshape(3, 2, 2, 4, 4, 3, 3)
    sums = np.einsum("ngchwij,gocij->ngohw", windows, values.reshape(2, 3, 2, 3, 3)).reshape(3, 6, 4, 4)
    expected = sums * (steps * scale)[:, None, None] + graph.initializers["a.bias"][:, None, None]
    found = quantize(graph, {"a": dynamic(granularity=granularity)}, None)
    np.testing.assert_allclose(run_graph(found, x), expected, rtol=1e-4, atol=1e-4)
    assert fused(found)["ConvInteger"] == 1


def test_layers_that_read_one_value_quantize_it_once(net: Any, fused: Fused) -> None:
    made = net(4, 6, 6)
    made.node("Add", [made.conv("x", "a", 5, 4), made.conv("x", "b", 5, 4)], "y")
    graph = made.graph("y")
    found = fused(quantize(graph, {"a": dynamic(), "b": dynamic()}, None))
    assert (found["DynamicQuantizeLinear"], found["ConvInteger"]) == (1, 2)


def test_no_data_is_needed_and_answers_stay(small: ModelGraph, images: Any, run_graph: Run) -> None:
    made = quantize(small, {layer.name: dynamic() for layer in small.layers()}, None)
    expected = run_graph(small, images)
    assert np.square(run_graph(made, images) - expected).mean() < 1e-3 * expected.var()
    assert (made.input_names, made.output_names) == (small.input_names, small.output_names)


def test_dynamic_static_and_stored_layers_live_in_one_graph(
    small: ModelGraph, small_calibration: Any, images: Any, run_graph: Run
) -> None:
    static = LayerPlan(weight_bits=8, activation_bits=8)
    plans = {"a": static, "b": dynamic(), "fc": LayerPlan(weight_bits=4, granularity="block")}
    for turn in range(3):
        mixed = dict(zip(plans, [*plans.values()][turn:] + [*plans.values()][:turn], strict=True))
        mixed = {n: static if n != "fc" and p.granularity == "block" else p for n, p in mixed.items()}
        found = run_graph(quantize(small, mixed, small_calibration), images)
        expected = run_graph(small, images)
        assert np.square(found - expected).mean() < 0.03 * expected.var()
