"""What is known of a kernel's time from others of its family: an expectation, and how far it may be off.

The expectation is arithmetic and memory traffic, fitted without negative parts; it knows that widths are rounded up to
whole vectors. Deviations from it are relative and a Gaussian process over the kernel's sizes (Rasmussen and Williams
2006, chapter 2): alike where sizes are alike, so that what one shape shows is expected of its neighbours, plus a share
of each kernel's own, for cliffs. How large and how smooth they are is chosen by marginal likelihood (equation 2.30).
A family that was never read takes the expectation of the one that is most alike, less surely.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from autocompress.core.kernel import Kernel

Array = NDArray[np.float64]

#: Kernels pad channels to whole vectors or blocks of one of these.
_VECTORS = (8, 16)
#: By how much a whole family may be off its expectation.
_FAMILY = 0.1
#: What is tried: size of smooth deviations, over how many e-folds of a size they change, size of a kernel's own.
_SMOOTH, _LENGTHS, _OWN = (0.1, 0.2, 0.4), (0.5, 1.0, 2.0), (0.02, 0.05, 0.1)
#: Error of one reading: relative, and in microseconds.
_NOISE, _CLOCK = 0.03, 0.3
#: By how much a family that was never read may be off what the one most alike lets expect.
_BORROWED = 0.5
_LEAST = 0.2
_RIDGE = 0.1
#: Of one operator's kernels for other layouts, fusions and types.
_VARIANTS = ("Fused", "Nhwc", "QLinear", "Q")


class KernelTrends:
    """Expectation and covariance of the prices of kernels.

    Args:
        kernels: each once.
        microseconds: ``(n_kernels,)`` read of each.
        counts: ``(n_kernels,)`` how often each was read.
    """

    def __init__(self, kernels: Sequence[Kernel], microseconds: Array, counts: Array) -> None:
        self._members = {kernel.family: kernel for kernel in reversed(kernels)}
        self._places = {family: index for index, family in enumerate(self._members)}
        of = self._family(kernels)
        costs = np.array([_costs(kernel) for kernel in kernels])
        self._rates = np.array([_rates(costs[of == place], microseconds[of == place]) for place in range(of.max() + 1)])
        expected = self.expected(kernels)
        self.noise: Array = (_NOISE**2 + (_CLOCK / expected) ** 2) / counts
        self._smooth, self._length, self.own = max(
            product(_SMOOTH, _LENGTHS, _OWN),
            key=lambda values: self._likelihood(kernels, of, microseconds / expected - 1.0, values),
        )

    def knows(self, kernel: Kernel) -> bool:
        """Whether a kernel of its operator was read."""
        return self._nearest(kernel) is not None

    def borrows(self, kernel: Kernel) -> bool:
        """Whether no kernel of its family was read, so that another family's stand for it."""
        return kernel.family not in self._places

    def expected(self, kernels: Sequence[Kernel]) -> Array:
        """``(n_kernels,)`` microseconds; every operator is known."""
        costs = np.array([_costs(kernel) for kernel in kernels])
        found: Array = np.maximum((costs * self._rates[self._family(kernels)]).sum(axis=1), _LEAST)
        return found

    def shared(self, left: Sequence[Kernel], right: Sequence[Kernel]) -> Array:
        """``(n_left, n_right)`` covariance of relative deviations, without each kernel's own share."""
        found: Array = _alike(left, right, self._smooth, self._length) * self.same_family(left, right)
        for row, kernel in enumerate(left):
            if self.borrows(kernel):
                found[row] += [_BORROWED**2 * (other.family == kernel.family) for other in right]
        return found

    def same_family(self, left: Sequence[Kernel], right: Sequence[Kernel]) -> NDArray[np.bool_]:
        """``(n_left, n_right)``; a borrowed family is the one that stands for it."""
        found: NDArray[np.bool_] = self._family(left)[:, None] == self._family(right)[None, :]
        return found

    def _family(self, kernels: Sequence[Kernel]) -> NDArray[np.intp]:
        return np.array([self._places[self._nearest(kernel) or kernel.family] for kernel in kernels], np.intp)

    def _nearest(self, kernel: Kernel) -> str | None:
        """Its family, else the one that differs least: in groups, then the operator's variant, the type, the rest."""
        if kernel.family in self._members:
            return kernel.family
        alike = (other for other in self._members.values() if _operator(other) == _operator(kernel))
        nearest = min(alike, key=lambda other: _differences(kernel, other), default=None)
        return None if nearest is None else nearest.family

    def _likelihood(
        self, kernels: Sequence[Kernel], of: NDArray[np.intp], deviations: Array, values: tuple[float, float, float]
    ) -> float:
        """Log marginal likelihood of all families, less a constant."""
        smooth, length, own = values
        total = 0.0
        for place in range(len(self._rates)):
            rows = np.flatnonzero(of == place).tolist()
            members = [kernels[row] for row in rows]
            covariance = _alike(members, members, smooth, length) + np.diag(own**2 + self.noise[rows])
            factor = cho_factor(covariance, lower=True)
            fit = deviations[rows] @ cho_solve(factor, deviations[rows])
            total -= 0.5 * float(fit) + float(np.log(np.diag(factor[0])).sum())
        return total


def _operator(kernel: Kernel) -> str:
    name = kernel.op_type
    return next((name.removeprefix(start) for start in _VARIANTS if name.startswith(start)), name)


def _differences(one: Kernel, other: Kernel) -> tuple[bool, bool, bool, int]:
    types = [kernel.inputs[0][0] if kernel.inputs else "" for kernel in (one, other)]
    kinds = [{*kernel.kind.split(), f"window={kernel.weight[2:]}"} for kernel in (one, other)]
    rest = kinds[0] ^ kinds[1]
    grouped = any(word.startswith("group=") for word in rest)
    return grouped, one.op_type != other.op_type, types[0] != types[1], len(rest)


def _rates(costs: Array, microseconds: Array) -> Array:
    """``(n_costs,)`` microseconds a unit of each cost, none negative."""
    # In these units every rate is about one.
    scale = np.maximum(costs.max(axis=0), 1e-12) / microseconds.max()
    # A microsecond of blur: kernels of no size should not rule the fit.
    weight = 1.0 / np.hypot(microseconds, 1.0)
    # Costs that the kernels cannot tell apart share what they explain.
    ridge = _RIDGE * np.eye(len(scale))
    design = np.vstack([costs / scale * weight[:, None], ridge])
    found, _ = nnls(design, np.concatenate([microseconds * weight, np.zeros(len(scale))]))
    rates: Array = found / scale
    return rates


def _costs(kernel: Kernel) -> tuple[float, ...]:
    macs, weights, read, written = kernel.work
    out, into = (max(1, size) for size in (*kernel.weight, 1, 1)[:2])
    padded = []
    for vector in _VECTORS:
        wide = macs * (-(-out // vector) * vector / out)
        padded += [wide, wide * (-(-into // vector) * vector / into if into > 3 else 1.0)]
    return (1.0, macs, *padded, weights, read + written)


def _alike(left: Sequence[Kernel], right: Sequence[Kernel], smooth: float, length: float) -> Array:
    places = [np.array([_sizes(kernel) for kernel in kernels]) for kernels in (left, right)]
    squares = ((places[0][:, None, :] - places[1][None, :, :]) ** 2).sum(axis=2)
    found: Array = _FAMILY**2 + smooth**2 * np.exp(-squares / (2.0 * length**2))
    return found


def _sizes(kernel: Kernel) -> tuple[float, float, float]:
    _, _, read, written = kernel.work
    sizes = (*kernel.weight[:2], kernel.outputs_spatial) if kernel.weight else (read, written, 1.0)
    first, second, third = (float(np.log(max(1.0, size))) for size in sizes)
    return first, second, third
