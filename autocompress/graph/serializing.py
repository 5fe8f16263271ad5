"""Bytes of a model: whole, without its weights, counted, and hashed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

#: Arrays of these types can be handed to a runtime from memory; packed 4- and 2-bit ones stay inside the model.
_SHAREABLE = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32})
_PLACE = "weights"
_HASH_KEY = "autocompress.sha256"


def to_bytes(model: ir.Model) -> bytes:
    """The serialized model, weights included; the same bytes for the same model."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def to_skeleton(model: ir.Model, min_bytes: int) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model with its larger initializers as external placeholders.

    Args:
        model: stays as it is; nothing copies its weights.
        min_bytes: smaller initializers stay inside.

    Returns:
        The skeleton, and the tensors taken out, by name.
    """
    taken: dict[str, ir.TensorProtocol] = {}
    copy = model.clone()
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < min_bytes or tensor.dtype not in _SHAREABLE:
            continue
        taken[name] = tensor
        value.const_value = ir.ExternalTensor(
            location=_PLACE, offset=0, length=tensor.nbytes, dtype=tensor.dtype, shape=_fixed(tensor), name=name
        )
    return ir.to_proto(copy), taken


def _fixed(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def file_size(model: ir.Model) -> int:
    """Bytes that :func:`to_bytes` gives, counted without serializing the weights.

    A length-delimited protobuf field takes one byte for its tag (field numbers below 16), the length as a varint, and
    its content (https://protobuf.dev/programming-guides/encoding).
    """
    proto, taken = to_skeleton(model, min_bytes=256)
    whole = int(proto.graph.ByteSize())
    for initializer in proto.graph.initializer:
        if initializer.name not in taken:
            continue
        whole -= _field(initializer.ByteSize())
        initializer.ClearField("external_data")
        initializer.ClearField("data_location")
        whole += _field(initializer.ByteSize() + _field(taken[initializer.name].nbytes))
    rest = int(proto.ByteSize()) - _field(proto.graph.ByteSize())
    return rest + _field(whole)


def _field(content: int) -> int:
    return 1 + _varint(content) + content


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def digest(model: ir.Model) -> str:
    """Digest of structure and weights, 16 hexadecimal digits, the same in every process."""
    proto, taken = to_skeleton(model, min_bytes=256)
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
