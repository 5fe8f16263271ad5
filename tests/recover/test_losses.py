"""Losses against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from autocompress.recover.losses import distillation_loss, is_class_like, kl_divergence, relative_squared_error

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(6, 4)).astype(np.float32)
TEACHER = RNG.normal(size=(6, 4)).astype(np.float32)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    p, log_p = softmax(teacher / temperature, axis=1), log_softmax(teacher / temperature, axis=1)
    return float(temperature**2 * (p * (log_p - log_softmax(student / temperature, axis=1))).sum(axis=1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_is_that_of_the_softened_distributions_times_the_squared_temperature(temperature: float) -> None:
    found = kl_divergence(*tensors(STUDENT, TEACHER), temperature)
    assert float(found) == pytest.approx(by_hand(STUDENT, TEACHER, temperature), rel=1e-5)


def test_equal_outputs_have_no_loss() -> None:
    outputs = tensors(TEACHER, RNG.normal(size=(6, 2, 3)).astype(np.float32))
    assert float(distillation_loss(outputs, outputs, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_the_divergence_does_not_see_a_shift_of_all_logits() -> None:
    assert float(kl_divergence(*tensors(TEACHER + 3, TEACHER), 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_probabilities_weigh_as_the_logits_they_came_from() -> None:
    found = kl_divergence(*tensors(softmax(STUDENT, axis=1), softmax(TEACHER, axis=1)), 2.0)
    assert float(found) == pytest.approx(by_hand(STUDENT, TEACHER, 2.0), rel=1e-4)


def test_a_probability_of_zero_gives_a_finite_loss_and_gradient() -> None:
    student = torch.tensor([[1.0, 0.0], [0.5, 0.5]], requires_grad=True)
    loss = kl_divergence(student, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_squared_error_is_a_share_of_the_teachers_variance() -> None:
    found = relative_squared_error(*tensors(STUDENT, TEACHER))
    assert float(found) == pytest.approx(((STUDENT - TEACHER) ** 2).mean() / TEACHER.var(), rel=1e-5)


def test_squared_error_of_outputs_of_any_scale_weighs_the_same() -> None:
    scaled = relative_squared_error(*tensors(1000 * STUDENT, 1000 * TEACHER))
    assert float(scaled) == pytest.approx(float(relative_squared_error(*tensors(STUDENT, TEACHER))), rel=1e-4)


def test_outputs_add_up_each_by_its_kind_and_integers_are_left_out() -> None:
    maps = RNG.normal(size=(2, 6, 3, 3)).astype(np.float32)
    indices = np.arange(6)
    found = distillation_loss(tensors(STUDENT, maps[0], indices), tensors(TEACHER, maps[1], indices + 1), 2.0)
    wanted = by_hand(STUDENT, TEACHER, 2.0) + ((maps[0] - maps[1]) ** 2).mean() / maps[1].var()
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_one_number_a_sample_is_a_regression() -> None:
    column = TEACHER[:, :1]
    found = distillation_loss(tensors(column + 1), tensors(column), 2.0)
    assert float(found) == pytest.approx(1 / column.var(), rel=1e-4)


def test_as_many_outputs_are_wanted_as_the_teacher_has() -> None:
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(tensors(STUDENT), tensors(TEACHER, TEACHER), 2.0)


def test_scores_of_two_or_more_classes_are_class_like() -> None:
    assert is_class_like(torch.zeros(3, 2))
    assert not is_class_like(torch.zeros(3, 1))
    assert not is_class_like(torch.zeros(3, 2, 2))
    assert not is_class_like(torch.zeros(3, 2, dtype=torch.int64))


def test_gradients_of_images_stay_channels_last() -> None:
    student, teacher = (torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last) for _ in range(2))
    (gradient,) = torch.autograd.grad(relative_squared_error(student.requires_grad_(), teacher), student)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
