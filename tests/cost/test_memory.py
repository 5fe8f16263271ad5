"""Weights and live activations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import Capability, Fact, Precision, RuntimeSpec, Target
from autocompress.cost.memory import ERROR_FACTOR, FEATURES, ONNXRUNTIME_BYTES, MemoryEstimate, peak_activation_bytes
from autocompress.cost.roofline import OperationEstimate, Roofline
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target
from autocompress.measure.memory import peak_memory
from autocompress.zoo.bert import bert_tiny

SPEC = RuntimeSpec(
    name="r",
    capabilities={("*", p): Capability(supported=True, peak_gops=1.0) for p in (Precision.FP32, Precision.INT8)},
)
TARGET = Target(
    name="t", title="T", facts={"memory_bandwidth_gb_per_s": Fact(value=1.0, source="s")}, runtimes={"r": SPEC}
)
X86 = load_target("x86-avx512-vnni")
HERE = MemoryEstimate(Roofline(X86, X86.runtime("onnxruntime")))
INT8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
OP = OperationEstimate(
    name="n",
    op_type="Conv",
    precision=Precision.FP32,
    ms=0.0,
    conversion_ms=0.0,
    weight_bytes=0.0,
    bound="compute",
    operations=0.0,
    reads=(0,),
    writes=1,
    read_bytes=10.0,
    written_bytes=20.0,
)


def estimate(graph: ModelGraph, plan: CompressionPlan) -> Measurement:
    return MemoryEstimate(Roofline(TARGET, SPEC)).estimate(graph, plan)


def op(reads: tuple[int, ...], writes: int, read_bytes: float, written_bytes: float) -> OperationEstimate:
    return replace(OP, reads=reads, writes=writes, read_bytes=read_bytes, written_bytes=written_bytes)


def test_it_is_the_weights_and_the_widest_operation(graph: ModelGraph) -> None:
    found = estimate(graph, CompressionPlan())
    # conv2 reads 16 maps and writes 32, of 16x16 float32 numbers.
    assert found.details["activation_bytes"] == (16 + 32) * 16 * 16 * 4
    assert found.details["weight_bytes"] == 4 * sum(layer.params for layer in graph.layers())
    assert found.value == found.details["activation_bytes"] + found.details["weight_bytes"]


def test_it_is_labelled_an_estimate(graph: ModelGraph) -> None:
    found = estimate(graph, CompressionPlan())
    assert (found.metric, found.unit, found.provenance) == ("peak_memory_bytes", "bytes", Provenance.ESTIMATED)
    assert "a lower bound" in found.fingerprint and not found.samples


def test_integers_take_a_quarter(graph: ModelGraph) -> None:
    full, int8 = (estimate(graph, plan) for plan in (CompressionPlan(), INT8))
    assert int8.details["activation_bytes"] == pytest.approx(full.details["activation_bytes"] / 4)


def test_a_value_lives_until_its_last_reader() -> None:
    chain = [op((0,), 1, 10, 20), op((1,), 2, 20, 5), op((2,), 3, 5, 5)]
    assert peak_activation_bytes(chain) == 30
    residual = [op((0,), 1, 10, 20), op((1,), 2, 20, 30), op((1, 2), 3, 50, 20)]
    assert peak_activation_bytes(residual) == 20 + 30 + 20


def test_an_output_lives_to_the_end() -> None:
    assert peak_activation_bytes([op((0,), 1, 10, 100), op((0,), 2, 10, 50)]) == 10 + 100 + 50


def test_onnx_runtime_is_estimated_by_a_fit(graph: ModelGraph) -> None:
    found = HERE.estimate(graph, CompressionPlan())
    fixed = ONNXRUNTIME_BYTES[FEATURES.index("fixed")]
    # A small network is mostly what the runtime takes for itself.
    assert 5e6 < fixed < found.value < 1.5 * fixed
    assert found.interval is not None and found.details["validated"]
    assert found.interval.high / found.value == pytest.approx(ERROR_FACTOR)
    assert "within a factor of" in found.fingerprint and "lower bound" not in HERE.said


def test_other_processors_are_not_validated(graph: ModelGraph) -> None:
    target = load_target("raspberry-pi-4b")
    found = MemoryEstimate(Roofline(target, target.runtime("onnxruntime"))).estimate(graph, CompressionPlan())
    assert found.interval is not None and not found.details["validated"] and "on x86" in found.fingerprint


def test_every_coefficient_is_of_one_feature() -> None:
    assert len(ONNXRUNTIME_BYTES) == len(FEATURES)
    assert all(value >= 0 for value in ONNXRUNTIME_BYTES)


def test_weights_count_by_layer_and_precision(graph: ModelGraph) -> None:
    convolutions, fc = sum(layer.params for layer in graph.layers()[:-1]), graph.layers()[-1].params
    full = dict(zip(FEATURES, HERE.features(graph, CompressionPlan()), strict=True))
    assert (full["float_convolutions"], full["float_others"]) == (4 * convolutions, 4 * fc)
    int8 = dict(zip(FEATURES, HERE.features(graph, INT8), strict=True))
    assert (int8["integer_convolutions"], int8["integer_others"]) == (convolutions, fc)
    assert int8["float_convolutions"] == int8["float_others"] == 0


def test_embeddings_are_kept_whatever_the_plan() -> None:
    torch.manual_seed(0)
    net = bert_tiny().eval()
    graph = load_model(net, (torch.zeros(2, 12, dtype=torch.int64),) * 2)
    table = net.words.weight.nbytes + net.positions.weight.nbytes
    for plan in (CompressionPlan(), INT8):
        assert dict(zip(FEATURES, HERE.features(graph, plan), strict=True))["tables"] >= table


def test_a_measured_peak_is_within_the_stated_factor(graph: ModelGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "m.onnx")
    measured = peak_memory(tmp_path / "m.onnx", repeats=1).value
    found = HERE.estimate(graph, CompressionPlan()).interval
    assert found is not None and found.low <= measured <= found.high
