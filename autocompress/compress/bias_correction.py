"""Take back the shift that coarse weights put on a layer's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def output_shift(
    node: ir.Node, weight: NDArray[np.float32], stored: NDArray[np.float32], axis: int, means: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """How far quantized weights move each output channel on average: ``E[(q - w) x] = (q - w) E[x]``.

    Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2. Padding is
    taken for average input.

    Args:
        node: a Conv, Gemm or MatMul.
        weight: as it was.
        stored: as the artifact has it.
        axis: of the output channels.
        means: ``(in_channels,)`` average of each input channel.

    Returns:
        ``(out_channels,)``, or None where the means are of something else than the weight's input channels.
    """
    if node.op_type == "Conv":
        kernel = tuple(range(2, weight.ndim))
        # Summed over the kernel first: two small arrays are subtracted in place of two large ones.
        error = stored.sum(kernel, dtype=np.float64) - weight.sum(kernel, dtype=np.float64)
        groups = node.attributes.get_int("group", 1)
        if len(means) != groups * weight.shape[1]:
            return None
        by_group = means.reshape(groups, 1, weight.shape[1])
        shift = error.reshape(groups, -1, weight.shape[1]) * by_group
        return np.asarray(shift.sum(2).reshape(-1), np.float64)
    if node.op_type not in ("Gemm", "MatMul") or weight.ndim != 2 or len(means) != weight.shape[1 - axis]:
        return None
    return np.asarray(np.moveaxis(stored.astype(np.float64) - weight, axis, 0) @ means, np.float64)


def channel_means(array: NDArray[Any]) -> NDArray[np.float64]:
    """``(channels,)`` average of each channel: axis 1 of images and volumes, else the last."""
    axis = 1 if array.ndim > 3 else array.ndim - 1
    return np.asarray(array.mean(tuple(i for i in range(array.ndim) if i != axis), dtype=np.float64), np.float64)
