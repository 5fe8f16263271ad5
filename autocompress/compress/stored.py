"""Grouped weights in a graph: packed initializers, and the operators that the runtime folds into a weight at load."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.edit import Editor
from autocompress.compress.grouping import GroupedWeight
from autocompress.compress.packed import packed_tensor
from autocompress.compress.planes import stored_integers
from autocompress.compress.weight_only import input_name

_TO_FLOAT = {"to": int(ir.DataType.FLOAT)}


def store_grouped(node: ir.Node, editor: Editor, grouped: GroupedWeight, bits: int, index: int = 1) -> None:
    """Keep a layer's weight, its input ``index``, as packed codes with scales, and zero points or a table.

    All of it is operators on constants (Cast, Gather, Sub, Mul, Reshape), which ONNX Runtime folds at load: the layer
    runs at float32 speed, with the very numbers of :meth:`GroupedWeight.dequantized`. Blocks do not use a
    DequantizeLinear with ``block_size``, which would run at every inference.
    """
    _Writer(node, editor, grouped, bits, index).write()


class _Writer:
    def __init__(self, node: ir.Node, editor: Editor, grouped: GroupedWeight, bits: int, index: int) -> None:
        self._node = node
        self._editor = editor
        self._grouped = grouped
        self._bits = bits
        self._index = index
        self._name = input_name(node, index)

    def write(self) -> None:
        real = self._real()
        if self._grouped.grouping.granularity == "block":
            real = self._joined(real)
        real.shape = ir.Shape(self._grouped.grouping.shape, frozen=True)
        self._node.replace_input_with(self._index, real)

    def _real(self) -> ir.Value:
        """The numbers, of the weight's shape, or still in blocks."""
        grouped = self._grouped
        blocks = grouped.grouping.granularity == "block"
        codes = grouped.codes if blocks else grouped.grouping.join(grouped.codes)
        kind = ir.DataType.FLOAT if grouped.table is None else ir.DataType.INT32
        real = stored_integers(self._node, self._editor, codes, self._bits, self._name, kind)
        if grouped.table is not None:
            places = real
            real = self._make("Gather", [self._editor.array(grouped.table, f"{self._name}_table"), places], "f")
        if grouped.zero is not None:
            zeros = packed_tensor(self._beside(grouped.zero), self._bits, f"{self._name}_zero")
            real = self._make(
                "Sub",
                [real, self._make("Cast", [self._editor.constant(zeros)], "zero_f", _TO_FLOAT)],
                "centered",
            )
        if grouped.table is not None and np.all(grouped.scale == 1):
            return real
        return self._make("Mul", [real, self._editor.array(self._beside(grouped.scale), f"{self._name}_scale")], "dq")

    def _beside(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Numbers of the groups in a shape that broadcasts against the codes."""
        grouping = self._grouped.grouping
        return numbers[..., None] if grouping.granularity == "block" else grouping.spread(numbers)

    def _joined(self, real: ir.Value) -> ir.Value:
        """Blocks as the weight again: without what filled up the last one, output channels on their axis."""
        grouping = self._grouped.grouping
        channels, *rest = grouping.moved
        if grouping.blocks * grouping.block_size > grouping.width:
            real = self._make("Reshape", [real, self._sizes([channels, -1], "rows")], "rows_of")
            bounds = [self._sizes([bound], name) for bound, name in ((0, "from"), (grouping.width, "to"), (1, "axis"))]
            real = self._make("Slice", [real, *bounds], "cut")
        real = self._make("Reshape", [real, self._sizes([channels, *rest], "sizes")], "shaped")
        if grouping.axis == 0:
            return real
        order = list(range(1, len(grouping.shape)))
        order.insert(grouping.axis, 0)
        return self._make("Transpose", [real], "turned", {"perm": order})

    def _sizes(self, sizes: list[int], name: str) -> ir.Value:
        return self._editor.array(np.array(sizes, np.int64), f"{self._name}_{name}")

    def _make(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        attributes: Any = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        return self._editor.before(self._node, op_type, inputs, f"{self._name}_{name}", dtype, attributes=attributes)
