"""Models timed by a tool on a device: a small program of this machine stands for trtexec."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autocompress.core.errors import CandidateError, TargetError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.target import RuntimeSpec
from autocompress.core.tool import ToolCommand
from autocompress.measure.device import Device
from autocompress.measure.runtimes.command import CommandRuntime
from autocompress.measure.transports.local import LocalConnection

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.2, min_blocks=1)
#: Says that a file takes as many milliseconds as it has bytes.
TOOL = "import os, sys; print('GPU Compute Time: min = 1 ms, median = %d ms' % os.path.getsize(sys.argv[1]))"
BUILD = "import sys; open(sys.argv[2], 'w').write('built'); open(sys.argv[3], 'a').write('x')"


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
