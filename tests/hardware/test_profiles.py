"""Profiles that come with the package, and the local one."""

import json
from pathlib import Path

import pytest

from autocompress.core.errors import TargetError, UnknownNameError
from autocompress.core.target import Precision, Target
from autocompress.hardware.data_files import data_folder
from autocompress.hardware.host import HostFacts
from autocompress.hardware.profiles import load_target, local_target, read_profile, target_names

NAMES = ("local", "jetson-nano", "raspberry-pi-4b", "raspberry-pi-5", "x86-avx2", "x86-avx512-vnni")
INTEGER = (Precision.INT8, Precision.INT4, Precision.INT2)
VNNI = HostFacts(
    cpu="CPU",
    board="",
    cores=2,
    isa=("avx2", "avx512", "avx512_vnni", "fma"),
    clock_ghz=2.0,
    memory_bytes=2**33,
    system="Linux",
    machine="x86_64",
)
PROBE = {
    "int8_ratio": 0.5,
    "fp16_ratio": 1.8,
    "activation_type": "uint8",
    "channel_multiple": {"fp32": 4, "int8": 16},
    "version": "1.31.0",
    "threads": 1,
    "calm": True,
}


def supported(target: Target, precision: Precision, runtime: str | None = None) -> bool:
    return target.runtime(runtime).capability("Conv", precision).supported


def test_every_target_of_the_first_release_is_there() -> None:
    assert set(NAMES) <= set(target_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_plain_json_and_every_fact_has_a_source(name: str) -> None:
    target = load_target(name)
    assert json.loads(json.dumps(target.to_dict()))["name"] == name
    assert all(fact.source for fact in target.facts.values())
    assert all(supported(target, Precision.FP32, runtime) for runtime in target.runtimes)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'jetson-nano'"):
        load_target("jetson-nanno")


def test_jetson_nano_runs_tensorrt_in_fp32_and_fp16_only() -> None:
    nano = load_target("jetson-nano")
    assert nano.runtime().name == "tensorrt"
    assert [p for p in Precision if supported(nano, p)] == [Precision.FP32, Precision.FP16]


@pytest.mark.parametrize("precision", INTEGER)
def test_jetson_nano_says_why_integers_are_refused(precision: Precision) -> None:
    reason = load_target("jetson-nano").runtime().capability("Conv", precision).reason
    assert reason == "Tegra X1 (sm_53) has no DP4A: TensorRT refuses Q/DQ graphs (TensorRT#3157)"


def test_jetson_nano_has_integers_on_its_cpu() -> None:
    assert supported(load_target("jetson-nano"), Precision.INT8, "onnxruntime")


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_refuses_integer_conv_transpose_but_takes_packed_storage(name: str) -> None:
    spec = load_target(name).runtime("onnxruntime")
    assert not spec.capability("ConvTranspose", Precision.INT8).supported
    assert spec.capability("ConvTranspose", Precision.W4).supported


def test_packed_weights_run_at_the_speed_of_what_they_unpack_to() -> None:
    spec = load_target("raspberry-pi-5").runtime()
    int8, int4 = spec.capability("Conv", Precision.INT8), spec.capability("Conv", Precision.INT4)
    assert (int4.peak_gops, int4.efficiency) == (int8.peak_gops, int8.efficiency)
    assert spec.multiple(Precision.INT4) == spec.multiple(Precision.INT8) == 16


def test_the_raspberry_pi_5_refuses_fp16_compute_for_its_runtime_not_its_chip() -> None:
    assert "onnxruntime#25824" in load_target("raspberry-pi-5").runtime().capability("Conv", Precision.FP16).reason


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    text = (data_folder("hardware_profiles") / "x86-avx2.yaml").read_text(encoding="utf-8")
    path = tmp_path / "x86-avx2.yaml"
    path.write_text(text.replace('GB/s, source: "unverified', 'GB/s, sauce: "unverified'), encoding="utf-8")
    with pytest.raises(TargetError, match="memory_bandwidth_gb_per_s"):
        read_profile(path)


def test_a_profile_must_be_called_like_its_file(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes((data_folder("hardware_profiles") / "x86-avx2.yaml").read_bytes())
    with pytest.raises(TargetError, match="`name` must be 'other'"):
        read_profile(path)


def test_local_follows_the_instruction_sets_without_a_probe() -> None:
    target = local_target(None, VNNI)
    assert target.is_local
    assert supported(target, Precision.INT8)
    assert target.runtime().multiple(Precision.INT8) == 16
    assert target.runtime().capability("Conv", Precision.FP32).peak_gops == 128


def test_local_takes_activation_type_and_multiples_from_the_probe() -> None:
    spec = local_target({**PROBE, "activation_type": "int8"}, VNNI).runtime()
    assert spec.activation_type == "int8"
    assert (spec.multiple(Precision.FP32), spec.multiple(Precision.INT4)) == (4, 16)


@pytest.mark.parametrize("precision", INTEGER)
def test_local_refuses_integers_that_were_measured_slower(precision: Precision) -> None:
    target = local_target({**PROBE, "int8_ratio": 1.25}, VNNI)
    assert not supported(target, precision)
    reason = target.runtime().capability("Conv", precision).reason
    assert "1.25x the time of float32" in reason
    assert "ONNX Runtime 1.31.0" in reason


def test_local_offers_fp16_only_where_it_was_measured_faster() -> None:
    assert not supported(local_target(PROBE, VNNI), Precision.FP16)
    assert supported(local_target({**PROBE, "fp16_ratio": 0.6}, VNNI), Precision.FP16)


def test_local_keeps_storage_precisions_whatever_the_probe_says() -> None:
    assert supported(local_target({**PROBE, "int8_ratio": 2.0}, VNNI), Precision.W8)


def test_local_says_when_the_machine_was_busy() -> None:
    assert "busy" in local_target({**PROBE, "calm": False}, VNNI).notes[0]
