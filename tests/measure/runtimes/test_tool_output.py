"""Lines that vendor tools really printed, as published in issues and documentation of their projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.core.errors import CandidateError
from autocompress.core.tool import ToolCommand
from autocompress.measure.runtimes.tool_output import read_output

CAPTURED = Path(__file__).parent / "captured"
# NVIDIA/TensorRT issue 4177.
TRTEXEC_NEW = (CAPTURED / "trtexec_8_4.txt").read_text()
# NVIDIA/TensorRT issue 2054 (averages, host latency) and a T4 with TensorRT 7.2 (GPU compute).
TRTEXEC_OLD = """
[06/12/2022-22:34:00] [I] Average on 10 runs - GPU latency: 1.56245 ms - Host latency: 1.65786 ms (end to end 2.76426 ms, enqueue 0.943042 ms)
[06/12/2022-22:34:00] [I] Average on 10 runs - GPU latency: 1.56167 ms - Host latency: 1.65811 ms (end to end 3.02041 ms, enqueue 0.936011 ms)
[06/12/2022-22:34:00] [I] Host Latency
[06/12/2022-22:34:00] [I] min: 1.64058 ms (end to end 1.66368 ms)
[06/12/2022-22:34:00] [I] median: 1.65601 ms (end to end 3.01636 ms)
[06/12/2022-22:34:00] [I] percentile: 1.67065 ms at 99% (end to end 3.03931 ms at 99%)
[06/12/2022-22:34:00] [I] throughput: 0 qps
[06/12/2022-22:34:00] [I] walltime: 3.00461 s
[03/24/2021-03:54:47] [I] GPU Compute
[03/24/2021-03:54:47] [I] min: 1.26575 ms
[03/24/2021-03:54:47] [I] max: 4.41528 ms
[03/24/2021-03:54:47] [I] mean: 1.31054 ms
[03/24/2021-03:54:47] [I] median: 1.30151 ms
[03/24/2021-03:54:47] [I] percentile: 1.40723 ms at 99%
[03/24/2021-03:54:47] [I] total compute time: 2.9972 s
"""  # noqa: E501 - as printed
# google/XNNPACK issue 999.
BENCHMARK_MODEL = """
count=9 first=64791 curr=56295 min=54873 max=65831 avg=57758.2 std=4065

count=50 first=58154 curr=53809 min=53077 max=60727 avg=55043.2 std=1562

Inference timings in us: Init: 18777, First inference: 64791, Warmup (avg): 57758.2, Inference (avg): 55043.2
"""
BENCHMARK_MODEL_NEW = (CAPTURED / "benchmark_model.txt").read_text()
# Tencent/ncnn issue 3451.
BENCHNCNN = (CAPTURED / "benchncnn.txt").read_text()
# microsoft/onnxruntime issue 17313, and the vendor's documentation of a K1 board.
PERF_TEST_OLD = "Average time cost: 58.8053 ms\nP50 Latency is 0.0587108 sec\nP99 Latency is 0.0619517 sec\n"
PERF_TEST_TIGHT = "Average time cost:58.8053 ms\nP50 Latency is 0.0587108sec\n"
PERF_TEST_NEW = "Average inference time cost: 62.2935 ms\nMin Latency: 0.0529422 s\nP50 Latency: 0.0603562 s\n"


def tool(output: str, **changes: object) -> ToolCommand:
    return ToolCommand(argv=("tool", "{model}"), output=output, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "text", "latency_ms"),
    [
        ("trtexec", TRTEXEC_NEW, 7.14139),
        ("trtexec", TRTEXEC_OLD, 1.30151),
        ("benchmark_model", BENCHMARK_MODEL, 55.0432),
        ("benchmark_model", BENCHMARK_MODEL_NEW, 1239.807),
        ("benchncnn", BENCHNCNN, 94.25),
        ("onnxruntime_perf_test", PERF_TEST_OLD, 58.7108),
        ("onnxruntime_perf_test", PERF_TEST_TIGHT, 58.7108),
        ("onnxruntime_perf_test", PERF_TEST_NEW, 60.3562),
    ],
)
def test_the_latency_is_found(output: str, text: str, latency_ms: float) -> None:
    assert read_output(text, tool(output)).latency_ms == pytest.approx(latency_ms)


def test_percentiles_and_averages_are_kept() -> None:
    new, old = read_output(TRTEXEC_NEW, tool("trtexec")), read_output(TRTEXEC_OLD, tool("trtexec"))
    assert (new.details["p99_ms"], new.details["throughput_per_second"]) == (12.9485, 130.298)
    assert old.samples_ms == (1.56245, 1.56167)
    assert old.details["p99_ms"] == 1.40723


def test_what_a_delegate_left_to_the_cpu_is_told() -> None:
    assert read_output(BENCHMARK_MODEL_NEW, tool("benchmark_model")).details["delegated_share"] == 0.75


def test_any_command_can_be_read_by_a_pattern() -> None:
    given = tool("regex", pattern=r"run \d+: (?P<latency>[\d.]+)us", unit="us")
    found = read_output("run 1: 1500us\nrun 2: 1700us\nrun 3: 1600us\n", given)
    assert (found.latency_ms, found.samples_ms) == (1.6, pytest.approx((1.5, 1.7, 1.6)))


@pytest.mark.parametrize("output", ["trtexec", "benchmark_model", "benchncnn", "onnxruntime_perf_test"])
def test_no_latency_quotes_the_last_line(output: str) -> None:
    with pytest.raises(CandidateError, match="tool printed no latency; its last line is 'Segmentation fault'"):
        read_output("Loading\nSegmentation fault\n\n", tool(output))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output": "regex"}, "`pattern` goes with `output: regex`"),
        ({"output": "regex", "pattern": "("}, "no regular expression"),
        ({"output": "regex", "pattern": "abc"}, "needs a group"),
        ({"output": "trtexec", "argv": ("trtexec",)}, "must name {model} or {engine}"),
        ({"output": "trtexec", "argv": ("trtexec", "{modle}")}, "arguments may name"),
        ({"output": "trtexec", "argv": ("trtexec", "{engine}")}, "goes with a `build`"),
        ({"output": "gpu"}, "`output` must be one of"),
    ],
)
def test_a_tool_that_cannot_work_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ToolCommand(**{"argv": ("tool", "{model}"), **changes})  # type: ignore[arg-type]
