"""Precisions and capabilities."""

import pytest

from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import LayerPlan
from autocompress.core.target import Capability, Precision, RuntimeSpec, Target


@pytest.mark.parametrize("precision", list(Precision))
def test_precision_and_layer_plan_are_inverse(precision: Precision) -> None:
    assert Precision.of(precision.layer_plan) is precision


def test_a_missing_capability_is_refused_with_a_reason() -> None:
    spec = RuntimeSpec(name="tensorrt", capabilities={("*", Precision.FP32): Capability(supported=True)})
    assert spec.capability("Conv", Precision.FP32).supported
    assert "no int8 kernel for Conv" in spec.capability("Conv", Precision.INT8).reason


def test_a_refusal_must_say_why() -> None:
    with pytest.raises(ValueError, match="why"):
        Capability(supported=False)


def test_an_unknown_runtime_lists_the_known() -> None:
    spec = RuntimeSpec(name="onnxruntime", capabilities={})
    target = Target(name="t", title="T", facts={}, runtimes={"onnxruntime": spec})
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        target.runtime("onnx")


def test_constraints_turn_with_the_metric() -> None:
    assert Constraint(metric="accuracy", bound=0.9).violation(0.85) == pytest.approx(0.05)
    assert Constraint(metric="latency_ms", bound=5).violation(4) == -1
    assert Objective(metric="accuracy").loss(0.9) == -0.9


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'latency_ms'"):
        Objective(metric="latency")


def test_layer_plan_labels() -> None:
    assert LayerPlan(weight_bits=4, activation_bits=8).label == "w4a8"


@pytest.mark.parametrize(
    "plan",
    [LayerPlan(weight_bits=3), LayerPlan(weight_bits=6, activation_bits=8), LayerPlan(weight_bits=4, format="log")],
)
def test_a_plan_without_a_precision_says_what_is_searched(plan: LayerPlan) -> None:
    assert Precision.matching(plan) is None
    with pytest.raises(PlanError, match=rf"searched: fp32, .*but got {plan.label}, which"):
        Precision.of(plan)
