"""Prices of kernels from profiles and whole-model timings together, with how sure they are.

A profile gives every kernel's time in its place, but adds its own overhead, and a kernel may run otherwise under it.
Whole models timed without the profiler say what the kernels' true times sum up to. Both are linear in the prices'
relative deviations from what their families let expect (:mod:`autocompress.cost.kernel_trends`), so prices are the mean
of one Gaussian posterior (Rasmussen and Williams 2006, equation 2.38), and a plan's time, their sum, has its variance.
Timings that do not fit the rest are given more noise (Huber weights): a disturbed one does no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from autocompress.core.kernel import Kernel
from autocompress.cost.kernel_trends import KernelTrends

Array = NDArray[np.float64]

#: A kernel that several profiles hold has this quantile of what they read: neighbours of the machine only ever add.
_READ = 0.2
#: What the profiler is expected to add to a kernel, microseconds, and by how much that may vary between operators.
_OVERHEAD, _OVERHEAD_SPREAD = 3.0, 1.5
#: By how much families and single kernels may differ under the profiler from what they take without, relative.
_FAMILY_BIAS, _KERNEL_BIAS = 0.03, 0.02
#: By how much a model's timings may differ together from the sums of its kernels: caches, an error of its base.
_MODEL_BIAS = 0.02
#: Sessions of one model differ by as much through where their memory lies.
SESSION_SPREAD = 0.008
_HUBER, _ROUNDS = 1.5, 6
_LEAST = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTiming:
    """One whole model timed without the profiler.

    Args:
        kernels: how often it launches each, by key.
        ms: milliseconds an inference.
        spread: relative standard error of ``ms``.
        model: of which model it is a version.
    """

    kernels: Mapping[str, int]
    ms: float
    spread: float
    model: str


class KernelPrices:
    """Microseconds of any kernels of known operators.

    Args:
        profiled: kernel key to its times under the profiler, microseconds, one a profile.
        timings: whole models; their kernels are all in ``profiled``.
    """

    def __init__(self, profiled: Mapping[str, Sequence[float]], timings: Sequence[WholeTiming]) -> None:
        self._keys = {key: index for index, key in enumerate(profiled)}
        self._kernels = [Kernel.from_key(key) for key in profiled]
        self._models = [timing.model for timing in timings]
        raw = np.array([np.quantile(times, _READ) for times in profiled.values()])
        counts = np.array([len(times) for times in profiled.values()], np.float64)
        self._trends = KernelTrends(self._kernels, np.maximum(raw - _OVERHEAD, 0.1 * raw), counts)
        expected = self._trends.expected(self._kernels)
        self._shares = np.zeros((len(timings), len(raw)))
        whole = np.zeros(len(timings))
        for row, timing in enumerate(timings):
            for key, count in timing.kernels.items():
                self._shares[row, self._keys[key]] = count * expected[self._keys[key]]
            whole[row] = self._shares[row].sum()
            self._shares[row] /= whole[row]
        self._read = (raw - _OVERHEAD) / expected - 1.0
        self._timed = np.array([timing.ms * 1e3 for timing in timings]) / np.maximum(whole, _LEAST) - 1.0
        self._condition(expected, np.array([timing.spread for timing in timings]))

    @property
    def overheads(self) -> Mapping[str, float]:
        """Operator to the microseconds that the profiler was found to add to it."""
        return dict(self._overheads)

    def known(self, kernel: Kernel) -> bool:
        """Whether this very kernel was timed."""
        return kernel.key in self._keys

    def knows(self, kernel: Kernel) -> bool:
        """Whether a kernel of its operator was timed, of any type, layout or fusion."""
        return self._trends.knows(kernel)

    def borrows(self, kernel: Kernel) -> bool:
        """Whether its price is that of another family, as none of its own was timed."""
        return self._trends.borrows(kernel)

    def microseconds(self, kernels: Iterable[Kernel]) -> Array:
        """``(n_kernels,)`` price of each.

        Raises:
            KeyError: the operator of one was never timed; see :meth:`knows`.
        """
        every = list(kernels)
        expected = self._trends.expected(every)
        found: Array = np.maximum(expected * (1.0 + self._deviations(self._covariance(every))), _LEAST)
        return found

    def total(self, kernels: Iterable[Kernel], model: str) -> tuple[float, float]:
        """Microseconds of a version of a model that launches these, and their relative standard deviation.

        Raises:
            KeyError: the operator of one was never timed; see :meth:`knows`.
        """
        counted = Counter(kernels)
        every = list(counted)
        parts = self._trends.expected(every) * np.array(list(counted.values()), np.float64)
        share = parts / parts.sum()
        prior = self._trends.shared(every, every) + self._trends.own**2 * np.eye(len(every))
        from_readings = share @ self._covariance(every)
        alike = _MODEL_BIAS**2 * np.array([other == model for other in self._models], np.float64)
        rest = self._shares @ from_readings + alike - self._explained.T @ from_readings
        deviation = from_readings @ self._weights + rest @ self._timing_weights
        variance = (
            share @ prior @ share
            + _MODEL_BIAS**2
            - from_readings @ cho_solve(self._readings, from_readings)
            - (rest @ cho_solve(self._timings, rest) if len(rest) else 0.0)
        )
        factor = max(1.0 + float(deviation), 0.1)
        return float(parts.sum()) * factor, float(np.sqrt(max(variance, 0.0) + SESSION_SPREAD**2)) / factor

    def _condition(self, expected: Array, spreads: Array) -> None:
        """Readings first, timings on what these leave open."""
        trends, kernels = self._trends, self._kernels
        prior = trends.shared(kernels, kernels) + trends.own**2 * np.eye(len(kernels))
        operators = sorted({kernel.op_type for kernel in kernels})
        place = np.array([operators.index(kernel.op_type) for kernel in kernels])
        overhead = _OVERHEAD_SPREAD**2 * (place[:, None] == place[None, :]) / np.outer(expected, expected)
        bias = _FAMILY_BIAS**2 * trends.same_family(kernels, kernels)
        self._readings = cho_factor(prior + bias + overhead + np.diag(_KERNEL_BIAS**2 + trends.noise), lower=True)
        self._weights = cho_solve(self._readings, self._read)
        across = prior @ self._shares.T
        self._explained = cho_solve(self._readings, across)
        same = np.array([[a == b for b in self._models] for a in self._models]).reshape((len(self._models),) * 2)
        left = self._shares @ across + _MODEL_BIAS**2 * same - across.T @ self._explained
        missed = self._timed - across.T @ self._weights
        noise, weight = spreads**2 + SESSION_SPREAD**2, np.ones(len(missed))
        self._timing_weights = np.zeros(len(missed))
        for _ in range(_ROUNDS if len(missed) else 0):
            self._timings = cho_factor(left + np.diag(noise / weight), lower=True)
            self._timing_weights = cho_solve(self._timings, missed)
            # What the posterior leaves of each timing, in units of its own noise.
            misses = np.abs(self._timing_weights) * np.sqrt(noise) / weight
            weight = np.minimum(1.0, _HUBER / np.maximum(misses, 1e-9))
        # An overhead is what readings of its operator have in common beyond prices.
        open_ = self._weights - self._explained @ self._timing_weights
        means = [(open_ / expected)[place == index].sum() for index in range(len(operators))]
        self._overheads = {
            name: _OVERHEAD + _OVERHEAD_SPREAD**2 * float(mean) for name, mean in zip(operators, means, strict=True)
        }

    def _covariance(self, kernels: Sequence[Kernel]) -> Array:
        """``(n_kernels, n_known)`` of relative deviations."""
        found = self._trends.shared(kernels, self._kernels)
        for row, kernel in enumerate(kernels):
            if kernel.key in self._keys:
                found[row, self._keys[kernel.key]] += self._trends.own**2
        return found

    def _deviations(self, from_readings: Array) -> Array:
        rest = from_readings @ (self._shares.T - self._explained)
        found: Array = from_readings @ self._weights + rest @ self._timing_weights
        return found
