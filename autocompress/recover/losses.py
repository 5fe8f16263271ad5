"""How far a student's outputs are from its teacher's; no labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def is_class_like(output: Tensor) -> bool:
    """Whether an output is one score for each of at least two classes, ``(n, classes)``."""
    return output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point()


def distillation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """Sum over the outputs of a model: divergence for class scores, relative squared error for anything else.

    Args:
        student: outputs, each ``(n, ...)``.
        teacher: outputs of the same shapes.
        temperature: softens both distributions.

    Returns:
        A scalar, at least 0; integer outputs are left out.
    """
    total = torch.zeros(())
    for mine, wanted in zip(student, teacher, strict=True):
        if not wanted.is_floating_point():
            continue
        if is_class_like(wanted):
            total = total + kl_divergence(mine.float(), wanted.float(), temperature)
        else:
            total = total + relative_squared_error(mine.float(), wanted.float())
    return total


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened class scores, times the squared temperature.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: the factor keeps gradients of one
    size for every temperature. Outputs that already are probabilities are turned back into logits first.

    Args:
        student: ``(n, classes)``.
        teacher: ``(n, classes)``.
        temperature: positive.

    Returns:
        The mean over the samples.
    """
    if _are_probabilities(teacher):
        student, teacher = student.clamp_min(1e-8).log(), teacher.clamp_min(1e-8).log()
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2


def relative_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error as a share of the teacher's variance, so that outputs of any scale weigh the same."""
    # Not F.mse_loss, nor a mean: their gradients are never channels last, and what they meet then takes several times
    # longer.
    error = (student - teacher).square().sum() / student.numel()
    return error / (teacher.var(unbiased=False) + 1e-8)


def _are_probabilities(output: Tensor) -> bool:
    return bool((output >= 0).all()) and torch.allclose(output.sum(dim=1), torch.ones(len(output)), atol=1e-4)
