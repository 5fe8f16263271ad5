"""Devices behind TVM's RPC: real agents on loopback."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError, DeviceLostError, TargetError
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.host import host_fingerprint
from autocompress.measure.device import DeviceWatch
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import TvmRuntime
from autocompress.measure.runtimes.tvm_tuning import Tuning
from autocompress.measure.tvm_device import TvmDevice

pytestmark = pytest.mark.slow
SHORT = TimingPolicy(block_ms=4.0, max_seconds=0.3, warmup_seconds=0.02)
ONCE = DeviceWatch(attempts=0)


def runtime_on(device: TvmDevice, folder: Path, trials: int = 0) -> TvmRuntime:
    return TvmRuntime(
        worker=device.worker(threads=1),
        device=device,
        target=device.target,
        tuning=Tuning(trials=trials),
        schedules=folder,
    )


@pytest.fixture(scope="module")
def device(kept_tvm_servers: Any) -> Iterator[TvmDevice]:
    (port,) = kept_tvm_servers.start()
    with closing(TvmDevice(kept_tvm_servers.url(port), watch=ONCE)) as found:
        yield found


def test_outputs_are_fetched_and_those_of_onnx_runtime(
    device: TvmDevice, conv_graph: Callable[..., ModelGraph], images: np.ndarray, tmp_path: Path
) -> None:
    graph = conv_graph()
    (found,) = runtime_on(device, tmp_path).build(graph).run((images,))
    (expected,) = OnnxRuntime().build(graph).run((images,))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_timing_says_where_it_was_made(
    device: TvmDevice, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    runtime = runtime_on(device, tmp_path)
    timing = runtime.time(runtime.build(conv_graph()), runtime.build(conv_graph()), SHORT)
    assert f"tvm-rpc://{timing.details['server']}" == device.url
    assert timing.details["machine"]["load"] is not None
    assert runtime.describe()["fingerprint"] == host_fingerprint()
    assert 0.5 < timing.ratio < 2.0


def test_a_fresh_process_gets_the_one_server_and_gives_it_back(
    device: TvmDevice, conv_graph: Callable[..., ModelGraph], images: np.ndarray, tmp_path: Path
) -> None:
    artifact = runtime_on(device, tmp_path).build(conv_graph())
    before = artifact.run((images[:1],))
    with device.fresh() as same:
        inside = runtime_on(same, tmp_path).build(conv_graph()).run((images[:1],))
    np.testing.assert_array_equal(inside, before)
    np.testing.assert_array_equal(artifact.run((images[:1],)), before)


def test_cores_that_the_device_lacks_are_named(device: TvmDevice) -> None:
    core = max(os.sched_getaffinity(0)) + 1
    with pytest.raises(TargetError, match=rf"cores {core} cannot be used there"):
        device.worker(threads=1, affinity=(core,)).ask("hello")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (CompileTarget(kind="cuda", triple="x86_64-linux-gnu", arch="sm_80"), r"runs no cuda.*it runs llvm"),
        (
            CompileTarget(triple="aarch64-linux-gnu", mcpu="cortex-a72"),
            r"is x86_64, so code for llvm aarch64",
        ),
    ],
)
def test_what_the_server_cannot_run_is_one_line(device: TvmDevice, target: CompileTarget, said: str) -> None:
    if not device.facts.machine.startswith("x86"):
        pytest.skip("this machine is no x86")
    with device.fresh(), pytest.raises(TargetError, match=said):
        TvmDevice(device.url, target=target)


def test_a_crash_once_is_chance_and_twice_is_the_candidates(
    device: TvmDevice, kept_tvm_servers: Any, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    """The process that serves is killed as a kernel that writes where it must not is."""
    runtime = runtime_on(device, tmp_path)
    artifact = runtime.build(conv_graph())
    (agent,) = kept_tvm_servers.agents.values()
    long = TimingPolicy(block_ms=40.0, max_seconds=1.0, warmup_seconds=0.02, half_width=1e-6)
    crashes, over = 0, threading.Event()

    def crash(most: int) -> None:
        nonlocal crashes
        while crashes < most and not over.wait(0.3):
            for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGSEGV)
                crashes += 1

    for most in (1, 2):
        crashes = 0
        over.clear()
        helper = threading.Thread(target=crash, args=(most,))
        helper.start()
        try:
            if most == 1:
                assert runtime.time(artifact, artifact, long).candidate_ms
            else:
                with pytest.raises(CandidateError, match=r"the process that ran it on 127.0.0.1:\d+ crashed, twice"):
                    runtime.time(artifact, artifact, long)
        finally:
            over.set()
            helper.join()
        assert crashes == most
    assert artifact.run((np.zeros((1, 3, 6, 6), np.float32),))


def test_a_server_of_another_version_is_refused(tvm_servers: Any) -> None:
    (port,) = tvm_servers.start(before="import tvm; tvm.__version__ = '0.26.0'")
    with pytest.raises(TargetError, match=rf"127.0.0.1:{port} has TVM 0\.26\.0 and this machine 0\.2\d[\w.]*: install"):
        TvmDevice(tvm_servers.url(port))


def test_where_nothing_listens_is_one_line(tvm_servers: Any) -> None:
    with pytest.raises(DeviceLostError, match=r"There is no TVM server at 127.0.0.1:1: `autocompress agent --tvm"):
        TvmDevice("tvm-rpc://127.0.0.1:1")
    with pytest.raises(DeviceLostError, match=r"There is no TVM tracker at 127.0.0.1:1: Connection refused"):
        TvmDevice("tvm-rpc://127.0.0.1:1/pi")


def test_two_servers_of_a_key_tune_together_and_the_one_that_is_left_goes_on(
    tvm_servers: Any, conv_graph: Callable[..., ModelGraph], images: np.ndarray, tmp_path: Path
) -> None:
    tvm_servers.start_tracker()
    ports = tvm_servers.start(2, key="pi")
    messages: list[str] = []
    with closing(TvmDevice(tvm_servers.url(key="pi"), watch=DeviceWatch(on_message=messages.append))) as device:
        runtime = runtime_on(device, tmp_path, trials=2)
        artifact = runtime.build(conv_graph())
        assert artifact.schedules["untuned"] == 0
        assert artifact.told["timed_on"] == sorted(f"127.0.0.1:{port}" for port in ports)
        before = artifact.run((images[:1],))
        timing = runtime.time(artifact, artifact, SHORT)
        first = int(re.sub(".*:", "", timing.details["server"]))
        tvm_servers.kill(first)
        (second,) = set(ports) - {first}
        np.testing.assert_array_equal(artifact.run((images[:1],)), before)
        assert messages == [f"The TVM server at 127.0.0.1:{first} is gone. Going on with 127.0.0.1:{second}."]
        with pytest.raises(DeviceLostError, match=r"has no server of key 'nano'; it has: .*pi"):
            TvmDevice(tvm_servers.url(key="nano"))


def test_servers_of_several_machines_time_at_once_and_those_of_one_do_not(
    tvm_servers: Any, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    tvm_servers.start_tracker()
    hosts = ("127.0.0.1", "127.0.0.2")
    for host in hosts:
        tvm_servers.start(host=host, key="many")
    with closing(TvmDevice(tvm_servers.url(key="many"), watch=ONCE)) as device:
        assert device.lanes() == 2
        ready = threading.Barrier(2, timeout=60)

        def compare(_: int) -> PairedTiming:
            with device.fresh() as same:
                runtime = runtime_on(same, tmp_path)
                models = runtime.build(conv_graph()), runtime.build(conv_graph())
                ready.wait()
                return runtime.time(*models, SHORT)

        with ThreadPoolExecutor(max_workers=2) as pool:
            timings = list(pool.map(compare, range(2)))
        assert {timing.details["server"].rpartition(":")[0] for timing in timings} == set(hosts)
        tvm_servers.start(key="many")
        assert device.lanes() == 1
