"""What tools get wrong about these devices; each fact has its test."""

import pytest

from autocompress.core.target import Precision
from autocompress.hardware.profiles import load_target, target_names

EVERY = (
    "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano", "jetson-agx-orin",
    "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5", "raspberry-pi-zero-2w", "android-snapdragon-8gen2",
    "pixel-4", "apple-m1", "coral-edgetpu", "x86-avx2", "x86-avx512-vnni", "x86-zen5", "nvidia-t4", "nvidia-a10",
    "nvidia-a100", "nvidia-l4", "nvidia-h100", "stm32-cortex-m7", "esp32-s3",
)  # fmt: skip


def peak(target: str, runtime: str, precision: Precision) -> float:
    found = load_target(target).runtime(runtime).capability("Conv", precision).peak_gops
    assert found is not None
    return found


def supported(target: str, runtime: str, precision: Precision) -> bool:
    return load_target(target).runtime(runtime).capability("Conv", precision).supported


def test_every_profile_is_there() -> None:
    assert set(EVERY) <= set(target_names())


@pytest.mark.parametrize("name", EVERY)
def test_a_profile_tells_bandwidth_sparsity_and_a_source_for_each(name: str) -> None:
    facts = load_target(name).facts
    assert {"memory_bandwidth_gb_per_s", "structured_sparsity_2_4"} <= set(facts)
    assert all(fact.source for fact in facts.values())


@pytest.mark.parametrize("name", EVERY)
def test_every_offered_precision_has_a_rate_and_every_refusal_a_reason(name: str) -> None:
    for spec in load_target(name).runtimes.values():
        for capability in spec.capabilities.values():
            assert capability.peak_gops if capability.supported else capability.reason


@pytest.mark.parametrize("name", ["jetson-nano", "jetson-tx2"])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4, Precision.INT2])
def test_tensorrt_refuses_integers_without_dp4a(name: str, precision: Precision) -> None:
    assert "no DP4A" in load_target(name).runtime("tensorrt").capability("Conv", precision).reason


@pytest.mark.parametrize("name", ["jetson-xavier-nx", "jetson-agx-xavier"])
def test_carmel_refuses_int8_but_the_gpu_beside_it_does_not(name: str) -> None:
    assert not supported(name, "tflite", Precision.INT8)
    assert supported(name, "tensorrt", Precision.INT8)


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        ("jetson-xavier-nx", 13500),
        ("jetson-agx-xavier", 22600),
        ("jetson-orin-nano", 20000),
        ("jetson-agx-orin", 85000),
    ],
)
def test_rates_are_dense_and_of_the_gpu_alone_not_the_headline(name: str, dense: float) -> None:
    headline = float(load_target(name).facts["headline_tops"].value)
    assert peak(name, "tensorrt", Precision.INT8) == dense < headline * 1e3


def test_the_raspberry_pi_5_has_a_gpu_slower_than_its_cpu() -> None:
    assert peak("raspberry-pi-5", "ncnn-vulkan", Precision.FP16) < peak("raspberry-pi-5", "ncnn", Precision.FP16) / 4


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.INT8])
def test_the_edge_tpu_is_full_integer_only(precision: Precision) -> None:
    assert not supported("coral-edgetpu", "tflite-edgetpu", precision)


def test_a_float_model_beside_the_edge_tpu_runs_at_the_rate_of_its_host() -> None:
    assert peak("coral-edgetpu", "tflite-edgetpu", Precision.FP32) < 100


def test_the_edge_tpu_has_8_mb_for_weights() -> None:
    assert load_target("coral-edgetpu").facts["weight_cache_mb"].value == 8


def test_the_cortex_m7_multiplies_int8_as_int16() -> None:
    assert peak("stm32-cortex-m7", "x-cube-ai", Precision.INT8) == pytest.approx(0.48 * 2 * 2)


def test_tx2_notes_that_float16_gains_nothing_for_mobilenet_v1() -> None:
    assert any("float16 gains nothing for MobileNetV1" in note for note in load_target("jetson-tx2").notes)


def test_x86_without_vnni_keeps_weights_to_7_bits() -> None:
    assert load_target("x86-avx2").runtime().reduce_range
    assert not load_target("x86-avx512-vnni").runtime().reduce_range
    assert not load_target("x86-zen5").runtime().reduce_range


AMPERE = ("nvidia-a10", "nvidia-a100", "nvidia-l4", "nvidia-h100", "jetson-agx-orin", "jetson-orin-nano")


@pytest.mark.parametrize("name", [name for name in target_names() if name != "local"])
def test_kernels_for_two_to_four_start_with_ampere(name: str) -> None:
    target = load_target(name)
    able = [spec.name for spec in target.runtimes.values() if spec.two_to_four]
    assert able == (["tensorrt"] if name in AMPERE else [])
    assert target.facts["structured_sparsity_2_4"].value == ("yes" if name in AMPERE else "no")
    if able:
        fact = target.facts["tensorrt.two_to_four"]
        assert fact.value == "yes" and "unverified" not in fact.source and "NVIDIA" in fact.source.upper()
        assert target.runtime("tensorrt").command.two_to_four == ("--sparsity=enable",)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in target_names() if name != "local"])
def test_runtimes_whose_tool_is_understood_can_be_timed_over_ssh(name: str) -> None:
    tools = {"tensorrt": "trtexec", "tflite": "benchmark_model", "ncnn": "benchncnn", "ncnn-vulkan": "benchncnn"}
    for runtime, spec in load_target(name).runtimes.items():
        program = tools.get(runtime)
        assert (None if spec.command is None else spec.command.argv[0]) == program
