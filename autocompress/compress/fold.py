"""Fold BatchNormalization into the layer before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.derived import DerivedTensor, weight_of, whole
from autocompress.graph.blocks import drop_repeated_activations
from autocompress.graph.layers import weight_value
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.tensors import shape_of_tensor, tensor_of

_FOLDABLE = ("Conv", "ConvTranspose", "Gemm")


def fold_batch_norm(graph: ModelGraph) -> ModelGraph:
    """Fold every BatchNormalization that directly follows a Conv, ConvTranspose or Gemm of its own.

    ``y = gamma * (w x + b - mean) / sqrt(var + eps) + beta`` is a layer with weight ``w * s`` and bias
    ``(b - mean) * s + beta``, where ``s = gamma / sqrt(var + eps)`` (Jacob et al. 2018, section 3.2). The folded layer
    writes the value that BatchNormalization wrote, so value names stay.

    Returns:
        A new graph; weights that no BatchNormalization follows are shared with the old one.
    """
    copy = graph.clone()
    model = copy.model.graph
    for node in list(model):
        if node.op_type == "BatchNormalization":
            _fold(node, model)
    drop_repeated_activations(model)
    for name in [n for n, value in model.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del model.initializers[name]
    return ModelGraph(copy.model)


def _foldable(layer: ir.Node) -> bool:
    """Whether a layer can take a BatchNormalization in: weight and bias are its own constants."""
    weight = weight_value(layer)
    if layer.op_type not in _FOLDABLE or weight is None or len(weight.uses()) != 1:
        return False
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if bias is not None and (_array(bias) is None or len(bias.uses()) != 1):
        return False
    return layer.op_type != "Gemm" or layer.attributes.get_float("beta", 1.0) == 1.0


def _fold(node: ir.Node, model: ir.Graph) -> None:
    """Fold one BatchNormalization where that is exact."""
    source, output = node.inputs[0], node.outputs[0]
    layer = source.producer() if source is not None else None
    if source is None or layer is None or not _foldable(layer):
        return
    if len(source.uses()) != 1 or source.is_graph_output() or any(v.uses() for v in node.outputs[1:]):
        return
    weight = weight_value(layer)
    vectors = [_array(value) for value in node.inputs[1:5]]
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if weight is None or any(vector is None for vector in vectors):
        return
    gamma, beta, mean, var = (np.asarray(vector, np.float32) for vector in vectors)
    scale = gamma / np.sqrt(var + np.float32(node.attributes.get_float("epsilon", 1e-5)))
    old_bias = np.zeros_like(mean) if bias is None else np.asarray(_array(bias))
    if old_bias.size not in (1, mean.size):
        return
    bias_name = f"{str(weight.name).removesuffix('.weight')}.bias" if bias is None else str(bias.name)
    folded_bias = np.asarray((old_bias.ravel() - mean) * scale + beta, np.float32)
    folded = _scaled(layer, weight, scale)
    if weight.dtype == ir.DataType.FLOAT16:
        # The layer computes in what its weight is stored in.
        folded, folded_bias = ir.Tensor(_half(folded.numpy()), name=folded.name), _half(folded_bias)
        if not (np.isfinite(folded.numpy()).all() and np.isfinite(folded_bias).all()):
            return
    _set(model, layer, 1, folded)
    _set(model, layer, 2, tensor_of(folded_bias, bias_name))
    source.type, source.shape = output.type, output.shape
    output_name = output.name
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    model.remove(node, safe=True)
    source.name = output_name


def _half(array: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _scaled(layer: ir.Node, value: ir.Value, scale: NDArray[Any]) -> ir.TensorProtocol:
    """The weight with each output channel times its ``(channels,)`` scale, computed when it is read."""
    name, source = str(value.name), weight_of(value)
    by_rows = layer.op_type == "Conv" or (layer.op_type == "Gemm" and layer.attributes.get_int("transB", 0) == 1)
    if by_rows and value.dtype == ir.DataType.FLOAT and scale.dtype == np.float32:
        if isinstance(source, DerivedTensor):
            return source.scaled(scale, name)
        return DerivedTensor(source, {}, dtype=ir.DataType.FLOAT, name=name, scale=scale)
    array = _product(layer, whole(source), scale)
    return ir.Tensor(np.asarray(array, np.float32, order="C"), name=name)


def _product(layer: ir.Node, weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    if layer.op_type == "ConvTranspose":
        # (in, out / group, ...): group g of the inputs writes the g-th run of output channels.
        group = layer.attributes.get_int("group", 1)
        split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        return np.reshape(split * scale.reshape(group, 1, -1, *[1] * (weight.ndim - 2)), weight.shape)
    axis = 1 if layer.op_type == "Gemm" and not layer.attributes.get_int("transB", 0) else 0
    return np.asarray(weight * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]))


def _set(model: ir.Graph, node: ir.Node, index: int, tensor: ir.TensorProtocol) -> None:
    """Make ``tensor`` a node's input, under the name of the initializer it replaces."""
    name = str(tensor.name)
    old = node.inputs[index] if len(node.inputs) > index else None
    if old is not None:
        old.const_value, old.shape = tensor, shape_of_tensor(tensor)
        return
    while name in model.initializers:
        name += ".folded"
    tensor.name = name
    value = ir.Value(name=name, const_value=tensor, shape=shape_of_tensor(tensor), type=ir.TensorType(tensor.dtype))
    model.register_initializer(value)
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
