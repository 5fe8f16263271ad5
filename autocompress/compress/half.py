"""Islands of float16 with Casts at their shores only."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from autocompress.compress.edit import Editor
from autocompress.compress.weight_only import to_float16

#: Operators that go on in float16 where all their activations are there in it.
FOLLOWERS = frozenset(
    {"Add", "Sub", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Concat",
     "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
     "Softmax", "Identity"}
)  # fmt: skip


def to_half(graph: ir.Graph, layers: Collection[ir.Node], editor: Editor) -> None:
    """Let ``layers`` and the operators between them compute in float16.

    The graph's inputs and outputs stay float32; a value that both sides read is cast once.

    Raises:
        CandidateError: a constant is past float16's range.
    """
    wanted = set(layers)
    inside: set[ir.Node] = set()
    half: dict[ir.Value, None] = {}
    lowered: set[ir.Value] = set()
    for node in graph:
        floats = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT and not v.is_initializer()]
        # A shortcut from outside is cast for the layer that it leads around anyway; the sum goes on in float16.
        known = all(v in half or v in lowered for v in floats) and any(v in half for v in floats)
        if node in wanted or (node.op_type in FOLLOWERS and known):
            inside.add(node)
            lowered.update(v for v in floats if v not in half)
            half.update({v: None for v in node.outputs if v.dtype == ir.DataType.FLOAT})
    _enter([node for node in graph if node in inside], half, editor)
    for value in half:
        # Types are shared between a graph and its clones: a new one, never a change of the old.
        value.type = ir.TensorType(ir.DataType.FLOAT16)
        outside = [use.node for use in value.uses() if use.node not in inside]
        if outside or value.is_graph_output():
            real = editor.after(
                value, "Cast", [value], f"{value.name}_float", ir.DataType.FLOAT,
                attributes={"to": int(ir.DataType.FLOAT)},
            )  # fmt: skip
            editor.replace(value, real, outside, output=True)


def _enter(nodes: list[ir.Node], half: dict[ir.Value, None], editor: Editor) -> None:
    """Cast what an island reads from outside; constants are stored in float16."""
    down: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value in half or value.dtype != ir.DataType.FLOAT:
                continue
            if value not in down:
                down[value] = _lowered(value, editor)
            node.replace_input_with(index, down[value])


def _lowered(value: ir.Value, editor: Editor) -> ir.Value:
    name = f"{value.name}_half"
    if value.is_initializer() and value.const_value is not None:
        return editor.array(to_float16(value.const_value.numpy(), str(value.name)), name)
    kind = ir.DataType.FLOAT16
    return editor.after(value, "Cast", [value], name, kind, attributes={"to": int(kind)})
