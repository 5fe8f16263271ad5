"""Cross-layer equalization: neighbouring layers share the range of a channel, so that one scale fits more of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.derived import weight_of, whole
from autocompress.graph.layers import weight_value
from autocompress.graph.model_graph import ModelGraph

#: Operators that a positive factor a channel passes through unchanged: f(s x) = s f(x).
_PASSING = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
_SWEEPS = 20
#: Relative change of a factor under which nothing more is to be gained.
_DONE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two convolutions with nothing between them but what factors pass through; initializer names."""

    first: str
    bias: str | None
    second: str
    groups: int


def equalize(graph: ModelGraph) -> ModelGraph:
    """Scale channels between neighbouring convolutions until both have one range: ``s = sqrt(r1 r2) / r2``.

    ``r1`` is the largest weight of the first convolution for a channel, ``r2`` of the second: the first (and its bias)
    is divided by ``s``, the second multiplied. Repeated along the network until it settles. Nagel et al. 2019,
    "Data-free quantization through weight equalization and bias correction", section 4.1.

    Args:
        graph: float32, BatchNormalization folded. A Clip blocks its pair, as it is not ``f(s x) = s f(x)``.

    Returns:
        A graph with the same outputs within float rounding; the same graph where there is no pair.
    """
    pairs = [pair for node in graph.model.graph if (pair := _pair_from(node)) is not None]
    if not pairs:
        return graph
    arrays = _arrays(graph, pairs)
    for _ in range(_SWEEPS):
        if max(_balance(pair, arrays) for pair in pairs) < _DONE:
            break
    return graph.with_initializers({name: array.astype(np.float32) for name, array in arrays.items()})


def _arrays(graph: ModelGraph, pairs: list[_Pair]) -> dict[str, NDArray[np.float64]]:
    names = dict.fromkeys(name for pair in pairs for name in (pair.first, pair.bias, pair.second) if name is not None)
    initializers = graph.model.graph.initializers
    return {name: whole(weight_of(initializers[name])).astype(np.float64) for name in names}


def _balance(pair: _Pair, arrays: dict[str, NDArray[np.float64]]) -> float:
    """Share the ranges of one pair; the largest relative change of a factor."""
    first, second = arrays[pair.first], arrays[pair.second]
    out, into, *_ = second.shape
    # (groups, outputs of a group, inputs of a group, kernel): input i of group g is channel g * into + i.
    by_group = second.reshape(pair.groups, out // pair.groups, into, -1)
    reach = [np.abs(first).reshape(len(first), -1).max(1), np.abs(by_group).max((1, 3)).reshape(-1)]
    alive = (reach[0] > 0) & (reach[1] > 0)
    factor = np.where(alive, np.sqrt(reach[0] / np.where(alive, reach[1], 1.0)), 1.0)
    factor[~alive] = 1.0
    arrays[pair.first] = first / factor.reshape(-1, *[1] * (first.ndim - 1))
    if pair.bias is not None:
        arrays[pair.bias] = arrays[pair.bias] / factor
    arrays[pair.second] = (by_group * factor.reshape(pair.groups, 1, into, 1)).reshape(second.shape)
    return float(np.abs(factor - 1).max(initial=0.0))


def _pair_from(node: ir.Node) -> _Pair | None:
    """The pair that a convolution is the first of, or None."""
    if not _is_free(node):
        return None
    value = node.outputs[0]
    while (reader := _only_reader(value)) is not None and reader.op_type in _PASSING:
        value = reader.outputs[0]
    if reader is None or reader.inputs[0] is not value or not _is_free(reader):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    first, second = weight_value(node), weight_value(reader)
    assert first is not None
    assert second is not None
    return _Pair(
        first=str(first.name),
        bias=None if bias is None else str(bias.name),
        second=str(second.name),
        groups=reader.attributes.get_int("group", 1),
    )


def _is_free(node: ir.Node) -> bool:
    """Whether a node is a float32 convolution whose weight and bias are its own constants."""
    weight = weight_value(node)
    if node.op_type != "Conv" or weight is None or not _is_own(weight):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (bias.is_initializer() and _is_own(bias))


def _is_own(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output() and value.dtype == ir.DataType.FLOAT


def _only_reader(value: ir.Value) -> Any:
    """The node that alone reads a value, or None."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None
