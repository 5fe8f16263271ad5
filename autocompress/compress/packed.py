"""Initializers that hold integers in as few bytes as they need."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.core.layer_rules import STORED_BITS
from autocompress.graph.tensors import tensor_of

_SIGNED: dict[int, tuple[np.dtype[Any], ir.DataType]] = {
    8: (np.dtype(np.int8), ir.DataType.INT8),
    4: (np.dtype(ml_dtypes.int4), ir.DataType.INT4),
    2: (np.dtype(ml_dtypes.int2), ir.DataType.INT2),
}
_UNSIGNED: dict[int, tuple[np.dtype[Any], ir.DataType]] = {
    8: (np.dtype(np.uint8), ir.DataType.UINT8),
    4: (np.dtype(ml_dtypes.uint4), ir.DataType.UINT4),
    2: (np.dtype(ml_dtypes.uint2), ir.DataType.UINT2),
}
#: Operator set and IR version that INT2 needs.
INT2_OPSET, INT2_IR = 25, 13


def packed_tensor(values: NDArray[Any], bits: int, name: str) -> ir.TensorProtocol:
    """A tensor that serializes ``values`` at :data:`STORED_BITS` each; two or four share a byte.

    Args:
        values: int8 for signed types, uint8 for unsigned ones.
        bits: that each value needs.
        name: of the tensor.
    """
    stored = STORED_BITS[bits]
    dtype, kind = (_UNSIGNED if values.dtype == np.uint8 else _SIGNED)[stored]
    return tensor_of(values if stored == 8 else values.astype(dtype), name, dtype=kind)


def allow_int2(model: ir.Model) -> None:
    """Raise a model to the operator set and IR version that know INT2."""
    model.graph.opset_imports[""] = max(INT2_OPSET, model.graph.opset_imports.get("", 0))
    model.ir_version = max(INT2_IR, model.ir_version or 0)
