"""Kept entries of weights as a ``.onnx`` file lays them out: importing folds what transposes or reshapes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from autocompress.graph.folding import VIEWS

Entries = Mapping[str, Mapping[int, Sequence[int]]]


def kept_in_file(path: str | Path, kept: Entries) -> dict[str, dict[int, list[int]]]:
    """Kept entries with names, axes and indices as in the file.

    Args:
        path: the ``.onnx`` file that the graph was loaded from.
        kept: initializer name to axis to the sorted kept indices, as in the graph.

    Returns:
        Likewise for the file. Copies that importing made of an initializer that several operators share stand under the
        initializer; what no choice of entries along axes can say is left out.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    copies = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    constants = _constants(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, dict[int, list[int]]] = {}
    for name, axes in kept.items():
        if name in shapes:
            views = _views(name, readers)
            entries = _through(shapes[name], views, axes, constants) if views else {a: list(k) for a, k in axes.items()}
            if entries:
                found[name] = entries
        elif copies.get(name) not in kept:
            found[copies.get(name, name)] = {axis: list(indices) for axis, indices in axes.items()}
    return found


def _views(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The operators behind an initializer that only lay it out anew, first to last."""
    found: list[onnx.NodeProto] = []
    while True:
        uses = readers.get(name, ())
        if len(uses) > 1:
            # Importing gives each Identity of a shared initializer a copy of its own.
            uses = [node for node in uses if node.op_type != "Identity"]
        if len(uses) != 1 or uses[0].op_type not in VIEWS or uses[0].input[0] != name:
            return found
        found.append(uses[0])
        name = uses[0].output[0]


def _through(
    shape: tuple[int, ...],
    views: Sequence[onnx.NodeProto],
    axes: Mapping[int, Sequence[int]],
    constants: Mapping[str, NDArray[np.int64]],
) -> dict[int, list[int]] | None:
    """Kept entries behind the views as kept entries before them; None where they are no choice along axes."""
    places = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    for node in views:
        moved = _viewed(places, node, constants)
        if moved is None:
            return None
        places = moved
    for axis, indices in axes.items():
        places = places.take(np.asarray(indices, np.int64), axis=axis)
    coordinates = [np.unique(along) for along in np.unravel_index(places.ravel(), shape)]
    if np.prod([len(along) for along in coordinates], dtype=np.int64) != places.size:
        return None
    return {axis: along.tolist() for axis, along in enumerate(coordinates) if len(along) < shape[axis]}


def _viewed(
    array: NDArray[np.int64], node: onnx.NodeProto, constants: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.int64] | None:
    """What one view makes of an array; None where its sizes are not constant."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Transpose":
        return array.transpose(attributes.get("perm") or None)
    if node.op_type == "Flatten":
        axis = int(attributes.get("axis", 1)) % (array.ndim + 1)
        return array.reshape(int(np.prod(array.shape[:axis])), -1)
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        given = constants.get(node.input[1]) if len(node.input) > 1 else attributes.get("axes")
        if given is None:
            return array.squeeze() if node.op_type == "Squeeze" and len(node.input) == 1 else None
        sizes = tuple(int(size) for size in given)
        if node.op_type == "Squeeze":
            return array.squeeze(sizes)
        if node.op_type == "Unsqueeze":
            return np.expand_dims(array, sizes)
        if not attributes.get("allowzero"):
            sizes = tuple(array.shape[axis] if size == 0 else size for axis, size in enumerate(sizes))
        return array.reshape(sizes)
    return array


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.int64]]:
    """Integer constants that lie in the file itself: sizes and axes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor).ravel()
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.INT64 and not tensor.external_data
    }
