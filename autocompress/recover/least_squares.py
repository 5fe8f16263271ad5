"""Ridge regression of a layer's weight, group by group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Pulls towards the weights that were, as shares of the rows' mean square: the stronger, the less the rows are trusted.
RIDGES = (0.003, 0.03, 0.3, 3.0)


def fit(
    rows: Tensor, wanted: Tensor, weight: Tensor, held_out: Tensor, *, intercept: bool, ridges: Sequence[float] = RIDGES
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that map rows to what is wanted with the least squared error, near to those it had.

    Minimizes ``mean ||W x + b - y||^2 + r ||W - W_0||^2`` (He et al. 2017, "Channel pruning for accelerating very deep
    neural networks", equation 1 with the channels given). Of several ``r`` it takes the one that serves held-out rows
    best when it is fitted to the others, and then fits to all.

    Args:
        rows: ``(n, groups, inputs)``.
        wanted: ``(n, groups, outputs)``.
        weight: ``(groups, outputs, inputs)``, what it was.
        held_out: ``(n,)`` which rows judge the pull.
        intercept: whether there is a bias to fit.
        ridges: shares of the mean of the rows' squares to choose from.

    Returns:
        ``(groups, outputs, inputs)`` and ``(groups, outputs)``, or None without intercept; not finite where the rows
        are not.
    """
    row_mean, wanted_mean = rows.mean(0), wanted.mean(0)
    x = rows - row_mean if intercept else rows
    y = wanted - wanted_mean if intercept else wanted
    held, used = (_moments(x[mask], y[mask]) for mask in (held_out, ~held_out))
    best = ridges[0]
    if len(ridges) > 1 and bool(held_out.any()) and not bool(held_out.all()):
        errors = [_error(*held, _solve(*used, weight, ridge)) for ridge in ridges]
        best = ridges[min(range(len(ridges)), key=errors.__getitem__)]
    share = float(held_out.double().mean())
    square, cross = (share * one + (1 - share) * other for one, other in zip(held, used, strict=True))
    found = _solve(square, cross, weight, best).to(weight.dtype)
    if not intercept:
        return found, None
    return found, wanted_mean - torch.einsum("goi,gi->go", found, row_mean)


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``(groups, inputs, inputs)`` mean of ``x x^T`` and ``(groups, inputs, outputs)`` of ``x y^T``; 0 of no rows."""
    count = max(1, len(x))
    x, y = x.transpose(0, 1), y.transpose(0, 1)
    return torch.bmm(x.transpose(1, 2), x).double() / count, torch.bmm(x.transpose(1, 2), y).double() / count


def _solve(square: Tensor, cross: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """``(groups, outputs, inputs)``, in double precision."""
    pull = (ridge * square.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(1e-9)
    factor, failed = torch.linalg.cholesky_ex(square + torch.diag_embed(pull[:, None].expand(-1, square.shape[1])))
    if bool(failed.any()):
        return torch.full(weight.shape, float("nan"), dtype=square.dtype)
    return torch.cholesky_solve(cross + pull[:, None, None] * weight.transpose(1, 2), factor).transpose(1, 2)


def _error(square: Tensor, cross: Tensor, weight: Tensor) -> float:
    """Mean squared error of a weight but for what does not depend on it; infinite where it is not finite."""
    error = float((torch.matmul(weight, square) * weight).sum() - 2 * (weight * cross.transpose(1, 2)).sum())
    return error if error == error else float("inf")
