"""Bring models that compute in float64 or bfloat16 to float32, which is what compression reads and CPUs run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from autocompress.core.errors import ModelError
from autocompress.graph.quiet import first_line

#: Key of ``ir.Model.meta`` under which a graph remembers what was changed on import, one sentence each.
NOTES = "autocompress.notes"
#: Largest difference that float32 may make to an output, relative to its largest value.
TOLERANCE = 1e-3
_FLOAT = ir.DataType.FLOAT
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
#: Attributes that name an element type.
_TYPED = ("to", "dtype", "output_dtype")


def to_float32(model: ir.Model) -> None:
    """Make a model whose inputs, activations or layers are float64 or bfloat16 a float32 one, in place.

    A bfloat16 is a float32 with fewer digits, so nothing is lost; ONNX Runtime's CPU provider has kernels for few of
    its operators. A float64 model runs both ways on noise first. Inputs and outputs become float32 too. A float64
    computation between two Casts, without weights of a layer, stays as it is.

    Raises:
        ModelError: float64 outputs differ by more than :data:`TOLERANCE`, with the first node that does, or cannot be
            compared.
    """
    if _computes(model, ir.DataType.BFLOAT16):
        _convert(model, ir.DataType.BFLOAT16)
        _note(model, "computed in bfloat16, which few CPU kernels take: it is float32 here, its weights unchanged")
    if _computes_doubles(model):
        before = model.clone()
        _convert(model, ir.DataType.DOUBLE)
        _compare(before, model)
        _note(model, f"computed in float64: it is float32 here, its outputs on noise within {TOLERANCE:g}")


def notes(model: ir.Model) -> tuple[str, ...]:
    """What was changed on import, one sentence each."""
    return tuple(model.meta.get(NOTES, ()))


def _note(model: ir.Model, text: str) -> None:
    model.meta[NOTES] = (*notes(model), f"The model {text}.")


def _computes(model: ir.Model, kind: ir.DataType) -> bool:
    if any(value.dtype == kind for value in model.graph.inputs):
        return True
    held = {value for value in model.graph.initializers.values() if _kind(value) == kind}
    return any(
        (value in held and node.op_type != "Cast") or _makes(node, kind)
        for node in model.graph.all_nodes()
        for value in (*node.inputs, None)
    )


def _computes_doubles(model: ir.Model) -> bool:
    """Whether a layer computes in float64, or an input is; a detour through it somewhere else is the model's own."""
    kind = ir.DataType.DOUBLE
    if any(value.dtype == kind for value in model.graph.inputs if not value.is_initializer()):
        return True
    return any(
        node.op_type in _WEIGHTED and any(v is not None and _kind(v) == kind for v in node.inputs)
        for node in model.graph.all_nodes()
    )


def _kind(value: ir.Value) -> ir.DataType | None:
    if value.const_value is not None:
        return value.const_value.dtype
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        held = producer.attributes.get("value")
        return held.as_tensor().dtype if held is not None else None
    return value.dtype


def _makes(node: ir.Node, kind: ir.DataType) -> bool:
    """Whether a Cast or a constant brings values to a type."""
    if any(name in node.attributes and node.attributes[name].value == int(kind) for name in _TYPED):
        return True
    held = node.attributes.get("value")
    return held is not None and held.type == ir.AttributeType.TENSOR and held.as_tensor().dtype == kind


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield from attribute.as_graphs()


def _convert(model: ir.Model, kind: ir.DataType) -> None:
    for graph in _graphs(model):
        for value in (*graph.inputs, *graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype == kind:
                value.const_value = _single(value.const_value, str(value.name))
                value.type = ir.TensorType(_FLOAT)
            _retype(value, kind)
        for node in graph:
            for value in node.outputs:
                _retype(value, kind)
            for name in _TYPED:
                if name in node.attributes and node.attributes[name].value == int(kind):
                    node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))
            held = node.attributes.get("value")
            if held is not None and held.type == ir.AttributeType.TENSOR and held.as_tensor().dtype == kind:
                node.attributes["value"] = ir.AttrTensor("value", _single(held.as_tensor(), str(node.name)))


def _retype(value: ir.Value, kind: ir.DataType) -> None:
    if value.dtype == kind:
        value.type = ir.TensorType(_FLOAT)


def _single(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    array = tensor.numpy()
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if np.isinf(single).sum() > np.isinf(array).sum():
        raise ModelError(f"{name!r} holds {np.abs(array).max():.4g}, but float32 ends at 3.4e38.")
    return ir.Tensor(single, name=tensor.name)


def _compare(before: ir.Model, after: ir.Model) -> None:
    inputs = [value for value in before.graph.inputs if not value.is_initializer()]
    if any(value.shape is None for value in inputs):
        return
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[np.float64]] = {}
    for value in inputs:
        assert value.shape is not None
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        kind = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        feeds[str(value.name)] = (rng.normal(size=shape) if kind.kind == "f" else np.zeros(shape)).astype(kind)
    try:
        wanted = _run(before, feeds)
    except Exception:  # it lacks float64 kernels, such as Conv's; ONNX's slow reference has them all
        try:
            wanted = _run(before, feeds, slowly=True)
        except Exception as error:  # numpy's and ONNX's own kinds
            raise ModelError(
                f"The model computes in float64 and cannot be run so ({first_line(error, 160)}); convert it to float32 "
                "first (`model.float()`)."
            ) from error
    given = _run(after, {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in feeds.items()})
    for name, found in given.items():
        exact = np.asarray(wanted[name], np.float64)
        limit = TOLERANCE * max(float(np.abs(exact).max(initial=0.0)), 1e-30)
        difference = float(np.abs(exact - found).max(initial=0.0))
        if not difference <= limit:
            node = next(node for node in after.graph if any(v.name == name for v in node.outputs))
            raise ModelError(
                f"The model needs float64: in float32, node {node.name!r} ({node.op_type}) gives results that differ "
                f"by {difference:.3g}, over {TOLERANCE:g} of the largest; convert it to float32 in its own framework."
            )


def _run(
    model: ir.Model, feeds: dict[str, NDArray[np.float64]], *, slowly: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Every float that the model computes, by name, in topological order."""
    proto = ir.to_proto(model)
    shown = {value.name for value in proto.graph.output}
    names = [str(value.name) for node in model.graph for value in node.outputs if value.name]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    if slowly:
        return _floats(names, list(onnx.reference.ReferenceEvaluator(proto).run(names, feeds)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _floats(names, session.run(names, feeds))


def _floats(names: list[str], results: Sequence[object]) -> dict[str, NDArray[np.float64]]:
    arrays = {n: np.asarray(found) for n, found in zip(names, results, strict=True) if not isinstance(found, list)}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
