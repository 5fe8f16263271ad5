"""Bytes of a model: whole, without its weights, counted, and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
from numpy.typing import NDArray

#: Arrays of these types can be handed to a runtime from memory; packed 4- and 2-bit ones stay inside the model.
_SHAREABLE = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32})
_PLACE = "weights"
#: Initializers of a model with external data that are smaller stay inside; shapes and axes must.
_EXTERNAL_BYTES = 1024
#: What ONNX Runtime maps into memory starts at a multiple of this.
_PAGE = 4096
_HASH_KEY = "autocompress.sha256"
_SPARSE_KEY = "autocompress.sparse"


def to_bytes(model: ir.Model) -> bytes:
    """The serialized model, weights included; the same bytes for the same model."""
    proto = ir.to_proto(model)
    marked = {name for name, value in model.graph.initializers.items() if value.meta.get(_SPARSE_KEY)}
    if marked:
        dense = list(proto.graph.initializer)
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(tensor for tensor in dense if tensor.name not in marked)
        proto.graph.sparse_initializer.extend(_sparse(tensor) for tensor in dense if tensor.name in marked)
    return bytes(proto.SerializeToString(deterministic=True))


def mark_sparse(value: ir.Value) -> None:
    """Let a file hold an initializer as an ONNX sparse tensor: values and int64 places, 12 bytes a float32."""
    value.meta[_SPARSE_KEY] = True


def has_sparse(model: ir.Model) -> bool:
    """Whether an initializer was marked by :func:`mark_sparse`."""
    return any(value.meta.get(_SPARSE_KEY) for value in model.graph.initializers.values())


def densify(proto: onnx.ModelProto) -> None:
    """Turn sparse initializers into dense ones, in place; their indices are places in the flat array."""
    for tensor in proto.graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(tensor.values)
        places = onnx.numpy_helper.to_array(tensor.indices)
        dense = np.zeros(tuple(tensor.dims), values.dtype)
        if places.ndim == 2:
            dense[tuple(places.T)] = values
        else:
            dense.reshape(-1)[places] = values
        proto.graph.initializer.append(onnx.numpy_helper.from_array(dense, tensor.values.name))
    del proto.graph.sparse_initializer[:]


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    array = onnx.numpy_helper.to_array(tensor)
    places = np.flatnonzero(array)
    return onnx.SparseTensorProto(
        values=onnx.numpy_helper.from_array(array.reshape(-1)[places], tensor.name),
        indices=onnx.numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}_places"),
        dims=list(array.shape),
    )


def write_external(model: ir.Model, model_file: BinaryIO, data_file: BinaryIO, location: str) -> None:
    """Write a model of any size: larger initializers one after the other in a data file, the rest as a model.

    Args:
        model: none of its initializers is marked sparse.
        model_file: gets the serialized model.
        data_file: gets the weights; each starts at a page, so that a runtime can map it.
        location: name of the data file, beside the model.

    Raises:
        ValueError: what stays inside is past protobuf's limit.
    """
    proto, taken = to_skeleton(model, _EXTERNAL_BYTES, kinds=None)
    place = 0
    for initializer in proto.graph.initializer:
        tensor = taken.get(initializer.name)
        if tensor is None:
            continue
        gap = -place % _PAGE
        data_file.write(bytes(gap))
        data_file.write(memoryview(_raw(tensor)).cast("B"))
        place += gap
        del initializer.external_data[:]
        for key, item in (("location", location), ("offset", place), ("length", tensor.nbytes)):
            initializer.external_data.add(key=key, value=str(item))
        place += tensor.nbytes
    model_file.write(proto.SerializeToString(deterministic=True))


def _raw(tensor: ir.TensorProtocol) -> Any:
    """A tensor's bytes as a file holds them; packed types hold several elements in one."""
    if tensor.dtype in _SHAREABLE:
        return contiguous(tensor.numpy()).reshape(-1).view(np.uint8)
    return tensor.tobytes()


def to_skeleton(
    model: ir.Model, min_bytes: int, *, kinds: frozenset[ir.DataType] | None = _SHAREABLE
) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model with its larger initializers as external placeholders.

    Args:
        model: stays as it is; nothing copies its weights.
        min_bytes: smaller initializers stay inside.
        kinds: element types of those that go; None for all.

    Returns:
        The skeleton, and the tensors taken out, by name.
    """
    taken: dict[str, ir.TensorProtocol] = {}
    shown: list[ir.Value] = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < min_bytes or (kinds is not None and tensor.dtype not in kinds):
            shown.append(value)
        else:
            taken[name] = tensor
            shown.append(_placeholder(value, tensor))
    graph = model.graph
    # A view of the same nodes: a clone of a quantized network takes as long as serializing it.
    view = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=graph,
        initializers=shown,
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    seen = ir.Model(
        cast(ir.Graph, view),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=tuple(model.functions.values()),
        metadata_props=model.metadata_props,
        device_configurations=model.device_configurations,
    )
    return ir.to_proto(seen), taken


def _placeholder(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    external = ir.ExternalTensor(
        location=_PLACE, offset=0, length=tensor.nbytes, dtype=tensor.dtype, shape=_fixed(tensor), name=str(value.name)
    )
    shown = ir.Value(
        name=value.name,
        shape=value.shape,
        type=value.type,
        doc_string=value.doc_string,
        const_value=external,
        metadata_props=value.metadata_props,
    )
    shown.meta.update(value.meta)
    return shown


def _fixed(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def file_size(proto: onnx.ModelProto, taken: Mapping[str, ir.TensorProtocol]) -> int:
    """Bytes that :func:`to_bytes` gives for the model of a skeleton, counted without serializing the weights.

    A length-delimited protobuf field takes one byte for its tag (field numbers below 16), the length as a varint, and
    its content (https://protobuf.dev/programming-guides/encoding).
    """
    whole = int(proto.graph.ByteSize())
    for initializer in proto.graph.initializer:
        if initializer.name not in taken:
            continue
        size = initializer.ByteSize()
        # What says that the weight lies elsewhere goes: entries of a map, and a number in two bytes.
        bare = size - sum(_field(entry.ByteSize()) for entry in initializer.external_data) - 2
        whole += _field(bare + _field(taken[initializer.name].nbytes)) - _field(size)
    rest = int(proto.ByteSize()) - _field(proto.graph.ByteSize())
    return rest + _field(whole)


def _field(content: int) -> int:
    return 1 + _varint(content) + content


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def digest(proto: onnx.ModelProto, taken: Mapping[str, ir.TensorProtocol]) -> str:
    """Digest of a skeleton and the weights taken out, 16 hexadecimal digits, the same in every process."""
    state = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for name in sorted(taken):
        state.update(name.encode())
        state.update(_tensor_digest(taken[name]))
    return state.hexdigest()[:16]


def _tensor_digest(tensor: ir.TensorProtocol) -> bytes:
    """Kept at the tensor: graphs share tensors, so most weights of a candidate are hashed once a run."""
    known = tensor.meta.get(_HASH_KEY)
    if isinstance(known, bytes):
        return known
    found = hashlib.sha256(contiguous(tensor.numpy()).reshape(-1).view(np.uint8).data).digest()
    tensor.meta[_HASH_KEY] = found
    return found


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order, itself where it is so already; a scalar stays one (`np.ascontiguousarray` adds an axis)."""
    return np.asarray(array, order="C")
