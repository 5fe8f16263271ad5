"""Channel rules of products: Gemm, MatMul and Einsum, with a weight or of two computed values."""

from __future__ import annotations

import onnx_ir as ir

from autocompress.graph.channel_tracker import Axis, ChannelTracker, Ids, NotFollowedError, sizes, title


def weight_of(tracker: ChannelTracker, node: ir.Node, position: int) -> tuple[ir.Value, list[Ids]]:
    """A weight and the ids of its axes; kernel axes, after the second, stay whole."""
    value = node.inputs[position]
    if value is None or not value.is_initializer():
        raise NotFollowedError("has a weight that is computed at run time")
    axes = [axis for axis in tracker.axes(value) if not isinstance(axis, str)]
    if len(axes) < 2:
        raise NotFollowedError("has a weight of fewer than two axes")
    for axis in axes[2:]:
        tracker.block(axis, f"is a kernel axis of {title(node)}")
    return value, axes


def gemm(tracker: ChannelTracker, node: ir.Node) -> None:
    """Gemm with a weight, plain or transposed."""
    weight, axes = weight_of(tracker, node, 1)
    into_axis = 1 if node.attributes.get_int("transB", 0) else 0
    out_axis = 1 - into_axis
    source = tracker.axes(node.inputs[0])
    rows, inner = reversed(source) if node.attributes.get_int("transA", 0) else source
    tracker.couple(inner, axes[into_axis], node)
    tracker.set_role(weight, into_axis, "in")
    tracker.set_role(weight, out_axis, "out")
    out = axes[out_axis]
    tracker.producers.append((node, out))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        given = tracker.axes(bias)
        for axis, size, joined in zip(reversed(given), reversed(sizes(bias)), (out, rows), strict=False):
            if size != 1 or (joined is out and out.size == 1):
                tracker.couple(joined, axis, node)
        if given:
            tracker.set_role(bias, len(given) - 1, "bias")
    tracker.set_axes(node.outputs[0], (rows, out))


def mat_mul(tracker: ChannelTracker, node: ir.Node) -> None:
    """MatMul with a weight on either side, or of two computed values."""
    left, right = node.inputs
    if not any(value is not None and value.is_initializer() for value in node.inputs):
        _product(tracker, node)
        return
    if right is not None and right.is_initializer():
        weight, axes = weight_of(tracker, node, 1)
        *rest, inner = tracker.axes(left)
        into_axis, result = 0, [*rest, axes[1]]
    else:
        weight, axes = weight_of(tracker, node, 0)
        if len(tracker.axes(right)) < 2:
            raise NotFollowedError("multiplies a vector")
        *rest, inner, columns = tracker.axes(right)
        into_axis, result = 1, [*rest, axes[0], columns]
    if len(axes) != 2:
        raise NotFollowedError("has a weight of more than two axes")
    tracker.couple(inner, axes[into_axis], node)
    tracker.set_role(weight, into_axis, "in")
    tracker.set_role(weight, 1 - into_axis, "out")
    tracker.producers.append((node, axes[1 - into_axis]))
    tracker.set_axes(node.outputs[0], result)


def _product(tracker: ChannelTracker, node: ir.Node) -> None:
    """MatMul of two computed values, as in attention: what is summed over stays, everything else goes on."""
    (*left_batch, rows, inner), (*right_batch, other, columns) = _matrices(tracker, node)
    for axis in (inner, other):
        tracker.block(axis, f"is summed over by {title(node)}")
    shapes = [sizes(value)[:-2] for value in node.inputs]
    depth = max(len(left_batch), len(right_batch))
    result: list[Axis] = []
    for back in range(depth, 0, -1):
        met = [
            (shape[-back], batch[-back])
            for shape, batch in zip(shapes, (left_batch, right_batch), strict=True)
            if len(shape) >= back
        ]
        wide = [axis for size, axis in met if size != 1]
        result.append(tracker.couple_all(wide or [axis for _, axis in met], node))
    tracker.set_axes(node.outputs[0], [*result, rows, columns])


def _matrices(tracker: ChannelTracker, node: ir.Node) -> list[tuple[Axis, ...]]:
    found = [tracker.axes(value) for value in node.inputs]
    if any(len(axes) < 2 for axes in found):
        raise NotFollowedError("multiplies a vector")
    return found


def einsum(tracker: ChannelTracker, node: ir.Node) -> None:
    """Letters that stay go on, and couple where several inputs have them; letters that are summed over stay whole."""
    inputs, arrow, output = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or any(len(set(term)) < len(term) for term in (*terms, output)):
        raise NotFollowedError("has an equation that is not followed")
    met: dict[str, list[Axis]] = {}
    for value, term in zip(node.inputs, terms, strict=True):
        for letter, size, axis in zip(term, sizes(value), tracker.axes(value), strict=True):
            if size == 1 and letter in met:
                tracker.block(axis, f"is repeated by {title(node)}")
            else:
                met.setdefault(letter, []).append(axis)
    joined = {letter: tracker.couple_all(axes, node) for letter, axes in met.items()}
    for letter, axis in joined.items():
        if letter not in output:
            tracker.block(axis, f"is summed over by {title(node)}")
    tracker.set_axes(node.outputs[0], [joined[letter] for letter in output])
