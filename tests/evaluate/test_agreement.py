"""Outputs of one file on two machines."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.core.errors import CandidateError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.protocols import Batch
from autocompress.evaluate.agreement import AgreementCheck, agreement_of

OUTPUTS = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)


def test_equal_outputs_agree() -> None:
    found = agreement_of([OUTPUTS], [OUTPUTS.copy()])
    assert (found.samples, found.difference, found.same_choice, found.holds) == (8, 0.0, 1.0, True)


def test_rounding_is_tolerated() -> None:
    assert agreement_of([OUTPUTS], [OUTPUTS * 1.02]).holds


def test_another_result_is_not() -> None:
    found = agreement_of([OUTPUTS], [OUTPUTS[::-1]])
    assert not found.holds
    assert found.same_choice < 1
    assert "of 8 samples have the same largest value" in str(found)


def test_the_worst_output_counts() -> None:
    assert not agreement_of([OUTPUTS, OUTPUTS], [OUTPUTS, -OUTPUTS]).holds


def test_nan_shapes_and_missing_outputs_disagree() -> None:
    spoilt = OUTPUTS.copy()
    spoilt[0, 0] = np.nan
    assert not agreement_of([OUTPUTS], [spoilt]).holds
    assert not agreement_of([OUTPUTS], [OUTPUTS[:, :5]]).holds
    assert not agreement_of([OUTPUTS], []).holds


def test_outputs_of_zero_agree_with_zero() -> None:
    assert agreement_of([OUTPUTS * 0], [OUTPUTS * 0]).holds
    assert not agreement_of([OUTPUTS * 0], [OUTPUTS]).holds


class Loaded:
    """A model whose outputs are known."""

    size_bytes = 0

    def __init__(self, outputs: np.ndarray) -> None:
        self._outputs = outputs

    def run(self, inputs: Batch) -> list[np.ndarray]:
        return [self._outputs]


def test_what_computes_something_else_on_the_device_is_no_candidate() -> None:
    check = AgreementCheck(Loaded, (), name="tvm")
    assert check.check(OUTPUTS, Loaded(OUTPUTS * 1.0005), CompressionPlan()).samples == 8
    with pytest.raises(CandidateError, match=r"^outputs: tvm computes something else there: outputs differ by 2\.0%"):
        check.check(OUTPUTS, Loaded(OUTPUTS * 1.02), CompressionPlan())


def test_rounding_of_eight_bits_is_no_reason() -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    AgreementCheck(Loaded, (), name="tvm").check(OUTPUTS, Loaded(OUTPUTS * 1.02), plan)


def test_integers_are_left_out() -> None:
    """One class index that rounding flips is no other computation."""
    scores = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    here = [scores, np.array([1, 2, 3, 4])]
    assert agreement_of(here, [scores * 1.001, np.array([1, 8, 3, 4])]).holds
    assert not agreement_of(here, [scores + 1.0, here[1]]).holds
