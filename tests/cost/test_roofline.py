"""Latency from a profile alone."""

from dataclasses import replace

import pytest

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import outline
from autocompress.core.errors import PlanError, TargetError
from autocompress.core.measurement import Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import Capability, Fact, Precision, RuntimeSpec, Target
from autocompress.cost.roofline import Roofline
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.calibrations import calibration
from autocompress.hardware.profiles import load_target

INT8 = LayerPlan(weight_bits=8, activation_bits=8)
FP16 = LayerPlan(weight_bits=16, activation_bits=16)
W4 = LayerPlan(weight_bits=4, activation_bits=32)
BASELINE = CompressionPlan()
SPEC = RuntimeSpec(
    name="r",
    capabilities={
        ("*", Precision.FP32): Capability(supported=True, peak_gops=1.0, efficiency=0.5),
        ("*", Precision.W4): Capability(supported=True, peak_gops=1.0, efficiency=0.5),
        ("*", Precision.INT8): Capability(supported=True, peak_gops=4.0, efficiency=0.5),
    },
    launch_overhead_us=0.0,
)
TARGET = Target(
    name="t", title="T", facts={"memory_bandwidth_gb_per_s": Fact(value=1e9, source="s")}, runtimes={"r": SPEC}
)


def estimate(graph: ModelGraph, plan: CompressionPlan, target: Target = TARGET) -> float:
    return Roofline(target, target.runtime()).estimate(graph, plan).value


def test_compute_bound_time_is_operations_over_the_attainable_rate(graph: ModelGraph) -> None:
    assert estimate(graph, BASELINE) == pytest.approx(2 * graph.macs() / 0.5e9 * 1e3, rel=1e-3)


def test_pruning_shortens_as_it_saves_macs(graph: ModelGraph) -> None:
    conv1, conv2, fc = (layer.macs for layer in graph.layers())
    share = (conv1 / 2 + conv2 / 2 + fc) / graph.macs()
    pruned = estimate(graph, CompressionPlan(prune={"conv1": 0.5}))
    assert pruned == pytest.approx(share * estimate(graph, BASELINE), rel=1e-3)


def test_int8_shortens_by_its_peak(graph: ModelGraph) -> None:
    assert estimate(graph, CompressionPlan(layers={"*": INT8})) == pytest.approx(
        estimate(graph, BASELINE) / 4, rel=1e-3
    )


def test_packed_storage_runs_at_float_speed(graph: ModelGraph) -> None:
    assert estimate(graph, CompressionPlan(layers={"*": W4})) == pytest.approx(estimate(graph, BASELINE))


def test_memory_bound_time_is_bytes_over_bandwidth(graph: ModelGraph) -> None:
    slow = replace(TARGET, facts={"memory_bandwidth_gb_per_s": Fact(value=1e-6, source="s")})
    values = {"x": 3 * 256, "b": 16 * 256, "d": 32 * 256, "e": 32, "logits": 10}
    weights = sum(layer.params for layer in graph.layers())
    elements = values["x"] + 2 * values["b"] + 2 * values["d"] + 2 * values["e"] + values["logits"] + weights
    assert estimate(graph, BASELINE, slow) == pytest.approx(4 * elements / 1e3 * 1e3)


def test_a_change_of_precision_costs_a_conversion(graph: ModelGraph) -> None:
    slow = replace(TARGET, facts={"memory_bandwidth_gb_per_s": Fact(value=1e-3, source="s")})
    plan = CompressionPlan(layers={"conv2": INT8})
    layers = {op.name: op for op in Roofline(slow, SPEC).estimate_layers(graph, plan)}
    assert layers["conv2"].conversion_ms == pytest.approx(16 * 256 * 5 / 1e6 * 1e3)
    assert layers["conv1"].conversion_ms == 0
    assert layers["fc"].precision is Precision.FP32
    assert layers["fc"].conversion_ms > 0


def test_integer_neighbours_convert_the_input_only(graph: ModelGraph) -> None:
    slow = replace(TARGET, facts={"memory_bandwidth_gb_per_s": Fact(value=1e-3, source="s")})
    layers = Roofline(slow, SPEC).estimate_layers(graph, CompressionPlan(layers={"*": INT8}))
    assert [op.conversion_ms > 0 for op in layers] == [True, False, False, False]


def test_every_kernel_costs_a_launch_but_fused_and_free_ones_do_not(graph: ModelGraph) -> None:
    spec = replace(SPEC, launch_overhead_us=1000.0)
    with_launch = Roofline(TARGET, spec).estimate(graph, BASELINE).value
    assert with_launch - estimate(graph, BASELINE) == pytest.approx(4.0)


def test_an_odd_width_runs_as_long_as_the_next_multiple(graph: ModelGraph) -> None:
    target = replace(TARGET, runtimes={"r": replace(SPEC, channel_multiple={Precision.FP32: 16})})
    roofline = Roofline(target, target.runtime())

    def conv2_ms(ratio: float) -> float:
        layers = roofline.estimate_layers(graph, CompressionPlan(prune={"conv2": ratio}))
        return next(op.ms for op in layers if op.name == "conv2")

    assert conv2_ms(13 / 32) == pytest.approx(conv2_ms(0.0))
    assert conv2_ms(16 / 32) == pytest.approx(conv2_ms(0.0) / 2)


def test_a_refused_precision_is_an_error_with_the_reason(graph: ModelGraph) -> None:
    nano = load_target("jetson-nano")
    for layers in ({"conv1": INT8}, {"*": INT8}):
        with pytest.raises(PlanError, match=r"tensorrt on jetson-nano refuses int8 for layer 'conv1': Tegra X1"):
            estimate(graph, CompressionPlan(layers=layers), nano)


def test_a_default_goes_to_the_layers_that_may_take_it(graph: ModelGraph) -> None:
    refusal = Capability(supported=False, reason="no")
    spec = replace(SPEC, capabilities={**SPEC.capabilities, ("Gemm", Precision.INT8): refusal})
    layers = Roofline(TARGET, spec).estimate_layers(graph, CompressionPlan(layers={"*": INT8}))
    assert {op.name: op.precision for op in layers if op.op_type == "Gemm"} == {"fc": Precision.FP32}
    assert layers[0].precision is Precision.INT8


def test_an_unknown_layer_names_the_nearest(graph: ModelGraph) -> None:
    with pytest.raises(PlanError, match="did you mean 'conv2'"):
        estimate(graph, CompressionPlan(layers={"conv22": INT8}))


def test_the_estimate_says_what_it_is(graph: ModelGraph) -> None:
    found = Roofline(TARGET, SPEC).estimate(graph, BASELINE)
    assert found.provenance is Provenance.ESTIMATED
    assert found.interval is not None
    assert found.interval.high / found.value == pytest.approx(2.0)
    assert "not validated" in found.fingerprint
    assert sum(found.details["layer_ms"].values()) == pytest.approx(found.value, rel=1e-3)


def test_a_validated_profile_states_its_error(graph: ModelGraph) -> None:
    nano = load_target("jetson-nano")
    found = Roofline(nano, nano.runtime()).estimate(graph, CompressionPlan(layers={"*": FP16}))
    assert found.details["validated"] is True
    fit = calibration("jetson-nano", "tensorrt", None, "fp16")
    assert fit is not None
    assert found.details["error_factor"] == fit.error_factor
    assert f"median error {fit.median_error:.0%}" in found.fingerprint


def test_a_target_without_bandwidth_cannot_be_estimated() -> None:
    with pytest.raises(TargetError, match="no memory bandwidth"):
        Roofline(replace(TARGET, facts={}), SPEC)


def test_how_integers_are_stored_leaves_the_kernel_alone(graph: ModelGraph) -> None:
    for plan in (LayerPlan(weight_bits=3), LayerPlan(weight_bits=4, format="codebook")):
        assert estimate(graph, CompressionPlan(layers={"*": plan})) == estimate(
            graph, CompressionPlan(layers={"*": W4})
        )


def test_factors_are_priced_as_the_layers_that_they_are(graph: ModelGraph) -> None:
    plan = CompressionPlan(layers={"conv2": LayerPlan(rank=RankPlan(ratio=0.25, method="tucker2"))})
    with pytest.raises(PlanError, match="'conv2' has a rank"):
        estimate(graph, plan)
    shaped, rest = outline(Compressor(graph), plan)
    assert estimate(shaped, rest) == pytest.approx(2 * shaped.macs() / 0.5e9 * 1e3, rel=1e-3)
    assert shaped.macs() < graph.macs()


def test_bfloat16_is_priced_by_its_own_rate(graph: ModelGraph) -> None:
    target = load_target("nvidia-a100")
    roofline = Roofline(target, target.runtime())
    plans = [CompressionPlan(layers={"*": p.layer_plan}) for p in (Precision.BF16, Precision.FP16)]
    bf16, fp16 = (roofline.estimate(graph, plan).value for plan in plans)
    assert {op.precision for op in roofline.estimate_layers(graph, plans[0])} == {Precision.BF16}
    assert bf16 == pytest.approx(fp16, rel=0.5)


def test_bfloat16_is_refused_where_the_runtime_has_no_kernels(graph: ModelGraph) -> None:
    with pytest.raises(PlanError, match="onnxruntime on x86-avx2 refuses bf16 for layer 'conv1'"):
        estimate(graph, CompressionPlan(layers={"conv1": Precision.BF16.layer_plan}), load_target("x86-avx2"))


def test_kernels_for_two_to_four_halve_the_arithmetic_where_the_hardware_has_them(graph: ModelGraph) -> None:
    sparse = CompressionPlan(layers={"*": LayerPlan(sparsity=SparsityPlan.from_label("2:4"))})
    able = replace(TARGET, runtimes={"r": replace(SPEC, two_to_four=True)})
    assert estimate(graph, sparse) == pytest.approx(estimate(graph, BASELINE))
    dense, thin = (Roofline(able, able.runtime()).estimate_layers(graph, plan) for plan in (BASELINE, sparse))
    for before, after in zip(dense, thin, strict=True):
        layer = next((layer for layer in graph.layers() if layer.name == before.name), None)
        halved = layer is not None and layer.weight_shape[1] % 4 == 0
        assert after.operations == pytest.approx(before.operations / 2 if halved else before.operations)
        # Half of the numbers, and 2 bits for each of them.
        share = 0.5 * (1 + 2 / 32) if halved else 1.0
        assert after.weight_bytes == pytest.approx(share * before.weight_bytes)
    unstructured = CompressionPlan(layers={"*": LayerPlan(sparsity=SparsityPlan.from_label("unstructured 0.5"))})
    assert estimate(graph, unstructured, able) == pytest.approx(estimate(graph, BASELINE))
