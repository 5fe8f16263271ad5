"""Workload vectors."""

import pytest

from autocompress.cost.workload import FEATURES, Demand, workload
from autocompress.graph.model_graph import ModelGraph


def test_work_is_two_operations_a_multiply_accumulate_by_class(graph: ModelGraph) -> None:
    found = workload(graph)
    macs = {layer.name: layer.macs for layer in graph.layers()}
    assert found["dense_3x3"] == pytest.approx(2e-9 * (macs["conv1"] + macs["conv2"]))
    assert found["gemm"] == pytest.approx(2e-9 * macs["fc"])
    assert found["depthwise"] == found["pointwise"] == 0.0


def test_only_operations_with_arithmetic_are_started(graph: ModelGraph) -> None:
    assert workload(graph)["operations"] == 3


def test_values_of_operations_without_arithmetic_are_elementwise(graph: ModelGraph) -> None:
    assert workload(graph)["elementwise"] == pytest.approx((32 * 256 + 32) * 1e-6)


def test_a_demand_fills_one_class_of_work() -> None:
    vector = Demand(kind="depthwise", giga_operations=2.0, weights=1e6, activations=3e6).vector()
    found = dict(zip(FEATURES, vector, strict=True))
    assert {name: value for name, value in found.items() if value} == {
        "depthwise": 2.0,
        "weights": 1.0,
        "activations": 3.0,
        "operations": 1.0,
    }
