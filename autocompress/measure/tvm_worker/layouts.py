"""Constants: views and packings of them evaluated by numpy, and which of them a schedule may pack.

TVM has passes for all of it. Its folding compiles a kernel for each, which takes seconds a model; its marking takes
activations for weights, which would then be packed anew at every inference.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, s_tir
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from autocompress.measure.tvm_worker.dot_schedules import sums_dot_products

_ARITHMETIC = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "FloorMod": operator.mod,
}
_CALL_TIR = tvm.ir.Op.get("relax.call_tir")


@tvm.transform.module_pass(opt_level=0, name="fold_layouts")
def fold_layouts(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Replace every transposed, reshaped or packed constant by the constant it is."""
    folded = _Folder(module)
    module = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            module[name] = folded.visit_expr(function)
    return relax.transform.DeadCodeElimination()(module)


@tvm.transform.module_pass(opt_level=0, name="mark_weights")
def mark_weights(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Let schedules choose the layout of weights: arguments of a kernel that are constants of two axes or more."""
    places: dict[Any, set[int]] = {}

    def visit(node: Any) -> None:
        if isinstance(node, tvm.ir.Call) and node.op == _CALL_TIR:
            arguments = node.args[1].fields if isinstance(node.args[1], tvm.ir.Tuple) else [node.args[1]]
            found = {place for place, value in enumerate(arguments) if _is_weight(value)}
            # A kernel that is called with a weight here and an activation there keeps both as they are.
            places[node.args[0]] = places.get(node.args[0], found) & found

    relax.analysis.post_order_visit(module["main"], visit)
    module = module.clone()
    for name, found in places.items():
        # Weights of dot products are packed already.
        if found and not sums_dot_products(tvm.IRModule({"main": module[name].with_attr("global_symbol", "main")})):
            module[name] = module[name].with_attr("layout_free_buffers", sorted(found))
    return module


def _is_weight(value: Any) -> bool:
    return isinstance(value, GenericConst) and sum(size > 1 for size in value.value.shape) > 1


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    """Follows bindings, so that views of views fold too."""

    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__(module)
        self._module = module

    def visit_call_(self, call: tvm.ir.Call) -> relax.Expr:
        """See :func:`fold_layouts`."""
        call = self.visit_expr_post_order(call)
        if call.op == _CALL_TIR:
            packed = self._packed(call)
            return call if packed is None else relax.const(packed)
        value = self._constant(call.args[0]) if call.args else None
        if value is None or not isinstance(call.op, tvm.ir.Op):
            return call
        folded = _evaluated(call, value)
        return call if folded is None else relax.const(np.ascontiguousarray(folded))

    def _packed(self, call: tvm.ir.Call) -> NDArray[Any] | None:
        """What a kernel that only moves the numbers of one constant gives; None for any other."""
        arguments = call.args[1].fields if isinstance(call.args[1], tvm.ir.Tuple) else [call.args[1]]
        value = self._constant(arguments[0]) if len(arguments) == 1 else None
        if value is None or not str(call.args[0].name_hint).endswith("_weight_prepack"):
            return None
        moves = moved_places(self._module[call.args[0]])
        if moves is None:
            return None
        source, place = moves
        kind = call.ty_args[0]
        packed = np.zeros([int(size) for size in kind.shape], value.dtype)
        packed[place] = value[source]
        return packed

    def _constant(self, value: Any) -> NDArray[Any] | None:
        if isinstance(value, relax.Var):
            value = self.lookup_binding(value)
        return value.value.numpy() if isinstance(value, GenericConst) else None


def moved_places(function: tvm.tirx.PrimFunc) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Where each number of a kernel's argument is read and where it is written, as indices that broadcast.

    None where the kernel does anything else.
    """
    schedule = s_tir.Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    block = schedule.get(blocks[0]) if len(blocks) == 1 else None
    load = None if block is None else getattr(block.body, "value", None)
    if block is None or load is None or type(load).__name__ != "TensorLoad":
        return None
    axes = list(block.iter_vars)
    places = {
        axis.var: np.arange(int(axis.dom.extent)).reshape([-1 if other == number else 1 for other in range(len(axes))])
        for number, axis in enumerate(axes)
    }
    try:
        source = tuple(_index(index, places) for index in load.indices)
        return source, tuple(_index(index, places) for index in block.body.indices)
    except KeyError:
        return None


def _index(index: Any, places: Mapping[Any, NDArray[Any]]) -> Any:
    """The value of an index at every place of the axes."""
    if isinstance(index, tvm.ir.Var):
        return places[index]
    name = type(index).__name__
    if name == "IntImm":
        return int(index)
    return _ARITHMETIC[name](_index(index.a, places), _index(index.b, places))


def _evaluated(call: tvm.ir.Call, value: NDArray[Any]) -> NDArray[Any] | None:
    name = str(call.op.name)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        return np.transpose(value, None if axes is None else [int(axis) for axis in axes])
    if name == "relax.reshape" and isinstance(call.args[1], relax.ShapeExpr):
        sizes = list(call.args[1].values)
        return value.reshape([int(size) for size in sizes]) if all(hasattr(s, "value") for s in sizes) else None
    return None
