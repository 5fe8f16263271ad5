"""Checks that are the same for this machine and for an attached device: processor, precisions, the timer's noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autocompress.checkup.check import Check
from autocompress.core.measurement import TimingPolicy
from autocompress.hardware.host import HostFacts
from autocompress.measure.runtimes.probe import ProbedRuntime, probe_int8
from autocompress.measure.runtimes.probe_nets import residual_net
from autocompress.measure.self_comparison import compare, runs_needed, summary

#: Half-width of a ratio's interval past which timings on a machine mean little.
NOISE = 0.03
#: Share of time that a hypervisor takes away past which it is worth a word.
STEAL = 0.02
#: A precision is faster, or slower, than float32 where its whole interval is this far from 1.
NOTABLE = 0.03
#: Share of the cores that other programs keep busy past which it is worth a word.
BUSY = 0.5
NOISE_RUNS = 6
NOISE_POLICY = TimingPolicy(block_ms=40.0, half_width=0.01, max_seconds=1.0, min_blocks=6, warmup_seconds=0.1)
#: Linux counts steal time in hundredths of a second on every architecture, proc(5) and USER_HZ.
_TICKS_A_SECOND = 100


def processor(facts: HostFacts) -> Iterator[Check]:
    """What computes, and whether it multiplies integers fast."""
    name = ", ".join(part for part in (facts.board, facts.cpu) if part)
    yield Check(check="processor", found=f"{name}, {facts.cores} usable cores")
    fast = {"avx512_vnni", "avx_vnni", "dotprod", "i8mm", "amx_int8"} & set(facts.isa)
    yield Check(
        check="integer instructions",
        ok=bool(fast),
        found=", ".join(sorted(fast)) or "none",
        advice="" if fast else "no integer dot product: int8 may not be faster; the search finds out",
    )


def load(average: float | None, cores: int) -> Iterator[Check]:
    """How busy the machine is with other things; nothing where it does not tell."""
    if average is None:
        return
    busy = average > BUSY * cores
    yield Check(
        check="load",
        ok=not busy,
        found=f"{average:.1f} over the last minute",
        advice="other programs run: timings take longer and vary more" if busy else "",
        figures={"load": average},
    )


def precisions(runtime: ProbedRuntime) -> Iterator[Check]:
    """Latency of a small residual network as a share of float32's, as searches on that machine take it."""
    probe = probe_int8(runtime=runtime)
    readings = {"fp16": probe.fp16, "int8, uint8 activations": probe.uint8, "int8, int8 activations": probe.int8}
    for name, reading in readings.items():
        low, high = reading.interval.low, reading.interval.high
        verdict = "faster" if high < 1 - NOTABLE else "slower" if low > 1 + NOTABLE else "no faster"
        used = not name.startswith("int8") or name.endswith(f"{probe.activation_type} activations")
        remark = "" if used else "; searches use the other kind"
        # Nobody can mend what is slow: searches there do not offer it, or find out.
        yield Check(
            check=f"{name.partition(',')[0]} ({name.partition(', ')[2] or 'throughout'})",
            found=f"{verdict}: {reading.ratio:.2f} [{low:.2f}, {high:.2f}] of fp32's latency, {probe.when}{remark}",
            figures={"ratio": reading.ratio, "interval": [low, high], "verdict": verdict, "measured": probe.when},
        )
    ok = probe.int8_ratio < 1
    half = ["fp16"] if probe.fp16.interval.high < 1 - NOTABLE else []
    yield Check(
        check="fast precisions",
        ok=ok,
        found=", ".join(["fp32", *half, *(["int8"] if ok else [])]),
        advice="" if ok else "int8 does not pay there; search with --space prune",
    )


def noise(runtime: Any, cores: int) -> Iterator[Check]:
    """A model timed against itself, again and again.

    Args:
        runtime: builds and times models, see :class:`~autocompress.core.protocols.Runtime`.
        cores: of the machine, whose stolen time is counted together.
    """
    comparisons = compare(runtime, residual_net("fp32"), NOISE_RUNS, NOISE_POLICY)
    figures = {**summary(comparisons), "steal_share": steal_share(comparisons, cores)}
    yield timer(figures)
    steal = figures["steal_share"]
    if steal is not None:
        guest = "neighbours of this virtual machine: rounds that they disturb are left out, so timings take longer"
        yield Check(
            check="steal time",
            ok=steal < STEAL,
            found=f"{steal:.1%} of the processor's time went to other guests of this host",
            advice="" if steal < STEAL else guest,
            figures={"share": steal},
        )


def timer(figures: Mapping[str, Any]) -> Check:
    """What a few short comparisons of a model with itself tell: a bound on false alarms, or that they cannot tell.

    Args:
        figures: as :func:`~autocompress.measure.self_comparison.summary` gives them.
    """
    runs, told, width = figures["runs"], figures["told"], figures["median_half_width"]
    calm = f"{figures['kept_share']:.0%} of the rounds calm"
    closer = f"`measure A.onnx --aa --runs {runs_needed()}` looks closer"
    if 2 * told < runs:
        found = f"cannot tell: {runs - told} of {runs} comparisons of 1 s kept too few calm rounds, {calm}"
        return Check(
            check="timer", ok=False, found=found, advice=f"stop other programs and ask again; {closer}", figures=figures
        )
    wrong, (_, most, _) = figures["false_difference_share"], figures["false_difference_interval"]
    quiet = wrong <= 1 / told and width < NOISE
    return Check(
        check="timer",
        ok=quiet,
        found=(
            f"a model against itself, {told} times for 1 s at most: a difference of 1% or more in {wrong:.0%} (at most "
            f"{most:.0%} at 95%: {told} runs tell no more), of any size in {figures['false_alarm_share']:.0%}; "
            f"half-width of the interval {width:.1%}, {calm}"
        ),
        advice="" if quiet else f"timings are noisy: stop other programs, give more --budget; {closer}",
        figures=figures,
    )


def steal_share(comparisons: Sequence[Mapping[str, Any]], cores: int) -> float | None:
    """Share of all cores' time that a hypervisor took away; None where the system does not tell."""
    told = [c for c in comparisons if (c["machine"] or {}).get("steal_ticks") is not None and c["seconds"]]
    if not told:
        return None
    ticks = sum(c["machine"]["steal_ticks"] for c in told)
    return float(ticks) / _TICKS_A_SECOND / sum(c["seconds"] for c in told) / max(1, cores)
