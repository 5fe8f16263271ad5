"""Bring any imported model into the one form that the rest of the package reads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from autocompress.core.errors import ModelError
from autocompress.graph.batch_sizes import fix_batch_free_sizes
from autocompress.graph.float_types import to_float32
from autocompress.graph.folding import fix_reshapes, fold
from autocompress.graph.merged_axes import split_merged_axes
from autocompress.graph.quiet import first_line, quiet
from autocompress.graph.shapes import BATCH, infer_shapes, name_batch_axis, structure

__all__ = ["BATCH", "OPSET", "normalize"]

#: Oldest operator set that later stages are written for: INT4 and per-axis quantization need 21, and that IR 10.
OPSET = 21
MIN_IR_VERSION = 10
#: Newest that ONNX Runtime 1.31 reads. The onnx package is ahead of it: what it writes by default has to come down.
MAX_OPSET = 26
MAX_IR_VERSION = 13
#: Oldest operator set that onnxscript converts; it says nothing of what it leaves unconverted in older ones.
_SCRIPT_OPSET = 18
#: What ONNX's converter says where it asks for the number of an open size.
_OPEN_SIZE = "Dimension is a param instead of an int"
#: Domains whose operators ONNX Runtime knows without a library of the user's own.
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_STANDARD = ("", "ai.onnx")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


def normalize(model: ir.Model) -> ir.Model:
    """Normalize: one operator set, constants folded, BatchNormalization kept, every value with a shape.

    What computes in float64 or bfloat16 becomes float32 (:mod:`autocompress.graph.float_types`). Control flow whose
    condition is constant is folded; other control flow stays as it is.

    Args:
        model: it is used up; go on with what is returned.

    Raises:
        ModelError: an unknown operator domain, training mode, or a type, size or weight that cannot be used.
    """
    outputs = [str(value.name) for value in model.graph.outputs]
    with quiet():
        _run(model, passes.InlinePass(), passes.RemoveInitializersFromInputsPass(), passes.TopologicalSortPass())
        _check_domains(model)
        _check_values(model.graph)
        to_float32(model)
        model = _convert_opset(model)
        _run(model, passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0))
        name_batch_axis(model)
        _check_inputs(model.graph)
        _drop_dropout(model.graph)
        fold(model)
        _tidy(model)
        _check_operators(model.graph)
        infer_shapes(model)
        while fix_batch_free_sizes(model) or fix_reshapes(model.graph):
            _tidy(model)
            infer_shapes(model)
        if split_merged_axes(model.graph):
            _tidy(model)
    _restore_outputs(model.graph, outputs)
    _part_outputs(model.graph)
    _name_nodes(model.graph)
    _own_weights(model.graph)
    _check_weights(model.graph)
    model.ir_version = min(max(model.ir_version, MIN_IR_VERSION), MAX_IR_VERSION)
    return model


def _run(model: ir.Model, *steps: ir.passes.PassBase) -> None:
    for step in steps:
        step(model)


def _tidy(model: ir.Model) -> None:
    _run(
        model,
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    )


def _restore_outputs(graph: ir.Graph, names: list[str]) -> None:
    """Give outputs their names back: where two outputs are one value, removing Identity leaves one name for both."""
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if value.name == name:
            continue
        identity = ir.node("Identity", [value])
        identity.outputs[0].name = name
        identity.outputs[0].shape = value.shape
        identity.outputs[0].type = value.type
        graph.append(identity)
        graph.outputs[index] = identity.outputs[0]


def _part_outputs(graph: ir.Graph) -> None:
    """Let no subgraph give out one value twice or one of the graph around it, as it does where Identity went.

    ONNX Runtime mixes the two up; the other is no valid model.
    """
    for inner in graph.subgraphs():
        own = {*inner.inputs, *inner.initializers.values(), *(v for node in inner for v in node.outputs)}
        seen = {value for value in inner.outputs if value not in own}
        for index, value in enumerate(inner.outputs):
            if value in seen:
                identity = ir.node("Identity", [value])
                identity.outputs[0].name = f"{value.name}.{index}"
                identity.outputs[0].shape = value.shape
                identity.outputs[0].type = value.type
                inner.append(identity)
                inner.outputs[index] = identity.outputs[0]
            seen.add(value)


def _check_domains(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in KNOWN_DOMAINS:
            raise ModelError(
                f"Node {node.name!r} is the custom operator {node.domain}::{node.op_type}, which ONNX Runtime does not "
                "know; replace it by standard ONNX operators."
            )


def _check_values(graph: ir.Graph) -> None:
    """Refuse a graph that reads what nothing makes: onnx_ir loads it, and every later stage would trip over it."""
    inputs = set(graph.inputs)
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in inputs and not value.is_initializer():
                raise ModelError(f"Node {node.name!r} ({node.op_type}) reads {value.name!r}, which nothing makes.")


def _check_inputs(graph: ir.Graph) -> None:
    if not graph.inputs:
        raise ModelError("The model has no inputs.")
    for value in graph.inputs:
        if value.shape is None or value.dtype is None:
            raise ModelError(f"Input {value.name!r} has no type or shape.")
        if 0 in value.shape:
            sizes = tuple(size if isinstance(size, int) else "?" for size in value.shape)
            raise ModelError(f"Input {value.name!r} is empty: its shape is {sizes}; every size must be at least 1.")
        if value.dtype == ir.DataType.STRING:
            raise ModelError(f"Input {value.name!r} is text; numbers are needed.")


def _check_operators(graph: ir.Graph) -> None:
    """Refuse what trains, and layers without weights; control flow stays: channel analysis stops at it."""
    for node in graph.all_nodes():
        if node.domain not in _STANDARD:
            continue
        held = node.inputs[1] if node.op_type in _WEIGHTED else None
        weight = held.const_value if held is not None else None
        if held is not None and weight is not None and 0 in weight.shape.numpy():
            raise ModelError(
                f"Node {node.name!r} ({node.op_type}) has the empty weight {held.name!r} of shape "
                f"{tuple(weight.shape.numpy())}; every size must be at least 1."
            )
        if node.op_type == "BatchNormalization" and _is_set(node, "training_mode"):
            raise ModelError(f"Node {node.name!r} is a BatchNormalization in training mode; export in eval mode.")


def _is_set(node: ir.Node, attribute: str) -> bool:
    found = node.attributes.get(attribute)
    return found is not None and bool(found.as_int())


def _convert_opset(model: ir.Model) -> ir.Model:
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", OPSET))
    if OPSET <= version <= MAX_OPSET:
        return model
    target = OPSET if version < OPSET else MAX_OPSET
    if OPSET > version >= _SCRIPT_OPSET:
        from onnxscript import version_converter

        converted = model.clone()
        try:
            version_converter.convert_version(converted, OPSET, fallback=False)
        except Exception:  # ONNX's own converter is asked next, and names what it cannot convert
            converted = model
        if converted.opset_imports.get("", 0) >= OPSET:
            return converted
    proto = structure(model)
    # In older files every initializer is an input too, which it no longer is here.
    proto.ir_version = max(proto.ir_version, MIN_IR_VERSION)
    try:
        proto = _converted(proto, target)
    except Exception as error:  # it raises RuntimeError and several of its own
        raise ModelError(f"Operator set {version} cannot be converted to {target}: {_reason(error, model)}.") from error
    return _with_weights_of(ir.from_proto(proto), model)


def _converted(proto: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A model in another operator set, by ONNX's own converter, which wants numbers for sizes at a Gemm of old."""
    try:
        return onnx.version_converter.convert_version(proto, target)
    except Exception as error:
        if _OPEN_SIZE not in str(error):
            raise
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    # Shapes between are inferred anew; those of inputs and outputs are put back.
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 1
    found = onnx.version_converter.convert_version(fixed, target)
    del found.graph.value_info[:]
    shapes = {value.name: value.type for value in (*proto.graph.input, *proto.graph.output)}
    for value in (*found.graph.input, *found.graph.output):
        value.type.CopyFrom(shapes[value.name])
    return found


def _with_weights_of(converted: ir.Model, model: ir.Model) -> ir.Model:
    """Put back the initializers that :func:`~autocompress.graph.shapes.structure` made inputs of."""
    converted.meta.update(model.meta)
    for value in list(converted.graph.inputs):
        source = model.graph.initializers.get(str(value.name))
        if source is not None:
            converted.graph.inputs.remove(value)
            value.const_value = source.const_value
            converted.graph.register_initializer(value)
    return converted


def _reason(error: Exception, model: ir.Model) -> str:
    """What ONNX's converter complains of, without the C++ assertion before it; an operator it lacks, with its node."""
    text = first_line(error).rpartition("failed: ")[2].rstrip(".")
    if "no registered schema" not in text:
        return text
    gone = next((n for n in model.graph.all_nodes() if n.op_type in text.rpartition("%lld.")[2]), None)
    return text if gone is None else f"node {gone.name!r} ({gone.op_type}) is an operator that later ones lack"


def _drop_dropout(graph: ir.Graph) -> None:
    """Make Dropout an Identity, which later goes: it does nothing in inference."""
    for node in list(graph):
        if node.op_type != "Dropout" or node.domain not in _STANDARD:
            continue
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        if mode is not None and (mode.const_value is None or bool(mode.const_value.numpy())):
            raise ModelError(f"Node {node.name!r} is a Dropout in training mode; export in eval mode.")
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            continue
        output = node.outputs[0]
        identity = ir.node("Identity", [node.inputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [identity], [output], [identity.outputs[0]])


def _name_nodes(graph: ir.Graph) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph):
        stem = name = node.name or f"{node.op_type}_{index}"
        count = 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        node.name = name
        taken.add(name)


def _own_weights(graph: ir.Graph) -> None:
    """Weights as arrays in memory, in the order in which nodes first read them; unused ones go."""
    known = set(graph.initializers.values())
    # Subgraphs read them too, and keep those of their own.
    order = dict.fromkeys(v for node in graph.all_nodes() for v in node.inputs if v is not None and v in known)
    order.update(dict.fromkeys(v for v in graph.outputs if v.is_initializer()))
    graph.initializers.clear()
    for value in order:
        tensor = value.const_value
        assert tensor is not None
        if not isinstance(tensor, ir.Tensor) or not isinstance(tensor.raw, np.ndarray):
            tensor = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name)
        value.const_value = tensor
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        graph.register_initializer(value)


def _check_weights(graph: ir.Graph) -> None:
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        weighted = any(use.node.op_type in _WEIGHTED for use in value.uses())
        array = tensor.numpy()
        # Infinity is a proper bound or mask, but no weight; NaN is never right.
        if np.isnan(array).any() or (weighted and not np.isfinite(array).all()):
            raise ModelError(f"Weight {name!r} holds NaN or infinity.")
