"""How what a layer reads is correlated: all that its output error on calibration data depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from autocompress.compress.calibrate import fixed_batch, open_session, run_session, spread_picks
from autocompress.core.protocols import Dataset
from autocompress.graph.layers import layer_names
from autocompress.graph.model_graph import ModelGraph

#: Positions of a batch that are looked at; neighbours in an image say much the same.
_POSITIONS = 4096
#: Matrices of so many bytes are summed at once; more take another pass over the data.
_PASS_BYTES = 1 << 29


def input_products(
    graph: ModelGraph, layers: list[str], dataset: Dataset, *, samples: int = 64, batch_size: int = 16
) -> dict[str, NDArray[np.float64]]:
    """``(groups, inputs, inputs)`` averages of ``x x^T`` over what each layer multiplies its weight rows with.

    The mean squared error of a layer's output under a change ``d`` of a row is ``d^T E[x x^T] d``.

    Args:
        graph: float32, BatchNormalization folded.
        layers: names; each Conv must pad explicitly.
        dataset: ``samples`` of its samples are used, evenly spread.
        samples: at most this many.
        batch_size: samples a run.
    """
    names = layer_names(graph.model)
    nodes = {names[str(node.name)]: node for node in graph.model.graph if names.get(str(node.name)) in layers}
    picks = spread_picks(graph, len(dataset), samples)
    size = fixed_batch(graph) or batch_size
    found: dict[str, NDArray[np.float64]] = {}
    for part in _passes(nodes):
        fetched = sorted({str(node.inputs[0].name) for node in part.values() if node.inputs[0] is not None})
        inner = [name for name in fetched if name not in graph.input_names]
        session, held = open_session(graph, inner)
        sums: dict[str, Any] = dict.fromkeys(part, 0.0)
        counts = dict.fromkeys(part, 0)
        for start in range(0, len(picks), size):
            inputs, _ = dataset.batch(picks[start : start + size])
            feed = dict(zip(graph.input_names, inputs, strict=True))
            arrays = {**feed, **run_session(session, inner, feed)}
            for name, node in part.items():
                rows = input_rows(node, arrays[str(node.inputs[0].name)])  # type: ignore[union-attr]
                rows = rows[:, :: max(1, rows.shape[1] // _POSITIONS)]
                sums[name] = sums[name] + np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64)
                counts[name] += rows.shape[1]
        del session, held
        found.update({name: np.asarray(sums[name] / max(1, counts[name])) for name in part})
    return found


def input_rows(node: ir.Node, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(groups, positions, inputs)`` vectors that a layer multiplies its weight rows with.

    Args:
        node: a Conv with explicit padding, a Gemm or a MatMul.
        array: what it reads, ``(batch, channels, ...)`` for a Conv.
    """
    if node.op_type != "Conv":
        return np.ascontiguousarray(array.reshape(1, -1, array.shape[-1]))
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    kernel = [int(size) for size in weight.const_value.shape.numpy()[2:]]
    rank, groups = len(kernel), node.attributes.get_int("group", 1)
    pads = list(node.attributes.get_ints("pads", [0] * (2 * rank)))
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    padded = np.pad(array, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    span = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    windows = sliding_window_view(padded, span, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, stride) for stride in strides]
    taps = [slice(None, None, dilation) for dilation in dilations]
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    batch, channels, *rest = windows.shape
    split = windows.reshape(batch, groups, channels // groups, *rest)
    places = tuple(range(3, 3 + rank))
    order = (1, 0, *places, 2, *(3 + rank + i for i in range(rank)))
    moved = split.transpose(order)
    return np.ascontiguousarray(moved).reshape(groups, -1, channels // groups * int(np.prod(kernel)))


def _passes(nodes: Mapping[str, ir.Node]) -> list[dict[str, ir.Node]]:
    """The layers in parts whose matrices fit into memory together."""
    parts: list[dict[str, ir.Node]] = [{}]
    held = 0
    for name, node in nodes.items():
        need = 8 * _matrix_entries(node)
        if parts[-1] and held + need > _PASS_BYTES:
            parts.append({})
            held = 0
        parts[-1][name] = node
        held += need
    return [part for part in parts if part]


def _matrix_entries(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    sizes = [int(size) for size in weight.const_value.shape.numpy()]
    if node.op_type == "Conv":
        return node.attributes.get_int("group", 1) * int(np.prod(sizes[1:])) ** 2
    width = sizes[1] if node.op_type == "Gemm" and node.attributes.get_int("transB") else sizes[0]
    return int(width**2)
