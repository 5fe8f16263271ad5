"""Convolutions and matrix products as loops that dot products fit into, their weights packed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, te, topi
from tvm.ir import GenericConst

from autocompress.measure.tvm_worker.dot_products import DotProduct, dot_product_of, multiply_add_of

#: Name of the stage that sums; what is tuned tells by it that dot products fit.
STAGE = "dot_product"
Legalize = Callable[[relax.BlockBuilder, tvm.ir.Call], relax.Expr]


def legalizers(target: tvm.target.Target) -> Mapping[str, Legalize]:
    """What makes kernels of operators in this package's own way, by operator."""
    known: dict[str, Legalize] = {"relax.round": _round}
    floats = (multiply_add_of(target, kind) for kind in ("float32", "float16"))
    products = {dot.sums: dot for dot in (dot_product_of(target), *floats) if dot is not None}
    if products:
        known |= {"relax.nn.conv2d": partial(_conv2d, products), "relax.matmul": partial(_matmul, products)}
    return known


def packed(weights: NDArray[Any], dot: DotProduct) -> NDArray[Any]:
    """Weights as registers take them.

    Args:
        weights: ``(outputs, ..., inputs)``.
        dot: whose registers.

    Returns:
        ``(outputs / lanes, ..., inputs / group, lanes, group)``, both filled up with zeros.
    """
    outputs, *kernel, inputs = weights.shape
    blocks, groups = -(-outputs // dot.lanes), -(-inputs // dot.group)
    filled = np.zeros((blocks * dot.lanes, *kernel, groups * dot.group), weights.dtype)
    filled[:outputs, ..., :inputs] = weights
    return np.ascontiguousarray(np.moveaxis(filled.reshape(blocks, dot.lanes, *kernel, groups, dot.group), 1, -2))


def _conv2d(products: Mapping[str, DotProduct], builder: relax.BlockBuilder, call: tvm.ir.Call) -> relax.Expr:
    """Data is ``(n, h, w, c)``, weights are ``(o, h, w, c)``; of groups only where each is one channel."""
    dot = _product(products, call)
    weights = _numbers(builder, call.args[1])
    groups, layouts = int(call.attrs.groups), (str(call.attrs.data_layout), str(call.attrs.kernel_layout))
    if dot is None or weights is None or layouts != ("NHWC", "OHWI"):
        return _usual(builder, call)
    outputs, height, width, inputs = weights.shape
    depthwise = groups > 1
    # Floats are summed one by one, so channels may stay apart.
    if depthwise and (dot.group > 1 or inputs > 1 or groups != outputs):
        return _usual(builder, call)
    top, left, bottom, right = (int(size) for size in call.attrs.padding)
    (down, across), (rows, columns) = (
        [int(value) for value in values] for values in (call.attrs.strides, call.attrs.dilation)
    )

    def sums(data: te.Tensor, packs: te.Tensor) -> te.Tensor:
        multiple = dot.lanes if depthwise else dot.group
        data = _filled(data, (0, top, left, 0), (0, bottom, right, -int(data.shape[3]) % multiple))
        n, h, w, _ = (int(size) for size in data.shape)
        y, x = te.reduce_axis((0, height), "y"), te.reduce_axis((0, width), "x")
        group = te.reduce_axis((0, 1 if depthwise else packs.shape[3]), "group")
        place = te.reduce_axis((0, dot.group), "place")
        shape = (n, (h - (height - 1) * rows - 1) // down + 1, (w - (width - 1) * columns - 1) // across + 1)

        def product(n: Any, h: Any, w: Any, o: Any) -> Any:
            channel = o if depthwise else group * dot.group + place
            number = data[n, h * down + y * rows, w * across + x * columns, channel]
            weight = packs[o // dot.lanes, y, x, group, o % dot.lanes, place]
            return te.sum(number.astype(dot.sums) * weight.astype(dot.sums), axis=[y, x, group, place])

        return _first(te.compute((*shape, packs.shape[0] * dot.lanes), product, name=STAGE), outputs)

    return builder.call_te(sums, call.args[0], relax.const(packed(weights, dot)), primfunc_name_hint="conv2d")


def _matmul(products: Mapping[str, DotProduct], builder: relax.BlockBuilder, call: tvm.ir.Call) -> relax.Expr:
    """Data is ``(..., i)``, weights are ``(i, o)``."""
    dot = _product(products, call)
    weights = _numbers(builder, call.args[1])
    if dot is None or weights is None or weights.ndim != 2:
        return _usual(builder, call)
    outputs = weights.shape[1]

    def sums(data: te.Tensor, packs: te.Tensor) -> te.Tensor:
        *lead, inputs = (int(size) for size in data.shape)
        data = _filled(data, [0] * (len(lead) + 1), (*[0] * len(lead), -inputs % dot.group))
        group, place = te.reduce_axis((0, packs.shape[1]), "group"), te.reduce_axis((0, dot.group), "place")
        found = te.compute(
            (*lead, packs.shape[0] * dot.lanes),
            lambda *at: te.sum(
                data[(*at[:-1], group * dot.group + place)].astype(dot.sums)
                * packs[at[-1] // dot.lanes, group, at[-1] % dot.lanes, place].astype(dot.sums),
                axis=[group, place],
            ),
            name=STAGE,
        )
        return _first(found, outputs)

    return builder.call_te(sums, call.args[0], relax.const(packed(weights.T, dot)), primfunc_name_hint="matmul")


def _product(products: Mapping[str, DotProduct], call: tvm.ir.Call) -> DotProduct | None:
    """What sums up an operator; None where nothing does, or a size depends on the values of the input."""
    fixed = all(hasattr(size, "value") for size in call.args[0].ty.shape)
    return products.get(str(call.ty.dtype.dtype)) if fixed else None


def _round(builder: relax.BlockBuilder, call: tvm.ir.Call) -> relax.Expr:
    """Halves go to even numbers, as ONNX has it and processors do in one instruction; TVM's own go away from zero."""

    def even(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *at: tvm.tirx.nearbyint(data[at]), name="round")

    return builder.call_te(even, call.args[0], primfunc_name_hint="round")


def _filled(data: te.Tensor, before: Sequence[int], after: Sequence[int]) -> te.Tensor:
    """The data with so many zeros before and behind each axis."""
    if not any((*before, *after)):
        return data
    return topi.nn.pad(data, list(before), list(after), tvm.tirx.const(0, data.dtype), name="pad")


def _first(sums: te.Tensor, outputs: int) -> te.Tensor:
    """The sums without those of weights that were filled up."""
    if int(sums.shape[-1]) == outputs:
        return sums
    return te.compute((*sums.shape[:-1], outputs), lambda *at: sums[at], name="kept")


def _numbers(builder: relax.BlockBuilder, value: relax.Expr) -> NDArray[Any] | None:
    """What a constant is; None for anything else."""
    if isinstance(value, relax.Var):
        value = builder.lookup_binding(value)
    return value.value.numpy() if isinstance(value, GenericConst) else None


def _usual(builder: relax.BlockBuilder, call: tvm.ir.Call) -> relax.Expr:
    return call.op.get_attr("FLegalize")(builder, call)
