"""Residual blocks that can be skipped whole: depth pruning.

``y = x + f(x)`` computes ``x`` where ``f`` is gone. Networks of residual blocks can spare some of them (Veit et al.
2016; Huang et al. 2016, stochastic depth), and a skipped block saves its time on every runtime, whatever the channel
multiples of its kernels are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from autocompress.core.errors import PlanError, nearest
from autocompress.core.layer import SkipBlock
from autocompress.graph.layers import LAYER_OPERATORS, layer_names

if TYPE_CHECKING:
    from autocompress.graph.model_graph import ModelGraph

#: Applied twice they do what they do once: behind a skipped block they repeat the block before.
IDEMPOTENT = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """The nodes that only compute one operand of an Add."""

    join: ir.Node
    kept: int
    nodes: tuple[ir.Node, ...]


def residual_blocks(graph: ModelGraph) -> tuple[SkipBlock, ...]:
    """Blocks ``y = x + f(x)`` of a graph, in topological order.

    ``f`` must hold a layer, read ``x`` alone, and be read by the Add alone; ``x`` and ``y`` must have one shape.
    """
    layers = layer_names(graph.model)
    taken: set[str] = set()
    found = []
    for branch in _branches(graph.model.graph):
        inside = [layers[str(node.name)] for node in branch.nodes if str(node.name) in layers]
        if not inside:
            continue
        kept = branch.join.inputs[branch.kept]
        assert kept is not None
        name = _unique(_stem(inside), taken)
        taken.add(name)
        found.append(
            SkipBlock(
                name=name,
                layers=tuple(inside),
                nodes=tuple(str(node.name) for node in branch.nodes),
                join=str(branch.join.name),
                kept=str(kept.name),
                initializers=tuple(_own_initializers(branch.nodes)),
            )
        )
    return tuple(found)


def without_blocks(graph: ModelGraph, names: Iterable[str]) -> ModelGraph:
    """A copy in which the named blocks pass on what they get.

    Exact: it computes what ``graph`` computes where the blocks' branches give zero. Names of values that stay do not
    change, and weights share their memory.

    Raises:
        PlanError: no block is called that.
    """
    from autocompress.graph.model_graph import ModelGraph

    wanted = set(names)
    if not wanted:
        return graph
    known = {block.name: block for block in graph.blocks()}
    for name in sorted(wanted - set(known)):
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known) or 'none'}."
        raise PlanError(f"Unknown block {name!r}; {hint}")
    joins = {known[name].join for name in wanted}
    copy = graph.clone().model
    # Found before anything is rewired: the operands of a later block may be the outputs of an earlier one.
    branches = [branch for branch in _branches(copy.graph) if str(branch.join.name) in joins]
    for branch in branches:
        kept = branch.join.inputs[branch.kept]
        assert kept is not None
        ir.convenience.replace_all_uses_with(branch.join.outputs[0], kept)
    gone = {node for branch in branches for node in (branch.join, *branch.nodes)}
    copy.graph.remove([node for node in copy.graph if node in gone], safe=True)
    for name in [n for n, v in copy.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del copy.graph.initializers[name]
    return ModelGraph(copy)


def drop_repeated_activations(graph: ir.Graph) -> None:
    """Remove a Relu or Clip that directly follows an equal one, in place: skipped blocks leave them behind."""
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        before = source.producer() if source is not None else None
        output = node.outputs[0]
        if node.op_type not in IDEMPOTENT or before is None or source is None or output.is_graph_output():
            continue
        if before.op_type == node.op_type and list(before.inputs[1:]) == list(node.inputs[1:]):
            ir.convenience.replace_all_uses_with(output, source)
            graph.remove(node, safe=True)


def _branches(graph: ir.Graph) -> Iterator[_Branch]:
    before: list[ir.Node] = []
    for node in graph:
        if node.op_type == "Add" and node.domain in ("", "ai.onnx") and not node.outputs[0].is_graph_output():
            branch = _branch(node, before)
            if branch is not None:
                yield branch
        before.append(node)


def _branch(join: ir.Node, before: Sequence[ir.Node]) -> _Branch | None:
    for index in (0, 1):
        kept, start = join.inputs[1 - index], join.inputs[index]
        if kept is None or start is None or kept is start or kept.is_initializer():
            continue
        if not _same_shape(kept, join.outputs[0]):
            continue
        nodes = _exclusive(start, join, before)
        if nodes and _reads_only(nodes, kept) and _owns_weights(nodes):
            return _Branch(join=join, kept=1 - index, nodes=nodes)
    return None


def _exclusive(start: ir.Value, join: ir.Node, before: Sequence[ir.Node]) -> tuple[ir.Node, ...]:
    """Nodes of ``before`` whose results reach nothing but ``join`` by way of ``start``, in topological order."""
    inside: set[ir.Node] = set()
    for node in reversed(before):
        uses = [(value, use.node) for value in node.outputs for use in value.uses()]
        if any(value.is_graph_output() for value in node.outputs) or not uses:
            continue
        if all(reader in inside or (reader is join and value is start) for value, reader in uses):
            inside.add(node)
    return tuple(node for node in before if node in inside)


def _reads_only(nodes: Iterable[ir.Node], kept: ir.Value) -> bool:
    inside = set(nodes)
    outer = {
        value
        for node in inside
        for value in node.inputs
        if value is not None and not value.is_initializer() and value.producer() not in inside
    }
    return outer == {kept}


def _owns_weights(nodes: Iterable[ir.Node]) -> bool:
    """Whether no weight of a layer inside is read outside: names of layers follow from who reads a weight first."""
    inside = set(nodes)
    return all(
        use.node in inside
        for node in inside
        for value in node.inputs[1:2]
        if value is not None and value.is_initializer() and node.op_type in LAYER_OPERATORS
        for use in value.uses()
    )


def _own_initializers(nodes: Iterable[ir.Node]) -> Iterator[str]:
    inside = set(nodes)
    seen: set[str] = set()
    for node in nodes:
        for value in node.inputs:
            if value is None or not value.is_initializer() or str(value.name) in seen or value.is_graph_output():
                continue
            if all(use.node in inside for use in value.uses()):
                seen.add(str(value.name))
                yield str(value.name)


def _same_shape(first: ir.Value, second: ir.Value) -> bool:
    if first.shape is None or second.shape is None:
        return False
    return list(first.shape) == list(second.shape)


def _stem(names: list[str]) -> str:
    """What the layers' names have in common, up to a dot; the first layer's name where that is nothing."""
    if len(names) == 1:
        return names[0]
    columns = zip(*(re.split(r"([./])", name) for name in names), strict=False)
    common = itertools.takewhile(lambda parts: len(set(parts)) == 1, columns)
    return "".join(parts[0] for parts in common).rstrip("./") or names[0]


def _unique(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}:{count}"
    return name
