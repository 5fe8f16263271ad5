"""Copies of a model's structure: each step of compression makes one."""

from __future__ import annotations

from typing import cast

import onnx_ir as ir

_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def clone_model(model: ir.Model) -> ir.Model:
    """A copy whose nodes, values and initializers can be changed without changing ``model``.

    Tensors, types and attributes are shared; shapes too, and are frozen: set a new one in place of changing one.
    """
    graph = model.graph
    if model.functions or any(_is_special(node) for node in graph):
        return model.clone()
    copies: dict[ir.Value, ir.Value] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value not in copies:
            copies[value] = _clone_value(value)
    nodes = [_clone_node(node, copies) for node in graph]
    copy = ir.Graph(
        [copies[value] for value in graph.inputs],
        [copies[value] for value in graph.outputs],
        nodes=nodes,
        initializers=[copies[value] for value in graph.initializers.values()],
        doc_string=graph.doc_string,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
        metadata_props=dict(graph.metadata_props),
    )
    copy.meta.update(graph.meta)
    result = model_around(copy, model)
    result.meta.update(model.meta)
    return result


def model_around(graph: ir.Graph | ir.GraphView, model: ir.Model) -> ir.Model:
    """A model that says of another graph what ``model`` says of its own."""
    return ir.Model(
        cast(ir.Graph, graph),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=tuple(model.functions.values()),
        metadata_props=dict(model.metadata_props),
        device_configurations=model.device_configurations,
    )


def _is_special(node: ir.Node) -> bool:
    """Whether a node has what only a full clone copies."""
    return bool(node.device_configurations) or any(attr.type in _SUBGRAPHS for attr in node.attributes.values())


def _clone_node(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    outputs = [_clone_value(value) for value in node.outputs]
    copies.update(zip(node.outputs, outputs, strict=True))
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else copies[value] for value in node.inputs],
        node.attributes,
        overload=node.overload,
        outputs=outputs,
        version=node.version,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props) if node.metadata_props else None,
    )
    if node.meta:
        copy.meta.update(node.meta)
    return copy


def _clone_value(value: ir.Value) -> ir.Value:
    if value.shape is not None:
        value.shape.freeze()
    copy = ir.Value(
        name=value.name,
        shape=value.shape,
        type=value.type,
        doc_string=value.doc_string,
        const_value=value.const_value,
        metadata_props=dict(value.metadata_props) if value.metadata_props else None,
    )
    if value.meta:
        copy.meta.update(value.meta)
    return copy
