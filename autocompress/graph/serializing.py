"""Bytes of a model: whole, without its weights, counted, and hashed."""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.graph.tensors import contiguous
from autocompress.graph.wire import PLAIN_TYPES, Written, raw_bytes, write

#: Initializers of a model with external data that are smaller stay inside; shapes and axes must.
_EXTERNAL_BYTES = 1024
#: What ONNX Runtime maps into memory starts at a multiple of this.
_PAGE = 4096
#: Protobuf's limit for one message.
MAX_BYTES = 2**31 - 1
_HASH_KEY = "autocompress.sha256"
_SPARSE_KEY = "autocompress.sparse"


def to_bytes(model: ir.Model) -> bytes:
    """The serialized model, weights included; the same bytes for the same model."""
    return write(model, sparse=_marked).joined()


def _marked(value: ir.Value) -> onnx.SparseTensorProto | None:
    tensor = value.const_value
    if not value.meta.get(_SPARSE_KEY) or tensor is None:
        return None
    return _sparse(contiguous(tensor.numpy()), str(value.name))


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


def _sparse(array: NDArray[Any], name: str) -> onnx.SparseTensorProto:
    places = np.flatnonzero(array)
    return onnx.SparseTensorProto(
        values=onnx.numpy_helper.from_array(array.reshape(-1)[places], name),
        indices=onnx.numpy_helper.from_array(places.astype(np.int64), f"{name}_places"),
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
    offsets, end = [], 0

    def place(size: int) -> tuple[str, int]:
        nonlocal end
        offsets.append(end + -end % _PAGE)
        end = offsets[-1] + size
        return location, offsets[-1]

    written = write(model, outside=lambda tensor, size: size >= _EXTERNAL_BYTES, place=place)
    skeleton = written.joined()
    if len(skeleton) > MAX_BYTES:
        raise ValueError(
            f"What stays in the model takes {len(skeleton):,} bytes, but a .onnx file holds {MAX_BYTES:,}."
        )
    for offset, tensor in zip(offsets, written.taken.values(), strict=True):
        data_file.write(bytes(offset - data_file.tell()))
        data_file.write(raw_bytes(tensor))
    model_file.write(skeleton)


def to_skeleton(model: ir.Model, min_bytes: int) -> Written:
    """The model with its larger initializers as external placeholders.

    Args:
        model: stays as it is; nothing copies its weights.
        min_bytes: smaller initializers stay inside, and packed ones, which no runtime takes from memory.
    """
    return write(model, outside=lambda tensor, size: size >= min_bytes and tensor.dtype in PLAIN_TYPES)


def digest(skeleton: Written) -> str:
    """Digest of a skeleton and the weights taken out, 16 hexadecimal digits, the same in every process."""
    state = hashlib.sha256(skeleton.joined())
    for name in sorted(skeleton.taken):
        state.update(name.encode())
        state.update(_tensor_digest(skeleton.taken[name]))
    return state.hexdigest()[:16]


def _tensor_digest(tensor: ir.TensorProtocol) -> bytes:
    """Kept at the tensor: graphs share tensors, so most weights of a candidate are hashed once a run."""
    known = tensor.meta.get(_HASH_KEY)
    if isinstance(known, bytes):
        return known
    found = hashlib.sha256(contiguous(tensor.numpy()).reshape(-1).view(np.uint8).data).digest()
    tensor.meta[_HASH_KEY] = found
    return found
