"""Linear layers that stay packed at run time, against numpy's multiplication by the dequantized weight."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autocompress.compress.affine import affine_groups
from autocompress.compress.matmul_nbits import fallbacks, refused_matmul_nbits
from autocompress.compress.quantize import quantize
from autocompress.core.layer_rules import BLOCK_SIZES
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]


def linear(net: Any, op_type: str, width: int = 70, channels: int = 13) -> ModelGraph:
    made = net(width)
    if op_type == "MatMul":
        made.node("MatMul", ["x", made.constant("a.weight", made.normal(width, channels, spread=0.1))], "y")
    else:
        rows = op_type == "Gemm transB"
        shape = (channels, width) if rows else (width, channels)
        weight = made.constant("a.weight", made.normal(*shape, spread=0.1))
        made.node("Gemm", ["x", weight, made.constant("a.bias", made.normal(channels))], "y", transB=int(rows))
    return made.graph("y")


def blocks(bits: int, size: int = 32, *, symmetric: bool = True) -> LayerPlan:
    return LayerPlan(weight_bits=bits, granularity="block", block_size=size, symmetric=symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", BLOCK_SIZES)
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_outputs_are_those_of_the_dequantized_weight(
    bits: int, size: int, symmetric: bool, net: Any, run_graph: Run, fused: Fused
) -> None:
    graph, plan = linear(net, "MatMul"), blocks(bits, size, symmetric=symmetric)
    made = quantize(graph, {"a": plan}, None)
    weight = affine_groups(graph.initializers["a.weight"], 1, plan).dequantized()
    x = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    np.testing.assert_allclose(run_graph(made, x), x @ weight, rtol=1e-4, atol=1e-5)
    assert fused(made) == {"MatMulNBits": 1}


@pytest.mark.parametrize("op_type", ["Gemm", "Gemm transB"])
def test_a_gemm_takes_its_bias_along(op_type: str, net: Any, run_graph: Run, fused: Fused) -> None:
    graph, plan = linear(net, op_type), blocks(4)
    made = quantize(graph, {"a": plan}, None)
    rows = op_type == "Gemm transB"
    weight = affine_groups(graph.initializers["a.weight"], 0 if rows else 1, plan).dequantized()
    x = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    expected = x @ (weight.T if rows else weight) + graph.initializers["a.bias"]
    np.testing.assert_allclose(run_graph(made, x), expected, rtol=1e-4, atol=1e-5)
    assert fused(made) == {"MatMulNBits": 1}


def test_inputs_and_outputs_keep_their_names_and_shapes(net: Any) -> None:
    graph = linear(net, "MatMul")
    made = quantize(graph, {"a": blocks(4)}, None)
    assert (made.input_names, made.output_names) == (graph.input_names, graph.output_names)
    assert made.value_shape("y") == graph.value_shape("y")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_wide_layer_shrinks_to_its_bits(bits: int, net: Any) -> None:
    graph = linear(net, "MatMul", 512, 256)
    made = quantize(graph, {"a": blocks(bits)}, None)
    expected = 512 * 256 * bits / 8 + 4 * 512 * 256 / 32
    assert made.size_bytes() == pytest.approx(expected, rel=0.02)


def test_a_convolution_falls_back_to_storage_with_a_reason(small: ModelGraph, fused: Fused) -> None:
    nodes = {str(node.outputs[0].name): node for node in small.model.graph}
    assert refused_matmul_nbits(nodes["a"], blocks(4)) == "MatMulNBits is for Linear layers, not Conv"
    assert refused_matmul_nbits(nodes["fc"], blocks(4)) is None
    assert refused_matmul_nbits(nodes["fc"], blocks(2)) == "MatMulNBits holds 4 or 8 bits, not 2"
    plans = dict.fromkeys(("a", "b", "fc"), blocks(4))
    assert fallbacks(small, plans) == dict.fromkeys(("a", "b"), "MatMulNBits is for Linear layers, not Conv")
    found = fused(quantize(small, plans, None))
    assert found == fused(small) - Counter({"Gemm": 1}) + Counter({"MatMulNBits": 1})


@pytest.mark.parametrize(
    ("attributes", "bias", "reason"),
    [
        ({"alpha": 0.5}, (4,), "it scales its result (alpha is 0.5)"),
        ({"transA": 1}, (4,), "it transposes its input"),
        ({}, (1, 4), "its bias is not a constant of shape (4,)"),
    ],
)
def test_a_gemm_that_does_more_falls_back(
    attributes: dict[str, Any], bias: tuple[int, ...], reason: str, net: Any, run_graph: Run
) -> None:
    made = net(6)
    weight = made.constant("a.weight", made.normal(6, 4))
    made.node("Gemm", ["x", weight, made.constant("a.bias", made.normal(*bias))], "y", **attributes)
    graph = made.graph("y")
    assert refused_matmul_nbits(graph.model.graph[0], blocks(8)) == reason
    x = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    found = run_graph(quantize(graph, {"a": blocks(8)}, None), x)
    np.testing.assert_allclose(found, run_graph(graph, x), atol=0.06)


def test_a_batched_weight_falls_back(net: Any) -> None:
    made = net(2, 3, 6)
    made.node("MatMul", ["x", made.constant("a.weight", made.normal(2, 6, 4))], "y")
    graph = made.graph("y")
    assert refused_matmul_nbits(graph.model.graph[0], blocks(4)) == "MatMulNBits needs a weight of 2 axes"
