"""What of a graph decides its latency: operators as a runtime fuses them, and the values between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.core.layer import LayerInfo
from autocompress.cost.shares import Shares
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.capabilities import LayerClass, layer_class

#: They only rename values or their shape.
_FREE = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Shape", "Cast", "Constant"})
#: Runtimes compute them inside the operator before them.
_FUSED = frozenset({"Relu", "Clip", "BatchNormalization", "LeakyRelu", "HardSigmoid", "PRelu"})
#: Operators with integer kernels of their own: between integer layers they stay integer.
INTEGER_FOLLOWERS = frozenset(
    {"Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "LeakyRelu", "Sigmoid",
     "Transpose", "Resize", "Split", "Slice"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One kernel launch.

    Args:
        name: the layer's, else the node's.
        op_type: ONNX operator.
        layer: its layer, or None.
        kind: of the layer.
        operations: 2 a multiply-accumulate, one sample; 0 where only memory counts.
        weights: elements read besides activations.
        reads: indices of the values it reads.
        writes: index of the value it writes.
        final: whether it writes an output of the graph.
        node: name of its node.
    """

    name: str
    op_type: str
    layer: LayerInfo | None
    kind: LayerClass
    operations: float
    weights: float
    reads: tuple[int, ...]
    writes: int
    final: bool
    node: str


class Structure:
    """Operations of a graph, and how pruning shrinks them.

    Attributes:
        operations: in topological order.
        elements: ``(n_values,)`` elements of each value, one sample.
        value_rows: ``(n_values, n_groups)`` share of a value that goes with one channel of each group.
        work_rows: two ``(n_operations, n_groups)``: likewise of the weight's two axes that can lose channels.
        out_channels: ``(n_operations,)`` output channels of layers, 0 for other operations.
        out_rows: ``(n_operations, n_groups)`` likewise of the output channels.
    """

    def __init__(self, graph: ModelGraph) -> None:
        layers = {layer.node: layer for layer in graph.layers()}
        self.shares = Shares(graph.groups(), {name: value.shape for name, value in graph.initializers.items()})
        self._graph = graph
        self._transposed_nodes = {
            str(node.name)
            for node in graph.model.graph
            if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        }
        self._index: dict[str, int] = {}
        self._elements: list[float] = []
        self._rows: list[NDArray[np.float64]] = []
        self.operations: tuple[Operation, ...] = ()
        operations: list[Operation] = []
        none = self.shares.no_loss()
        for spec in graph.input_specs:
            self._add_value(spec.name, none)
        outputs = set(graph.output_names)
        for node in graph.model.graph:
            sources = [self._index[str(v.name)] for v in node.inputs if v is not None and str(v.name) in self._index]
            if not sources:
                continue
            layer = layers.get(str(node.name))
            if layer is None and (node.op_type in _FREE or self._is_fused(node, operations, sources)):
                for value in node.outputs:
                    self._index[str(value.name)] = sources[0]
                self._mark_final(operations, sources[0], outputs & {str(v.name) for v in node.outputs})
                continue
            row = self._output_row(node, layer, sources)
            written = [self._add_value(str(value.name), row) for value in node.outputs if value.name]
            operations.append(
                Operation(
                    name=layer.name if layer else str(node.name),
                    op_type=node.op_type,
                    layer=layer,
                    kind=self._kind(node, layer),
                    operations=2.0 * (layer.macs if layer else self._free_macs(node, sources)),
                    weights=float(layer.params) if layer else 0.0,
                    reads=tuple(dict.fromkeys(sources)),
                    writes=written[0],
                    final=any(str(value.name) in outputs for value in node.outputs),
                    node=str(node.name),
                )
            )
        self.operations = tuple(operations)
        self.elements = np.array(self._elements, np.float64)
        self.value_rows = np.array(self._rows).reshape(len(self._rows), len(none))
        self.work_rows = self._work_rows()
        channels = [_out_channels(op.layer, self._transposed(op.layer)) if op.layer else (0, 0) for op in operations]
        self.out_channels = np.array([count for _, count in channels], np.float64)
        out_rows = [
            self.shares.row(op.layer.weight, axis) if op.layer else none
            for op, (axis, _) in zip(operations, channels, strict=True)
        ]
        self.out_rows = np.array(out_rows).reshape(len(operations), len(none))

    def _add_value(self, name: str, row: NDArray[np.float64]) -> int:
        shape = self._graph.value_shape(name) or ()
        self._index[name] = len(self._elements)
        # One sample: the first axis is the batch, and sizes that vary count as 1.
        self._elements.append(float(math.prod(size or 1 for size in shape[1:])))
        self._rows.append(row)
        return self._index[name]

    def _is_fused(self, node: ir.Node, operations: Sequence[Operation], sources: Sequence[int]) -> bool:
        """Whether the operator before computes this one on its way: it must be its only reader."""
        first = node.inputs[0]
        if node.op_type not in _FUSED or first is None or len(first.uses()) != 1:
            return False
        producer = next((op for op in reversed(operations) if op.writes == sources[0]), None)
        if producer is None:
            return False
        return producer.layer is not None or (node.op_type in ("Relu", "Clip") and producer.op_type == "Add")

    @staticmethod
    def _mark_final(operations: list[Operation], value: int, outputs: set[str]) -> None:
        if not outputs:
            return
        for position, op in enumerate(operations):
            if op.writes == value:
                operations[position] = replace(op, final=True)

    def _output_row(self, node: ir.Node, layer: LayerInfo | None, sources: Sequence[int]) -> NDArray[np.float64]:
        """Share of the output that goes with each channel: the weight's for layers, else as the inputs shrink."""
        if layer is not None:
            axis, _ = _out_channels(layer, self._transposed(layer))
            return self.shares.row(layer.weight, axis)
        if node.op_type == "Concat":
            total = sum(self._elements[index] for index in sources)
            parts = [self._elements[index] / total * self._rows[index] for index in sources]
            return np.asarray(np.sum(parts, axis=0))
        largest = max(sources, key=lambda index: self._elements[index])
        return self._rows[largest]

    def _kind(self, node: ir.Node, layer: LayerInfo | None) -> LayerClass:
        if layer is None:
            return "gemm"
        return layer_class(layer.op_type, layer.weight_shape, node.attributes.get_int("group", 1))

    def _free_macs(self, node: ir.Node, sources: Sequence[int]) -> float:
        """Multiply-accumulates of a product of two activations."""
        if node.op_type != "MatMul" or len(sources) < 2:
            return 0.0
        left = self._graph.value_shape(str(node.inputs[0].name)) if node.inputs[0] is not None else None
        out = self._graph.value_shape(str(node.outputs[0].name)) or ()
        inner = (left or (1,))[-1] or 1
        return float(math.prod(size or 1 for size in out) * inner)

    def _transposed(self, layer: LayerInfo) -> bool:
        return layer.node in self._transposed_nodes

    def _work_rows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        none = self.shares.no_loss()
        rows: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
        for op in self.operations:
            weight = op.layer.weight if op.layer else ""
            found = [self.shares.row(weight, axis) for axis in self.shares.axes(weight)][:2]
            found += [none] * (2 - len(found))
            for part, row in zip(rows, found, strict=True):
                part.append(row)
        shape = (len(self.operations), len(none))
        return np.array(rows[0]).reshape(shape), np.array(rows[1]).reshape(shape)


def _out_channels(layer: LayerInfo, transposed: bool) -> tuple[int, int]:
    """Axis of a weight's output channels, and how many there are."""
    if layer.op_type == "Conv" or (layer.op_type == "Gemm" and transposed):
        axis = 0
    elif layer.op_type == "MatMul":
        axis = len(layer.weight_shape) - 1
    else:
        axis = 1
    return axis, layer.weight_shape[axis]
