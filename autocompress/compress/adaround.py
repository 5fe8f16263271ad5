"""Rounding weights up or down as the layer's outputs want it, not each to its nearest integer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.affine import integer_weight
from autocompress.compress.derived import weight_of, whole
from autocompress.compress.layer_inputs import input_products
from autocompress.compress.weight_only import output_axis
from autocompress.compress.weights import QuantizedWeight, quantize_weight, top_level
from autocompress.core.errors import PlanError
from autocompress.core.plan import LayerPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.layers import layer_names
from autocompress.graph.model_graph import ModelGraph

#: Optimizer steps a layer.
STEPS = 200
#: Stretch of the rectified sigmoid (Nagel et al. 2020, equation 23).
_ZETA, _GAMMA = 1.1, -0.1
#: Of the regularizer: its weight, its first and last exponent, and the share of the steps without it.
_LAMBDA, _BETA, _WARM = 0.1, (20.0, 2.0), 0.2
_RATE = 0.05


def refused_adaround(node: ir.Node) -> str | None:
    """Why a layer's weights can only be rounded to the nearest, or None."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"rounding 'adaround' is for Conv, Gemm and MatMul, not {node.op_type}"
    weight = node.inputs[1]
    if node.op_type != "Conv" and (weight is None or weight.shape is None or len(weight.shape) != 2):
        return "rounding 'adaround' needs a weight of 2 axes"
    if node.op_type == "Gemm" and node.attributes.get_int("transA"):
        return "rounding 'adaround' needs an input that is not transposed"
    padding = node.attributes.get_string("auto_pad", "NOTSET") if node.op_type == "Conv" else "NOTSET"
    if padding not in ("NOTSET", "VALID"):
        return f"rounding 'adaround' needs explicit padding, not {padding}"
    return None


def with_possible_rounding(
    graph: ModelGraph, plans: Mapping[str, LayerPlan], *, named: Collection[str]
) -> dict[str, LayerPlan]:
    """Plans that round to the nearest where a layer cannot do otherwise.

    Args:
        graph: float32, BatchNormalization folded.
        plans: layer name to plan.
        named: layers that a plan names, so that it has to be told.

    Raises:
        PlanError: a named layer cannot be rounded with ``adaround``.
    """
    names = layer_names(graph.model)
    found = dict(plans)
    for node in graph.model.graph:
        name = names.get(str(node.name), "")
        reason = refused_adaround(node) if name in found and found[name].rounding == "adaround" else None
        if reason is not None and name in named:
            raise PlanError(f"Layer {name!r} cannot be {found[name].label}: {reason}.")
        if reason is not None:
            found[name] = replace(found[name], rounding="nearest")
    return found


def round_layers(
    graph: ModelGraph,
    plans: Mapping[str, LayerPlan],
    dataset: Dataset,
    *,
    reduce_range: bool = False,
    samples: int = 64,
) -> dict[str, QuantizedWeight]:
    """The integers of each layer whose plan asks for rounding ``adaround``.

    Inputs are those of the float32 graph, so layers do not depend on each other.

    Args:
        graph: float32, BatchNormalization folded.
        plans: layer name to plan.
        dataset: of calibration samples.
        reduce_range: keep 8-bit weights of integer layers within 7 bits.
        samples: at most this many are looked at.
    """
    wanted = {name: plan for name, plan in plans.items() if plan.rounding == "adaround"}
    products = input_products(graph, list(wanted), dataset, samples=samples)
    names = layer_names(graph.model)
    found = {}
    for node in graph.model.graph:
        plan = wanted.get(names.get(str(node.name), ""))
        if plan is None:
            continue
        weight = whole(weight_of(node.inputs[1]))
        axis = output_axis(node, weight.ndim)
        narrow = reduce_range and plan.activation_bits == 8
        if plan.granularity == "tensor":
            nearest = integer_weight(weight, axis, plan, reduce_range=narrow)
        else:
            nearest = quantize_weight(weight, plan.weight_bits, axis, reduce_range=narrow)
        top = top_level(plan.weight_bits, reduce_range=narrow)
        found[names[str(node.name)]] = _rounded(weight, nearest, products[names[str(node.name)]], top)
    return found


def _rounded(
    weight: NDArray[np.float32], nearest: QuantizedWeight, products: NDArray[np.float64], top: int
) -> QuantizedWeight:
    """A whole layer's integers; ``products`` of each group of its output channels."""
    rows = np.moveaxis(weight, nearest.axis, 0)
    flat = rows.reshape(len(rows), -1)
    integers = np.moveaxis(nearest.values, nearest.axis, 0).reshape(flat.shape).copy()
    size = len(rows) // len(products)
    for group, product in enumerate(products):
        part = slice(group * size, (group + 1) * size)
        integers[part] = adaround(flat[part], integers[part], nearest.scale[part], product, top)
    values = np.ascontiguousarray(np.moveaxis(integers.reshape(rows.shape), 0, nearest.axis))
    return replace(nearest, values=values)


def adaround(
    rows: NDArray[np.float32],
    nearest: NDArray[np.int8],
    scale: NDArray[np.float32],
    product: NDArray[np.float64],
    top: int,
    *,
    steps: int = STEPS,
) -> NDArray[np.int8]:
    """Integers next to ``rows / scale`` with a smaller output error than the nearest ones.

    Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", section 3.2: each weight is its
    floor plus ``h = clip(1.2 sigmoid(v) - 0.1, 0, 1)``; Adam moves ``v`` by the output error ``d^T E[x x^T] d`` plus
    ``sum 1 - |2 h - 1|^b``, whose falling ``b`` drives each ``h`` to 0 or 1. The error is a quadratic form of the
    inputs' products, so every step sees all the data. A row that ends up worse than rounding to the nearest keeps that.

    Args:
        rows: ``(channels, inputs)`` weights.
        nearest: ``(channels, inputs)`` integers as they are without.
        scale: ``(channels,)``.
        product: ``(inputs, inputs)`` average of ``x x^T``.
        top: the integers' largest.
        steps: of the optimizer.

    Returns:
        ``(channels, inputs)`` integers within ``[-top, top]``.
    """
    target = np.clip(rows / scale[:, None], -top, top).astype(np.float32)
    floor = np.floor(target)
    form = (product / max(float(np.diag(product).mean()), 1e-30)).astype(np.float32)
    variable = _inverse(np.clip(target - floor, 0.01, 0.99))
    first, second = np.zeros_like(variable), np.zeros_like(variable)
    for step in range(steps):
        sigmoid = 1 / (1 + np.exp(-variable))
        stretched = sigmoid * np.float32(_ZETA - _GAMMA) + np.float32(_GAMMA)
        soft = np.clip(stretched, 0, 1)
        slope = 2 * ((floor + soft - target) @ form)
        share = step / steps
        if share >= _WARM:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * 0.5 * (1 + np.cos(np.pi * (share - _WARM) / (1 - _WARM)))
            away = 2 * soft - 1
            slope -= np.float32(_LAMBDA * 2 * beta) * np.sign(away) * np.abs(away) ** np.float32(beta - 1)
        slope *= (stretched > 0) & (stretched < 1)
        slope *= sigmoid * (1 - sigmoid) * np.float32(_ZETA - _GAMMA)
        first += np.float32(0.1) * (slope - first)
        second += np.float32(0.001) * (slope * slope - second)
        rate = _RATE * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        variable -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))
    chosen = np.clip(floor + (variable >= 0), -top, top).astype(np.int8)
    # What was pruned stays away.
    chosen[rows == 0] = 0
    better = _error(chosen, rows, scale, product) < _error(nearest, rows, scale, product)
    return np.where(better[:, None], chosen, nearest).astype(np.int8)


def _error(
    integers: NDArray[np.int8], rows: NDArray[np.float32], scale: NDArray[np.float32], product: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(channels,)`` mean squared error of the outputs."""
    change = integers.astype(np.float64) * scale[:, None] - rows
    return np.asarray(np.einsum("ij,ij->i", change @ product, change), np.float64)


def _inverse(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """The variable whose rectified sigmoid is ``share``."""
    sigmoid = (share - _GAMMA) / (_ZETA - _GAMMA)
    return np.asarray(np.log(sigmoid / (1 - sigmoid)), np.float32)
