"""Constants: views of them evaluated by numpy, and which of them a schedule may pack.

TVM has passes for both. Its folding compiles a kernel for each view, which takes seconds a model; its marking takes
activations for weights, which would then be packed anew at every inference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

_CALL_TIR = tvm.ir.Op.get("relax.call_tir")


@tvm.transform.module_pass(opt_level=0, name="fold_layouts")
def fold_layouts(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Replace every transposed, reshaped or cast constant by the constant it is."""
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
        if found:
            module[name] = module[name].with_attr("layout_free_buffers", sorted(found))
    return module


def _is_weight(value: Any) -> bool:
    return isinstance(value, GenericConst) and sum(size > 1 for size in value.value.shape) > 1


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    """Follows bindings, so that views of views fold too."""

    def visit_call_(self, call: tvm.ir.Call) -> relax.Expr:
        """See :func:`fold_layouts`."""
        call = self.visit_expr_post_order(call)
        value = self._constant(call.args[0]) if call.args else None
        if value is None or not isinstance(call.op, tvm.ir.Op):
            return call
        folded = _evaluated(call, value)
        return call if folded is None else relax.const(np.ascontiguousarray(folded))

    def _constant(self, value: Any) -> NDArray[Any] | None:
        if isinstance(value, relax.Var):
            value = self.lookup_binding(value)
        return value.value.numpy() if isinstance(value, GenericConst) else None


def _evaluated(call: tvm.ir.Call, value: NDArray[Any]) -> NDArray[Any] | None:
    name = str(call.op.name)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        return np.transpose(value, None if axes is None else [int(axis) for axis in axes])
    if name == "relax.reshape" and isinstance(call.args[1], relax.ShapeExpr):
        sizes = list(call.args[1].values)
        return value.reshape([int(size) for size in sizes]) if all(hasattr(s, "value") for s in sizes) else None
    return None
