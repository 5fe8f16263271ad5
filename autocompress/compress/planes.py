"""Weights of 3 and 6 bits, for which ONNX has no type: two planes of narrower numbers that share bytes.

A 6-bit code is a plane of 4 bits and one of 2, a 3-bit code one of 2 bits and one of 1. All that joins them again
(BitShift, Reshape, Cast, Mul, Add) is operators on constants, which ONNX Runtime folds at load: the layer runs in the
kernel that it has for 8-bit weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.edit import Editor
from autocompress.compress.packed import packed_tensor
from autocompress.core.layer_rules import STORED_BITS
from autocompress.graph.codes import packed_codes

#: Bits to the bits of the low and of the high plane.
_PLANES = {3: (1, 2), 6: (4, 2)}
#: Nodes and shapes that join two planes, in bytes: what a layer must save at least.
_JOINING_BYTES = 1500


def in_planes(size: int, bits: int) -> bool:
    """Whether ``size`` weights of ``bits`` take fewer bytes as planes: they fill all bytes, and save the nodes."""
    saved = size * (STORED_BITS[bits] - bits) // 8
    return bits in _PLANES and size % 8 == 0 and saved > _JOINING_BYTES


def stored_integers(
    node: ir.Node, editor: Editor, values: NDArray[Any], bits: int, stem: str, kind: ir.DataType
) -> ir.Value:
    """Integers in as few bytes as they take, as a value of type ``kind`` that ``node`` may read.

    Args:
        node: new nodes are put before it.
        editor: of its graph.
        values: int8 for signed codes, uint8 for unsigned ones.
        bits: that each value needs.
        stem: of the names.
        kind: of the result.
    """
    if not in_planes(values.size, bits):
        stored = editor.constant(packed_tensor(values, bits, f"{stem}_q{bits}"))
        return stored if stored.dtype == kind else _cast(node, editor, stored, kind, f"{stem}_c")
    half = 2 ** (bits - 1) if values.dtype == np.int8 else 0
    codes = (values.astype(np.int16) + half).astype(np.uint8).reshape(-1)
    low, high = _PLANES[bits]
    parts = [
        _plane(node, editor, plane.astype(np.uint8), width, values.shape, f"{stem}_q{bits}{name}")
        for plane, width, name in ((codes & (2**low - 1), low, "l"), (codes >> low, high, "h"))
    ]
    integer = ir.DataType.INT32
    steps = _shared(editor, np.array(2**low, np.int32))
    joined = editor.before(node, "Mul", [parts[1], steps], f"{stem}_m", integer)
    joined = editor.before(node, "Add", [joined, parts[0]], f"{stem}_a", integer)
    shape = ir.Shape(values.shape)
    if half:
        middle = _shared(editor, np.array(half, np.int32))
        joined = editor.before(node, "Sub", [joined, middle], f"{stem}_s", integer, shape=shape)
    return joined if kind == integer else _cast(node, editor, joined, kind, f"{stem}_c", shape)


def _plane(
    node: ir.Node, editor: Editor, codes: NDArray[np.uint8], bits: int, shape: tuple[int, ...], stem: str
) -> ir.Value:
    """Unsigned numbers of 4, 2 or 1 bits that share bytes, as int32 of a shape."""
    each = 8 // bits
    # Up until nothing stands above the number, then down until nothing stands below it.
    up = ((each - 1 - np.arange(each)) * bits).astype(np.uint8)
    byte = ir.DataType.UINT8
    value = editor.array(packed_codes(codes.reshape(-1, each), bits), stem)
    for shift, direction in ((up, "LEFT"), (np.array(8 - bits, np.uint8), "RIGHT")):
        way = {"direction": ir.AttrString("direction", direction)}
        value = editor.before(node, "BitShift", [value, _shared(editor, shift)], f"{stem}_b", byte, attributes=way)
    sizes = _shared(editor, np.array(shape, np.int64))
    value = editor.before(node, "Reshape", [value, sizes], f"{stem}_r", byte, shape=ir.Shape(shape))
    return _cast(node, editor, value, ir.DataType.INT32, f"{stem}_i", ir.Shape(shape))


def _shared(editor: Editor, array: NDArray[Any]) -> ir.Value:
    """A small constant that all layers of a graph share."""
    numbers = "x".join(map(str, array.reshape(-1).tolist()))
    name = f"planes_{array.dtype.name}_{array.ndim}_{numbers}"
    found = editor.graph.initializers.get(name)
    return found if found is not None else editor.array(array, name)


def _cast(
    node: ir.Node, editor: Editor, value: ir.Value, kind: ir.DataType, name: str, shape: ir.Shape | None = None
) -> ir.Value:
    sizes = shape if shape is not None else (None if value.shape is None else ir.Shape(value.shape))
    return editor.before(node, "Cast", [value], name, kind, shape=sizes, attributes={"to": int(kind)})


def stored_bytes(size: int, bits: int) -> int:
    """Bytes of ``size`` integers of ``bits`` in the file, without the nodes that read them."""
    return math.ceil(size * (bits if in_planes(size, bits) else STORED_BITS[bits]) / 8)
