"""Fixtures for more than one package: a made-up run that looks like a real one, and a device behind ssh."""

from __future__ import annotations

import getpass
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from autocompress.core.layer import GroupMember, LayerInfo, PruneGroup
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.objective import Objective
from autocompress.core.pareto import ParetoFront
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.space import Choice, Refusal, SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))

# A busy machine makes slow examples, not wrong ones.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@dataclass(frozen=True, kw_only=True)
class MadeUpRun:
    """Everything a report is written from."""

    trials: tuple[Trial, ...]
    front: ParetoFront
    objectives: tuple[Objective, ...]
    space: SearchSpace
    sensitivities: dict[str, dict[str, float]]
    manifest: dict[str, Any]
    baseline: Trial
    layers: tuple[LayerInfo, ...]
    groups: tuple[PruneGroup, ...]


def make_trial(
    number: int,
    *,
    accuracy: float = 0.9,
    latency_ms: float = 1.0,
    ratio: float | None = 1.0,
    size_bytes: float = 1e6,
    plan: CompressionPlan | None = None,
    source: str = "tpe",
    label: str = "",
    state: TrialState = TrialState.COMPLETE,
    error: str | None = None,
    estimated: bool = False,
    metric: str = "accuracy",
) -> Trial:
    """A trial with plausible intervals and details; ``ratio=None`` leaves the ratio out."""
    details: dict[str, Any] = (
        {}
        if ratio is None
        else {
            "ratio": ratio,
            "ratio_interval": [ratio * 0.98, ratio * 1.02, 0.95],
        }
    )
    latency = Measurement(
        metric="latency_ms",
        value=latency_ms,
        unit="ms",
        provenance=Provenance.ESTIMATED if estimated else Provenance.MEASURED,
        interval=Interval(low=latency_ms * 0.98, high=latency_ms * 1.02),
        samples=() if estimated else (latency_ms,) * 3,
        runtime="tensorrt" if estimated else "onnxruntime 1.31.0 cpu",
        target="jetson-nano" if estimated else "local",
        fingerprint="roofline" if estimated else "x86_64-test",
        details={} if estimated else details,
    )
    quality = Measurement(
        metric=metric,
        value=accuracy,
        unit="1",
        provenance=Provenance.MEASURED,
        interval=Interval(low=accuracy - 0.01, high=min(1.0, accuracy + 0.01)),
        samples=(accuracy,),
        details={"test": accuracy - 0.002, "test_interval": [accuracy - 0.01, accuracy + 0.006, 0.95]},
    )
    size = Measurement(
        metric="size_bytes", value=size_bytes, unit="bytes", provenance=Provenance.MEASURED, samples=(size_bytes,)
    )
    measurements = {"latency_ms": latency, "size_bytes": size}
    if state is TrialState.COMPLETE:
        measurements[metric] = quality
    return Trial(
        number=number,
        candidate=Candidate(
            plan=plan or CompressionPlan(prune={"conv1": number / 1000}), source=source, label=label or f"plan {number}"
        ),
        state=state,
        measurements={} if state is TrialState.FAIL else measurements,
        error=error,
        stage_seconds={"prune": 0.1, "accuracy": 1.5},
    )


def make_layers() -> tuple[LayerInfo, ...]:
    """The layers of a ResNet-20 for 28x28 images."""
    shapes: list[tuple[str, int, int, int, int]] = [("conv1", 1, 16, 3, 28)]
    channels = 16
    for stage, (out, side) in enumerate(((16, 28), (32, 14), (64, 7)), start=1):
        for block in range(3):
            name = f"layer{stage}.{block}"
            shapes.append((f"{name}.conv1", channels, out, 3, side))
            shapes.append((f"{name}.conv2", out, out, 3, side))
            if channels != out:
                shapes.append((f"{name}.shortcut.0", channels, out, 1, side))
            channels = out
    layers = [
        LayerInfo(
            name=name,
            op_type="Conv",
            weight=f"{name}.weight",
            weight_shape=(c_out, c_in, k, k),
            out_shape=(c_out, side, side),
            macs=c_out * c_in * k * k * side * side,
            params=c_out * c_in * k * k,
            prune_group=_group_of(name),
            node=name,
        )
        for name, c_in, c_out, k, side in shapes
    ]
    fc = LayerInfo(
        name="fc",
        op_type="Gemm",
        weight="fc.weight",
        weight_shape=(10, 64),
        out_shape=(10,),
        macs=640,
        params=650,
        prune_group="fc",
        node="fc",
    )
    return (*layers, fc)


def _group_of(name: str) -> str:
    if name.endswith(".conv1") and name.startswith("layer"):
        return name
    stage = name[5] if name.startswith("layer") else "1"
    return {"1": "conv1", "2": "layer2.0.conv2", "3": "layer3.0.conv2"}[stage]


def make_groups(layers: tuple[LayerInfo, ...]) -> tuple[PruneGroup, ...]:
    """Groups of :func:`make_layers`."""
    names = dict.fromkeys(layer.prune_group or "" for layer in layers)
    widths = {layer.name: layer.weight_shape[0] for layer in layers}
    return tuple(
        PruneGroup(
            name=name,
            channels=widths[name],
            members=(
                GroupMember(initializer=f"{name}.weight", axis=0, indices=np.arange(widths[name])[:, None], role="out"),
            ),
            blocked="feeds the model's output 'logits'" if name == "fc" else None,
        )
        for name in names
    )


def make_run(*, estimated: bool = False, trials: int = 46, seed: int = 0) -> MadeUpRun:
    """A made-up run of a ResNet-20: baselines, recipes, and a sampler's proposals."""
    rng = np.random.default_rng(seed)
    layers = make_layers()
    groups = make_groups(layers)
    precisions = ("fp32", "fp16") if estimated else ("fp32", "int8", "int4")
    bits = {
        "fp32": LayerPlan(),
        "fp16": LayerPlan(weight_bits=16, activation_bits=16),
        "int8": LayerPlan(weight_bits=8, activation_bits=8),
        "int4": LayerPlan(weight_bits=4, activation_bits=8),
    }
    ratios = (0.0, 0.25, 0.5, 0.75)
    prunable = [g for g in groups if g.prunable]
    found = [
        make_trial(
            0,
            accuracy=0.946,
            latency_ms=3.2,
            plan=CompressionPlan(),
            source="baseline",
            label="as it came",
            size_bytes=1.09e6,
            estimated=estimated,
        )
    ]
    low = precisions[1]
    uniform = CompressionPlan(layers={"*": bits[low]})
    found.append(
        make_trial(
            1,
            accuracy=0.9455,
            latency_ms=1.6,
            ratio=0.5,
            plan=uniform,
            source="baseline",
            label=f"uniform {low}",
            size_bytes=0.31e6,
            estimated=estimated,
        )
    )
    for number in range(2, trials):
        chosen = {layer.name: bits[str(rng.choice(precisions, p=_weights(len(precisions))))] for layer in layers}
        prune = {g.name: float(rng.choice(ratios)) for g in prunable}
        share = 1 - float(np.mean(list(prune.values())))
        cheap = float(np.mean([p.weight_bits < 32 for p in chosen.values()]))
        latency = 3.2 * (0.15 + 0.85 * share) * (1 - 0.55 * cheap) * float(rng.normal(1, 0.04))
        accuracy = 0.947 - 0.06 * (1 - share) ** 2 - abs(float(rng.normal(0, 0.006))) - 0.01 * (number % 7 == 0)
        plan = CompressionPlan(
            layers={k: v for k, v in chosen.items() if v != LayerPlan()},
            prune={k: v for k, v in prune.items() if v},
            distillation=DistillationPlan(steps=200),
        )
        state, error = TrialState.COMPLETE, None
        if number % 6 == 5:
            state, error = TrialState.PRUNED, "out of reach after 25% of healing: trial 1 beats <accuracy>"
        if number == 16:
            state, error = TrialState.FAIL, "quantize: ValueError: a <script>alert('x')</script> & more"
        found.append(
            make_trial(
                number,
                accuracy=accuracy,
                latency_ms=latency,
                ratio=latency / 3.2,
                plan=plan,
                size_bytes=1.09e6 * share * (1 - 0.7 * cheap),
                source="recipe" if number < 8 else "tpe",
                label=f"prune {100 * (1 - share):.0f}% + {low} {100 * cheap:.0f}%",
                state=state,
                error=error,
                estimated=estimated,
            )
        )
    space = SearchSpace(
        choices=(
            *(Choice(name=f"precision:{n.name}", kind="precision", subject=n.name, options=precisions) for n in layers),
            *(Choice(name=f"ratio:{g.name}", kind="ratio", subject=g.name, options=ratios) for g in prunable),
        ),
        refused=(
            *(Refusal(subject=n.name, option="int8", reason="no fast int8 on this GPU") for n in layers if estimated),
            Refusal(subject="fc", option="prune", reason="feeds the model's output 'logits'"),
        ),
    )
    sensitivities = {
        choice.name: {
            str(option): 0.0 if index == 0 else float(10 ** rng.uniform(-4, -1)) * index**2
            for index, option in enumerate(choice.options)
        }
        for choice in space.choices
    }
    manifest = {
        "created": "2026-11-24T15:00:00+00:00",
        "command": ["autocompress", "search", "--target", "jetson-nano" if estimated else "local"],
        "python": "3.11.7",
        "platform": "Linux-test",
        "packages": {"autocompress": "0.1.0", "onnxruntime": "1.31.0", "torch": "2.13.0"},
        "seed": 0,
        "model_digest": "0123456789abcdef",
        "data_digest": "fedcba9876543210",
        "host": {"cpu": "Test CPU", "cores": 2, "isa": ["avx2", "avx512_vnni"]},
    }
    return MadeUpRun(
        trials=tuple(found),
        front=ParetoFront.of(found, OBJECTIVES),
        objectives=OBJECTIVES,
        space=space,
        sensitivities=sensitivities,
        manifest=manifest,
        baseline=found[0],
        layers=layers,
        groups=groups,
    )


def _weights(n: int) -> list[float]:
    return [0.5, 0.5] if n == 2 else [0.2, 0.6, 0.2]


@pytest.fixture(scope="session")
def made_up_run() -> MadeUpRun:
    """A run with measured latencies."""
    return make_run()


@pytest.fixture(scope="session")
def estimated_run() -> MadeUpRun:
    """A run for a target that is not attached."""
    return make_run(estimated=True)


@pytest.fixture(scope="session")
def trial_factory() -> Callable[..., Trial]:
    """:func:`make_trial`."""
    return make_trial


@dataclass(kw_only=True)
class SshServer:
    """A real sshd of its own on loopback, with its own keys; ``ssh://device`` in its client configuration."""

    folder: Path
    port: int
    config: Path
    sshd: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    url = "ssh://device"

    @property
    def log(self) -> Path:
        """What sshd says."""
        return self.folder / "sshd.log"

    @property
    def models(self) -> Path:
        """Where agents keep models."""
        return self.folder / "device" / "models"

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        with self.log.open("ab") as log:
            command = [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"sshd does not listen: {self.log.read_text()[-500:]}")

    def kill(self) -> None:
        """End the server and everything that runs in its connections, as a pulled plug does."""
        for process in self.processes:
            for pid in [process.pid, *descendants(process.pid)]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait(10)
        self.processes.clear()


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


@pytest.fixture
def ssh_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """A device behind ssh: this machine, reached through loopback."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH's server and client are not installed: scripts/install_system_packages brings them")
    if os.geteuid() == 0:
        # As root sshd wants its empty folder, which the service's start-up makes otherwise.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    server = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
    }
    client = {
        "HostName": "127.0.0.1",
        "Port": port,
        "User": getpass.getuser(),
        "IdentityFile": folder / "user_key",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in server.items()))
    config = folder / "config"
    config.write_text("Host device\n" + "".join(f"  {key} {value}\n" for key, value in client.items()))
    monkeypatch.setenv("AUTOCOMPRESS_SSH_CONFIG", str(config))
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_PYTHON", sys.executable)
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_FOLDER", str(folder / "device"))
    found = SshServer(folder=folder, port=port, config=config, sshd=sshd)
    found.start()
    try:
        yield found
    finally:
        found.kill()


@dataclass(kw_only=True)
class TvmServers:
    """Real agents and a tracker on loopback, each a process group of its own."""

    folder: Path
    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    tracker_port: int = 0
    find_tracker: Callable[[], int] = lambda: 0
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, count: int = 1, *, port: int = 0, key: str = "", before: str = "pass", host: str = "127.0.0.1"
    ) -> list[int]:
        """Start agents together; their ports. The tracker learns ``key``; ``before`` is code that runs first."""
        code = f"import sys; {before}; from autocompress.cli.app import run; sys.exit(run(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "agent", "--tvm", "--host", host, "--port", str(port)]
        if key:
            command += ["--tracker", f"127.0.0.1:{self.tracker_port}", "--key", key]
        logs = [self.folder / f"agent{len(self._processes) + index}.log" for index in range(count)]
        started = [self._start(command, log) for log in logs]
        told = rf"listens at {re.escape(host)}:(\d+)"
        ports = [int(self._word(process, log, told)) for process, log in zip(started, logs, strict=True)]
        self.agents.update(zip(ports, started, strict=True))
        return ports

    def start_tracker(self) -> None:
        """Use the tracker that all tests share; keys are a test's own."""
        self.tracker_port = self.find_tracker()

    def run_tracker(self, port: int) -> None:
        """Start a tracker; returns when connections are accepted."""
        code = "import runpy, sys; sys.modules['torch'] = None; "
        code += "runpy.run_module('tvm.exec.rpc_tracker', run_name='__main__')"
        limits = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
        log = self.folder / "tracker.log"
        process = self._start([sys.executable, "-c", code, *limits], log)
        self._word(process, log, r"(bind to 127)")

    def url(self, port: int = 0, key: str = "") -> str:
        """Of one agent, or of those with a key."""
        return f"tvm-rpc://127.0.0.1:{self.tracker_port}/{key}" if key else f"tvm-rpc://127.0.0.1:{port}"

    def kill(self, port: int) -> None:
        """End an agent and whom it serves, as a pulled plug does."""
        self._end(self.agents.pop(port))

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            self._end(process)

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._processes.append(process)
        return process

    def _word(self, process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
        """What a process says once it is ready."""
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            found = re.search(pattern, log.read_text())
            if found:
                return found[1]
            time.sleep(0.05)
        raise RuntimeError(f"nothing was started: {log.read_text()[-500:]}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(10)


@pytest.fixture(scope="session")
def tvm_tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a tracker on loopback."""
    servers = TvmServers(folder=tmp_path_factory.mktemp("tracker"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers.run_tracker(port)
    yield port
    servers.close()


@pytest.fixture
def tvm_servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TvmServers]:
    """Devices behind TVM's RPC: this machine, reached through loopback."""
    yield from _tvm_servers(tmp_path, request)


@pytest.fixture(scope="module")
def kept_tvm_servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[TvmServers]:
    """The same for all tests of a file, which kill none of them."""
    yield from _tvm_servers(tmp_path_factory.mktemp("agents"), request)


def _tvm_servers(folder: Path, request: pytest.FixtureRequest) -> Iterator[TvmServers]:
    if importlib.util.find_spec("tvm") is None:
        pytest.skip("TVM is not installed")
    servers = TvmServers(folder=folder, find_tracker=lambda: int(request.getfixturevalue("tvm_tracker")))
    yield servers
    servers.close()
