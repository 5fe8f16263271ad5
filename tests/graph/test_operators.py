"""Arithmetic, comparison, reduction and activation operators in torch against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from autocompress.core.errors import ModelError
from autocompress.graph.operator_node import OperatorNode
from autocompress.graph.operators import DOMAINS, OPERATORS, TRAINABLE, build_function

Agree = Callable[..., None]
OneNode = Callable[..., Any]


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def integers(*shape: int, low: int = -5, high: int = 6, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(low, high, shape)


def positive(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.abs(floats(*shape, seed=seed)) + np.float32(0.1)


def booleans(*shape: int, seed: int = 0) -> NDArray[np.bool_]:
    return floats(*shape, seed=seed) > 0


X = floats(2, 3, 4)
ROW = floats(4, seed=1)


@pytest.mark.parametrize(
    "op_type",
    [
        "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg", "Reciprocal", "Relu",
        "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh",
    ],
)  # fmt: skip
def test_functions_of_one_value(op_type: str, agree: Agree) -> None:
    agree(op_type, X)


@pytest.mark.parametrize("op_type", ["Log", "Sqrt"])
def test_functions_of_one_positive_value(op_type: str, agree: Agree) -> None:
    agree(op_type, positive(2, 3, 4))


def test_halves_are_rounded_to_even(agree: Agree) -> None:
    agree("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32))


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Celu", {}),
        ("Celu", {"alpha": 2.5}),
        ("Elu", {}),
        ("Elu", {"alpha": 0.3}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6}),
        ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Selu", {"alpha": 1.2, "gamma": 0.7}),
        ("Softmax", {}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {"axis": -3}),
        ("LogSoftmax", {"axis": 0}),
    ],
)
def test_activations_with_settings(op_type: str, attributes: dict[str, Any], agree: Agree) -> None:
    agree(op_type, X, **attributes)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_softmax_of_old_flattens_from_its_axis_on(op_type: str, axis: int, agree: Agree) -> None:
    agree(op_type, X, axis=axis, opset=11)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"])
@pytest.mark.parametrize("other", [ROW, floats(3, 1, seed=2), floats(2, 3, 4, seed=3), np.float32(0.7)], ids=str)
def test_two_values_broadcast(op_type: str, other: NDArray[Any], fixed: bool, agree: Agree) -> None:
    agree(op_type, X, other, fixed=fixed)


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_values(op_type: str, count: int, agree: Agree) -> None:
    agree(op_type, *(floats(2, 3, seed=seed) for seed in range(count)))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_of_integers(op_type: str, agree: Agree) -> None:
    agree(op_type, integers(3, 4, low=-9, high=9), integers(3, 4, low=1, high=4, seed=1))


@pytest.mark.parametrize("op_type", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("make", [floats, integers])
def test_comparisons(op_type: str, make: Callable[..., NDArray[Any]], agree: Agree) -> None:
    x = np.round(make(3, 4))
    agree(op_type, x, np.round(make(3, 4, seed=1)))
    agree(op_type, x, x)


@pytest.mark.parametrize("op_type", ["And", "Or"])
def test_logic(op_type: str, agree: Agree) -> None:
    agree(op_type, booleans(3, 4), booleans(4, seed=1))


def test_not(agree: Agree) -> None:
    agree("Not", booleans(3, 4))


def test_where_broadcasts_three_ways(agree: Agree) -> None:
    agree("Where", booleans(3, 1), floats(4), floats(2, 1, 4))


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("exponent", [np.float32(2), np.float32(0.5), np.float32(-1), floats(4), np.int64(3)], ids=str)
def test_powers(exponent: NDArray[Any], fixed: bool, agree: Agree) -> None:
    agree("Pow", positive(3, 4), exponent, fixed=fixed)


@pytest.mark.parametrize("fixed", [True, False])
def test_an_integer_keeps_its_type_in_a_power(fixed: bool, agree: Agree) -> None:
    agree("Pow", integers(3, 4), np.float32(2), fixed=fixed)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 6), (-1, 1), (None, 0.5), (-0.5, None), (None, None)], ids=lambda v: str(v)
)
def test_clip(low: float | None, high: float | None, fixed: bool, agree: Agree) -> None:
    agree("Clip", X * 4, *(None if bound is None else np.float32(bound) for bound in (low, high)), fixed=fixed)


def test_clip_of_old_with_attributes(agree: Agree) -> None:
    agree("Clip", X, min=-0.5, max=0.25, opset=6)


def test_clip_of_integers_keeps_them(agree: Agree) -> None:
    agree("Clip", integers(3, 4), np.int64(-2), np.int64(2))


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize("scales", [{}, {"alpha": 0.5, "beta": 2.0}], ids=["plain", "scaled"])
@pytest.mark.parametrize("bias", [None, (5,), (3, 5), (3, 1), (1,), ()], ids=str)
def test_gemm(left: int, right: int, scales: dict[str, float], bias: tuple[int, ...] | None, agree: Agree) -> None:
    a, b = floats(*((4, 3) if left else (3, 4))), floats(*((5, 4) if right else (4, 5)), seed=1)
    biases = [] if bias is None else [floats(*bias, seed=2)]
    agree("Gemm", a, b, *biases, transA=left, transB=right, **scales, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,))],
)
def test_mat_mul(left: tuple[int, ...], right: tuple[int, ...], agree: Agree) -> None:
    agree("MatMul", floats(*left), floats(*right, seed=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bkj->bik", "...ij,...jk->...ik"])
def test_einsum(equation: str, agree: Agree) -> None:
    shapes = {"ij,jk->ik": ((3, 4), (4, 5))}.get(equation, ((2, 3, 4), (2, 4, 4)))
    agree("Einsum", floats(*shapes[0]), floats(*shapes[1], seed=1), equation=equation, rtol=1e-4, atol=1e-5)


REDUCTIONS = sorted(name for name in OPERATORS if name.startswith("Reduce"))


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, [1], [-1], [0, 2], [2, -3], []], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"keepdims": 0}, {"noop_with_empty_axes": 1}], ids=str)
def test_reductions(op_type: str, axes: list[int] | None, attributes: dict[str, int], agree: Agree) -> None:
    given = [] if axes is None else [np.array(axes, np.int64)]
    agree(op_type, X, *given, **attributes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_reductions_over_axes_given_at_run_time(op_type: str, agree: Agree) -> None:
    agree(op_type, X, np.array([0, -1]), fixed=False, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_reductions_of_old_name_their_axes_in_an_attribute(op_type: str, opset: int, agree: Agree) -> None:
    if op_type == "ReduceSum" and opset >= 13:
        agree(op_type, X, np.array([1, -1]), opset=opset, rtol=1e-4, atol=1e-5)
    else:
        agree(op_type, X, axes=[1, -1], opset=opset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_reductions_keep_integers(op_type: str, agree: Agree) -> None:
    agree(op_type, integers(3, 4).astype(np.int32), np.array([1]))


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("attributes", [{}, {"axis": 1}, {"axis": -1, "keepdims": 0}], ids=str)
def test_places_of_extremes(op_type: str, attributes: dict[str, int], agree: Agree) -> None:
    agree(op_type, X, **attributes)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_of_equal_extremes_the_first_counts(op_type: str, agree: Agree) -> None:
    agree(op_type, np.array([[1, 3, 3, 1], [2, 2, 2, 2]], np.float32), axis=1)


def test_the_last_of_equal_extremes_is_refused(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="ArgMax of node 'node': `select_last_index` is not supported"):
        one_node("ArgMax", X, select_last_index=1)[0].to_torch()


@pytest.mark.parametrize(("start", "limit", "delta"), [(0, 5, 1), (1, 9, 3), (5, 0, -2), (3, 3, 1)])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_range(start: int, limit: int, delta: int, dtype: type, agree: Agree) -> None:
    agree("Range", *(np.array(value, dtype) for value in (start, limit, delta)), fixed=False)


def test_dropout_does_nothing(agree: Agree) -> None:
    agree("Dropout", X)


def test_an_unknown_operator_is_named_with_its_node_and_a_near_one() -> None:
    with pytest.raises(ModelError) as caught:
        build_function(OperatorNode(op_type="Sigmoidal", name="n7", inputs=("x",)))
    assert str(caught.value) == (
        "Cannot run operator Sigmoidal of node 'n7': torch has no function for it (nearest known: Sigmoid)."
    )


def test_a_missing_attribute_is_named(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="Cannot run operator Concat of node 'node': the attribute 'axis' is missing"):
        one_node("Concat", X, X)[0].to_torch()


def test_a_setting_that_is_not_known_lists_the_known_ones(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match=r"approximate 'fast' is not supported \(known: none, tanh\)"):
        one_node("Gelu", X, approximate="fast")[0].to_torch()


def test_shapes_that_do_not_fit_name_the_operator_and_its_node(one_node: OneNode) -> None:
    module = one_node("Add", floats(2, 3), floats(3, seed=1))[0].to_torch()
    with pytest.raises(ModelError, match=r"Cannot run operator Add of node 'node': .*size"):
        module(torch.zeros(2, 5))


def test_the_table_is_sorted_and_names_standard_operators() -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert list(OPERATORS) == sorted(OPERATORS, key=str)
    assert set(OPERATORS) <= standard.union(*DOMAINS.values())


def test_trainable_operators_are_in_the_table() -> None:
    assert set(TRAINABLE) <= set(OPERATORS)


def test_xor_and_is_nan(agree: Agree) -> None:
    agree("Xor", np.array([True, True, False]), np.array([True, False, False]))
    agree("IsNaN", np.array([1.0, np.nan, np.inf], np.float32))


def test_mod_has_the_sign_of_the_divisor_or_as_fmod_of_the_dividend(agree: Agree) -> None:
    agree("Mod", np.array([-7, 7, -7]), np.array([3, -3, -3]))
    agree("Mod", np.array([-7.5, 7.5], np.float32), np.array([3.0, -3.0], np.float32), fmod=1)
