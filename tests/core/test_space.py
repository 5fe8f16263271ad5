"""An assignment becomes a plan."""

import pytest

from autocompress.core.plan import LayerPlan
from autocompress.core.space import Choice, SearchSpace

SPACE = SearchSpace(
    choices=(
        Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8")),
        Choice(name="ratio:g", kind="ratio", subject="g", options=(0.0, 0.5), ordered=True),
        Choice(name="importance", kind="importance", subject="importance", options=("l1", "l2")),
    ),
    fixed=(
        Choice(name="precision:b", kind="precision", subject="b", options=("fp16",)),
        Choice(name="distillation:steps", kind="distillation", subject="steps", options=(50,)),
    ),
)


def test_plan_of_an_assignment() -> None:
    plan = SPACE.plan({"precision:a": "int8", "ratio:g": 0.5, "importance": "l2"})
    assert plan.layers == {
        "a": LayerPlan(weight_bits=8, activation_bits=8),
        "b": LayerPlan(weight_bits=16, activation_bits=16),
    }
    assert plan.prune == {"g": 0.5}
    assert plan.importance == "l2"
    assert plan.distillation is not None and plan.distillation.steps == 50


def test_choices_that_change_nothing_leave_the_digest_alone() -> None:
    a = SPACE.plan({"precision:a": "fp32", "ratio:g": 0.0, "importance": "l1"})
    b = SPACE.plan({"precision:a": "fp32", "ratio:g": 0.0, "importance": "l2"})
    assert a.digest == b.digest
    assert a.distillation is None


def test_a_missing_choice_is_an_error() -> None:
    with pytest.raises(KeyError, match="importance"):
        SPACE.plan({"precision:a": "int8", "ratio:g": 0.5})


def test_size_counts_assignments() -> None:
    assert 10**SPACE.log10_size == pytest.approx(8)
