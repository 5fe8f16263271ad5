"""Views of constants, evaluated by numpy: TVM's own folding compiles a kernel for each, which takes seconds a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator


@tvm.transform.module_pass(opt_level=0, name="fold_layouts")
def fold_layouts(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Replace every transposed, reshaped or cast constant by the constant it is."""
    folded = _Folder(module)
    module = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            module[name] = folded.visit_expr(function)
    return relax.transform.DeadCodeElimination()(module)


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
