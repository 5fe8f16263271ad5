"""Take back the shift that coarse weights put on a layer's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.weights import QuantizedWeight


def output_shift(
    node: ir.Node, weight: NDArray[np.float32], quantized: QuantizedWeight, means: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """How far quantized weights move each output channel on average: ``E[(q - w) x] = (q - w) E[x]``.

    Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2. Padding is
    taken for average input.

    Args:
        node: a Conv, Gemm or MatMul.
        weight: as it was.
        quantized: as it is stored.
        means: ``(in_channels,)`` average of each input channel.

    Returns:
        ``(out_channels,)``, or None where the means are of something else than the weight's input channels.
    """
    shape = [1] * weight.ndim
    shape[quantized.axis] = -1
    if node.op_type == "Conv":
        kernel = tuple(range(2, weight.ndim))
        # Summed over the kernel first: two small arrays are subtracted in place of two large ones.
        integers = quantized.values.sum(kernel, dtype=np.float64) * quantized.scale[:, None].astype(np.float64)
        error = integers - weight.sum(kernel, dtype=np.float64)
        groups = node.attributes.get_int("group", 1)
        if len(means) != groups * weight.shape[1]:
            return None
        by_group = means.reshape(groups, 1, weight.shape[1])
        shift = error.reshape(groups, -1, weight.shape[1]) * by_group
        return np.asarray(shift.sum(2).reshape(-1), np.float64)
    if node.op_type not in ("Gemm", "MatMul") or weight.ndim != 2 or len(means) != weight.shape[1 - quantized.axis]:
        return None
    error = quantized.values * quantized.scale.reshape(shape).astype(np.float64) - weight
    return np.asarray(np.moveaxis(error, quantized.axis, 0) @ means, np.float64)


def channel_means(array: NDArray[Any]) -> NDArray[np.float64]:
    """``(channels,)`` average of each channel: axis 1 of images and volumes, else the last."""
    axis = 1 if array.ndim > 3 else array.ndim - 1
    return np.asarray(array.mean(tuple(i for i in range(array.ndim) if i != axis), dtype=np.float64), np.float64)
