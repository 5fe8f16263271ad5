"""Ridge regression of a layer's weight, group by group."""

from __future__ import annotations

import torch
from torch import Tensor


def fit(rows: Tensor, wanted: Tensor, weight: Tensor, *, intercept: bool, ridge: float) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that map rows to what is wanted with the least squared error, near to those it had.

    Minimizes ``mean ||W x + b - y||^2 + r ||W - W_0||^2`` with ``r`` a share of the rows' mean square (He et al. 2017,
    "Channel pruning for accelerating very deep neural networks", equation 1 with the channels given).

    Args:
        rows: ``(n, groups, inputs)``.
        wanted: ``(n, groups, outputs)``.
        weight: ``(groups, outputs, inputs)``, what it was.
        intercept: whether there is a bias to fit.
        ridge: ``r`` as a share of the mean of the rows' squares.

    Returns:
        ``(groups, outputs, inputs)`` and ``(groups, outputs)``, or None without intercept; not finite where the rows
        are not.
    """
    count = len(rows)
    row_mean, wanted_mean = rows.mean(0), wanted.mean(0)
    x = rows - row_mean if intercept else rows
    y = wanted - wanted_mean if intercept else wanted
    x, y = x.transpose(0, 1), y.transpose(0, 1)
    square = torch.bmm(x.transpose(1, 2), x).double() / count
    cross = torch.bmm(x.transpose(1, 2), y).double() / count
    pull = ridge * square.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-9)
    square.diagonal(dim1=1, dim2=2).add_(pull[:, None])
    cross += pull[:, None, None] * weight.transpose(1, 2)
    factor, failed = torch.linalg.cholesky_ex(square)
    found = torch.cholesky_solve(cross, factor).transpose(1, 2).to(weight.dtype)
    if bool(failed.any()):
        return torch.full_like(weight, float("nan")), None
    if not intercept:
        return found, None
    return found, wanted_mean - torch.einsum("goi,gi->go", found, row_mean)
