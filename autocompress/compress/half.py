"""Islands of float16 or bfloat16 with Casts at their shores only."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from autocompress.compress.edit import Editor
from autocompress.compress.islands import island
from autocompress.compress.weight_only import to_half_type

#: Operators that may compute in float16.
FOLLOWERS = frozenset(
    {"Add", "Sub", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Concat",
     "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
     "Softmax", "Identity"}
)  # fmt: skip

#: The first operator set whose Conv and pooling take bfloat16.
BFLOAT16_OPSET = 22
_LARGEST = 65504.0


def to_half(
    graph: ir.Graph, layers: Collection[ir.Node], editor: Editor, kind: ir.DataType = ir.DataType.FLOAT16
) -> None:
    """Let ``layers`` compute in float16 or bfloat16, and other operators where that saves Casts.

    The graph's inputs and outputs stay float32; a value that both sides read is cast once.

    Raises:
        CandidateError: a constant is past float16's range.
    """
    inside = island(
        graph,
        layers,
        [node for node in graph if node.op_type in FOLLOWERS and (kind != ir.DataType.FLOAT16 or _fits(node))],
    )
    half = {v: None for node in graph if node in inside for v in node.outputs if v.dtype == ir.DataType.FLOAT}
    _enter([node for node in graph if node in inside], half, editor, kind)
    for value in half:
        # Types are shared between a graph and its clones: a new one, never a change of the old.
        value.type = ir.TensorType(kind)
        outside = [use.node for use in value.uses() if use.node not in inside]
        if outside or value.is_graph_output():
            real = editor.after(
                value, "Cast", [value], f"{value.name}_float", ir.DataType.FLOAT,
                attributes={"to": int(ir.DataType.FLOAT)},
            )  # fmt: skip
            editor.replace(value, real, outside, output=True)


def _fits(node: ir.Node) -> bool:
    """Whether an operator's constants are within float16's range, as masks of -1e9 are not."""
    held = (v.const_value for v in node.inputs if v is not None and v.is_initializer() and v.dtype == ir.DataType.FLOAT)
    arrays = [tensor.numpy() for tensor in held if tensor is not None]
    return all(float(np.abs(array).max(initial=0.0)) <= _LARGEST for array in arrays)


def _enter(nodes: list[ir.Node], half: dict[ir.Value, None], editor: Editor, kind: ir.DataType) -> None:
    """Cast what an island reads from outside; constants are stored in its type."""
    down: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value in half or value.dtype != ir.DataType.FLOAT:
                continue
            if value not in down:
                down[value] = _lowered(value, editor, kind)
            node.replace_input_with(index, down[value])


def _lowered(value: ir.Value, editor: Editor, kind: ir.DataType) -> ir.Value:
    name = f"{value.name}_half"
    if value.is_initializer() and value.const_value is not None:
        return editor.constant(to_half_type(value.const_value.numpy(), str(value.name), name, kind))
    return editor.after(value, "Cast", [value], name, kind, attributes={"to": int(kind)})
