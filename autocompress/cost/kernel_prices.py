"""Prices of kernels from profiles and whole-model timings, and of kernels that nobody timed from their family.

A profile gives every kernel's time in its place, in context, but adds its own overhead to each. Whole models timed
without the profiler tell how much: what a plan takes is the sum of its kernels' prices. Both go into one linear
least-squares fit with priors (ridge regression; Huber weights make single disturbed timings harmless).

A kernel that was not timed is priced by its family: arithmetic and memory traffic fitted without negative parts (which
knows that widths are rounded up to whole vectors), corrected by a Gaussian process over its sizes (Rasmussen and
Williams 2006, equation 2.25): cliffs that the neighbours show are kept, far from them only the trend is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from autocompress.core.kernel import Kernel

#: What the profiler is expected to add to a kernel, microseconds, and by how much that may vary between operators.
_OVERHEAD, _OVERHEAD_SPREAD = 3.0, 1.0
#: By how much, relative and in microseconds, a kernel may differ under the profiler from what it takes without.
_PRICE_SPREAD, _PRICE_FLOOR_SPREAD = 0.05, 0.3
_HUBER = 1.5
_LEAST = 0.1
#: Kernels pad channels to whole vectors of this many.
_VECTOR = 16
_LENGTH, _SIGNAL, _NOISE, _CLOCK = 1.0, 0.2, 0.02, 0.2


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
    """Milliseconds of any kernel of a known family.

    Args:
        profiled: kernel key to its times under the profiler, microseconds, one a profile.
        timings: whole models; their kernels are all in ``profiled``.
    """

    def __init__(self, profiled: Mapping[str, Sequence[float]], timings: Sequence[WholeTiming]) -> None:
        keys = list(profiled)
        kernels = [Kernel.from_key(key) for key in keys]
        raw = np.array([np.median(profiled[key]) for key in keys])
        counts = np.array([len(profiled[key]) for key in keys], np.float64)
        prices, self._overheads = _fit(keys, kernels, raw, timings)
        self._known = dict(zip(keys, prices.tolist(), strict=True))
        self._families = _families(kernels, prices, counts)

    @property
    def overheads(self) -> Mapping[str, float]:
        """Operator to the microseconds that the profiler was found to add to it."""
        return dict(self._overheads)

    def known(self, kernel: Kernel) -> bool:
        """Whether this very kernel was timed."""
        return kernel.key in self._known

    def knows(self, kernel: Kernel) -> bool:
        """Whether a kernel of its family was timed."""
        return kernel.family in self._families

    def microseconds(self, kernels: Iterable[Kernel]) -> NDArray[np.float64]:
        """``(n_kernels,)`` price of each.

        Raises:
            KeyError: the family of one was never timed; see :meth:`knows`.
        """
        found: dict[str, float] = {}
        every = list(kernels)
        for kernel in every:
            if kernel.key not in found:
                known = self._known.get(kernel.key)
                found[kernel.key] = self._families[kernel.family].price(kernel) if known is None else known
        return np.array([found[kernel.key] for kernel in every])


def _fit(
    keys: Sequence[str], kernels: Sequence[Kernel], raw: NDArray[np.float64], timings: Sequence[WholeTiming]
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """``(n_kernels,)`` prices, and what the profiler adds to each operator; microseconds."""
    operators = sorted({kernel.op_type for kernel in kernels})
    place = {key: index for index, key in enumerate(keys)}
    launches = np.zeros((len(timings), len(keys)))
    for row, timing in zip(launches, timings, strict=True):
        for key, count in timing.kernels.items():
            row[place[key]] = count
    kind = np.array([operators.index(kernel.op_type) for kernel in kernels])
    onehot = np.eye(len(operators))[kind]
    # Unknown: each operator's overhead beyond the expected one, and each kernel's own deviation.
    design = np.hstack([-launches @ onehot, launches])
    expected = launches @ (raw - _OVERHEAD)
    prior = np.concatenate(
        [np.full(len(operators), _OVERHEAD_SPREAD), np.hypot(raw * _PRICE_SPREAD, _PRICE_FLOOR_SPREAD)]
    )
    whole = np.array([timing.ms * 1e3 for timing in timings])
    spread = np.array([timing.spread for timing in timings]) * whole
    weight, solution = np.ones(len(timings)), np.zeros(design.shape[1])
    for _ in range(6 if timings else 0):
        # Dual form of ridge regression: as large as the number of timings.
        noise = np.diag(spread**2 / weight)
        covered = design * prior**2
        solution = covered.T @ np.linalg.solve(covered @ design.T + noise, whole - expected)
        misses = np.abs(whole - expected - design @ solution) / spread
        weight = np.minimum(1.0, _HUBER / np.maximum(misses, 1e-9))
    overheads = _OVERHEAD + solution[: len(operators)]
    prices = raw + solution[len(operators) :] - overheads[kind]
    # Where a time is nothing but overhead, a kernel still costs its launch.
    return np.maximum(prices, np.maximum(_LEAST, 0.1 * raw)), dict(zip(operators, overheads.tolist(), strict=True))


class _Family:
    """One family's trend and the deviations from it."""

    def __init__(self, kernels: Sequence[Kernel], prices: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        costs = np.array([_costs(kernel) for kernel in kernels])
        self._scale = np.maximum(costs.max(axis=0), 1e-12)
        self._trend, _ = nnls(costs / self._scale / prices[:, None], np.ones(len(prices)))
        self._places = np.array([_sizes(kernel) for kernel in kernels])
        rest = np.log(prices / self._expected(costs))
        noise = (_NOISE**2 + (_CLOCK / prices) ** 2) / counts
        covariance = _covariance(self._places, self._places) + np.diag(noise + 1e-6)
        self._weights = cho_solve(cho_factor(covariance), rest)

    def price(self, kernel: Kernel) -> float:
        """Microseconds."""
        near = _covariance(np.array([_sizes(kernel)]), self._places)
        deviation = float((near @ self._weights)[0])
        return float(self._expected(np.array([_costs(kernel)]))[0] * np.exp(deviation))

    def _expected(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.maximum(costs / self._scale @ self._trend, _LEAST)
        return found


def _families(
    kernels: Sequence[Kernel], prices: NDArray[np.float64], counts: NDArray[np.float64]
) -> dict[str, _Family]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, kernel in enumerate(kernels):
        rows[kernel.family].append(index)
    return {
        family: _Family([kernels[i] for i in index], prices[index], counts[index]) for family, index in rows.items()
    }


def _costs(kernel: Kernel) -> tuple[float, ...]:
    macs, weights, read, written = kernel.work
    out = kernel.weight[0] if kernel.weight else 1
    padded = macs * (-(-out // _VECTOR) * _VECTOR) / max(out, 1)
    return 1.0, macs, padded, weights, read + written


def _sizes(kernel: Kernel) -> tuple[float, ...]:
    _, _, read, written = kernel.work
    if not kernel.weight:
        return float(np.log(max(read, 1.0))), float(np.log(max(written, 1.0)))
    spatial = max(1.0, kernel.outputs_spatial)
    return tuple(float(np.log(max(1, size))) for size in (kernel.weight[0], kernel.weight[1], spatial))


def _covariance(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
    found: NDArray[np.float64] = _SIGNAL**2 * np.exp(-squares / (2 * _LENGTH**2))
    return found
