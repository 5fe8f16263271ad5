"""What timing one model file against another found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autocompress.core.measurement import Interval, PairedTiming, Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTiming:
    """One model file timed against the first one.

    Args:
        path: as given.
        median_ms: median of the calm rounds, milliseconds an inference.
        interval: interval of that median.
        samples: milliseconds an inference, one a round.
        reference_samples: likewise of the first file, same rounds.
        kept: which rounds were calm and count.
        ratio: to the first file; that one's own entry is timed against itself and shows the noise.
        ratio_interval: interval of the ratio.
        size_bytes: of the file and its data files.
        provenance: always measured.
        runtime: name, version and provider.
        fingerprint: of the machine.
        when: ISO 8601 time in UTC.
        details: threads, spinning, policy, shares kept, why it stopped.
    """

    path: str
    median_ms: float
    interval: Interval
    samples: tuple[float, ...]
    reference_samples: tuple[float, ...]
    kept: tuple[bool, ...]
    ratio: float
    ratio_interval: Interval
    size_bytes: int
    provenance: Provenance = Provenance.MEASURED
    runtime: str
    fingerprint: str
    when: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_cached(self) -> bool:
        """Whether it was measured earlier."""
        return "cached" in self.details

    @property
    def paired(self) -> PairedTiming:
        """The comparison itself, as :func:`~autocompress.measure.latency.latency_measurement` takes it."""
        return PairedTiming(
            candidate_ms=self.samples,
            reference_ms=self.reference_samples,
            kept=self.kept,
            ratio=self.ratio,
            ratio_interval=self.ratio_interval,
            details=self.details,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        return {
            **{name: getattr(self, name) for name in ("path", "median_ms", "ratio", "size_bytes")},
            "interval": _interval_list(self.interval),
            "ratio_interval": _interval_list(self.ratio_interval),
            "samples": list(self.samples),
            "reference_samples": list(self.reference_samples),
            "kept": list(self.kept),
            "provenance": self.provenance.value,
            **{name: getattr(self, name) for name in ("runtime", "fingerprint", "when")},
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FileTiming:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "interval": _interval(data["interval"]),
                "ratio_interval": _interval(data["ratio_interval"]),
                "samples": tuple(data["samples"]),
                "reference_samples": tuple(data["reference_samples"]),
                "kept": tuple(data["kept"]),
                "provenance": Provenance(data["provenance"]),
            }
        )


def _interval_list(interval: Interval) -> list[float]:
    return [interval.low, interval.high, interval.confidence]


def _interval(values: Sequence[float]) -> Interval:
    return Interval(low=values[0], high=values[1], confidence=values[2])
