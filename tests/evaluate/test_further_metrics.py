"""Peak memory and energy of candidates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.compress.apply import Compressor
from autocompress.core.errors import TargetError
from autocompress.core.measurement import Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import RuntimeSpec, Target
from autocompress.evaluate.further_metrics import (
    MEMORY_REPEATS,
    DeviceMemory,
    EstimatedMetric,
    MeasuredEnergy,
    MeasuredMemory,
    MetricScorer,
    metric_scorers,
    said_of,
)
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.hardware.profiles import load_target
from autocompress.measure.device import open_device
from autocompress.measure.energy import has_counter
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.remote import RemoteOnnxRuntime

PLAN = CompressionPlan()
FP16 = CompressionPlan(layers={"*": LayerPlan(weight_bits=16, activation_bits=16)})
SAMPLE = (np.ones((1, 8), np.float32),)


def linear(outputs: int) -> ModelGraph:
    """``(n, 8)`` to ``(n, outputs)``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(np.ones((8, outputs), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ModelGraph(normalize(ir.from_proto(model)))


@pytest.fixture
def scorers() -> Callable[..., list[MetricScorer]]:
    def make(*metrics: str, timer: OnnxRuntime | RemoteOnnxRuntime | None = None) -> list[MetricScorer]:
        target: Target = load_target("jetson-nano")
        spec: RuntimeSpec = target.runtime()
        return metric_scorers(
            metrics, compressor=Compressor(linear(4)), target=target, spec=spec, timer=timer, threads=1, sample=SAMPLE
        )

    return make


def test_only_what_is_asked_for_is_scored(scorers: Callable[..., list[MetricScorer]]) -> None:
    assert scorers("accuracy", "latency_ms", "size_bytes") == []
    assert [scorer.metric for scorer in scorers("peak_memory_bytes", "accuracy")] == ["peak_memory_bytes"]


def test_without_a_device_both_are_estimates_taken_early(scorers: Callable[..., list[MetricScorer]]) -> None:
    found = scorers("peak_memory_bytes", "energy_mj")
    for scorer in found:
        full, half = scorer.score(linear(4), PLAN), scorer.score(linear(4), FP16)
        assert scorer.early and "ESTIMATED" in said_of(scorer)
        assert full.metric == scorer.metric and full.provenance is scorer.provenance is Provenance.ESTIMATED
        assert full.target == "jetson-nano" and half.value < full.value


def test_memory_on_this_machine_is_measured_and_energy_where_there_is_a_counter(
    scorers: Callable[..., list[MetricScorer]],
) -> None:
    energy, memory = scorers("peak_memory_bytes", "energy_mj", timer=OnnxRuntime())
    assert isinstance(memory, MeasuredMemory) and not memory.early and "fresh processes" in said_of(memory)
    assert isinstance(energy, MeasuredEnergy if has_counter() else EstimatedMetric)


def test_measured_memory_is_that_of_the_candidates_file() -> None:
    scorer = MeasuredMemory(threads=1, sample=SAMPLE, target="local", repeats=1)
    small, wide = scorer.score(linear(4), PLAN), scorer.score(linear(500_000), PLAN)
    assert 16e6 < wide.value - small.value < 80e6
    assert wide.provenance is Provenance.MEASURED and wide.target == "local"


def test_memory_over_ssh_is_that_of_this_machine(ssh_server: Any) -> None:
    graph = linear(1_000_000)
    here = MeasuredMemory(threads=1, sample=SAMPLE, target="local").score(graph, PLAN)
    with closing(open_device(ssh_server.url)) as device:
        scorer = DeviceMemory(RemoteOnnxRuntime(device, sample=SAMPLE), target="my-board")
        there = scorer.score(graph, PLAN)
        assert not scorer.early and "fresh processes" in said_of(scorer)
    # 32 MB of weights, in processes of which one also speaks ssh.
    assert there.value == pytest.approx(here.value, rel=0.1) and there.value > 32e6
    assert (there.provenance, there.unit, len(there.samples)) == (Provenance.MEASURED, "bytes", MEMORY_REPEATS)
    assert (there.target, there.fingerprint) == ("my-board", here.fingerprint)
    assert there.details["baseline"] == here.details["baseline"]
    assert there.details["baseline_bytes"] > 1e6


def test_a_search_on_a_device_measures_memory_there(
    scorers: Callable[..., list[MetricScorer]], ssh_server: Any
) -> None:
    with closing(open_device(ssh_server.url)) as device:
        (scorer,) = scorers("peak_memory_bytes", timer=RemoteOnnxRuntime(device))
    assert isinstance(scorer, DeviceMemory)


@pytest.mark.skipif(has_counter(), reason="this machine has a counter")
def test_a_counter_that_is_gone_is_told() -> None:
    scorer = MeasuredEnergy(OnnxRuntime(), sample=SAMPLE, target="local")
    with pytest.raises(TargetError, match="cannot be read any more"):
        scorer.score(linear(4), PLAN)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    MeasuredMemory(threads=1, sample=None, target="local", repeats=1).score(linear(4), PLAN)
    assert list(tmp_path.glob("autocompress-*")) == []
