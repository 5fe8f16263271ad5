"""Small edits of a graph under construction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.graph.tensors import shape_of_tensor, tensor_of

#: By name; an attribute of another node is taken over as it is.
Attributes = Mapping[str, int | Sequence[int] | ir.Attr]


class Editor:
    """Adds constants and nodes to a graph that the caller owns, under names that nothing else has.

    Args:
        graph: changed in place; its nodes must stay in topological order, so every new node is given its place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._names = {str(v.name) for v in graph.inputs} | set(graph.initializers)
        self._names.update(str(v.name) for node in graph for v in node.outputs)

    def fresh(self, name: str) -> str:
        """The name, or one made unique."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}.{count}"
        self._names.add(unique)
        return unique

    def constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer holding ``tensor``, under its name or one made unique."""
        name = self.fresh(str(tensor.name))
        tensor.name = name
        value = ir.Value(name=name, const_value=tensor, shape=shape_of_tensor(tensor), type=ir.TensorType(tensor.dtype))
        self.graph.register_initializer(value)
        return value

    def array(self, array: NDArray[Any], name: str) -> ir.Value:
        """An initializer holding ``array``."""
        return self.constant(tensor_of(np.asarray(array), name))

    def before(
        self,
        reader: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        *,
        shape: ir.Shape | None = None,
        attributes: Attributes | None = None,
        domain: str = "",
    ) -> ir.Value:
        """The output of a new node just before ``reader``."""
        made = self._node(op_type, inputs, name, dtype, shape, attributes, domain)
        self.graph.insert_before(reader, made)
        return made.outputs[0]

    def after(
        self,
        value: ir.Value,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType,
        *,
        attributes: Attributes | None = None,
    ) -> ir.Value:
        """The output of a new node just behind the one that writes ``value``, of the same shape."""
        made = self._node(op_type, inputs, name, dtype, value.shape, attributes)
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, made)
        else:
            self.graph.insert_before(self.graph[0], made)
        return made.outputs[0]

    def replace(self, value: ir.Value, other: ir.Value, readers: Iterable[ir.Node], *, output: bool) -> None:
        """Let ``readers`` of a value read another; with ``output`` the graph gives out the other one too, same name."""
        wanted = set(readers)
        for use in list(value.uses()):
            if use.node in wanted:
                use.node.replace_input_with(use.idx, other)
        if output and value.is_graph_output():
            name = str(value.name)
            for index, out in enumerate(self.graph.outputs):
                if out is value:
                    self.graph.outputs[index] = other
            value.name = self.fresh(f"{name}_inner")
            other.name = name

    def split_before(
        self, reader: ir.Node, op_type: str, inputs: Sequence[ir.Value], outputs: Mapping[str, ir.DataType]
    ) -> list[ir.Value]:
        """The outputs of a new node just before ``reader``; names to types."""
        values = [ir.Value(name=self.fresh(name), type=ir.TensorType(dtype)) for name, dtype in outputs.items()]
        made = ir.Node("", op_type, list(inputs), [], name=self.fresh(f"{values[0].name}_node"), outputs=values)
        self.graph.insert_before(reader, made)
        return values

    def supplant(self, node: ir.Node, value: ir.Value) -> None:
        """Let ``value`` take the place, name and shape of a node's only output, and remove the node."""
        old = node.outputs[0]
        self.replace(old, value, [use.node for use in old.uses()], output=True)
        name = str(old.name)
        if value.name != name and not value.is_graph_output():
            old.name = f"{name}_gone"
            value.name = name
        value.shape = old.shape
        self.graph.remove(node, safe=True)

    def drop_unused(self) -> None:
        """Remove initializers that nothing reads."""
        for name in [n for n, v in self.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
            del self.graph.initializers[name]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        attributes: Attributes | None,
        domain: str = "",
    ) -> ir.Node:
        name = self.fresh(name)
        if shape is not None:
            shape.freeze()
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
        return ir.Node(
            domain,
            op_type,
            list(inputs),
            [_attribute(key, item) for key, item in (attributes or {}).items()],
            name=name,
            outputs=[output],
        )


def _attribute(name: str, value: int | Sequence[int] | ir.Attr) -> ir.Attr:
    if isinstance(value, ir.Attr):
        return value
    return _number(name, int(value)) if isinstance(value, int) else ir.AttrInt64s(name, list(value))


@lru_cache(maxsize=256)
def _number(name: str, value: int) -> ir.Attr:
    """Attributes never change: nodes may share one."""
    return ir.AttrInt64(name, value)
