"""Find out what ONNX Runtime really runs fast on this machine: tiny nets, timed once and remembered."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from autocompress.core.measurement import Interval, PairedTiming, TimingPolicy
from autocompress.measure.cache import JsonCache
from autocompress.measure.latency import now
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe_nets import Variant, residual_net

CHANNELS = (8, 12, 16, 20, 24, 28, 32)
MULTIPLES = (16, 8, 4)
#: A width is wasted where it runs at this share or more of the next multiple's time.
WASTED = 0.9
_SCHEMA = 1
_POLICY = TimingPolicy(block_ms=16.0, half_width=0.02, max_seconds=0.5, min_blocks=6, warmup_seconds=0.02)
_CHANNEL_POLICY = replace(_POLICY, half_width=0.03, max_seconds=0.25)


class ProbedRuntime(Protocol):
    """ONNX Runtime here or on a device; its artifacts remember the calm levels at which they were the reference."""

    threads: int

    def describe(self) -> Mapping[str, Any]:
        """Version, spinning and fingerprint."""

    def build(self, graph: bytes) -> Any:
        """Load a serialized model."""

    def time(self, candidate: Any, reference: Any, policy: TimingPolicy) -> PairedTiming:
        """Time two of them, interleaved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Latency of one variant as a share of the float32 net's.

    Args:
        ratio: median of the paired ratios.
        interval: of the ratio.
        samples: milliseconds an inference, one a kept round.
        reference_samples: likewise of the float32 net.
        calm: whether the machine was quiet enough to believe it.
    """

    ratio: float
    interval: Interval
    samples: tuple[float, ...]
    reference_samples: tuple[float, ...]
    calm: bool

    @classmethod
    def of(cls, timing: PairedTiming) -> Reading:
        """What a comparison with the float32 net says."""
        return cls(
            ratio=timing.ratio,
            interval=timing.ratio_interval,
            samples=timing.kept_candidate_ms,
            reference_samples=timing.kept_reference_ms,
            calm=bool(timing.details["calm"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ratio": self.ratio,
            "interval": [self.interval.low, self.interval.high, self.interval.confidence],
            "samples": list(self.samples),
            "reference_samples": list(self.reference_samples),
            "calm": self.calm,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Read what :meth:`to_dict` wrote."""
        low, high, confidence = data["interval"]
        return cls(
            ratio=float(data["ratio"]),
            interval=Interval(low=low, high=high, confidence=confidence),
            samples=tuple(data["samples"]),
            reference_samples=tuple(data["reference_samples"]),
            calm=bool(data["calm"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What is fast on one machine with one version of ONNX Runtime and one number of threads.

    Args:
        uint8: int8 weights with uint8 activations.
        int8: int8 weights with int8 activations.
        fp16: float16 throughout.
        channel_ms: precision (``fp32``, ``int8``) to channels to milliseconds of the small net.
        threads: of one inference.
        version: of ONNX Runtime.
        fingerprint: of the machine.
        when: ISO 8601 time in UTC.
    """

    uint8: Reading
    int8: Reading
    fp16: Reading
    channel_ms: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    threads: int
    version: str
    fingerprint: str
    when: str

    @property
    def activation_type(self) -> str:
        """``uint8`` or ``int8``: what integer kernels are faster with; uint8 where they are alike."""
        return "int8" if self.int8.interval.high < self.uint8.interval.low else "uint8"

    @property
    def int8_ratio(self) -> float:
        """Latency of the faster integer net as a share of the float32 net's; above 1 means int8 is slow here."""
        return self.int8.ratio if self.activation_type == "int8" else self.uint8.ratio

    @property
    def channel_multiple(self) -> dict[str, int]:
        """Precision to the multiple that kept channels should be rounded to."""
        return {precision: recommended_multiple(times) for precision, times in self.channel_ms.items()}

    @property
    def calm(self) -> bool:
        """Whether the machine was quiet enough to believe the ratios."""
        return self.uint8.calm and self.int8.calm and self.fp16.calm

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back. Derived figures are in it for other readers."""
        return {
            "activation_type": self.activation_type,
            "int8_ratio": self.int8_ratio,
            "fp16_ratio": self.fp16.ratio,
            "channel_multiple": self.channel_multiple,
            "readings": {name: getattr(self, name).to_dict() for name in ("uint8", "int8", "fp16")},
            "channel_ms": {
                precision: {str(channels): ms for channels, ms in times.items()}
                for precision, times in self.channel_ms.items()
            },
            "threads": self.threads,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "when": self.when,
            "calm": self.calm,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeResult:
        """Read what :meth:`to_dict` wrote.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is something else.
        """
        values: dict[str, Any] = {name: Reading.from_dict(data["readings"][name]) for name in ("uint8", "int8", "fp16")}
        channel_ms = {p: {int(c): float(ms) for c, ms in times.items()} for p, times in data["channel_ms"].items()}
        values.update({name: data[name] for name in ("threads", "version", "fingerprint", "when")})
        return cls(channel_ms=channel_ms, **values)


def probe_int8(
    threads: int = 1, *, refresh: bool = False, cache: Path | None = None, runtime: ProbedRuntime | None = None
) -> ProbeResult:
    """Time small nets in float32, float16 and int8 with uint8 and int8 activations; about 3 seconds, then cached.

    Args:
        threads: of one inference.
        refresh: measure again even where a result is cached.
        cache: folder of the cache; the user's where None.
        runtime: what is probed, with its own threads; this machine's ONNX Runtime where None.
    """
    runtime = runtime or OnnxRuntime(threads=threads)
    about = runtime.describe()
    key = cache_key(about)
    files = JsonCache("probe", cache)
    found = None if refresh else _parse(files.read(key))
    if found is not None:
        return found
    reference = runtime.build(residual_net("fp32"))
    variants: tuple[Variant, ...] = ("uint8", "int8", "fp16")
    uint8, int8, fp16 = (_read(runtime, variant, reference) for variant in variants)
    best: Variant = "int8" if int8.interval.high < uint8.interval.low else "uint8"
    ratios = {
        "fp32": _channel_ratios(runtime, "fp32", reference),
        "int8": _channel_ratios(runtime, best, reference),
    }
    # One level for all, known only now: a ratio times the level of its own minute would compare minutes.
    level = reference.calm.lowest_ms or statistics.median(uint8.reference_samples)
    result = ProbeResult(
        uint8=uint8,
        int8=int8,
        fp16=fp16,
        channel_ms={name: {channels: ratio * level for channels, ratio in of.items()} for name, of in ratios.items()},
        threads=runtime.threads,
        version=str(about["version"]),
        fingerprint=str(about["fingerprint"]),
        when=now(),
    )
    if result.calm:
        files.write(key, result.to_dict())
    return result


def cache_key(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on, of a runtime's ``describe()``."""
    return {"schema": _SCHEMA, **{name: about[name] for name in ("fingerprint", "version", "threads", "spinning")}}


def recommended_multiple(times: Mapping[int, float]) -> int:
    """The largest multiple that costs little: most widths between its steps run hardly faster than the next step.

    Args:
        times: channels to milliseconds.

    Returns:
        One of :data:`MULTIPLES`, or 1 where every channel less pays.
    """
    for multiple in MULTIPLES:
        wasted = [
            ms >= WASTED * times[above]
            for channels, ms in times.items()
            if (above := -(-channels // multiple) * multiple) != channels and above in times
        ]
        if wasted and 2 * sum(wasted) > len(wasted):
            return multiple
    return 1


def _read(runtime: ProbedRuntime, variant: Variant, reference: Any) -> Reading:
    return Reading.of(runtime.time(runtime.build(residual_net(variant)), reference, _POLICY))


def _channel_ratios(runtime: ProbedRuntime, variant: Variant, reference: Any) -> dict[int, float]:
    """Latency by channels as a share of the reference's."""
    nets = {channels: runtime.build(residual_net(variant, channels=channels)) for channels in CHANNELS}
    return {channels: runtime.time(net, reference, _CHANNEL_POLICY).ratio for channels, net in nets.items()}


def _parse(data: Mapping[str, Any] | None) -> ProbeResult | None:
    if data is None:
        return None
    try:
        return ProbeResult.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
