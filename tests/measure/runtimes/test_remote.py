"""ONNX Runtime on a device: agents of this machine, with and without ssh in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autocompress import api
from autocompress.core.errors import CandidateError, DataError, ModelError, TargetError, UserError
from autocompress.core.measurement import TimingPolicy
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_place
from autocompress.measure.device import Device
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.fresh_process import measure_files
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe_nets import residual_net
from autocompress.measure.runtimes.remote import RemoteOnnxRuntime
from autocompress.measure.store import MeasurementStore
from autocompress.measure.transports.local import LocalConnection

POLICY = TimingPolicy(block_ms=4.0, half_width=0.05, max_seconds=2.0, min_blocks=6, warmup_seconds=0.05)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    found = Device(LocalConnection(folder=str(tmp_path / "device")))
    yield found
    found.close()


@pytest.fixture
def runtime(device: Device) -> RemoteOnnxRuntime:
    return RemoteOnnxRuntime(device)


@pytest.fixture
def nets(tmp_path: Path) -> list[Path]:
    """A float32 net and the same in int8, as files."""
    paths = [tmp_path / "fp32.onnx", tmp_path / "int8.onnx"]
    for path, variant in zip(paths, ("fp32", "uint8"), strict=True):
        path.write_bytes(residual_net(variant))  # type: ignore[arg-type]
    return paths


def test_it_says_what_times_there(runtime: RemoteOnnxRuntime) -> None:
    here, there = OnnxRuntime().describe(), runtime.describe()
    assert {name: there[name] for name in here} == dict(here)


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_outputs_are_those_of_this_machine(
    runtime: RemoteOnnxRuntime, conv_graph: Callable[..., ModelGraph], batch: int | str
) -> None:
    graph = conv_graph(batch)
    x = np.random.default_rng(0).normal(size=(6, 3, 6, 6)).astype(np.float32)
    here, there = OnnxRuntime().build(graph).run((x,)), runtime.build(graph).run((x,))
    np.testing.assert_allclose(there[0], here[0], rtol=1e-5, atol=1e-6)


def test_the_size_is_that_of_the_file(
    runtime: RemoteOnnxRuntime, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    graph = conv_graph()
    graph.save(tmp_path / "a.onnx")
    built = [runtime.build(source) for source in (graph, tmp_path / "a.onnx", (tmp_path / "a.onnx").read_bytes())]
    assert {artifact.size_bytes for artifact in built} == {(tmp_path / "a.onnx").stat().st_size}


def test_weights_beside_the_file_go_over_too(
    runtime: RemoteOnnxRuntime, linear_model: Callable[..., bytes], tmp_path: Path
) -> None:
    model = onnx.load_model_from_string(linear_model())
    path = tmp_path / "split.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="split.data", size_threshold=0)
    found = runtime.build(path).run((np.eye(4, dtype=np.float32),))
    np.testing.assert_array_equal(found[0], np.arange(12, dtype=np.float32).reshape(4, 3))


def test_an_interleaved_comparison_comes_back_whole(runtime: RemoteOnnxRuntime, nets: list[Path]) -> None:
    reference = runtime.build(nets[0])
    timing = runtime.time(runtime.build(nets[1]), reference, POLICY)
    assert len(timing.candidate_ms) >= 6
    assert timing.ratio_interval.low <= timing.ratio <= timing.ratio_interval.high
    assert timing.details["threads"] == 1
    assert set(timing.details["sensors"]) == {"before", "after"}


def test_the_ratio_over_ssh_is_that_of_this_machine(ssh_server: Any, nets: list[Path]) -> None:
    with closing(load_place("x86-avx512-vnni", ssh_server.url)) as place:
        for _ in range(3):
            here = measure_files(nets, policy=POLICY)[1]
            there = measure_files(nets, policy=POLICY, fresh=lambda: place.fresh_timer(threads=1))[1]
            if here.details["calm"] and there.details["calm"]:
                break
        else:
            pytest.skip("this machine is too busy to compare two timings of int8")
    # Loose, as this may run beside anything: int8 takes about 0.4 of float32's time.
    assert here.ratio_interval.low * 0.85 <= there.ratio <= here.ratio_interval.high * 1.15
    assert there.fingerprint == here.fingerprint
    assert there.runtime == here.runtime
    assert there.details["fresh_process"]


def test_a_device_keeps_its_timings_and_another_one_never_gets_them(
    ssh_server: Any, nets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MeasurementStore(tmp_path / "cache")
    # Only calm readings are kept: nearly all count as such here.
    policy = replace(POLICY, block_ms=1.0, calm_tolerance=1e6, min_blocks=1, max_seconds=0.2)

    def measured() -> FileTiming:
        with closing(load_place("x86-avx512-vnni", ssh_server.url)) as place:
            return measure_files(nets[:1], policy=policy, fresh=lambda: place.fresh_timer(threads=1), store=store)[0]

    first = next(found for found in (measured() for _ in range(20)) if found.details["calm"])
    second = measured()
    assert "cached" not in first.details and second.details["cached"] == first.when
    assert second.samples == first.samples
    # The same board with one core less is another device.
    one_core = tmp_path / "one-core"
    one_core.write_text(f'#!/bin/sh\nexec taskset -c {min(os.sched_getaffinity(0))} "{sys.executable}" "$@"\n')
    one_core.chmod(0o755)
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_PYTHON", str(one_core))
    other = measured()
    assert other.fingerprint != first.fingerprint
    assert "cached" not in other.details


def test_a_comparison_over_ssh_stays_on_its_cores(ssh_server: Any, nets: list[Path]) -> None:
    core = min(os.sched_getaffinity(0))
    (row,) = api.measure(nets[:1], device=ssh_server.url, target="x86-avx512-vnni", affinity=[core], cache=False)
    assert row["details"]["affinity"] == [core]
    with pytest.raises(TargetError, match="cores 8000 cannot be used, there are "):
        api.measure(nets[:1], device=ssh_server.url, target="x86-avx512-vnni", affinity=[8000], cache=False)


def test_a_model_that_cannot_be_loaded_there_fails_as_a_candidate(runtime: RemoteOnnxRuntime) -> None:
    with pytest.raises(CandidateError, match="load: "):
        runtime.build(b"no model")


def test_a_file_that_cannot_be_loaded_there_is_named(ssh_server: Any, tmp_path: Path, nets: list[Path]) -> None:
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    broken = tmp_path / "broken.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), broken)
    with pytest.raises(ModelError, match=r"broken\.onnx': .*Nonsense"):
        api.measure([broken, nets[0]], target="x86-avx512-vnni", device=ssh_server.url)


def test_a_file_that_is_missing_is_named(runtime: RemoteOnnxRuntime) -> None:
    with pytest.raises(ModelError, match=r"There is no model file 'absent\.onnx'"):
        runtime.build("absent.onnx")


def test_inputs_that_do_not_fit_are_refused_here(
    runtime: RemoteOnnxRuntime, linear_model: Callable[..., bytes]
) -> None:
    with pytest.raises(DataError, match="The model wants 'x'"):
        runtime.build(linear_model()).run((np.zeros((1, 5), np.float32),))


def test_threads_must_be_positive(device: Device) -> None:
    with pytest.raises(UserError, match="`threads` must be at least 1, but got 0"):
        RemoteOnnxRuntime(device, threads=0)


def test_the_memory_of_a_larger_model_is_larger(runtime: RemoteOnnxRuntime, linear_model: Callable[..., bytes]) -> None:
    small, large = (runtime.build(linear_model(weight=np.ones((4, width), np.float32))) for width in (3, 4_000_000))
    first, second = (found["peak_bytes"] - found["baseline_bytes"] for found in map(runtime.memory, (small, large)))
    gap = second - first
    assert gap > 4 * 4_000_000 * 4 * 0.9
