"""Whether a device, or another runtime, computes what ONNX Runtime on this machine computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.objective import QUALITY_METRICS
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial

#: Root mean square of the difference over that of the outputs. Rounding of one step in 8 bits somewhere inside gives
#: about 0.02; kernels that saturate or read their integers otherwise give far more.
TOLERANCE = 0.1
#: Float16 keeps 11 bits, and sums of different order differ in the last ones; float32 keeps 24.
HALF_TOLERANCE, FLOAT_TOLERANCE = 0.03, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Outputs of one file on two machines.

    Args:
        samples: that were compared.
        difference: root mean square of the difference, as a share of that of this machine's outputs; the worst output.
        same_choice: share of samples whose largest value stands at the same place in the first output; 1 where its
            samples are single values.
        tolerance: of the difference.
    """

    samples: int
    difference: float
    same_choice: float
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether the difference is no more than that of rounding."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"outputs differ by {self.difference:.1%} (tolerance {self.tolerance:.1%}) and {self.same_choice:.0%} of "
            f"{self.samples} samples have the same largest value"
        )


def tolerance_of(plan: CompressionPlan) -> float:
    """How far outputs of two correct runtimes may be apart, by the coarsest precision that a plan computes in."""
    bits = min((layer.activation_bits for layer in plan.layers.values()), default=32)
    return TOLERANCE if bits <= 8 else HALF_TOLERANCE if bits <= 16 else FLOAT_TOLERANCE


def agreement_of(
    here: Sequence[NDArray[Any]], there: Sequence[NDArray[Any]], *, tolerance: float = TOLERANCE
) -> Agreement:
    """Compare outputs, each ``(n, ...)``, of the same samples.

    A device that gives NaN, other shapes or another number of outputs differs infinitely, told as 1e9.
    """
    samples = len(here[0])
    if [a.shape for a in here] != [b.shape for b in there]:
        return Agreement(samples=samples, difference=1e9, same_choice=0.0, tolerance=tolerance)
    difference = max(_relative(a, b) for a, b in zip(here, there, strict=True))
    first, other = here[0].reshape(samples, -1), there[0].reshape(samples, -1)
    same = float(np.mean(first.argmax(axis=1) == other.argmax(axis=1))) if first.shape[1] else 1.0
    return Agreement(samples=samples, difference=difference, same_choice=same, tolerance=tolerance)


def quality_with_device(trial: Trial, agreement: Agreement) -> Trial:
    """The trial with the agreement noted beside its quality."""
    noted = {
        name: replace(measurement, details={**measurement.details, "device": asdict(agreement)})
        for name, measurement in trial.measurements.items()
        if name in QUALITY_METRICS
    }
    return replace(trial, measurements={**trial.measurements, **noted})


def _relative(here: NDArray[Any], there: NDArray[Any]) -> float:
    a, b = here.astype(np.float64), there.astype(np.float64)
    if not np.isfinite(b).all():
        return 1e9
    size = float(np.sqrt(np.mean(a**2))) if a.size else 0.0
    gap = float(np.sqrt(np.mean((a - b) ** 2))) if a.size else 0.0
    return gap / size if size else float(gap > 0) * 1e9
