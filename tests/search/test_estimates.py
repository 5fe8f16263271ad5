"""Rough costs of plans."""

from __future__ import annotations

import pytest

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target
from autocompress.loading import load_graph
from autocompress.search.estimates import estimates

INT8 = {"*": LayerPlan(weight_bits=8, activation_bits=8)}


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return load_graph("demo")


@pytest.mark.parametrize("metric", ["latency_ms", "size_bytes", "energy_mj", "peak_memory_bytes"])
def test_less_costs_less(graph: ModelGraph, metric: str) -> None:
    target = load_target("x86-avx512-vnni")
    cost = estimates([metric], compressor=Compressor(graph), target=target, spec=target.runtime())[metric]
    block = graph.blocks()[-1].name
    whole = cost(CompressionPlan())
    assert cost(CompressionPlan(layers=INT8)) < 0.8 * whole
    assert cost(CompressionPlan(prune={"*": 0.5})) < whole
    assert cost(CompressionPlan(skip=(block,))) < whole


def test_bytes_are_nearly_those_of_the_weights(graph: ModelGraph) -> None:
    target = load_target("x86-avx2")
    cost = estimates(["size_bytes"], compressor=Compressor(graph), target=target, spec=target.runtime())["size_bytes"]
    assert cost(CompressionPlan()) == pytest.approx(graph.size_bytes(), rel=0.05)
    assert cost(CompressionPlan(layers=INT8)) == pytest.approx(cost(CompressionPlan()) / 4)
