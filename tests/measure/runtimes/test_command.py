"""Models timed by a tool on a device: a small program of this machine stands for trtexec."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autocompress import api
from autocompress.core.errors import CandidateError, ModelError, TargetError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.request import SearchRequest
from autocompress.core.target import RuntimeSpec
from autocompress.core.tool import ToolCommand
from autocompress.hardware.host import host_fingerprint
from autocompress.loading import load_place
from autocompress.measure.device import Device
from autocompress.measure.runtimes.command import CommandRuntime, version_in
from autocompress.measure.runtimes.probe_nets import residual_net
from autocompress.measure.transports.local import LocalConnection

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.2, min_blocks=1)
#: Says that a file takes as many milliseconds as it has bytes.
TOOL = "import os, sys; print('GPU Compute Time: min = 1 ms, median = %d ms' % os.path.getsize(sys.argv[1]))"
BUILD = "import sys; open(sys.argv[2], 'w').write('built'); open(sys.argv[3], 'a').write('x')"
CAPTURED = Path(__file__).parent / "captured"
#: Writes down its arguments, one a line, makes an engine where asked, and says what the real tool was seen to say.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$0" "$@" >> "{log}"
for argument; do
  case "$argument" in
    --help) echo '&&&& RUNNING TensorRT.trtexec [TensorRT v8401] # trtexec --help' ;;
    --saveEngine=*) echo built > "${{argument#*=}}" ;;
    --loadEngine=*) test -f "${{argument#*=}}" && cat "{captured}" ;;
    --graph=*|shape=*) cat "{captured}" ;;
  esac
done
"""


class Board:
    """A device behind a real sshd with tools of our own in its PATH."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.url = server.url
        self.log = folder / "arguments.log"
        self._tools = folder / "tools"
        self._tools.mkdir()
        with (server.folder / "sshd_config").open("a") as file:
            file.write(f'SetEnv "PATH={self._tools}:/usr/bin:/bin"\n')
        server.kill()
        server.start()

    def install(self, name: str, captured: str) -> Path:
        path = self._tools / name
        path.write_text(STAND_IN.format(log=self.log, captured=CAPTURED / captured))
        path.chmod(0o755)
        return path

    @property
    def arguments(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def board(ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    # Whatever a shell would take apart.
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_FOLDER", str(tmp_path / "a dev'ice; $(id) {model}"))
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return Board(ssh_server, tmp_path)


@pytest.fixture
def nets(tmp_path: Path) -> list[Path]:
    """A float32 net and the same in int8, as files."""
    paths = [tmp_path / "fp32.onnx", tmp_path / "int8.onnx"]
    for path, variant in zip(paths, ("fp32", "int8"), strict=True):
        path.write_bytes(residual_net(variant))  # type: ignore[arg-type]
    return paths


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    found = Device(LocalConnection(folder=str(tmp_path / "device")))
    yield found
    found.close()


def runtime(device: Device, tool: ToolCommand | None) -> CommandRuntime:
    return CommandRuntime(device, RuntimeSpec(name="tensorrt", capabilities={}, command=tool), threads=3)


def tool(script: str, *more: str, **changes: object) -> ToolCommand:
    argv = (sys.executable, "-c", script, *more)
    return ToolCommand(**{"argv": argv, "output": "trtexec", **changes})  # type: ignore[arg-type]


def test_the_ratio_is_that_of_what_the_tool_says(device: Device, linear_model: Callable[..., bytes]) -> None:
    given = runtime(device, tool(TOOL, "{model}"))
    data = linear_model()
    timing = given.time(given.build(data + b"\x00" * 0), given.build(data), POLICY)
    assert timing.ratio == 1.0
    assert timing.kept_candidate_ms[0] == len(data)
    assert timing.details["reference_readings"][0]["latency_ms"] == len(data)


def test_what_the_tool_builds_is_built_once(device: Device, tmp_path: Path) -> None:
    build = (sys.executable, "-c", BUILD, "{model}", "{engine}", str(tmp_path / "builds"))
    given = runtime(device, tool(TOOL, "{engine}", build=build))
    artifacts = [given.build(b"model") for _ in range(3)]
    assert given.time(artifacts[0], artifacts[1], POLICY).kept_reference_ms[0] == len("built")
    assert (tmp_path / "builds").read_text() == "x"


def test_threads_are_filled_in(device: Device) -> None:
    script = "import sys; print('GPU Compute Time: min = 1 ms, median = %s ms' % sys.argv[2])"
    given = runtime(device, tool(script, "{model}", "{threads}"))
    artifact = given.build(b"model")
    assert given.time(artifact, artifact, POLICY).kept_reference_ms[0] == 3.0


def test_a_tool_that_fails_is_told_by_its_last_line(device: Device) -> None:
    given = runtime(device, tool("import sys; print('out of memory'); sys.exit(3)", "{model}"))
    artifact = given.build(b"model")
    with pytest.raises(CandidateError, match="ended 3: out of memory"):
        given.time(artifact, artifact, POLICY)


def test_a_profile_without_a_command_is_refused(device: Device) -> None:
    with pytest.raises(TargetError, match="names no command that times models with tensorrt"):
        runtime(device, None)


def test_measure_runs_trtexec_on_a_board_over_ssh(board: Board, nets: list[Path]) -> None:
    program = board.install("trtexec", "trtexec_8_4.txt")
    rows = api.measure(nets, target="jetson-agx-orin", device=board.url)
    assert [row["ratio"] for row in rows] == [1.0, 1.0]
    assert rows[0]["median_ms"] == 7.14139, "the captured line's median GPU compute time"
    assert rows[0]["runtime"] == "tensorrt 8401 trtexec"
    assert rows[0]["fingerprint"] == host_fingerprint()
    said = board.arguments
    assert said[0] == str(program)
    builds = [said[i : i + 4] for i, line in enumerate(said) if line.startswith("--onnx=")]
    assert len(builds) == 2, "each model is built once"
    folder = os.environ["AUTOCOMPRESS_REMOTE_FOLDER"]
    assert all(line.startswith(f"--onnx={folder}/models/") and line.endswith("/model.onnx") for line, *_ in builds)
    # Nothing but the model's own precisions is allowed.
    assert "--int8" not in said[: said.index(builds[1][0])] and "--int8" in said[said.index(builds[1][0]) :]
    assert "--fp16" not in said
    assert said.count("--sparsity=enable") == 2, "Orin has kernels for 2:4"


def test_a_board_without_the_tool_says_where_it_comes_from(board: Board, nets: list[Path]) -> None:
    with pytest.raises(TargetError) as caught:
        api.measure(nets, target="jetson-nano", device=board.url)
    assert str(caught.value) == (
        "trtexec is not on ssh://device (looked in PATH and /usr/src/tensorrt/bin and /opt/tensorrt/bin): JetPack and "
        "TensorRT's package libnvinfer-bin bring it."
    )


@pytest.mark.parametrize(
    ("runtime", "program", "captured", "name", "latency_ms", "argument"),
    [
        ("tflite", "benchmark_model", "benchmark_model.txt", "a.tflite", 1239.807, "--num_threads=4"),
        ("ncnn", "benchncnn", "benchncnn.txt", "a.param", 94.25, "shape=[96,64,3]"),
    ],
)
def test_files_of_other_formats_are_timed_by_their_own_tools(
    board: Board,
    tmp_path: Path,
    runtime: str,
    program: str,
    captured: str,
    name: str,
    latency_ms: float,
    argument: str,
) -> None:
    board.install(program, captured)
    path = tmp_path / name
    path.write_text("7767517\n1 1\nInput  data  0 1 data 0=96 1=64 2=3\n")
    (row,) = api.measure([path], target="raspberry-pi-4b", device=board.url, runtime=runtime, cache=False)
    assert row["median_ms"] == pytest.approx(latency_ms)
    assert argument in board.arguments


def test_a_file_that_a_tool_does_not_read_is_refused(board: Board, nets: list[Path]) -> None:
    board.install("benchncnn", "benchncnn.txt")
    with pytest.raises(ModelError, match=r"benchncnn reads \.param files, but got '.*fp32\.onnx'"):
        api.measure(nets, target="raspberry-pi-4b", device=board.url, runtime="ncnn")


def test_a_search_says_at_once_that_a_tool_reads_other_files(board: Board, tmp_path: Path) -> None:
    board.install("benchncnn", "benchncnn.txt")
    request = SearchRequest(target="raspberry-pi-4b", device=board.url, runtime="ncnn", out=tmp_path / "run")
    with pytest.raises(TargetError, match=r"benchncnn times \.param files, but a search makes \.onnx files"):
        api.search(request)
    assert not (tmp_path / "run").exists()


def test_another_build_of_a_tool_is_another_runtime(board: Board) -> None:
    def about() -> dict[str, Any]:
        with closing(load_place("jetson-nano", board.url)) as place:
            return dict(place.timer(threads=1).describe())

    path = board.install("trtexec", "trtexec_8_4.txt")
    first = about()
    assert about() == first
    path.write_text(path.read_text() + "# another build\n")
    assert about() != first


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8401] # trtexec --help\n", "8401"),
        ("tool\nversion 1.2.3 (2024)\n", "1.2.3"),
        ("build 7\n", "build 7"),
        ("nothing to see\n", ""),
    ],
)
def test_the_version_is_found(text: str, version: str) -> None:
    assert version_in(text) == version
