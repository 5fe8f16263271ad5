"""Latency prices of one device: what was measured there, and what a plan that nobody timed costs.

The list holds profiles and whole-model timings of designed plans; prices are fitted from them on reading
(:mod:`autocompress.cost.kernel_prices`). Kernels are priced by operator and shapes, so models share what they have in
common. How far an estimate may be off is found by leaving plans out, profiles and timings alike, in turn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError, PlanError
from autocompress.core.kernel import Kernel
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.cost.kernel_prices import KernelPrices, WholeTiming
from autocompress.graph.model_graph import ModelGraph

#: Fewer plans of a model are too few to say how far estimates are off.
FEWEST_PLANS = 12
_FOLDS = 5
_CONFIDENCE, _NORMAL = 0.95, 1.96
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRun:
    """One designed plan as it was measured.

    Args:
        model: as :func:`model_key` tells.
        kernels: keys in order of launch.
        microseconds: of each under the profiler.
        ms: milliseconds an inference without the profiler.
        spread: relative standard error of ``ms``.
        plan: digest of the plan.
    """

    model: str
    kernels: tuple[str, ...]
    microseconds: tuple[float, ...]
    ms: float
    spread: float
    plan: str = ""


class PriceList:
    """What was measured on one device with one runtime, and prices from it.

    Args:
        device: what prices depend on: runtime, version, threads, spinning, fingerprint.
        runs: designed plans of any models.
        base_ms: model key to the uncompressed model's milliseconds.
    """

    def __init__(
        self, *, device: Mapping[str, Any], runs: Sequence[PricedRun] = (), base_ms: Mapping[str, float] | None = None
    ) -> None:
        self.device = dict(device)
        self.runs = tuple(runs)
        self.base_ms = dict(base_ms or {})
        self._quantiles: dict[str, float] = {}

    @cached_property
    def prices(self) -> KernelPrices:
        """Fitted to all that was measured."""
        return fitted(self.runs)

    def covers(self, model: str) -> bool:
        """Whether enough plans of a model were measured to say how far estimates are off."""
        return sum(run.model == model for run in self.runs) >= FEWEST_PLANS

    def with_runs(self, runs: Sequence[PricedRun], base_ms: Mapping[str, float]) -> PriceList:
        """A list that knows these too."""
        return PriceList(device=self.device, runs=(*self.runs, *runs), base_ms={**self.base_ms, **base_ms})

    def left_out(self, model: str) -> NDArray[np.float64]:
        """``(n_plans, 3)``: each plan of a model estimated by a list that lacks it.

        Columns are the log-ratio of estimate to measurement, the estimate's own relative standard deviation, and that
        of the measurement.
        """
        own = [index for index, run in enumerate(self.runs) if run.model == model]
        found = []
        for fold in range(_FOLDS):
            aside = own[fold::_FOLDS]
            rest = [run for index, run in enumerate(self.runs) if index not in aside]
            if not aside or not rest:
                continue
            prices = fitted(rest)
            for run in (self.runs[index] for index in aside):
                kernels = [Kernel.from_key(key) for key in run.kernels]
                if all(prices.knows(kernel) for kernel in kernels):
                    microseconds, spread = prices.total(kernels, model)
                    found.append((math.log(microseconds * 1e-3 / run.ms), spread, run.spread))
        return np.array(found).reshape(-1, 3)

    def quantile(self, model: str) -> float:
        """Standard deviations within which 95% of a model's plans lie (normalized split conformal, Lei et al. 2018).

        An error is divided by what it may be: of the estimate and of the timing it is compared with. So neither odd
        plans nor disturbed timings widen the interval of all others. Never less than a normal distribution has.
        """
        if model not in self._quantiles:
            errors, own, timing = self.left_out(model).T
            scores = np.sort(np.abs(errors) / np.hypot(own, timing))
            rank = min(len(scores), math.ceil((len(scores) + 1) * _CONFIDENCE))
            self._quantiles[model] = max(_NORMAL, float(scores[rank - 1])) if rank else math.inf
        return self._quantiles[model]

    def estimate(self, kernels: Sequence[Kernel], model: str, *, target: str = "local") -> Measurement:
        """Latency of the version of a model that launches these kernels.

        Args:
            kernels: as the runtime tells.
            model: as :func:`model_key` tells; :meth:`covers` it.
            target: name that the measurement carries.

        Raises:
            PlanError: the list does not cover the model, or has no price for a kernel's operator. A kernel of a family
                that was never measured takes the price of the nearest, and the interval is wider for it.
        """
        if not self.covers(model):
            raise PlanError(f"The price list knows fewer than {FEWEST_PLANS} plans of this model: measure it first.")
        strange = next((kernel for kernel in kernels if not self.prices.knows(kernel)), None)
        if strange is not None:
            raise PlanError(f"The price list has no price for {strange.family!r}: measure more plans of this model.")
        microseconds, spread = self.prices.total(kernels, model)
        value, error = microseconds * 1e-3, math.expm1(self.quantile(model) * spread)
        seen = sum(self.prices.known(kernel) for kernel in kernels) / max(1, len(kernels))
        return Measurement(
            metric="latency_ms",
            value=value,
            unit="ms",
            provenance=Provenance.ESTIMATED,
            interval=Interval(low=value / (1 + error), high=value * (1 + error), confidence=_CONFIDENCE),
            target=target,
            runtime=" ".join(str(self.device[key]) for key in ("name", "version") if key in self.device),
            fingerprint=f"price list, validated ±{100 * error:.1f}%",
            details={
                "estimator": "price_list",
                "validated": True,
                "error": error,
                "plans_measured": sum(run.model == model for run in self.runs),
                "kernels": len(kernels),
                "kernels_measured": seen,
                "families_borrowed": sorted({k.family for k in kernels if self.prices.borrows(k)}),
                "threads": self.device.get("threads"),
                "batch": 1,
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        keys = list(dict.fromkeys(key for run in self.runs for key in run.kernels))
        place = {key: index for index, key in enumerate(keys)}
        runs = [{**asdict(run), "kernels": [place[key] for key in run.kernels]} for run in self.runs]
        return {"schema": _SCHEMA, "device": self.device, "kernels": keys, "runs": runs, "base_ms": self.base_ms}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PriceList:
        """Read what :meth:`to_dict` wrote.

        Raises:
            CandidateError: it is no such list.
        """
        try:
            if data["schema"] != _SCHEMA:
                raise ValueError(f"schema {data['schema']}")
            keys = data["kernels"]
            runs = [
                PricedRun(
                    **{
                        **run,
                        "kernels": tuple(keys[index] for index in run["kernels"]),
                        "microseconds": tuple(run["microseconds"]),
                    }
                )
                for run in data["runs"]
            ]
            return cls(device=data["device"], runs=runs, base_ms=data["base_ms"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CandidateError("price list", f"cannot be read: {error}") from error


def fitted(runs: Sequence[PricedRun]) -> KernelPrices:
    """Prices from these runs."""
    profiled: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for key, microseconds in zip(run.kernels, run.microseconds, strict=True):
            profiled[key].append(microseconds)
    timings = [WholeTiming(kernels=Counter(run.kernels), ms=run.ms, spread=run.spread, model=run.model) for run in runs]
    return KernelPrices(profiled, timings)


def model_key(graph: ModelGraph) -> str:
    """What decides a model's latency, in 16 hexadecimal digits: operators and shapes, no weights."""
    parts = [[node.op_type for node in graph.model.graph], [list(spec.shape) for spec in graph.input_specs]]
    parts.append([[layer.weight_shape, layer.out_shape] for layer in graph.layers()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
