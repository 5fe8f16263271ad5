"""Integer graphs as the runtime fuses them: QuantizeLinear and DequantizeLinear around every integer operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.affine import affine_groups, integer_weight
from autocompress.compress.bias_correction import output_shift
from autocompress.compress.calibrate import Calibration
from autocompress.compress.codebook import table_groups
from autocompress.compress.derived import Weight, weight_of, whole
from autocompress.compress.dynamic import DynamicMaker
from autocompress.compress.edit import Editor
from autocompress.compress.grouping import GroupedWeight
from autocompress.compress.half import BFLOAT16_OPSET, to_half
from autocompress.compress.matmul_nbits import DOMAIN, refused_matmul_nbits, use_matmul_nbits
from autocompress.compress.packed import allow_int2
from autocompress.compress.placement import place
from autocompress.compress.planes import stored_integers
from autocompress.compress.stored import store_grouped
from autocompress.compress.weight_only import output_axis, store_half, store_packed
from autocompress.compress.weights import QuantizedWeight, WeightCache, with_scale
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.layer_rules import FLOAT_TYPES
from autocompress.core.plan import LayerPlan
from autocompress.graph.layers import RECURRENT_GATES, layer_names
from autocompress.graph.model_graph import ModelGraph

ACTIVATION_TYPES = ("uint8", "int8")
NO_DATA = "activation ranges need data: pass --data, or use activation_bits 32 for weight-only"
#: Largest bias in steps of its int32 scale: far from overflow, accumulators have to be added to it.
_BIAS_TOP = float(2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationScale:
    """Scale and zero point of an activation; ``(code - zero_point) * scale`` is its value."""

    scale: np.float32
    zero_point: int


def activation_scale(low: float, high: float, activation_type: str = "uint8") -> ActivationScale:
    """Asymmetric 8-bit scale over ``[low, high]``, zero included and exact (Jacob et al. 2018, section 2.1)."""
    low, high = min(0.0, low), max(0.0, high)
    bottom = 0 if activation_type == "uint8" else -128
    scale = np.float32(max((high - low) / 255, 1e-7))
    while low == 0.0 < high and scale > 1e-7 and np.float32(255) * scale > np.float32(high):
        # A Clip is dropped by the runtime only where the integers end within its bounds.
        scale = np.nextafter(scale, np.float32(0))
    zero_point = int(np.clip(np.rint(bottom - low / float(scale)), bottom, bottom + 255))
    return ActivationScale(scale=scale, zero_point=zero_point)


def quantize(
    graph: ModelGraph,
    plans: Mapping[str, LayerPlan],
    calibration: Calibration | None,
    *,
    calibrator: str = "minmax",
    activation_type: str = "uint8",
    reduce_range: bool = False,
    cache: WeightCache | None = None,
    rounded: Mapping[str, QuantizedWeight] | None = None,
    copy: bool = True,
) -> ModelGraph:
    """Bring each layer to the precision of its plan.

    Args:
        graph: float32, BatchNormalization folded.
        plans: layer name to plan; layers without one stay float32.
        calibration: of the same graph; needed where a plan has 8-bit activations. Where it is there, biases take back
            the shift that 4- and 2-bit weights put on their outputs.
        calibrator: how ranges are chosen from it.
        activation_type: ``uint8`` or ``int8``, as the runtime is fast with.
        reduce_range: 7-bit weights in place of 8-bit ones for integer compute; x86 without VNNI needs them.
        cache: remembers quantized weights between calls.
        rounded: layer name to its integers, where its plan rounds with ``adaround``; see
            :func:`autocompress.compress.adaround.round_layers`.
        copy: False where nobody needs ``graph`` any more: its nodes become those of the result, and where this raises
            it may be changed in part.

    Returns:
        A new graph; inputs and outputs stay float32. The same arguments give the same bytes.

    Raises:
        PlanError: 8-bit activations without calibration, or ``adaround`` without what it rounded.
        UnknownNameError: an unknown calibrator, activation type or layer.
        CandidateError: a weight is past float16's range.
    """
    if activation_type not in ACTIVATION_TYPES:
        raise UnknownNameError("activation type", activation_type, ACTIVATION_TYPES)
    model = (graph.clone() if copy else graph).model
    names = layer_names(model)
    for name in plans:
        if name not in names.values():
            raise UnknownNameError("layer", name, names.values())
    layers = {node: plans[names[str(node.name)]] for node in model.graph if names.get(str(node.name)) in plans}
    weights = {node: weight_of(node.inputs[1]) for node in layers}
    editor = Editor(model.graph)
    cache = cache if cache is not None else WeightCache()
    made: dict[ir.Node, QuantizedWeight | GroupedWeight] = {}
    for node, plan in layers.items():
        if plan.rounding == "adaround":
            made[node] = _given(names[str(node.name)], rounded)
        elif plan.weight_bits <= 8:
            narrow = reduce_range and plan.activation_bits == 8
            made[node] = _make(node, plan, weights[node], cache, reduce_range=narrow)
    integer = {node: plan for node, plan in layers.items() if plan.needs_ranges}
    if calibration is not None:
        for node, plan in layers.items():
            if plan.weight_bits < 8 and node.op_type not in RECURRENT_GATES:
                _correct_bias(node, made[node].dequantized(), weights[node], calibration, editor)
    if integer:
        if calibration is None:
            raise PlanError(f"{NO_DATA[0].upper()}{NO_DATA[1:]}.")
        maker = _IntegerMaker(editor, made, activation_type=activation_type)
        maker.convert(integer, weights, calibration, calibrator)
    dynamic = DynamicMaker(editor)
    for node, plan in layers.items():
        quantized = made.get(node)
        if isinstance(quantized, GroupedWeight):
            if refused_matmul_nbits(node, plan) is None:
                use_matmul_nbits(node, editor, quantized, plan)
                model.graph.opset_imports[DOMAIN] = 1
            else:
                store_grouped(node, editor, quantized, plan.weight_bits)
        elif quantized is not None and plan.dynamic:
            dynamic.convert(node, quantized, plan.weight_bits)
        elif quantized is not None and plan.activation_bits == 32:
            store_packed(node, editor, plan.weight_bits, quantized)
        elif plan.activation_bits == 32:
            store_half(node, editor, whole(weights[node]), ir.DataType[plan.float_type.upper()])
    for name in FLOAT_TYPES:
        half = [n for n, plan in layers.items() if plan.activation_bits == 16 and plan.float_type == name]
        if half:
            to_half(model.graph, half, editor, ir.DataType[name.upper()])
        if half and name == "bfloat16":
            imports = model.graph.opset_imports
            imports[""] = max(imports[""], BFLOAT16_OPSET)
    for node, plan in layers.items():
        if node.op_type in RECURRENT_GATES:
            _store_state_weight(node, plan, editor, cache)
    editor.drop_unused()
    if any(plan.weight_bits == 2 for plan in layers.values()):
        allow_int2(model)
    return ModelGraph(model)


class _IntegerMaker:
    """Writes the QuantizeLinear and DequantizeLinear nodes of one graph."""

    def __init__(
        self, editor: Editor, made: Mapping[ir.Node, QuantizedWeight | GroupedWeight], *, activation_type: str
    ) -> None:
        self._editor = editor
        self._made = made
        self._activation_type = activation_type

    def convert(
        self,
        layers: Mapping[ir.Node, LayerPlan],
        weights: Mapping[ir.Node, Weight],
        calibration: Calibration,
        calibrator: str,
    ) -> None:
        placement = place(self._editor.graph, layers)
        scales = {
            root: activation_scale(*calibration.range(str(root.name), calibrator), self._activation_type)
            for root in dict.fromkeys(placement.values.values())
        }
        for node, plan in layers.items():
            source = node.inputs[0]
            assert source is not None
            self._weight(node, scales[placement.values[source]], plan, weights[node])
        constants: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for value, root in placement.values.items():
            if root not in constants:
                constants[root] = self._scale_constants(str(root.name), scales[root])
            self._activation(value, constants[root], placement.nodes)

    def _scale_constants(self, name: str, scale: ActivationScale) -> tuple[ir.Value, ir.Value]:
        kind = np.uint8 if self._activation_type == "uint8" else np.int8
        return (
            self._editor.array(np.array(scale.scale, np.float32), f"{name}_scale"),
            self._editor.array(np.array(scale.zero_point, kind), f"{name}_zero"),
        )

    def _activation(self, value: ir.Value, constants: tuple[ir.Value, ir.Value], nodes: set[ir.Node]) -> None:
        """Put the pair behind a value: all read it where integers wrote it, else the integer readers only."""
        producer = value.producer()
        inside = producer is not None and producer in nodes
        readers = [use.node for use in value.uses() if inside or use.node in nodes]
        dtype = constants[1].dtype
        assert dtype is not None
        codes = self._editor.after(value, "QuantizeLinear", [value, *constants], f"{value.name}_q", dtype)
        real = self._editor.after(codes, "DequantizeLinear", [codes, *constants], f"{value.name}_dq", ir.DataType.FLOAT)
        self._editor.replace(value, real, readers, output=inside)

    def _weight(self, node: ir.Node, source: ActivationScale, plan: LayerPlan, weight: Weight) -> None:
        """Replace a layer's weight and bias by integers with a DequantizeLinear each."""
        quantized = self._made[node]
        assert isinstance(quantized, QuantizedWeight)
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = None if bias_value is None else _array(bias_value)
        if bias is not None:
            quantized = _fit_bias(weight, quantized, bias, source.scale)
        name = str(node.inputs[1].name) if node.inputs[1] is not None else ""
        # ONNX Runtime folds the Cast at load and finds plain int8; a bare INT4 DequantizeLinear stays float.
        stored = stored_integers(node, self._editor, quantized.values, plan.weight_bits, name, ir.DataType.INT8)
        self._dequantize(node, 1, stored, quantized.scale, name, quantized)
        if bias is not None and bias_value is not None:
            steps = np.asarray(quantized.scale * source.scale, np.float32)
            codes = np.rint(bias.astype(np.float64) / steps).astype(np.int32)
            name = str(bias_value.name)
            self._dequantize(node, 2, self._editor.array(codes, f"{name}_q32"), steps, name, quantized)

    def _dequantize(
        self,
        node: ir.Node,
        index: int,
        codes: ir.Value,
        scale: NDArray[np.float32],
        name: str,
        quantized: QuantizedWeight,
    ) -> None:
        """Let a layer read integers through a DequantizeLinear; ``index`` is 1 for its weight, 2 for its bias."""
        zero = quantized.zero if index == 1 else None
        kind = np.int8 if index == 1 else np.int32
        axis = quantized.axis if index == 1 else 0
        if quantized.per_tensor:
            scale, zero = scale[:1].reshape(()), None if zero is None else zero[:1].reshape(())
        inputs = [codes, self._editor.array(scale, f"{name}_scale")]
        if node.op_type != "Conv" or zero is not None:
            # Only for a Conv does ONNX Runtime find the pattern without zero points.
            inputs.append(self._editor.array(np.zeros(scale.shape, kind) if zero is None else zero, f"{name}_zero"))
        real = self._editor.before(
            node,
            "DequantizeLinear",
            inputs,
            f"{name}_dq",
            ir.DataType.FLOAT,
            shape=codes.shape,
            attributes=None if quantized.per_tensor else {"axis": axis},
        )
        node.replace_input_with(index, real)


def _given(name: str, rounded: Mapping[str, QuantizedWeight] | None) -> QuantizedWeight:
    """The integers of a layer that are not its nearest ones."""
    if rounded is None or name not in rounded:
        raise PlanError(f"Rounding 'adaround' of layer {name!r} needs data: pass --data, or use rounding 'nearest'.")
    return rounded[name]


def _make(
    node: ir.Node, plan: LayerPlan, weight: Weight, cache: WeightCache, *, reduce_range: bool
) -> QuantizedWeight | GroupedWeight:
    """A layer's weight in few bits: one scale (and zero point) a channel for integer kernels, else in groups."""
    axis = output_axis(node, len(weight.shape))
    how = (axis, plan.label, reduce_range)
    if plan.format != "uniform":
        return cache.remember(weight, how, lambda: table_groups(weight, axis, plan))
    if plan.granularity == "channel" and plan.symmetric:
        return cache.get(weight, plan.weight_bits, axis, reduce_range=reduce_range)
    if plan.activation_bits == 8:
        return cache.remember(weight, how, lambda: integer_weight(weight, axis, plan, reduce_range=reduce_range))
    return cache.remember(weight, how, lambda: affine_groups(weight, axis, plan))


def _store_state_weight(node: ir.Node, plan: LayerPlan, editor: Editor, cache: WeightCache) -> None:
    """Keep a recurrent layer's second weight as its first one is kept."""
    weight = weight_of(node.inputs[2])
    if plan.weight_bits == 16:
        store_half(node, editor, whole(weight), ir.DataType[plan.float_type.upper()], index=2)
        return
    made = _make(node, plan, weight, cache, reduce_range=False)
    if isinstance(made, GroupedWeight):
        store_grouped(node, editor, made, plan.weight_bits, index=2)
    else:
        store_packed(node, editor, plan.weight_bits, made, index=2)


def _correct_bias(
    node: ir.Node,
    stored: NDArray[np.float32],
    weight: Weight,
    calibration: Calibration,
    editor: Editor,
) -> None:
    """Give a layer a bias without the shift of its outputs, where it has one and its inputs were observed."""
    old = node.inputs[2] if len(node.inputs) > 2 else None
    means = calibration.means(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    axis = output_axis(node, stored.ndim)
    shift = None if means is None else output_shift(node, whole(weight), stored, axis, means)
    if shift is None or old is None or not old.is_initializer() or _array(old).shape != shift.shape:
        return
    node.replace_input_with(2, editor.array((_array(old) - shift).astype(np.float32), f"{old.name}_corrected"))


def _fit_bias(
    weight: Weight, quantized: QuantizedWeight, bias: NDArray[np.float32], source: np.float32
) -> QuantizedWeight:
    """Widen the weight's scale where the bias, in steps of ``source * scale``, would not fit into int32."""
    least = np.abs(bias.reshape(-1)) / (np.float32(source) * np.float32(_BIAS_TOP))
    if quantized.per_tensor:
        least = np.full_like(least, least.max(initial=0.0))
    return with_scale(weight, quantized, np.maximum(quantized.scale, least.astype(np.float32)))


def _array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
