"""ONNX convolution, pooling, normalization and resizing as torch functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.graph.operator_node import Function, OperatorNode

_CONV: tuple[Any, ...] = (None, F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: tuple[Any, ...] = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX_POOL: tuple[Any, ...] = (None, F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG_POOL: tuple[Any, ...] = (None, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_AUTO_PAD = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def _many(node: OperatorNode, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    value = node.attributes.get(name)
    return tuple(int(v) for v in value) if value is not None else (default,) * rank


def _torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Pads in the order of `F.pad`: last axis first."""
    return [amount for pair in reversed(list(zip(begin, end, strict=True))) for amount in pair]


def _same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool
) -> tuple[list[int], list[int]]:
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if upper else large)
        end.append(large if upper else small)
    return begin, end


class _Window:
    """Strides, dilations and pads of a sliding window over ``rank`` axes."""

    def __init__(self, node: OperatorNode, kernel: Sequence[int]) -> None:
        self.kernel = tuple(int(k) for k in kernel)
        self.rank = len(self.kernel)
        if not 1 <= self.rank <= 3:
            raise node.error(f"only windows over 1 to 3 axes can be run, but this one has {self.rank}")
        self.strides = _many(node, "strides", self.rank)
        self.dilations = _many(node, "dilations", self.rank)
        self.auto = node.choice("auto_pad", "NOTSET", _AUTO_PAD)
        pads = _many(node, "pads", 2 * self.rank, 0) if self.auto == "NOTSET" else (0,) * (2 * self.rank)
        self.begin, self.end = pads[: self.rank], pads[self.rank :]
        self.same = self.auto.startswith("SAME")
        self.symmetric = not self.same and self.begin == self.end

    def pads(self, x: Tensor) -> tuple[Sequence[int], Sequence[int]]:
        """Pads before and after each axis for this input."""
        if not self.same:
            return self.begin, self.end
        return _same_pads(x.shape[2:], self.kernel, self.strides, self.dilations, self.auto == "SAME_UPPER")

    def pad(self, x: Tensor, value: float = 0.0) -> Tensor:
        """The input with its pads written out."""
        return F.pad(x, _torch_pads(*self.pads(x)), value=value)


def _kernel(node: OperatorNode) -> tuple[int, ...]:
    shape = node.attributes.get("kernel_shape")
    if shape is not None:
        return tuple(int(k) for k in shape)
    weight = node.constants.get(1)
    if weight is None:
        raise node.error("it has neither `kernel_shape` nor a constant weight")
    return tuple(weight.shape[2:])


def conv(node: OperatorNode) -> Function:
    """Conv over 1 to 3 axes, grouped or not."""
    window = _Window(node, _kernel(node))
    groups = int(node.attributes.get("group", 1))
    function, strides, dilations = _CONV[window.rank], window.strides, window.dilations
    if window.symmetric:
        padding = window.begin
        return lambda x, w, b=None: function(x, w, b, strides, padding, dilations, groups)
    return lambda x, w, b=None: function(window.pad(x), w, b, strides, 0, dilations, groups)


def conv_transpose(node: OperatorNode) -> Function:
    """ConvTranspose; pads crop the full result, as the standard defines them."""
    window = _Window(node, _kernel(node))
    groups, function = int(node.attributes.get("group", 1)), _CONV_TRANSPOSE[window.rank]
    extra, sizes = _many(node, "output_padding", window.rank, 0), node.attributes.get("output_shape")
    strides, dilations = window.strides, window.dilations
    if window.symmetric and sizes is None and window.auto == "NOTSET":
        padding = window.begin
        return lambda x, w, b=None: function(x, w, b, strides, padding, extra, groups, dilations)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        full = [
            (size - 1) * s + d * (k - 1) + 1 + e
            for size, s, d, k, e in zip(x.shape[2:], strides, dilations, window.kernel, extra, strict=True)
        ]
        wanted = sizes
        if wanted is None and window.same:
            wanted = [size * s for size, s in zip(x.shape[2:], strides, strict=True)]
        begin, end = list(window.begin), list(window.end)
        if wanted is not None:
            totals = [f - int(size) for f, size in zip(full, wanted, strict=True)]
            small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
            begin, end = (small, large) if window.auto == "SAME_UPPER" else (large, small)
        # The part of a result that only `output_padding` adds holds the bias alone: zeros before it is added.
        result = function(x, w, None, strides, 0, 0, groups, dilations)
        crops = [-amount for amount in _torch_pads(begin, end)]
        result = F.pad(result, [c + e for c, e in zip(crops, _torch_pads([0] * window.rank, extra), strict=True)])
        return result if b is None else result + b.reshape(1, -1, *(1,) * window.rank)

    return run


def _overhang(window: _Window, x: Tensor, ceil_mode: bool) -> list[int]:
    """How far the last window reaches past the padded input, for each axis.

    A window that would begin in the end padding is dropped, as ONNX (opset 22) and torch both do.
    """
    begin, end = window.pads(x)
    result = []
    for size, k, s, d, b, e in zip(
        x.shape[2:], window.kernel, window.strides, window.dilations, begin, end, strict=True
    ):
        room = size + b + e - d * (k - 1) - 1
        steps = -(-room // s) if ceil_mode else room // s
        if ceil_mode and steps * s >= size + b:
            steps -= 1
        result.append(max(0, steps * s - room))
    return result


def max_pool(node: OperatorNode) -> Function:
    """MaxPool, the values only."""
    if node.outputs > 1:
        raise node.error("the indices of MaxPool are not supported")
    window = _Window(node, node.attributes["kernel_shape"])
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    function, kernel, strides, dilations = _MAX_POOL[window.rank], window.kernel, window.strides, window.dilations
    if window.symmetric and all(2 * p <= k for p, k in zip(window.begin, kernel, strict=True)):
        padding = window.begin
        return lambda x: function(x, kernel, strides, padding, dilations, ceil_mode)

    def run(x: Tensor) -> Tensor:
        begin, end = window.pads(x)
        over = _overhang(window, x, ceil_mode)
        pads = _torch_pads(begin, [e + o for e, o in zip(end, over, strict=True)])
        result: Tensor = function(F.pad(x, pads, value=-math.inf), kernel, strides, 0, dilations)
        return result

    return run


def average_pool(node: OperatorNode) -> Function:
    """AveragePool, with or without the pads in the count."""
    window = _Window(node, node.attributes["kernel_shape"])
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    include = bool(node.attributes.get("count_include_pad", 0))
    function, kernel, strides = _AVG_POOL[window.rank], window.kernel, window.strides
    plain = all(d == 1 for d in window.dilations)
    if not plain:
        raise node.error("dilations of AveragePool are not supported")
    if window.symmetric and all(2 * p <= k for p, k in zip(window.begin, kernel, strict=True)):
        padding = window.begin
        return lambda x: function(x, kernel, strides, padding, ceil_mode, include)

    def run(x: Tensor) -> Tensor:
        begin, end = window.pads(x)
        over = _torch_pads([0] * window.rank, _overhang(window, x, ceil_mode))
        pads = _torch_pads(begin, end)
        inside = x.new_ones(1, 1, *x.shape[2:])
        counted = F.pad(F.pad(inside, pads, value=1.0 if include else 0.0), over)
        sums = function(F.pad(F.pad(x, pads), over), kernel, strides)
        averages: Tensor = sums / function(counted, kernel, strides)
        return averages

    return run


def global_pool(reduce: Any) -> Any:
    """GlobalAveragePool and GlobalMaxPool: over every axis after the channels."""

    def build(node: OperatorNode) -> Function:
        return lambda x: reduce(x, tuple(range(2, x.ndim)), keepdim=True)

    return build


def batch_norm(node: OperatorNode) -> Function:
    """BatchNormalization; the executor passes first whether to train, and a momentum in torch's sense or None.

    ONNX keeps ``momentum`` of the old statistics, torch replaces that share: torch's is one minus ONNX's. One value a
    channel has no spread: it is normalized by the running statistics, and those stay.
    """
    if node.outputs > 1:
        raise node.error("outputs of BatchNormalization beyond the first are not supported")
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    momentum = 1.0 - float(node.attributes.get("momentum", 0.9))

    def run(
        training: bool, replace: float | None, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor
    ) -> Tensor:
        spread = training and x.numel() > x.shape[1]
        return F.batch_norm(x, mean, var, w, b, spread, momentum if replace is None else replace, epsilon)

    return run


def layer_norm(node: OperatorNode) -> Function:
    """LayerNormalization over the axes from ``axis`` on."""
    if node.outputs > 1:
        raise node.error("outputs of LayerNormalization beyond the first are not supported")
    axis, epsilon = int(node.attributes.get("axis", -1)), float(node.attributes.get("epsilon", 1e-5))

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        over = x.shape[axis:]
        # Both may broadcast in ONNX, but not in torch.
        return F.layer_norm(x, over, w.expand(over), None if b is None else b.expand(over), epsilon)

    return run


def instance_norm(node: OperatorNode) -> Function:
    """InstanceNormalization."""
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    # Not those of `torch.nn.functional`: they refuse a single position, whose result is the bias.
    return lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.0, epsilon, False)


def group_norm(node: OperatorNode) -> Function:
    """GroupNormalization with a scale for each channel (opset 21)."""
    groups, epsilon = int(node.attributes["num_groups"]), float(node.attributes.get("epsilon", 1e-5))
    return lambda x, w, b: torch.group_norm(x, groups, w, b, epsilon)


def local_response_norm(node: OperatorNode) -> Function:
    """LRN over an odd number of channels."""
    size = int(node.attributes["size"])
    if size % 2 == 0:
        raise node.error(f"`size` must be odd, but got {size}")
    alpha, beta = float(node.attributes.get("alpha", 1e-4)), float(node.attributes.get("beta", 0.75))
    bias = float(node.attributes.get("bias", 1.0))
    return lambda x: F.local_response_norm(x, size, alpha, beta, bias)


def _source(mode: str, size: int, out: int, scale: float) -> Tensor:
    """Coordinates in the input of each output position along one axis (ONNX Resize, float32 as runtimes do)."""
    at = torch.arange(out, dtype=torch.float32)
    if mode == "align_corners":
        return at * ((size - 1) / (out - 1)) if out > 1 else torch.zeros(1)
    if mode == "asymmetric":
        return at / scale
    if mode == "pytorch_half_pixel" and out == 1:
        return torch.zeros(1)
    return (at + 0.5) / scale - 0.5


def _rounded(mode: str, at: Tensor) -> Tensor:
    if mode == "floor":
        return at.floor()
    if mode == "ceil":
        return at.ceil()
    return (at - 0.5).ceil() if mode == "round_prefer_floor" else (at + 0.5).floor()


def resize(node: OperatorNode) -> Function:
    """Resize by nearest neighbour or linearly, one axis after the other."""
    linear = node.choice("mode", "nearest", ("nearest", "linear")) == "linear"
    coordinates = node.choice(
        "coordinate_transformation_mode",
        "half_pixel",
        ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    )
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor")
    if node.attributes.get("antialias", 0) or node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.error("neither `antialias` nor `keep_aspect_ratio_policy` is supported")
    scales, sizes, axes = node.constant(2), node.integers(3), node.attributes.get("axes")

    def run(x: Tensor, _: Any = None, scale: Tensor | None = None, size: Tensor | None = None) -> Tensor:
        chosen = list(range(x.ndim)) if axes is None else [int(a) % x.ndim for a in axes]
        wanted = sizes if sizes is not None else None if size is None else [int(v) for v in size.tolist()]
        given = scales if scales is not None else None if scale is None else scale.tolist()
        for i, axis in enumerate(chosen):
            old = x.shape[axis]
            new = int(wanted[i]) if wanted else math.floor(old * float(given[i]))  # type: ignore[index]
            if new == old:
                continue
            at = _source(coordinates, old, new, new / old if wanted else float(given[i]))  # type: ignore[index]
            if linear:
                at = at.clamp(0, old - 1)
                low = at.floor().long()
                share = (at - low).to(x).reshape(-1, *(1,) * (x.ndim - axis - 1))
                low, high = low.to(x.device), (low + 1).clamp(max=old - 1).to(x.device)
                x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
            else:
                x = x.index_select(axis, _rounded(rounding, at).clamp(0, old - 1).long().to(x.device))
        return x

    return run
