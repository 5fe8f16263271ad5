"""Whether a device, or another runtime, computes what ONNX Runtime on this machine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import Artifact, Batch

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

    Integers, such as indices, are left out: rounding may change them altogether. A device that gives NaN, other shapes
    or another number of outputs differs infinitely, told as 1e9.
    """
    samples = len(here[0])
    if [a.shape for a in here] != [b.shape for b in there]:
        return Agreement(samples=samples, difference=1e9, same_choice=0.0, tolerance=tolerance)
    pairs = [(a, b) for a, b in zip(here, there, strict=True) if a.dtype.kind == "f"]
    difference = max((_relative(a, b) for a, b in pairs), default=0.0)
    first, other = here[0].reshape(samples, -1), there[0].reshape(samples, -1)
    same = float(np.mean(first.argmax(axis=1) == other.argmax(axis=1))) if first.shape[1] else 1.0
    return Agreement(samples=samples, difference=difference, same_choice=same, tolerance=tolerance)


class AgreementCheck:
    """Sees whether a device computes what is scored on this machine: no other artifact may have that quality.

    Args:
        build: loads a graph in the runtime that quality is scored in.
        inputs: a few samples, each ``(n, ...)``.
        name: of the runtime on the device.
    """

    def __init__(self, build: Callable[[Any], Artifact], inputs: Batch, *, name: str) -> None:
        self._build = build
        self._inputs = inputs
        self._name = name

    def check(self, graph: Any, there: Artifact, plan: CompressionPlan) -> Agreement:
        """Compare the outputs of a graph with those of the same loaded on the device.

        Raises:
            CandidateError: they differ by more than the precision of ``plan`` explains.
        """
        here = self._build(graph).run(self._inputs)
        found = agreement_of(here, there.run(self._inputs), tolerance=tolerance_of(plan))
        if not found.holds:
            raise CandidateError("outputs", f"{self._name} computes something else there: {found}")
        return found


def _relative(here: NDArray[Any], there: NDArray[Any]) -> float:
    a, b = here.astype(np.float64), there.astype(np.float64)
    if not np.isfinite(b).all():
        return 1e9
    size = float(np.sqrt(np.mean(a**2))) if a.size else 0.0
    gap = float(np.sqrt(np.mean((a - b) ** 2))) if a.size else 0.0
    return gap / size if size else float(gap > 0) * 1e9
