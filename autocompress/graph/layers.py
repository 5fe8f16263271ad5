"""Which operators are layers: those with a weight of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from autocompress.core.layer import LayerInfo
from autocompress.graph.shapes import Sizes, sample_shapes

if TYPE_CHECKING:
    from autocompress.graph.model_graph import ModelGraph

LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Layers with a second weight behind the first, for their own state, and how many gates each has: they are kept whole,
#: and both weights stored as the layer's plan says.
RECURRENT_GATES = {"LSTM": 4, "GRU": 3}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def find_layers(graph: ModelGraph) -> tuple[LayerInfo, ...]:
    """Operators with a weight initializer, in topological order."""
    owners = {
        member.initializer: group.name for group in graph.groups() for member in group.members if member.role == "out"
    }
    names = layer_names(graph.model)
    macs = layer_macs(graph)
    shapes = sample_shapes(graph)
    layers = []
    for node in graph.model.graph:
        weight = weight_value(node)
        if weight is None:
            continue
        name = str(weight.name)
        shape = graph.initializers[name].shape
        out = shapes.get(str(node.outputs[0].name), ())
        layers.append(
            LayerInfo(
                name=names[str(node.name)],
                op_type=node.op_type,
                weight=name,
                weight_shape=shape,
                out_shape=tuple(-1 if size is None else size for size in _one_sample(graph, out)),
                macs=macs[str(node.name)],
                params=math.prod(shape) + _other_sizes(node),
                prune_group=owners.get(name),
                node=str(node.name),
            )
        )
    return tuple(layers)


def weight_value(node: ir.Node) -> ir.Value | None:
    """The weight of a layer's node: its second input, where that is a float initializer with at least two axes."""
    if node.op_type not in (*LAYER_OPERATORS, *RECURRENT_GATES) or node.domain not in ("", "ai.onnx"):
        return None
    value = node.inputs[1]
    if value is None or not value.is_initializer() or value.const_value is None or not value.name:
        return None
    tensor = value.const_value
    return value if tensor.dtype in _FLOATS and len(tensor.shape) >= 2 else None


def layer_names(model: ir.Model) -> dict[str, str]:
    """Node name to layer name, in topological order.

    A layer is named by its weight without ``.weight``, or by its node where the weight has no telling name. A weight
    that several nodes read gives names ending in ``#2``, ``#3``, ….
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for node in model.graph:
        if weight_value(node) is not None:
            names[str(node.name)] = name = layer_name(node, taken)
            taken.add(name)
    return names


def layer_name(node: ir.Node, taken: set[str] | frozenset[str] = frozenset()) -> str:
    """Name of one layer; :func:`layer_names` gives those of a whole model."""
    weight = node.inputs[1]
    name = str(weight.name) if weight is not None else ""
    if not name or name.startswith(("onnx::", "val_", "/")) or name.isdigit():
        name = str(node.name)
    name = name.removesuffix(".weight")
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}#{count}"
    return unique


def layer_macs(graph: ModelGraph) -> Mapping[str, int]:
    """Multiply-accumulates of each layer for one sample, by node name; a size that stays open counts as one."""
    shapes = sample_shapes(graph)
    batch = 1 if graph.batch_axis_dynamic else _fixed_batch(graph)
    found = {}
    for node in graph.model.graph:
        weight = weight_value(node)
        if weight is None:
            continue
        out = shapes.get(str(node.outputs[0].name), ())
        source = shapes.get(str(node.inputs[0].name), ()) if node.inputs[0] is not None else ()
        found[str(node.name)] = _macs(node, graph.initializers[str(weight.name)].shape, source, out) // batch
    return found


def _macs(node: ir.Node, weight: tuple[int, ...], source: Sizes, out: Sizes) -> int:
    """Output positions times the weights used at each; for ConvTranspose, input positions times weights they meet."""
    if node.op_type in RECURRENT_GATES:
        # (ways, gates * state, inputs) beside (ways, gates * state, state), at each step.
        ways, rows, inputs = weight
        return _positions(source[:-1]) * ways * rows * (inputs + rows // RECURRENT_GATES[node.op_type])
    if node.op_type == "Conv":
        return _positions(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return _positions(source) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        return _positions(out) * weight[1 if node.attributes.get_int("transB", 0) else 0]
    return _positions(out) * weight[-2]


def _positions(sizes: Sizes) -> int:
    return math.prod(1 if size is None else size for size in sizes)


def _fixed_batch(graph: ModelGraph) -> int:
    """The batch that the graph is fixed to; 1 where its inputs do not agree on one."""
    sizes = {spec.shape[0] for spec in graph.input_specs if spec.shape}
    size = sizes.pop() if len(sizes) == 1 else None
    return size or 1


def _one_sample(graph: ModelGraph, sizes: Sizes) -> Sizes:
    if graph.batch_axis_dynamic or not sizes or sizes[0] != _fixed_batch(graph):
        return sizes
    return (1, *sizes[1:])


def _other_sizes(node: ir.Node) -> int:
    """Numbers in what else a layer holds: its bias; the second weight and the biases of a recurrent one."""
    others = node.inputs[2 : 4 if node.op_type in RECURRENT_GATES else 3]
    return sum(v.const_value.size for v in others if v is not None and v.is_initializer() and v.const_value is not None)
