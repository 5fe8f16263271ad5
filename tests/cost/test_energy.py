"""Energy from arithmetic and traffic."""

import pytest

from autocompress.core.errors import PlanError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import Capability, Fact, Precision, RuntimeSpec, Target
from autocompress.cost.energy import DRAM_PJ, EnergyEstimate
from autocompress.cost.roofline import Roofline
from autocompress.graph.model_graph import ModelGraph

SPEC = RuntimeSpec(
    name="r",
    capabilities={
        ("*", p): Capability(supported=True, peak_gops=1.0) for p in (Precision.FP32, Precision.FP16, Precision.INT8)
    },
)
TARGET = Target(
    name="t", title="T", facts={"memory_bandwidth_gb_per_s": Fact(value=1.0, source="s")}, runtimes={"r": SPEC}
)
INT8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
FP16 = CompressionPlan(layers={"*": LayerPlan(weight_bits=16, activation_bits=16)})


def estimate(graph: ModelGraph, plan: CompressionPlan) -> Measurement:
    return EnergyEstimate(Roofline(TARGET, SPEC)).estimate(graph, plan)


def test_an_uncompressed_network_pays_for_its_float32_products_and_weights(graph: ModelGraph) -> None:
    found = estimate(graph, CompressionPlan())
    params = sum(layer.params for layer in graph.layers())
    assert found.details["arithmetic_mj"] == pytest.approx(graph.macs() * 4.6e-9, rel=1e-3)
    assert found.details["weights_mj"] == pytest.approx(4 * params * DRAM_PJ * 1e-9)
    assert found.value == pytest.approx(sum(v for k, v in found.details.items() if k.endswith("_mj")))


def test_it_is_labelled_an_estimate_with_its_error(graph: ModelGraph) -> None:
    found = estimate(graph, CompressionPlan())
    assert (found.metric, found.unit, found.provenance) == ("energy_mj", "mJ", Provenance.ESTIMATED)
    assert "Horowitz" in found.fingerprint and found.details["validated"] is False
    assert found.interval is not None and found.interval.high == pytest.approx(5 * found.value)


def test_fewer_bits_take_less_for_arithmetic_and_weights(graph: ModelGraph) -> None:
    full, half, int8 = (estimate(graph, plan).details for plan in (CompressionPlan(), FP16, INT8))
    assert half["arithmetic_mj"] == pytest.approx(full["arithmetic_mj"] * 1.5 / 4.6, rel=1e-3)
    assert int8["arithmetic_mj"] == pytest.approx(full["arithmetic_mj"] * 0.3 / 4.6, rel=1e-3)
    assert int8["weights_mj"] == pytest.approx(full["weights_mj"] / 4)


def test_pruned_channels_take_nothing(graph: ModelGraph) -> None:
    conv1, conv2, fc = (layer.macs for layer in graph.layers())
    share = (conv1 / 2 + conv2 / 2 + fc) / graph.macs()
    full, pruned = (estimate(graph, plan) for plan in (CompressionPlan(), CompressionPlan(prune={"conv1": 0.5})))
    assert pruned.details["arithmetic_mj"] == pytest.approx(share * full.details["arithmetic_mj"], rel=1e-3)


def test_a_plan_that_the_runtime_refuses_is_refused(graph: ModelGraph) -> None:
    with pytest.raises(PlanError, match="refuses"):
        estimate(graph, CompressionPlan(layers={"conv1": LayerPlan(weight_bits=4, activation_bits=32)}))
