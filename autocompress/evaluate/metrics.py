"""Quality of outputs: accuracy against labels, fidelity against the uncompressed model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError


def hits(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Whether the largest logit is the label's.

    Args:
        logits: ``(n, classes)``; further axes of size 1 are dropped.
        labels: ``(n,)``.

    Returns:
        ``(n,)`` of 0 and 1.

    Raises:
        DataError: logits of another shape, or a label that no logit stands for.
    """
    scores = (
        logits.reshape(logits.shape[:2]) if logits.ndim > 2 and logits.size == np.prod(logits.shape[:2]) else logits
    )
    if scores.ndim != 2 or len(scores) != len(labels):
        raise DataError(
            f"Accuracy needs logits of shape ({len(labels)}, classes), but the model's first output is {logits.shape}; "
            "leave the labels out to score fidelity instead."
        )
    if len(labels) and int(labels.max()) >= scores.shape[1]:
        raise DataError(f"The data has label {int(labels.max())}, but the model has {scores.shape[1]} classes.")
    found: NDArray[np.float64] = (scores.argmax(1) == labels).astype(np.float64)
    return found


def agreement(outputs: Sequence[NDArray[Any]], references: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """How far each sample's outputs agree with the uncompressed model's: the mean over the outputs.

    An output of shape ``(n, classes)`` or ``(n, positions, classes)`` with at least two classes counts the share of
    positions whose argmax is the same. Any other is a regression: ``1 - |y - r| / |r|`` (L2 norms of the sample),
    clipped to ``[0, 1]``.

    Args:
        outputs: each ``(n, ...)``.
        references: the same shapes.

    Returns:
        ``(n,)`` in ``[0, 1]``.

    Raises:
        DataError: shapes that differ.
    """
    scores = [_agreement(o, r) for o, r in zip(outputs, references, strict=True)]
    return np.asarray(np.mean(scores, axis=0), np.float64)


def _agreement(output: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    if output.shape != reference.shape:
        raise DataError(f"The artifact's output is {output.shape}, but the uncompressed model's is {reference.shape}.")
    if _is_logits(output):
        same = (output.argmax(-1) == reference.argmax(-1)).astype(np.float64)
        return np.asarray(same.reshape(len(same), -1).mean(1), np.float64)
    flat = output.reshape(len(output), -1).astype(np.float64)
    wanted = reference.reshape(len(reference), -1).astype(np.float64)
    error = np.linalg.norm(flat - wanted, axis=1)
    norm = np.linalg.norm(wanted, axis=1)
    relative = np.divide(error, norm, out=np.where(error > 0, 1.0, 0.0), where=norm > 0)
    return np.asarray(np.clip(1.0 - relative, 0.0, 1.0), np.float64)


def kl_divergence(outputs: Sequence[NDArray[Any]], references: Sequence[NDArray[Any]]) -> float:
    """How far outputs moved from the uncompressed model's, in nats, summed over the outputs.

    Logits: ``KL(softmax(r) || softmax(y))``, mean over samples and positions. Any other output: half the squared error
    over the reference's variance, which is the KL of two Gaussians of that variance.

    Args:
        outputs: each ``(n, ...)``.
        references: the same shapes.
    """
    total = 0.0
    for output, reference in zip(outputs, references, strict=True):
        if output.shape != reference.shape:
            raise DataError(
                f"The artifact's output is {output.shape}, but the uncompressed model's is {reference.shape}."
            )
        given, wanted = output.astype(np.float64), reference.astype(np.float64)
        if _is_logits(output):
            log_p, log_q = _log_softmax(wanted), _log_softmax(given)
            total += float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
        else:
            total += float(((given - wanted) ** 2).mean() / (2.0 * max(float(wanted.var()), 1e-12)))
    return max(0.0, total)


def _is_logits(output: NDArray[Any]) -> bool:
    return output.ndim in (2, 3) and output.shape[-1] >= 2 and output.dtype.kind == "f"


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), np.float64)
