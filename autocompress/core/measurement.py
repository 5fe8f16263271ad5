"""A number with its provenance: what was measured or estimated, on what, how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Provenance(StrEnum):
    """Where a number comes from; the two never share a front, a column or a name."""

    MEASURED = "measured"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval, ``low <= high``."""

    low: float
    high: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"An interval needs finite ends in order, but got [{self.low}, {self.high}].")

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One metric of one artifact.

    Args:
        metric: such as ``latency_ms``; the unit stands in the name.
        value: the headline figure.
        unit: such as ``ms``, ``bytes`` or ``1``.
        provenance: measured or estimated.
        interval: of the value, if known.
        samples: raw samples in the metric's unit; a measured latency must carry them.
        reference_samples: of the interleaved reference, one for each sample.
        target: the profile's name; ``local`` for the host.
        runtime: name and version, such as ``onnxruntime 1.31.0 cpu``.
        fingerprint: of the device that ran it, or the estimator and its error for an estimate.
        when: ISO 8601 time in UTC.
        details: threads, blocks kept, and whatever else the reading depends on; JSON values.
    """

    metric: str
    value: float
    unit: str
    provenance: Provenance
    interval: Interval | None = None
    samples: tuple[float, ...] = ()
    reference_samples: tuple[float, ...] = ()
    target: str = "local"
    runtime: str = ""
    fingerprint: str = ""
    when: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} must be finite, but got {self.value}.")
        if self.provenance is Provenance.MEASURED and not self.samples:
            raise ValueError(f"A measured {self.metric} must carry its raw samples.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        interval = self.interval
        return {
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "provenance": self.provenance.value,
            "interval": None if interval is None else [interval.low, interval.high, interval.confidence],
            "samples": list(self.samples),
            "reference_samples": list(self.reference_samples),
            "target": self.target,
            "runtime": self.runtime,
            "fingerprint": self.fingerprint,
            "when": self.when,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Read what :meth:`to_dict` wrote."""
        values = dict(data)
        interval = values.pop("interval")
        return cls(
            **{
                **values,
                "provenance": Provenance(values["provenance"]),
                "interval": None
                if interval is None
                else Interval(low=interval[0], high=interval[1], confidence=interval[2]),
                "samples": tuple(values["samples"]),
                "reference_samples": tuple(values["reference_samples"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPolicy:
    """When a comparison is good enough.

    Args:
        block_ms: shortest time of one A-B-B-A block; each of its four turns repeats one model for a quarter of it.
        half_width: stop when the interval of the ratio is this narrow, relative to the ratio.
        max_seconds: stop then at the latest, if ``min_blocks`` blocks were calm and the candidate ran at its level in
            them.
        patience: how many times ``max_seconds`` to go on else.
        min_blocks: calm blocks before the interval is believed; it takes six at least.
        calm_tolerance: a block counts while both models ran within this share of their calm levels, or less where
            calm turns agree better.
        warmup_seconds: longest warm-up; it ends earlier once drift is under 1%.
        confidence: of the interval.
        shortest_block_ms: blocks are halved down to this where few of them are calm, which finds calm spells of some
            ten milliseconds; never where None.
        calm_ms: the reference's calm level if it is known from before, milliseconds; blocks more than 5% above it do
            not count.
    """

    block_ms: float = 100.0
    half_width: float = 0.02
    max_seconds: float = 10.0
    patience: float = 1.0
    min_blocks: int = 6
    calm_tolerance: float = 0.10
    warmup_seconds: float = 0.5
    confidence: float = 0.95
    shortest_block_ms: float | None = None
    calm_ms: float | None = None

    def __post_init__(self) -> None:
        if self.patience < 1.0:
            raise ValueError(f"patience must be at least 1, but is {self.patience}.")

    @property
    def longest_seconds(self) -> float:
        """What a comparison takes at most, besides warming up."""
        return self.max_seconds * self.patience


QUICK = TimingPolicy(block_ms=32.0, half_width=0.02, max_seconds=0.6, warmup_seconds=0.1)
CAREFUL = TimingPolicy(block_ms=100.0, half_width=0.01, max_seconds=12.0, patience=1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTiming:
    """A candidate timed against a reference in interleaved A-B-B-A blocks.

    Args:
        candidate_ms: milliseconds an inference, one value a block.
        reference_ms: likewise for the reference, same blocks.
        kept: which blocks were calm (both models at their calm level) and count.
        ratio: median of the kept blocks' ``candidate / reference``.
        ratio_interval: order-statistic interval of the ratio.
        details: threads, warm-up, why it stopped.
    """

    candidate_ms: tuple[float, ...]
    reference_ms: tuple[float, ...]
    kept: tuple[bool, ...]
    ratio: float
    ratio_interval: Interval
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (len(self.candidate_ms) == len(self.reference_ms) == len(self.kept)) or not any(self.kept):
            raise ValueError("A paired timing needs as many candidate as reference rounds and at least one kept.")

    @property
    def kept_candidate_ms(self) -> tuple[float, ...]:
        """Milliseconds of the candidate in the rounds that count."""
        return tuple(v for v, keep in zip(self.candidate_ms, self.kept, strict=True) if keep)

    @property
    def kept_reference_ms(self) -> tuple[float, ...]:
        """Milliseconds of the reference in the rounds that count."""
        return tuple(v for v, keep in zip(self.reference_ms, self.kept, strict=True) if keep)

    @property
    def kept_share(self) -> float:
        """Share of rounds that were calm."""
        return sum(self.kept) / len(self.kept)
