"""ONNX operators that move, cut or describe tensors, as torch functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.graph.operator_node import Function, OperatorNode

_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
}


def _listed(constant: tuple[int, ...] | None, value: Tensor | list[int] | int | None) -> list[int]:
    """Integers known at construction, else those of a tensor, or plain numbers."""
    if constant is not None:
        return list(constant)
    if isinstance(value, list | int):
        return value if isinstance(value, list) else [value]
    return [] if value is None else [int(v) for v in value.reshape(-1).tolist()]


def cast(node: OperatorNode) -> Function:
    """Cast; the type is an attribute."""
    wanted = ir.DataType(int(node.attributes["to"]))
    if wanted not in _DTYPES:
        raise node.error(f"type {wanted.name} is not supported")
    dtype = _DTYPES[wanted]
    return lambda x: x.to(dtype)


def concat(node: OperatorNode) -> Function:
    """Concat of any number of inputs."""
    axis = int(node.attributes["axis"])
    return lambda *xs: torch.cat(xs, dim=axis)


def constant(node: OperatorNode) -> Function:
    """A Constant node that was not folded."""
    for name, kind in (("value_int", int), ("value_ints", list), ("value_float", float), ("value_floats", list)):
        if name in node.attributes:
            fixed = torch.tensor(kind(node.attributes[name]))
            return lambda: fixed
    if "value" not in node.attributes:
        raise node.error("it holds neither a tensor nor numbers")
    value = torch.tensor(node.attributes["value"])
    return lambda: value


def constant_of_shape(node: OperatorNode) -> Function:
    """ConstantOfShape; float zeros by default."""
    value = torch.tensor(node.attributes["value"]).reshape(()) if "value" in node.attributes else torch.tensor(0.0)
    sizes = node.integers(0)
    return lambda shape=None: value.expand(_listed(sizes, shape)).clone()


def depth_to_space(node: OperatorNode) -> Function:
    """DepthToSpace in either order."""
    block = int(node.attributes["blocksize"])
    depth_first = node.choice("mode", "DCR", ("DCR", "CRD")) == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        inner = c // block**2
        if depth_first:
            split = x.reshape(n, block, block, inner, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            split = x.reshape(n, inner, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return split.reshape(n, inner, h * block, w * block)

    return run


def space_to_depth(node: OperatorNode) -> Function:
    """SpaceToDepth."""
    block = int(node.attributes["blocksize"])

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        split = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return split.reshape(n, c * block**2, h // block, w // block)

    return run


def expand(node: OperatorNode) -> Function:
    """Expand: two-way broadcast."""
    sizes = node.integers(1)
    broadcast: Callable[..., torch.Size] = torch.broadcast_shapes
    return lambda x, shape=None: x.expand(broadcast(x.shape, tuple(_listed(sizes, shape))))


def flatten(node: OperatorNode) -> Function:
    """Flatten to two dimensions."""
    axis = int(node.attributes.get("axis", 1))
    if axis == 1:
        return lambda x: torch.flatten(x, 1) if x.ndim > 1 else x[:, None]

    def run(x: Tensor) -> Tensor:
        at = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    return run


def gather(node: OperatorNode) -> Function:
    """Gather along one axis; negative indices count from the end."""
    axis = int(node.attributes.get("axis", 0))

    def run(x: Tensor, indices: Tensor) -> Tensor:
        flat = indices.reshape(-1).long()
        picked = torch.index_select(x, axis, torch.where(flat < 0, flat + x.shape[axis], flat))
        at = axis + x.ndim if axis < 0 else axis
        return picked.reshape((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))

    return run


def gather_elements(node: OperatorNode) -> Function:
    """GatherElements along one axis; negative indices count from the end."""
    axis = int(node.attributes.get("axis", 0))
    return lambda x, i: torch.gather(x, axis, torch.where(i < 0, i + x.shape[axis], i).long())


def cumulative_sum(node: OperatorNode) -> Function:
    """CumSum over one axis, from either end, with or without each entry itself."""
    fixed = node.integers(1)
    reverse, exclusive = bool(node.attributes.get("reverse", 0)), bool(node.attributes.get("exclusive", 0))

    def run(x: Tensor, which: Tensor | None = None) -> Tensor:
        axis = _listed(fixed, which)[0]
        source = x.flip(axis) if reverse else x
        sums = torch.cumsum(source, axis).to(x.dtype)
        sums = sums - source if exclusive else sums
        return sums.flip(axis) if reverse else sums

    return run


def pad(node: OperatorNode) -> Function:
    """Pad with a constant, by reflection, by the edge or around; negative pads crop."""
    mode = node.choice("mode", "constant", ("constant", *_PADDED))
    pads, fill, axes = node.integers(1), node.scalar(2), node.integers(3)

    def run(x: Tensor, at: Tensor | None = None, value: Tensor | None = None, which: Tensor | None = None) -> Tensor:
        amounts = _listed(pads, at)
        chosen = _listed(axes, which) or range(x.ndim)
        both = [(0, 0)] * x.ndim
        for i, axis in enumerate(chosen):
            both[axis] = (amounts[i], amounts[len(amounts) // 2 + i])
        if mode == "constant":
            number = fill if fill is not None else 0.0 if value is None else value.item()
            return F.pad(x, [amount for pair in reversed(both) for amount in pair], value=number)
        for axis, (before, after) in enumerate(both):
            if before or after:
                places = torch.arange(-before, x.shape[axis] + after, device=x.device)
                x = x.index_select(axis, _PADDED[mode](places, x.shape[axis]))
        return x

    return run


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places along an axis that runs back at both ends, without repeating them."""
    period = max(1, 2 * (size - 1))
    places = places % period
    return torch.minimum(places, period - places)


#: Where the entries outside an axis of some size come from.
_PADDED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflected,
    "edge": lambda places, size: places.clamp(0, size - 1),
    "wrap": lambda places, size: places % size,
}


def reshape(node: OperatorNode) -> Function:
    """Reshape; 0 keeps a size (unless `allowzero`), -1 is inferred."""
    sizes = node.integers(1)
    zero_is_zero = bool(node.attributes.get("allowzero", 0))

    def run(x: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = _listed(sizes, shape)
        if not zero_is_zero:
            wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
        return x.reshape(wanted)

    return run


def shape(node: OperatorNode) -> Function:
    """Shape, or a slice of it, as int64."""
    start, end = int(node.attributes.get("start", 0)), node.attributes.get("end")
    return lambda x: torch.tensor(list(x.shape)[start : None if end is None else int(end)], dtype=torch.int64)


def slice_(node: OperatorNode) -> Function:
    """Slice with any steps, negative ones too."""
    fixed = tuple(node.integers(i) for i in (1, 2, 3, 4))

    def run(x: Tensor, *values: Tensor | None) -> Tensor:
        given = [*values, None, None, None, None]
        starts, ends, axes, steps = (_listed(fixed[i], given[i]) for i in range(4))
        for i, axis in enumerate(axes or range(len(starts))):
            step = steps[i] if steps else 1
            # slice() reads -1 as "last", which is what ONNX means too; below that ONNX clamps as Python does.
            chosen = range(*slice(starts[i], ends[i], step).indices(x.shape[axis]))
            if step > 0:
                x = x.narrow(axis, chosen.start if chosen else 0, 0 if not chosen else chosen[-1] - chosen.start + 1)
                x = x if step == 1 else x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]
            else:
                x = torch.index_select(x, axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
        return x

    return run


def split(node: OperatorNode) -> Function:
    """Split by sizes, or into equal parts of which the last may be smaller."""
    axis = int(node.attributes.get("axis", 0))
    sizes = node.integers(1)
    parts = int(node.attributes.get("num_outputs", node.outputs))

    def run(x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        wanted = _listed(sizes, lengths)
        if not wanted:
            size = -(-x.shape[axis] // parts)
            wanted = [max(0, min(size, x.shape[axis] - i * size)) for i in range(parts)]
        return torch.split(x, wanted, dim=axis)

    return run


def squeeze(node: OperatorNode) -> Function:
    """Squeeze the given axes, or all of size 1."""
    axes = node.integers(1)

    def run(x: Tensor, which: Tensor | None = None) -> Tensor:
        chosen = _listed(axes, which)
        return torch.squeeze(x, tuple(chosen)) if chosen else torch.squeeze(x)

    return run


def tile(node: OperatorNode) -> Function:
    """Tile."""
    repeats = node.integers(1)
    return lambda x, times=None: x.repeat(_listed(repeats, times))


def transpose(node: OperatorNode) -> Function:
    """Transpose; reverses the axes by default."""
    order: Any = node.attributes.get("perm")
    axes = None if order is None else tuple(int(a) for a in order)
    return lambda x: x.permute(axes if axes is not None else tuple(reversed(range(x.ndim))))


def trilu(node: OperatorNode) -> Function:
    """Trilu: the triangle above or below a diagonal."""
    fixed, function = node.integers(1), torch.triu if node.attributes.get("upper", 1) else torch.tril
    return lambda x, k=None: function(x, next(iter(_listed(fixed, k)), 0))


def unsqueeze(node: OperatorNode) -> Function:
    """Unsqueeze; axes count in the result."""
    axes = node.integers(1)

    def run(x: Tensor, which: Tensor | None = None) -> Tensor:
        chosen = _listed(axes, which)
        rank = x.ndim + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return run
