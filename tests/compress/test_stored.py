"""Storage formats: the runtime folds them at load, to the numbers they are defined as, from fewer bytes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from autocompress.compress.affine import affine_groups
from autocompress.compress.codebook import table_groups
from autocompress.compress.grouping import Grouping
from autocompress.compress.quantize import quantize
from autocompress.compress.weight_only import output_axis
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]
PLANS = [
    *(LayerPlan(weight_bits=bits) for bits in (3, 6)),
    *(LayerPlan(weight_bits=bits, symmetric=False) for bits in (2, 3, 4, 6, 8)),
    *(LayerPlan(weight_bits=bits, granularity="tensor") for bits in (3, 8)),
    LayerPlan(weight_bits=4, granularity="tensor", symmetric=False),
    *(LayerPlan(weight_bits=bits, granularity="block", block_size=16) for bits in (2, 4)),
    LayerPlan(weight_bits=4, granularity="block", block_size=64, symmetric=False),
    *(LayerPlan(weight_bits=bits, format="codebook") for bits in (2, 3, 4, 6, 8)),
    LayerPlan(weight_bits=4, format="codebook", granularity="tensor"),
    LayerPlan(weight_bits=4, format="codebook", granularity="block"),
    *(LayerPlan(weight_bits=bits, format="log") for bits in (2, 4, 8)),
    *(LayerPlan(weight_bits=bits, format="power_of_two") for bits in (2, 4, 6)),
    LayerPlan(weight_bits=4, format="power_of_two", granularity="block"),
]


def everywhere(graph: ModelGraph, plan: LayerPlan) -> dict[str, LayerPlan]:
    return {layer.name: plan for layer in graph.layers()}


def folded_weights(graph: ModelGraph, tmp_path: Any) -> dict[str, Any]:
    """Second input of each layer in the graph that the runtime makes of a file, by the layer's output."""
    path = tmp_path / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    model = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.initializer}
    return {n.output[0]: arrays[n.input[1]] for n in model.node if n.op_type in ("Conv", "Gemm", "MatMul")}


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_the_runtime_folds_a_convolution_to_the_very_numbers(
    plan: LayerPlan, small: ModelGraph, fused: Fused, tmp_path: Any
) -> None:
    made = quantize(small, everywhere(small, plan) | {"fc": LayerPlan()}, None)
    found = folded_weights(made, tmp_path)
    for name in ("a", "b"):
        weight = small.initializers[f"{name}.weight"]
        if plan.format != "uniform":
            expected = table_groups(weight, 0, plan).dequantized()
        else:
            expected = affine_groups(weight, 0, plan).dequantized()
        np.testing.assert_array_equal(found[name], expected)
    assert fused(made) == fused(small)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
@pytest.mark.parametrize("op_type", ["ConvTranspose", "MatMul"])
def test_output_channels_on_another_axis_are_stored_too(
    op_type: str, plan: LayerPlan, net: Any, run_graph: Run
) -> None:
    made = net(*((4, 5, 5) if op_type == "ConvTranspose" else (20,)))
    weight = made.normal(*((4, 6, 2, 2) if op_type == "ConvTranspose" else (20, 6)))
    made.node(op_type, ["x", made.constant("a.weight", weight)], "y")
    graph = made.graph("y")
    axis = output_axis(graph.model.graph[0], weight.ndim)
    grouped = table_groups(weight, axis, plan) if plan.format != "uniform" else affine_groups(weight, axis, plan)
    expected = graph.with_initializers({"a.weight": grouped.dequantized()})
    x = np.random.default_rng(0).normal(size=(2, *([4, 5, 5] if op_type == "ConvTranspose" else [20])))
    stored = quantize(graph, everywhere(graph, plan), None)
    found = run_graph(stored, x.astype(np.float32))
    np.testing.assert_allclose(found, run_graph(expected, x.astype(np.float32)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_the_file_shrinks_by_what_is_stored(plan: LayerPlan, demo_folded: ModelGraph) -> None:
    layers = {name: p for name, p in everywhere(demo_folded, plan).items() if name != "fc"}
    made = quantize(demo_folded, layers, None)
    stored = {2: 2, 3: 4, 4: 4, 6: 8, 8: 8}[plan.weight_bits]
    weights = [layer.weight_shape for layer in demo_folded.layers() if layer.name in layers]
    saved = sum(np.prod(shape) for shape in weights) * (32 - stored) / 8
    groups = sum(
        {
            "tensor": 1,
            "channel": shape[0],
            "block": shape[0] * Grouping(shape=shape, axis=0, granularity="block", block_size=plan.block_size).blocks,
        }[plan.granularity]
        for shape in weights
    )
    tables = len(layers) * 4 * 2**plan.weight_bits if plan.format != "uniform" else 0
    expected = saved - groups * (4 if plan.symmetric else 4 + stored / 8) - tables
    assert demo_folded.size_bytes() - made.size_bytes() == pytest.approx(expected, rel=0.06)


def test_six_bits_answer_like_the_original(demo_folded: ModelGraph, demo_data: Any, run_graph: Run) -> None:
    (x,), _ = demo_data.validation.batch(range(200))
    expected = run_graph(demo_folded, x).argmax(1)
    for plan in (LayerPlan(weight_bits=6), LayerPlan(weight_bits=4, format="codebook")):
        found = run_graph(quantize(demo_folded, everywhere(demo_folded, plan), None), x).argmax(1)
        assert (found == expected).mean() > 0.95
