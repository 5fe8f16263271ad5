"""Quality of outputs."""

import numpy as np
import pytest

from autocompress.core.errors import DataError
from autocompress.evaluate.metrics import agreement, hits, kl_divergence

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 5.0, 2.0]], np.float32)


def test_accuracy_counts_the_largest_logit() -> None:
    assert hits(LOGITS, np.array([0, 1, 1])).tolist() == [1.0, 0.0, 1.0]


def test_pooled_logits_with_axes_of_one_are_flattened() -> None:
    assert hits(LOGITS[:, :, None, None], np.array([0, 2, 1])).mean() == 1.0


def test_a_label_out_of_range_names_both() -> None:
    with pytest.raises(DataError, match="label 7, but the model has 3 classes"):
        hits(LOGITS, np.array([0, 7, 1]))


def test_outputs_that_are_no_logits_are_refused() -> None:
    with pytest.raises(DataError, match=r"first output is \(3, 4, 5\)"):
        hits(np.zeros((3, 4, 5)), np.array([0, 1, 1]))


def test_fidelity_of_logits_is_the_share_of_equal_argmax() -> None:
    changed = LOGITS.copy()
    changed[0] = [0.0, 1.0, 0.0]
    assert agreement([changed], [LOGITS]).tolist() == [0.0, 1.0, 1.0]


def test_fidelity_of_positions_is_their_mean() -> None:
    reference = np.stack([LOGITS, LOGITS])
    changed = reference.copy()
    changed[0, 0] = [0.0, 1.0, 0.0]
    assert agreement([changed], [reference]).tolist() == pytest.approx([2 / 3, 1.0])


def test_fidelity_of_a_regression_is_one_minus_its_relative_error() -> None:
    reference = np.array([[2.0], [4.0], [1.0], [0.0]], np.float32)
    given_ = np.array([[1.0], [4.0], [9.0], [0.0]], np.float32)
    assert agreement([given_], [reference]).tolist() == [0.5, 1.0, 0.0, 1.0]


def test_several_outputs_are_averaged() -> None:
    regression = np.ones((3, 1), np.float32)
    assert agreement([LOGITS, 0 * regression], [LOGITS, regression]).tolist() == [0.5, 0.5, 0.5]


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(3, 2\), but the uncompressed model's is \(3, 3\)"):
        agreement([LOGITS[:, :2]], [LOGITS])


def test_kl_is_zero_for_equal_and_for_shifted_logits_and_positive_else() -> None:
    assert kl_divergence([LOGITS], [LOGITS]) == 0.0
    assert kl_divergence([LOGITS + 3], [LOGITS]) == pytest.approx(0.0, abs=1e-6)
    assert kl_divergence([LOGITS * 2], [LOGITS]) > 0.01


def test_kl_of_two_known_distributions() -> None:
    reference, output = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert kl_divergence([output], [reference]) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_kl_sums_over_outputs() -> None:
    one = kl_divergence([LOGITS * 2], [LOGITS])
    assert kl_divergence([LOGITS * 2] * 3, [LOGITS] * 3) == pytest.approx(3 * one)
