"""What pruning left as it was: values that are those of the uncompressed network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from autocompress.graph.model_graph import ModelGraph

_PLAIN = (int, float, str, bytes, tuple, list)


def untouched_values(graph: ModelGraph, teacher: ModelGraph) -> frozenset[str]:
    """Names of values that come from the teacher's operators and constants, all the way back to the model's inputs.

    Args:
        graph: with names as in the teacher.
        teacher: what ``graph`` was made from.
    """
    theirs = {str(node.name): node for node in teacher.model.graph if node.name}
    same = {str(value.name) for value in graph.model.graph.inputs}
    for node in graph.model.graph:
        known = theirs.get(str(node.name))
        if known is None or not _alike(node, known):
            continue
        pairs = list(zip(node.inputs, known.inputs, strict=True))
        if all(mine is None or str(mine.name) in same or _same_constant(mine, its) for mine, its in pairs):
            same.update(str(value.name) for value in node.outputs)
    return frozenset(same)


def _alike(mine: ir.Node, its: ir.Node) -> bool:
    if (mine.op_type, mine.domain, len(mine.inputs)) != (its.op_type, its.domain, len(its.inputs)):
        return False
    names = [[None if value is None else value.name for value in node.inputs] for node in (mine, its)]
    outputs = [[value.name for value in node.outputs] for node in (mine, its)]
    if names[0] != names[1] or outputs[0] != outputs[1] or mine.attributes.keys() != its.attributes.keys():
        return False
    # Tensors and subgraphs are not looked into: those nodes count as touched.
    values = [[node.attributes[name].value for name in mine.attributes] for node in (mine, its)]
    return all(isinstance(a, _PLAIN) and isinstance(b, _PLAIN) and a == b for a, b in zip(*values, strict=True))


def _same_constant(mine: ir.Value, its: ir.Value | None) -> bool:
    if its is None or mine.const_value is None or its.const_value is None:
        return False
    if mine.const_value is its.const_value:
        return True
    if mine.const_value.shape != its.const_value.shape or mine.const_value.dtype != its.const_value.dtype:
        return False
    return np.array_equal(mine.const_value.numpy(), its.const_value.numpy())
