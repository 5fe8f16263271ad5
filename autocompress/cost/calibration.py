"""Fit a roofline's coefficients to published latencies, and judge the fit on models that it never saw.

latency = sum over :data:`~autocompress.cost.workload.FEATURES` of coefficient x amount: an additive roofline, linear in
what a network asks. Coefficients are kept above zero by fitting their logarithms; residuals are log ratios under
scipy's soft L1, so that an odd row has little pull. A target has few rows, so each coefficient is drawn towards what
the runtime's other devices say about how its kinds of operators compare (a prior up to one factor a target).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from autocompress.cost.workload import FEATURES

#: Where no device tells how kinds compare: milliseconds per 10^9 operations, 10^6 elements, and operation, of a device
#: of 20 GFLOP/s and 5 GB/s.
START = (40.0, 60.0, 120.0, 50.0, 200.0, 50.0, 1.0, 1.0, 1.0, 0.02)
#: Width of the prior in natural logarithms: of a target around its runtime, and of a runtime around :data:`START`.
TARGET_WIDTH, RUNTIME_WIDTH = 0.5, 1.0
#: Likewise of matrix products around 1x1 convolutions: few tables have networks that are made of them.
GEMM_WIDTH = 0.2
_GEMM, _POINTWISE = FEATURES.index("gemm"), FEATURES.index("pointwise")
#: Log ratio from which a residual counts less.
SOFT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Latencies of one target, runtime, thread count and precision.

    Args:
        amounts: ``(n, len(FEATURES))`` workload vectors.
        latencies: ``(n,)`` milliseconds.
        families: ``(n,)`` architecture of each row.
    """

    amounts: NDArray[np.float64]
    latencies: NDArray[np.float64]
    families: tuple[str, ...]

    def without(self, family: str) -> Samples:
        """The rows of all other architectures."""
        keep = np.array([name != family for name in self.families], bool)
        kept = tuple(name for name in self.families if name != family)
        return Samples(amounts=self.amounts[keep], latencies=self.latencies[keep], families=kept)

    def __len__(self) -> int:
        return len(self.latencies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How estimates compare with published latencies.

    Args:
        n: rows.
        median_error: median of abs(estimate / published - 1).
        worst_error: the largest.
        spearman: rank correlation; None below three different rows.
        error_factor: 95% of the estimates are within this factor.
    """

    n: int
    median_error: float
    worst_error: float
    spearman: float | None
    error_factor: float


def score(estimates: NDArray[np.float64], published: NDArray[np.float64]) -> Score:
    """Compare ``(n,)`` estimates with ``(n,)`` published latencies, both in milliseconds."""
    errors = np.abs(estimates / published - 1)
    ratios = np.exp(np.abs(np.log(estimates / published)))
    ranked = len(set(published)) >= 3 and len(set(estimates)) >= 2
    return Score(
        n=len(published),
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        spearman=float(spearmanr(estimates, published).statistic) if ranked else None,
        error_factor=float(np.quantile(ratios, 0.95)),
    )


def fit_runtime(groups: Sequence[Samples]) -> NDArray[np.float64]:
    """Logarithms of coefficients, up to one factor a group, that suit all devices of a runtime.

    Returns:
        ``(len(FEATURES),)``.
    """
    groups = [group for group in groups if len(group)]
    start = np.log(START)
    if not groups:
        return start
    amounts = np.concatenate([g.amounts for g in groups])
    logs = np.log(np.concatenate([g.latencies for g in groups]))
    member = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    width = len(FEATURES)
    pull = np.eye(width) / RUNTIME_WIDTH
    pull[_GEMM, _GEMM], pull[_GEMM, _POINTWISE] = 1 / GEMM_WIDTH, -1 / GEMM_WIDTH

    def shares(theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        parts = amounts * np.exp(theta[:width])
        total = parts.sum(axis=1)
        return np.log(total), parts / total[:, None]

    def residuals(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted, _ = shares(theta)
        prior = pull @ (theta[:width] - start)
        return np.concatenate([predicted + theta[width:][member] - logs, SOFT * prior])

    def jacobian(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        _, parts = shares(theta)
        picked = np.zeros((len(logs), len(groups)))
        picked[np.arange(len(logs)), member] = 1.0
        prior = np.hstack([SOFT * pull, np.zeros((width, len(groups)))])
        return np.vstack([np.hstack([parts, picked]), prior])

    base = np.log(amounts @ np.exp(start))
    scales = [float(np.median((logs - base)[member == index])) for index in range(len(groups))]
    found = least_squares(residuals, np.r_[start, scales], jacobian, loss="soft_l1", f_scale=SOFT, max_nfev=100)
    return np.asarray(found.x[:width])


def fit_target(samples: Samples, prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of one target, drawn towards ``prior`` as :func:`fit_runtime` returns it.

    Returns:
        ``(len(FEATURES),)`` milliseconds an amount of each feature.
    """
    logs = np.log(samples.latencies)
    scale = float(np.median(logs - np.log(samples.amounts @ np.exp(prior))))
    start = np.r_[prior + scale, scale]

    def residuals(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted = np.log(samples.amounts @ np.exp(theta[:-1]))
        drawn = (theta[:-1] - prior - theta[-1]) / TARGET_WIDTH
        return np.concatenate([predicted - logs, SOFT * drawn])

    found = least_squares(residuals, start, loss="soft_l1", f_scale=SOFT, max_nfev=200)
    return np.exp(found.x[:-1])


Key = tuple[str, str, int | None, str]


def held_out_fits(
    groups: Mapping[Key, Samples], key: Key, prior_without: Callable[[Key, str], NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """For each architecture of a group, coefficients of a fit in which no device has that architecture.

    Args:
        groups: all of them.
        key: which group.
        prior_without: prior for a group from rows without one architecture.
    """
    samples = groups[key]
    rests = {family: samples.without(family) for family in sorted(set(samples.families))}
    return {family: fit_target(rest, prior_without(key, family)) for family, rest in rests.items() if len(rest)}
