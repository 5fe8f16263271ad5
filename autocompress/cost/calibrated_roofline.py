"""Latency by coefficients fitted to published latencies of a target, where there is such a fit.

An additive roofline: what an operation asks (its arithmetic by class, weights, values moved, the kernel started) times
what that costs. A precision without a fit of its own costs what a fitted one does, scaled as the profile's rates say,
and is not validated.
"""

from __future__ import annotations

import numpy as np

from autocompress.core.target import Precision, RuntimeSpec, Target
from autocompress.cost.structure import Operation
from autocompress.cost.workload import FEATURES, Demand, work_kind
from autocompress.hardware.calibrations import Calibration, calibration
from autocompress.hardware.capabilities import INTEGER, class_capability

_COMPUTE = slice(0, FEATURES.index("weights"))
_MEMORY = slice(FEATURES.index("weights"), FEATURES.index("operations"))
#: What a precision's fit is looked up as: storage computes in float32, packed integers in int8.
_COMPUTES_IN = dict.fromkeys(INTEGER, Precision.INT8) | {p: p for p in (Precision.FP16, Precision.BF16)}


class CalibratedPrices:
    """Fits of one target and runtime.

    Attributes:
        fits: precision that is computed in, to fit.
    """

    def __init__(self, target: Target, spec: RuntimeSpec) -> None:
        self._spec = spec
        found = {
            precision: calibration(target.name, spec.name, spec.threads, precision.value)
            for precision in (Precision.FP32, Precision.FP16, Precision.INT8)
        }
        self.fits = {precision: fit for precision, fit in found.items() if fit is not None}

    def __bool__(self) -> bool:
        return bool(self.fits)

    def fit_of(self, precision: Precision) -> Calibration | None:
        """The fit that validates a precision; None where it is scaled from another's."""
        return self.fits.get(_COMPUTES_IN.get(precision, Precision.FP32))

    def price(
        self,
        op: Operation,
        precision: Precision,
        *,
        grouped: frozenset[str],
        share: float,
        weights: float,
        activations: float,
    ) -> tuple[float, float, float]:
        """Milliseconds of arithmetic, of memory traffic and of the kernel's start.

        Args:
            op: the operation.
            precision: that it computes in.
            grouped: nodes that convolve in groups.
            share: of the operation's arithmetic that is left, padding included.
            weights: elements read besides activations.
            activations: elements read and written.
        """
        demand = Demand(
            kind=work_kind(op, grouped),
            giga_operations=op.operations * share * 1e-9,
            weights=weights,
            activations=activations,
        )
        fit = self.fit_of(precision)
        slower = wider = 1.0
        if fit is None:
            fitted, fit = next(iter(self.fits.items()))
            slower, wider = self._slower(op, precision, fitted), _bytes(precision) / _bytes(fitted)
        costs = demand.vector() * np.array(fit.coefficients)
        return float(costs[_COMPUTE].sum()) * slower, float(costs[_MEMORY].sum()) * wider, float(costs[-1])

    def conversion_ms(self, precision: Precision, elements: float) -> float:
        """Milliseconds to change a value's precision: elements read and written by one more kernel."""
        fit = self.fit_of(precision) or next(iter(self.fits.values()))
        costs = dict(zip(FEATURES, fit.coefficients, strict=True))
        return 2e-6 * elements * costs["elementwise"] + costs["operations"]

    def _slower(self, op: Operation, precision: Precision, fitted: Precision) -> float:
        """How many times longer a precision's arithmetic takes than a fitted one's, by the profile's rates."""
        rates = []
        for wanted in (fitted, precision):
            capability = class_capability(self._spec, op.op_type, op.kind, wanted)
            rates.append((capability.peak_gops or 0.0) * capability.efficiency)
        return rates[0] / rates[1] if all(rates) else 1.0


def _bytes(precision: Precision) -> float:
    """Width of values between operations."""
    return {Precision.INT8: 1.0, Precision.FP16: 2.0, Precision.BF16: 2.0}.get(
        _COMPUTES_IN.get(precision, Precision.FP32), 4.0
    )
