"""Latencies in the output of vendor tools: trtexec, benchmark_model, benchncnn, onnxruntime_perf_test, any other."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autocompress.core.errors import CandidateError
from autocompress.core.tool import MILLISECONDS, ToolCommand

_NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_LONGEST_QUOTE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReading:
    """What one run of a tool told.

    Args:
        latency_ms: of one inference: the median where the tool tells it, else the mean.
        samples_ms: single figures behind it, as far as they are printed; at least one.
        details: the tool's other figures: ``min_ms``, ``mean_ms``, ``p99_ms``, ``throughput_per_second``, …
    """

    latency_ms: float
    samples_ms: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)


def read_output(text: str, tool: ToolCommand) -> ToolReading:
    """The latency in a tool's output.

    Raises:
        CandidateError: there is none; the reason quotes the output's last line.
    """
    found = _PARSERS[tool.output](text, tool)
    if found is None or not found.latency_ms > 0:
        raise CandidateError("latency", f"{tool.argv[0]} printed no latency; its last line is {last_line(text)!r}")
    return found


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_QUOTE] if lines else ""


def _trtexec(text: str, tool: ToolCommand) -> ToolReading | None:
    """Both styles: one line a figure's kind (TensorRT 8.4 and younger), or a heading with a line a figure (older).

    GPU compute time is the figure: copying inputs and outputs is not the network's.
    """
    averages = [float(value) for value in re.findall(rf"Average on \d+ runs - GPU latency: {_NUMBER} ms", text)]
    # The oldest style, up to TensorRT 5.
    averages = averages or [float(value) for value in re.findall(rf"Average over \d+ runs is {_NUMBER} ms", text)]
    line = re.search(r"GPU Compute Time: (min = .*)", text)
    block = re.search(r"GPU Compute\s*\n((?:.*(?:min|max|mean|median|percentile): .*\n?)+)", text)
    details: dict[str, float] = {}
    if line:
        pairs = re.findall(rf"(min|max|mean|median|percentile\(\d+%\)) =? ?{_NUMBER} ms", line.group(1))
        details = {_statistic(name): float(value) for name, value in pairs}
    elif block:
        pairs = re.findall(rf"(min|max|mean|median): {_NUMBER} ms", block.group(1))
        details = {f"{name}_ms": float(value) for name, value in pairs}
        percentile = re.search(rf"percentile: {_NUMBER} ms at (\d+)%", block.group(1))
        if percentile:
            details[f"p{percentile.group(2)}_ms"] = float(percentile.group(1))
    throughput = re.search(rf"[Tt]hroughput: {_NUMBER} qps", text)
    if throughput and float(throughput.group(1)) > 0:
        details["throughput_per_second"] = float(throughput.group(1))
    latency = details.get("median_ms", details.get("mean_ms"))
    if latency is None and averages:
        latency = statistics.median(averages)
    return _reading(latency, averages, details)


def _benchmark_model(text: str, tool: ToolCommand) -> ToolReading | None:
    """Microseconds; the last line with ``count=`` is the one after the warm-up. Older versions print no median."""
    summary = re.search(rf"Inference \(avg\): {_NUMBER}", text) or re.search(rf"no stats: {_NUMBER}", text)
    counts = re.findall(r"count=\d+ .*", text)
    details: dict[str, float] = {}
    if counts:
        for name, value in re.findall(rf"(\w+)={_NUMBER}", counts[-1]):
            if name in ("first", "min", "max", "avg", "std", "p5", "median", "p95"):
                details[f"{'mean' if name == 'avg' else name}_ms"] = float(value) / 1e3
    if summary:
        details.setdefault("mean_ms", float(summary.group(1)) / 1e3)
    replaced = re.search(r"Replacing (\d+) out of (\d+) node\(s\)", text)
    if replaced:
        # What the delegate did not take runs on the CPU.
        details["delegated_share"] = int(replaced.group(1)) / max(1, int(replaced.group(2)))
    return _reading(details.get("median_ms", details.get("mean_ms")), [], details)


def _benchncnn(text: str, tool: ToolCommand) -> ToolReading | None:
    """Milliseconds; one line a network, of which there must be one."""
    lines = re.findall(rf"min =\s*{_NUMBER}\s+max =\s*{_NUMBER}\s+avg =\s*{_NUMBER}(?!/s)", text)
    if len(lines) != 1:
        return None
    low, high, mean = (float(value) for value in lines[0])
    return _reading(mean, [], {"min_ms": low, "max_ms": high, "mean_ms": mean})


def _perf_test(text: str, tool: ToolCommand) -> ToolReading | None:
    """Of all releases: ``P50 Latency: … s`` and ``P50 Latency is …sec``; averages in ms; blanks come and go."""
    details = {
        f"{name.lower()}_ms": float(value) * 1e3
        for name, value in re.findall(rf"(Min|Max|P\d+) Latency(?::| is) *{_NUMBER} *s(?:ec)?", text)
    }
    average = re.search(rf"Average (?:inference )?time cost(?: total)?: *{_NUMBER} *ms", text)
    if average:
        details["mean_ms"] = float(average.group(1))
    return _reading(details.get("p50_ms", details.get("mean_ms")), [], details)


def _regex(text: str, tool: ToolCommand) -> ToolReading | None:
    assert tool.pattern is not None
    pattern = re.compile(tool.pattern)
    group = "latency" if "latency" in pattern.groupindex else 1
    samples = []
    for match in pattern.finditer(text):
        try:
            samples.append(float(match.group(group)) * MILLISECONDS[tool.unit])
        except (TypeError, ValueError):
            continue
    return _reading(statistics.median(samples) if samples else None, samples, {})


def _statistic(name: str) -> str:
    percentile = re.fullmatch(r"percentile\((\d+)%\)", name)
    return f"p{percentile.group(1)}_ms" if percentile else f"{name}_ms"


def _reading(latency: float | None, samples: list[float], details: Mapping[str, float]) -> ToolReading | None:
    if latency is None:
        return None
    return ToolReading(latency_ms=latency, samples_ms=tuple(samples) or (latency,), details=dict(details))


_PARSERS: Mapping[str, Callable[[str, ToolCommand], ToolReading | None]] = {
    "trtexec": _trtexec,
    "benchmark_model": _benchmark_model,
    "benchncnn": _benchncnn,
    "onnxruntime_perf_test": _perf_test,
    "regex": _regex,
}
