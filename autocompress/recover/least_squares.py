"""Ridge regression of what a layer's weight has to change by, group by group, from rows that come in parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: Pulls towards the weights that were, as shares of the rows' mean square: the stronger, the less the rows are trusted.
RIDGES = (3.0, 0.3, 0.03, 0.003)
#: Columns of a product with itself that are computed at once, at least, and as a share of all: what lies below them
#: mirrors what lies above.
_BLOCK, _BLOCKS = 96, 8

#: ``(groups, n, inputs)`` that a layer reads, and ``(groups, n, outputs)`` that its outputs lack.
Part = tuple[Tensor, Tensor]


class NormalEquations:
    """Sums over rows, from which the change of a weight follows that makes up best for what its outputs lack.

    The change minimizes ``mean ||D x + d - y||^2 + r ||D||^2`` for rows ``x`` and what is lacking ``y`` (He et al.
    2017, "Channel pruning for accelerating very deep neural networks", equation 1 with the channels given, pulled
    towards the weights that were). Only the sums are kept, so memory does not grow with the rows. They are in single
    precision, as rows are: errors of a Cholesky factor are like those of the sums, far below the pull (Higham 2002,
    section 10.1).

    Args:
        intercept: whether there is a bias to change.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, *, intercept: bool) -> None:
        self.count = 0
        self._intercept = intercept
        self._block = max(_BLOCK, -(-inputs // _BLOCKS))
        self._square = torch.zeros(groups, inputs, inputs)
        self._cross = torch.zeros(groups, inputs, outputs)
        self._origin = torch.zeros(groups, 1, inputs)
        self._target = torch.zeros(groups, 1, outputs)
        self._centred = not intercept
        self._row_sum = torch.zeros(groups, inputs)
        self._lacking_sum = torch.zeros(groups, outputs)
        self._lacking_energy = 0.0
        self._means: tuple[Tensor, Tensor] | None = None

    def alike(self) -> NormalEquations:
        """Empty sums of other rows, about the same point."""
        groups, inputs, outputs = self._cross.shape
        found = NormalEquations(groups, inputs, outputs, intercept=self._intercept)
        found._origin, found._target, found._centred = self._origin, self._target, self._centred
        return found

    def add(self, rows: Tensor, lacking: Tensor) -> None:
        """Take in ``(groups, n, inputs)`` rows and the ``(groups, n, outputs)`` that are lacking there."""
        if not self._centred:
            # Sums about a point near the mean lose no digits when they are moved to it.
            self._origin, self._target = rows.mean(1, keepdim=True), lacking.mean(1, keepdim=True)
            self._centred = True
        lacking = lacking - self._target
        self.count += rows.shape[1]
        self._means = None
        self._lacking_energy += float(lacking.square().sum())
        x = rows - self._origin
        for start in range(0, x.shape[2], self._block):
            block = slice(start, start + self._block)
            self._square[:, block, start:].baddbmm_(x[:, :, block].mT, x[:, :, start:])
        self._cross.baddbmm_(x.mT, lacking)
        self._row_sum += x.sum(1)
        self._lacking_sum += lacking.sum(1)

    def join(self, others: NormalEquations) -> None:
        """Take in the sums of other rows about the same point."""
        self.count += others.count
        self._means = None
        self._square += others._square
        self._cross += others._cross
        self._row_sum += others._row_sum
        self._lacking_sum += others._lacking_sum
        self._lacking_energy += others._lacking_energy

    def energy(self, change: tuple[Tensor, Tensor] | None = None) -> float:
        """Sum of squares of what is lacking, after a change of weight and bias; infinite where it is not finite."""
        found = self._lacking_energy
        target = self._target[:, 0]
        if change is None:
            found += float((target * (2.0 * self._lacking_sum + self.count * target)).sum())
        else:
            weight, shift = change
            offset = shift + _times(weight, self._origin[:, 0]) - target
            moved = ((weight @ self._whole_square()) * weight).sum() - 2.0 * (weight.mT * self._cross).sum()
            ends = offset * (self.count * offset + 2.0 * (_times(weight, self._row_sum) - self._lacking_sum))
            found += float(moved) + float(ends.sum())
        return found if found < float("inf") else float("inf")

    def change(self, ridge: float) -> tuple[Tensor, Tensor]:
        """``(groups, outputs, inputs)`` and ``(groups, outputs)`` to add to weight and bias.

        Args:
            ridge: share of the mean of the rows' squares to pull with.

        Returns:
            Zero for the bias without intercept; not finite where the rows are not.
        """
        square, cross = self._moments()
        square = square.clone()
        diagonal = square.diagonal(dim1=1, dim2=2)
        diagonal += (ridge * diagonal.mean(1)).clamp_min(1e-9)[:, None]
        factor, failed = torch.linalg.cholesky_ex(square)
        if bool(failed.any()):
            cross = torch.full_like(cross, float("nan"))
        found = torch.cholesky_solve(cross, factor).mT
        if not self._intercept:
            return found, torch.zeros_like(self._lacking_sum)
        return found, self._target[:, 0] + self._lacking_sum / self.count - _times(found, self._mean())

    def output_moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``(groups, outputs)`` means and variances of a ``(groups, outputs, inputs)`` weight times the rows.

        Without intercept the second are mean squares.
        """
        square, _ = self._moments()
        return _times(weight, self._mean()), ((weight @ square) * weight).sum(2)

    def _mean(self) -> Tensor:
        return self._origin[:, 0] + self._row_sum / self.count

    def _moments(self) -> tuple[Tensor, Tensor]:
        """``(groups, inputs, inputs)`` mean of ``x x^T`` and ``(groups, inputs, outputs)`` of ``x y^T``.

        About their means, where there is an intercept.
        """
        if self._means is not None:
            return self._means
        square, cross = self._whole_square() / self.count, self._cross / self.count
        if self._intercept:
            mean, lacking = self._row_sum / self.count, self._lacking_sum / self.count
            square.baddbmm_(mean[:, :, None], mean[:, None], alpha=-1)
            cross.baddbmm_(mean[:, :, None], lacking[:, None], alpha=-1)
        self._means = square, cross
        return self._means

    def _whole_square(self) -> Tensor:
        """The products of the rows, also below the diagonal."""
        for start in range(0, self._square.shape[1], self._block):
            stop = start + self._block
            self._square[:, stop:, start:stop] = self._square[:, start:stop, stop:].mT
        return self._square


def best_change(
    equations: NormalEquations, used: Iterable[Part], judging: Iterable[Part], ridges: Sequence[float] = RIDGES
) -> tuple[Tensor, Tensor] | None:
    """The change of a weight and bias that other samples than it was made from like best, then made from all.

    Weaker pulls are tried for as long as they serve the judging rows better.

    Args:
        equations: empty; holds all rows afterwards.
        used: rows of some samples.
        judging: rows of others.
        ridges: falling pulls, as shares of the mean of the rows' squares.

    Returns:
        As :meth:`NormalEquations.change`; None where no change at all serves the judging rows best, or there are none.
    """
    for rows, lacking in used:
        equations.add(rows, lacking)
    judges = equations.alike()
    for rows, lacking in judging:
        judges.add(rows, lacking)
    best, least = None, float("inf")
    for ridge in ridges if judges.count else ():
        error = judges.energy(equations.change(ridge))
        if error > least:
            break
        if error < least:
            best, least = ridge, error
    equations.join(judges)
    served = least < judges.energy()
    return equations.change(best) if best is not None and served else None


def _times(weight: Tensor, row: Tensor) -> Tensor:
    return (weight @ row[:, :, None])[:, :, 0]
