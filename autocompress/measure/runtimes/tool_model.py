"""What a vendor's tool must be told of a model file: which precisions it computes in, which input an ncnn net has."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from autocompress.core.errors import ModelError
from autocompress.core.tool import READS, ToolCommand
from autocompress.measure.transports.agent_link import Part

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
#: Nodes that may read a float16 initializer without computing in float16.
_READERS = ("Cast", "DequantizeLinear")
_NCNN_INPUT = re.compile(r"^Input\s+\S+\s+0\s+1\s+\S+(?P<parameters>.*)$", re.MULTILINE)


def check_readable(path: str | Path, tool: ToolCommand) -> None:
    """Refuse a file of another kind than a tool reads.

    Raises:
        ModelError: it is one.
    """
    suffixes = READS[tool.reads]
    if Path(path).suffix.lower() not in suffixes:
        kinds = " and ".join(suffixes)
        raise ModelError(f"{tool.argv[0]} reads {kinds} files, but got {str(path)!r}: convert it first.")


def precision_arguments(model: Part, tool: ToolCommand, *, sparse: bool) -> tuple[str, ...]:
    """Arguments that a tool needs to compute in no other precisions than a model does.

    Args:
        model: a serialized model or its file.
        tool: knows its arguments.
        sparse: whether the hardware has kernels for 2:4 sparse weights.
    """
    found = tool.two_to_four if sparse else ()
    if tool.reads == "onnx" and (tool.fp16 or tool.int8):
        half, quantized = precisions_in(model)
        found += (tool.fp16 if half else ()) + (tool.int8 if quantized else ())
    return found


def precisions_in(model: Part) -> tuple[bool, bool]:
    """Whether an ONNX model computes in float16, and whether it has quantized layers.

    Weights that are only kept in float16 and are cast back do not count.
    """
    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load(model, load_external_data=False)
    except (DecodeError, ValueError, OSError):
        # Whoever runs it says what is wrong with it.
        return False, False
    graph, half = proto.graph, onnx.TensorProto.FLOAT16
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type == half}
    edges = [*graph.input, *graph.output]
    computes = (
        any(value.type.tensor_type.elem_type == half for value in edges)
        or any(node.op_type not in _READERS and stored & set(node.input) for node in graph.node)
        or any(node.op_type == "Cast" and a.name == "to" and a.i == half for node in graph.node for a in node.attribute)
    )
    return computes, any(node.op_type in _QUANTIZED for node in graph.node)


def ncnn_shape(model: Part) -> str:
    """The input of an ncnn network as ``[width,height,channels]``, from the first ``Input`` layer of its ``.param``.

    Raises:
        ModelError: the file does not tell.
    """
    text = (model if isinstance(model, bytes) else model.read_bytes()).decode("utf-8", "replace")
    line = _NCNN_INPUT.search(text)
    sizes = dict(re.findall(r"(?<=\s)([012])=(\d+)", line["parameters"])) if line else {}
    if not sizes:
        raise ModelError("The .param file does not tell its input: its Input layer needs 0=width 1=height 2=channels.")
    return "[" + ",".join(sizes[key] for key in sorted(sizes)) + "]"
