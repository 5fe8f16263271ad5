"""Weights kept in few bits cost bytes, not time."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autocompress.compress.quantize import quantize
from autocompress.core.errors import CandidateError
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph

STORED = tuple(LayerPlan(weight_bits=bits) for bits in (16, 8, 4, 2))
Run = Callable[[ModelGraph, Any], Any]
Fused = Callable[[ModelGraph], Counter[str]]


def everywhere(graph: ModelGraph, plan: LayerPlan) -> dict[str, LayerPlan]:
    return {layer.name: plan for layer in graph.layers()}


@pytest.mark.parametrize("plan", STORED, ids=lambda plan: plan.label)
def test_the_runtime_folds_all_of_it_at_load(plan: LayerPlan, demo_folded: ModelGraph, fused: Fused) -> None:
    assert fused(quantize(demo_folded, everywhere(demo_folded, plan), None)) == fused(demo_folded)


@pytest.mark.parametrize("plan", STORED, ids=lambda plan: plan.label)
def test_the_file_shrinks_with_the_bits(plan: LayerPlan, demo_folded: ModelGraph) -> None:
    made = quantize(demo_folded, everywhere(demo_folded, plan), None)
    saved = sum(layer.params for layer in demo_folded.layers()) * (32 - plan.weight_bits) / 8
    assert demo_folded.size_bytes() - made.size_bytes() == pytest.approx(saved, rel=0.03)


@pytest.mark.parametrize(("bits", "error"), [(16, 1e-6), (8, 1e-3), (4, 0.15)], ids=lambda value: str(value))
def test_outputs_stay_close(bits: int, error: float, small: ModelGraph, images: Any, run_graph: Run) -> None:
    expected = run_graph(small, images)
    found = run_graph(quantize(small, everywhere(small, LayerPlan(weight_bits=bits)), None), images)
    assert ((found - expected) ** 2).mean() < error * expected.var()


@pytest.mark.parametrize("op_type", ["ConvTranspose", "MatMul", "Gemm"])
def test_every_kind_of_layer_can_be_stored(op_type: str, net: Any, run_graph: Run, fused: Fused) -> None:
    shape = (4, 5, 5) if op_type == "ConvTranspose" else (4,)
    made = net(*shape)
    made.constant("a.weight", made.normal(*((4, 6, 2, 2) if op_type == "ConvTranspose" else (4, 6))))
    made.node(op_type, ["x", "a.weight"], "y")
    graph = made.graph("y")
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    stored = quantize(graph, everywhere(graph, LayerPlan(weight_bits=8)), None)
    np.testing.assert_allclose(run_graph(stored, x), run_graph(graph, x), atol=0.1)
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(fused(stored))


def test_a_weight_past_float16_is_refused(net: Any) -> None:
    made = net(4)
    made.node("MatMul", ["x", made.constant("m.weight", np.full((4, 2), 7e4, np.float32))], "y")
    graph = made.graph("y")
    with pytest.raises(CandidateError, match=r"'m.weight' holds 7e\+04, but float16 ends at 65504"):
        quantize(graph, everywhere(graph, LayerPlan(weight_bits=16)), None)
