"""The table of ONNX operators that torch can run: operator to a builder of its torch function.

A builder reads a node's attributes and constant inputs once and returns a function of the node's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.core.errors import ModelError, nearest
from autocompress.graph import operators_quantized as quantized
from autocompress.graph import operators_recurrent as recurrent
from autocompress.graph import operators_shape as shape
from autocompress.graph import operators_spatial as spatial
from autocompress.graph.operator_node import Function, OperatorNode

Builder = Callable[[OperatorNode], Function]

#: Input positions that hold weights to train, for each operator.
TRAINABLE: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
    "Expand": (0,),
    "LSTM": (1, 2, 3),
    "MatMulNBits": (5,),
    "GRU": (1, 2, 3),
    "Einsum": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0, 1),
}
#: Operators outside of the standard's own domain.
DOMAINS: dict[str, frozenset[str]] = {"com.microsoft": frozenset({"MatMulNBits"})}
#: Operators whose one-element inputs are settings rather than weights.
SCALARS_ARE_SETTINGS = frozenset({"Add", "Sub", "Mul", "Div"})
#: Operators whose function takes the module's training mode first.
TAKES_MODE = frozenset({"BatchNormalization"})


def build_function(node: OperatorNode) -> Function:
    """The torch function of one node.

    Raises:
        ModelError: the operator, or a setting of it, is not supported.
    """
    builder = OPERATORS.get(node.op_type)
    if builder is None:
        near = nearest(node.op_type, OPERATORS)
        hint = f" (nearest known: {near})" if near else ""
        raise ModelError(
            f"Cannot run operator {node.op_type} of node {node.name!r}: torch has no function for it{hint}."
        )
    try:
        return builder(node)
    except KeyError as error:
        raise node.error(f"the attribute {error} is missing") from error


def _plain(function: Function) -> Builder:
    return lambda node: function


def _with(function: Function, **defaults: float) -> Builder:
    """A function whose keyword arguments are float attributes of the same name."""

    def build(node: OperatorNode) -> Function:
        settings = {name: float(node.attributes.get(name, value)) for name, value in defaults.items()}
        return lambda x: function(x, **settings)

    return build


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    """A variadic operator as repeated use of a binary function."""

    def run(first: Tensor, *rest: Tensor) -> Tensor:
        for value in rest:
            first = function(first, value)
        return first

    return _plain(run)


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(node: OperatorNode) -> Function:
    return torch.fmod if node.attributes.get("fmod", 0) else torch.remainder


def _gemm(node: OperatorNode) -> Function:
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    left, right = bool(node.attributes.get("transA", 0)), bool(node.attributes.get("transB", 0))
    bias = node.constants.get(2)
    plain_bias = not node.has(2) or (bias is not None and bias.ndim == 1 and bias.size > 1)
    if alpha == beta == 1.0 and right and not left and plain_bias:
        return lambda a, b, c=None: F.linear(a, b, c)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = alpha * ((a.t() if left else a) @ (b.t() if right else b))
        return product if c is None else product + beta * c

    return run


def _clip(node: OperatorNode) -> Function:
    low, high = (None if (bound := node.constant(at)) is None else bound.item() for at in (1, 2))
    if low is not None or high is not None:
        if (low is None and node.has(1)) or (high is None and node.has(2)):
            raise node.error("its bounds must be both constant or both computed")
        if low == 0.0 and high == 6.0:
            return lambda x, a=None, b=None: F.relu6(x)
        return lambda x, a=None, b=None: torch.clamp(x, low, high)
    return lambda x, a=None, b=None: x if a is None and b is None else torch.clamp(x, a, b)


def _pow(node: OperatorNode) -> Function:
    exponent = node.scalar(1)
    return lambda x, y=None: torch.pow(x, y if exponent is None else exponent).to(x.dtype)


def _selu(node: OperatorNode) -> Function:
    if "alpha" not in node.attributes and "gamma" not in node.attributes:
        return F.selu
    alpha = float(node.attributes.get("alpha", 1.6732632423543772))
    gamma = float(node.attributes.get("gamma", 1.0507009873554805))
    return lambda x: gamma * F.elu(x, alpha)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _hard_sigmoid(node: OperatorNode) -> Function:
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


def _leaky_relu(node: OperatorNode) -> Function:
    slope = float(node.attributes.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _gelu(node: OperatorNode) -> Function:
    approximate = node.choice("approximate", "none", ("none", "tanh"))
    return lambda x: F.gelu(x, approximate=approximate)


def _over_axis(function: Function, default: int) -> Builder:
    def build(node: OperatorNode) -> Function:
        axis = int(node.attributes.get("axis", default))
        return lambda x: function(x, dim=axis)

    return build


def _arg(function: Function) -> Builder:
    def build(node: OperatorNode) -> Function:
        if node.attributes.get("select_last_index", 0):
            raise node.error("`select_last_index` is not supported")
        axis, keep = int(node.attributes.get("axis", 0)), bool(node.attributes.get("keepdims", 1))
        return lambda x: function(x, dim=axis, keepdim=keep)

    return build


def _reduce(function: Function) -> Builder:
    def build(node: OperatorNode) -> Function:
        keep, noop = bool(node.attributes.get("keepdims", 1)), bool(node.attributes.get("noop_with_empty_axes", 0))
        fixed = node.integers(1)
        if fixed is None and "axes" in node.attributes:
            fixed = tuple(int(a) for a in node.attributes["axes"])

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            chosen = fixed if fixed is not None else () if axes is None else tuple(int(a) for a in axes.tolist())
            if not chosen and noop:
                # Nothing is reduced, but ReduceSumSquare still squares: every entry is reduced by itself.
                result: Tensor = function(x[..., None], (-1,), keepdim=False)
            else:
                result = function(x, chosen or tuple(range(x.ndim)), keepdim=keep)
            return result.to(x.dtype)

        return run

    return build


def _prod(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keepdim)
    return x


def _sum_square(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return torch.sum(x * x, axes, keepdim=keepdim)


def _einsum(node: OperatorNode) -> Function:
    equation = str(node.attributes["equation"])
    return lambda *xs: torch.einsum(equation, *xs)


def _identity(x: Tensor, *_: Any) -> Tensor:
    return x


def _mean_of(*xs: Tensor) -> Tensor:
    return sum(xs[1:], xs[0]) / len(xs)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _bit_shift(node: OperatorNode) -> Function:
    return torch.bitwise_left_shift if node.attributes["direction"] == "LEFT" else torch.bitwise_right_shift


OPERATORS: dict[str, Builder] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": spatial.average_pool,
    "BatchNormalization": spatial.batch_norm,
    "BitShift": _bit_shift,
    "Cast": shape.cast,
    "Ceil": _plain(torch.ceil),
    "Celu": _with(F.celu, alpha=1.0),
    "Clip": _clip,
    "Concat": shape.concat,
    "Constant": shape.constant,
    "ConstantOfShape": shape.constant_of_shape,
    "Conv": spatial.conv,
    "ConvInteger": quantized.conv_integer,
    "ConvTranspose": spatial.conv_transpose,
    "Cos": _plain(torch.cos),
    "CumSum": shape.cumulative_sum,
    "DepthToSpace": shape.depth_to_space,
    "DequantizeLinear": quantized.dequantize_linear,
    "Div": _plain(_div),
    "Dropout": _plain(_identity),
    "DynamicQuantizeLinear": quantized.dynamic_quantize_linear,
    "Einsum": _einsum,
    "Elu": _with(F.elu, alpha=1.0),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": shape.expand,
    "Flatten": shape.flatten,
    "Floor": _plain(torch.floor),
    "GRU": recurrent.gru,
    "Gather": shape.gather,
    "GatherElements": shape.gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": spatial.global_pool(torch.mean),
    "GlobalMaxPool": spatial.global_pool(torch.amax),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "GroupNormalization": spatial.group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(_identity),
    "InstanceNormalization": spatial.instance_norm,
    "IsNaN": _plain(torch.isnan),
    "LRN": spatial.local_response_norm,
    "LSTM": recurrent.lstm,
    "LayerNormalization": spatial.layer_norm,
    "LeakyRelu": _leaky_relu,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _over_axis(F.log_softmax, -1),
    "MatMul": _plain(torch.matmul),
    "MatMulInteger": quantized.matmul_integer,
    "MatMulNBits": quantized.matmul_nbits,
    "Max": _folded(torch.maximum),
    "MaxPool": spatial.max_pool,
    "Mean": _plain(_mean_of),
    "Min": _folded(torch.minimum),
    "Mish": _plain(F.mish),
    "Mod": _mod,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _plain(_prelu),
    "Pad": shape.pad,
    "Pow": _pow,
    "QuantizeLinear": quantized.quantize_linear,
    "Range": _plain(_range),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL1": _reduce(lambda x, axes, keepdim: torch.sum(x.abs(), axes, keepdim=keepdim)),
    "ReduceL2": _reduce(lambda x, axes, keepdim: _sum_square(x, axes, keepdim).sqrt()),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_prod),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(_sum_square),
    "Relu": _plain(F.relu),
    "Reshape": shape.reshape,
    "Resize": spatial.resize,
    "Round": _plain(torch.round),
    "Selu": _selu,
    "Shape": shape.shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Slice": shape.slice_,
    "Softmax": _over_axis(F.softmax, -1),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "SpaceToDepth": shape.space_to_depth,
    "Split": shape.split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": shape.squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": _plain(torch.tanh),
    "Tile": shape.tile,
    "Transpose": shape.transpose,
    "Trilu": shape.trilu,
    "Unsqueeze": shape.unsqueeze,
    "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor),
}
