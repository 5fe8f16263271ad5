"""Prices of a small network, measured for real; how near they come is shown in experiments/latency_model."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.target import RuntimeSpec
from autocompress.cost.price_list import PricedRun, model_key
from autocompress.evaluate import pricing
from autocompress.evaluate.price_design import design_plans
from autocompress.evaluate.pricing import (
    PricedLatency,
    compressor_for,
    drafted,
    keep_prices,
    measure_prices,
    stored_prices,
)
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.cache import CACHE_VARIABLE
from autocompress.measure.runtimes.kernel_profile import profile_kernels
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

SPEC = RuntimeSpec(name="onnxruntime", capabilities={})
INT8 = LayerPlan(weight_bits=8, activation_bits=8)


@pytest.fixture(scope="module")
def net() -> ModelGraph:
    conv = torch.nn.Conv2d
    layers = [conv(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), conv(16, 32, 3), torch.nn.ReLU()]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 4)]
    return load_model(torch.nn.Sequential(*layers, *head).eval(), (torch.zeros(2, 3, 16, 16),))


@pytest.fixture(scope="module")
def space(net: ModelGraph) -> SearchSpace:
    precisions = [
        Choice(name=f"p:{layer.name}", kind="precision", subject=layer.name, options=("fp32", "int8"))
        for layer in net.layers()
    ]
    ratios = [
        Choice(name=f"r:{group.name}", kind="ratio", subject=group.name, options=(0.0, 0.25, 0.5))
        for group in net.groups()
        if group.prunable
    ]
    return SearchSpace(choices=(*precisions, *ratios))


def test_a_design_starts_from_the_uniform_plans(space: SearchSpace) -> None:
    first, second = islice(design_plans(space, np.random.default_rng(0)), 2)
    assert first == CompressionPlan()
    assert set(second.layers.values()) == {INT8}


def test_every_combination_of_three_layers_in_a_row_is_measured() -> None:
    names = [f"layer{number}" for number in range(9)]
    choices = [Choice(name=n, kind="precision", subject=n, options=("fp32", "int8")) for n in names]
    plans = list(islice(design_plans(SearchSpace(choices=tuple(choices)), np.random.default_rng(0)), 8))
    for start in range(len(names) - 2):
        assert len({tuple(name in plan.layers for name in names[start : start + 3]) for plan in plans}) == 8


def test_every_width_comes_equally_often(space: SearchSpace) -> None:
    plans = list(islice(design_plans(space, np.random.default_rng(1)), 2, 62))
    group = next(choice.subject for choice in space.choices if choice.kind == "ratio")
    counts = [sum(plan.prune[group] == ratio for plan in plans) for ratio in (0.0, 0.25, 0.5)]
    assert min(counts) >= 14


def test_a_design_is_the_same_for_the_same_seed(space: SearchSpace) -> None:
    one, other = (list(islice(design_plans(space, np.random.default_rng(3)), 9)) for _ in range(2))
    assert one == other


def test_a_draft_fuses_activations_as_an_artifact_does(net: ModelGraph) -> None:
    plan = CompressionPlan(layers={"*": INT8})
    _, times = profile_kernels(OnnxRuntime(), drafted(compressor_for(net, SPEC), plan), runs=0)
    kinds = {kernel.op_type for kernel in times.kernels}
    assert "QLinearConv" in kinds
    assert not kinds & {"Relu", "Conv", "FusedConv"}


def test_measured_runs_carry_kernels_and_times(net: ModelGraph, space: SearchSpace) -> None:
    runs, base_ms = measure_prices(net, space, OnnxRuntime(), SPEC, budget_seconds=0.1, rng=np.random.default_rng(0))
    assert len(runs) == 3
    assert base_ms > 0
    assert all(run.model == model_key(net) and len(run.kernels) == len(run.microseconds) for run in runs)


def test_a_list_is_kept_for_later_and_estimates(
    net: ModelGraph, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    runtime = OnnxRuntime()
    assert stored_prices(runtime).runs == ()
    runs, base_ms = measure_prices(net, space, runtime, SPEC, budget_seconds=0.1, rng=np.random.default_rng(0))
    for _ in range(4):
        keep_prices(runtime, runs, {model_key(net): base_ms})
    assert len(stored_prices(runtime).runs) == 4 * len(runs)
    latency = PricedLatency(stored_prices(runtime), runtime, SPEC)
    found = latency.estimate(net, CompressionPlan(prune={"*": 0.25}, layers={"*": INT8}))
    assert found.interval is not None
    assert 0 < found.interval.low < found.value


def test_a_list_of_another_rule_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    run = PricedRun(model="net", kernels=(), microseconds=(), ms=1.0, spread=0.01)
    keep_prices(OnnxRuntime(), [run], {})
    monkeypatch.setattr(pricing, "RULE", pricing.RULE + 1)
    assert stored_prices(OnnxRuntime()).runs == ()
