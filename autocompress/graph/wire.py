"""Models in protobuf's wire format, written field by field.

Every candidate of a search is serialized. An object for each node, value and constant takes most of that time; here a
graph is a row of length-delimited fields, and what is unusual is written by onnx_ir and put in as it is
(https://protobuf.dev/programming-guides/encoding; the numbers of fields are those of onnx.proto).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import serde

from autocompress.graph.cloning import model_around
from autocompress.graph.tensors import contiguous

#: Arrays of these types lie in memory as in a file; packed 4- and 2-bit ones do not.
PLAIN_TYPES = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32}
)
#: Where a placeholder says that its weight lies.
_PLACE = "weights"
#: Their outputs have the shape of what they read, and their types follow from an attribute or a constant.
_SHAPE_KEEPING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
#: As onnx_ir keeps an annotation of a value that was read from a file.
_ANNOTATION = "quant_parameter_tensor_names"
_EXTERNAL = 1
Part = bytes | memoryview
#: A size as a file says it: a number, a name, or nothing.
_Dimension = int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A serialized model.

    Args:
        parts: its bytes, in order.
        taken: initializers that stand in it as external placeholders, by name.
        file_bytes: that it would have with them inside.
    """

    parts: list[Part]
    taken: dict[str, ir.TensorProtocol]
    file_bytes: int

    def joined(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.parts)


def write(
    model: ir.Model,
    *,
    outside: Callable[[ir.TensorProtocol, int], bool] | None = None,
    place: Callable[[int], tuple[str, int]] = lambda size: (_PLACE, 0),
    sparse: Callable[[ir.Value], onnx.SparseTensorProto | None] | None = None,
) -> Written:
    """Serialize a model: the same bytes for the same model.

    Types and shapes of initializers are not repeated, nor those of what QuantizeLinear, DequantizeLinear and Cast write
    where the shape of what they read is known: 4% of the file of the demo in int8.

    Args:
        model: stays as it is.
        outside: whether an initializer of so many bytes is left out; its placeholder says type, sizes and bytes. None
            leaves none out.
        place: name of the file and offset that the placeholder of so many bytes gives.
        sparse: the form in which an initializer is kept; None for the usual one.
    """
    graph = model.graph
    head, graph_head = _head(model)
    nodes: list[Part] = []
    infos: list[Part] = [_bytes(14, found) for found in _annotations(graph)]
    for node in graph:
        nodes.append(_bytes(1, _node(node)))
        told = (v for v in node.outputs if v.name and not (v.is_graph_output() or _is_bare(v) or _is_evident(v)))
        infos.extend(_bytes(13, _value(value)) for value in told)
    weights: list[Part] = []
    taken: dict[str, ir.TensorProtocol] = {}
    left_out = 0
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if (value.metadata_props or value.doc_string) and not value.is_graph_input():
            infos.append(_bytes(13, _value(value)))
        if tensor is None:
            continue
        special = None if sparse is None else sparse(value)
        if special is not None:
            weights.append(_bytes(15, special.SerializeToString(deterministic=True)))
            continue
        # A note on a tensor stays with it.
        noted = bool(tensor.doc_string or tensor.metadata_props)
        size = 0 if outside is None else tensor.nbytes
        if outside is not None and not noted and outside(tensor, size):
            taken[name] = tensor
            bare = _tensor_head(name, tensor)
            weights.append(_bytes(5, bare + _external(size, *place(size))))
            left_out += _field_size(len(bare) + _field_size(size)) - len(weights[-1])
        else:
            weights.extend(_tensor_field(name, tensor))
    body = [*nodes, graph_head, *weights, *infos]
    size = sum(map(len, body))
    whole = len(head) + _field_size(size + left_out)
    return Written(parts=[head, b"\x3a", _varint(size), *body], taken=taken, file_bytes=whole)


def _head(model: ir.Model) -> tuple[bytes, bytes]:
    """What of a model, and of its graph, is neither node nor initializer."""
    graph = model.graph
    # A view: the graph's own inputs and outputs, and none of its nodes.
    view = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=(),
        initializers=(),
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    proto = ir.to_proto(model_around(view, model))
    # Written with the others.
    del proto.graph.quantization_annotation[:]
    found = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    return bytes(proto.SerializeToString(deterministic=True)), bytes(found)


def _annotations(graph: ir.Graph) -> Iterator[bytes]:
    """What a file that was read said of the scales and zero points of its values."""
    values: Iterable[ir.Value] = dict.fromkeys((*graph.inputs, *graph.initializers.values(), *_outputs(graph)))
    for value in values:
        entries = value.meta.get(_ANNOTATION) if value.meta else None
        if entries:
            found = onnx.TensorAnnotation(tensor_name=value.name)
            for key, item in entries.items():
                found.quant_parameter_tensor_names.add(key=key, value=item)
            yield bytes(found.SerializeToString(deterministic=True))


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs


def _is_bare(value: ir.Value) -> bool:
    return value.shape is None and value.type is None and not value.metadata_props and not value.doc_string


def _is_evident(value: ir.Value) -> bool:
    """Whether any reader infers a value's type and shape from the node that writes it."""
    node = value.producer()
    if node is None or node.op_type not in _SHAPE_KEEPING or node.domain or value.metadata_props or value.doc_string:
        return False
    source = node.inputs[0]
    return source is not None and source.shape is not None


def _node(node: ir.Node) -> bytes:
    if node.doc_string or node.metadata_props or node.overload or node.device_configurations:
        return bytes(serde.serialize_node(node).SerializeToString(deterministic=True))
    parts: list[bytes] = []
    for value in node.inputs:
        parts += (b"\x0a", _text("" if value is None else _name(value)))
    outputs = [value.name or "" for value in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    for name in outputs:
        parts += (b"\x12", _text(name))
    if node.name:
        parts += (b"\x1a", _text(node.name))
    parts += (b"\x22", _text(node.op_type))
    for attribute in node.attributes.values():
        parts.append(_bytes(5, _attribute(attribute)))
    if node.domain:
        parts += (b"\x3a", _text(node.domain))
    return b"".join(parts)


def _name(value: ir.Value) -> str:
    if value.name is None:
        raise ValueError(f"{value} has no name, by which a file could tell it from an input that is left out.")
    return value.name


def _attribute(attribute: ir.Attr) -> bytes:
    kind, value = attribute.type, attribute.value
    if attribute.is_ref() or attribute.doc_string:
        pass
    elif kind == ir.AttributeType.INT:
        return _plain_attribute(attribute.name, int(value))
    elif kind == ir.AttributeType.INTS:
        return _plain_attribute(attribute.name, tuple(value))
    elif kind == ir.AttributeType.FLOAT:
        return _float_attribute(attribute.name, float(value))
    write_as = serde.serialize_reference_attribute if attribute.is_ref() else serde.serialize_attribute
    return bytes(write_as(attribute).SerializeToString(deterministic=True))


@lru_cache(maxsize=1 << 12)
def _plain_attribute(name: str, value: int | tuple[int, ...]) -> bytes:
    start, kind = b"\x0a" + _text(name), ir.AttributeType.INT if isinstance(value, int) else ir.AttributeType.INTS
    end = b"\xa0\x01" + _varint(int(kind))
    if isinstance(value, int):
        return start + b"\x18" + _varint(value) + end
    return b"".join([start, *(b"\x40" + _varint(int(item)) for item in value), end])


def _float_attribute(name: str, value: float) -> bytes:
    # As protobuf does it, what is past float32's range is infinite.
    with np.errstate(over="ignore"):
        number = np.asarray(value, "<f4").tobytes()
    return b"\x0a" + _text(name) + b"\x15" + number + b"\xa0\x01" + _varint(int(ir.AttributeType.FLOAT))


def _value(value: ir.Value) -> bytes:
    plain = type(value.type) is ir.TensorType and not value.type.denotation
    if not plain or value.metadata_props or value.doc_string:
        return bytes(serde.serialize_value(value).SerializeToString(deterministic=True))
    assert value.type is not None
    kind, shape = int(value.type.dtype), value.shape
    if shape is None:
        found = _bytes(2, _bytes(1, b"\x08" + _varint(kind)))
    else:
        dims = tuple(size if isinstance(size, int) else size.value for size in shape)
        found = _type_field(kind, dims, tuple(shape.get_denotation(axis) for axis in range(len(dims))))
    return b"\x0a" + _text(value.name or "") + found


@lru_cache(maxsize=1 << 12)
def _type_field(kind: int, dims: tuple[_Dimension, ...], denotations: tuple[str | None, ...]) -> bytes:
    """The type of a value. Many have the same sizes."""
    found = []
    for size, denotation in zip(dims, denotations, strict=True):
        one = b"" if size is None else b"\x12" + _text(size) if isinstance(size, str) else b"\x08" + _varint(size)
        found.append(_bytes(1, one + (b"\x1a" + _text(denotation) if denotation else b"")))
    return _bytes(2, _bytes(1, b"\x08" + _varint(kind) + _bytes(2, b"".join(found))))


def _tensor_field(name: str, tensor: ir.TensorProtocol) -> list[Part]:
    """An initializer as one field of a graph; a large array is not copied."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.Tensor(
            tensor.numpy(),
            dtype=tensor.dtype,
            name=name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    if isinstance(tensor, ir.StringTensor | ir.TensorProtoTensor) or tensor.doc_string or tensor.metadata_props:
        # The name that counts is the value's.
        tensor.name = name
        return [_bytes(5, serde.serialize_tensor(tensor).SerializeToString(deterministic=True))]
    head, raw = _tensor_head(name, tensor), raw_bytes(tensor)
    size = len(raw)
    return [b"\x2a" + _varint(len(head) + _field_size(size)) + head + b"\x4a" + _varint(size), raw]


def raw_bytes(tensor: ir.TensorProtocol) -> Part:
    """A tensor's bytes as a file holds them; packed types hold several elements in one."""
    if tensor.dtype not in PLAIN_TYPES:
        return tensor.tobytes()
    return contiguous(tensor.numpy()).reshape(-1).view(np.uint8).data


def _tensor_head(name: str, tensor: ir.TensorProtocol) -> bytes:
    return _sizes_and_type(tuple(tensor.shape.numpy()), int(tensor.dtype)) + b"\x42" + _text(name)


@lru_cache(maxsize=1 << 12)
def _sizes_and_type(sizes: tuple[int, ...], kind: int) -> bytes:
    return b"".join(b"\x08" + _varint(int(size)) for size in sizes) + b"\x10" + _varint(kind)


@lru_cache(maxsize=1 << 10)
def _external(nbytes: int, location: str, offset: int) -> bytes:
    """What says that a weight lies elsewhere."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(nbytes)))
    found = (_bytes(13, b"\x0a" + _text(key) + b"\x12" + _text(value)) for key, value in entries)
    return b"".join(found) + b"\x70" + _varint(_EXTERNAL)


@lru_cache(maxsize=1 << 15)
def _text(text: str) -> bytes:
    """A string behind its length. Candidates of a search have most names in common."""
    data = text.encode()
    return _varint(len(data)) + data


def _bytes(number: int, content: bytes) -> bytes:
    """A field of bytes or of a message; its number is below 16."""
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _field_size(content: int) -> int:
    return 1 + len(_varint(content)) + content


def _varint(number: int) -> bytes:
    if 0 <= number < 128:
        return _SMALL[number]
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"{number} does not fit into the 64 bits of an ONNX file.")
    # A negative number stands as its two's complement in 64 bits.
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL = [bytes((number,)) for number in range(128)]
