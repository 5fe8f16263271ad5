"""What a runtime launches: one kernel with the shapes it works on, and what it cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

#: Type and shape of a tensor.
Tensor = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch, with all that its time is known to depend on; equal kernels have equal prices.

    Args:
        op_type: as the runtime calls it after its fusions, such as ``QLinearConv``.
        inputs: types and shapes; weights that the runtime packed may lack.
        outputs: likewise.
        weight: shape of the weight of a convolution or matrix product, ``(out, in, ...)``; empty where there is none.
        kind: strides, groups, fused activation and the like.
    """

    op_type: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weight: tuple[int, ...] = ()
    kind: str = ""

    @cached_property
    def key(self) -> str:
        """Canonical text; :meth:`from_key` reads it back."""
        return json.dumps([self.op_type, self.inputs, self.outputs, self.weight, self.kind], separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> Kernel:
        """Read what :attr:`key` wrote."""
        op_type, inputs, outputs, weight, kind = json.loads(key)
        read, written = _tensors(inputs), _tensors(outputs)
        return cls(op_type=op_type, inputs=read, outputs=written, weight=tuple(weight), kind=kind)

    @cached_property
    def family(self) -> str:
        """Kernels of one family differ in their sizes alone, so a size between two of them can be interpolated."""
        window = "x".join(map(str, self.weight[2:]))
        parts = (self.op_type, self.inputs[0][0] if self.inputs else "", window, self.kind)
        return " ".join(part for part in parts if part)

    @property
    def outputs_spatial(self) -> float:
        """Pixels of the output, or rows of a matrix product."""
        return _size(self.outputs[0]) / (self.weight[0] if self.weight else 1)

    @property
    def work(self) -> tuple[float, float, float, float]:
        """Multiply-accumulates, and elements of weights, of the inputs that are no weights, and of outputs."""
        weights = float(math.prod(self.weight)) if self.weight else 0.0
        # Bias, scales and unpacked weights are at most one-dimensional or equal to the weight.
        read = sum(_size(tensor) for tensor in self.inputs if not self.weight or len(tensor[1]) > 1)
        read -= weights * sum(tensor[1] == self.weight for tensor in self.inputs[1:]) if self.weight else 0.0
        written = sum(_size(tensor) for tensor in self.outputs)
        out_channels = max(1, self.weight[0]) if self.weight else 1
        return written * weights / out_channels, weights, read, written


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelTimes:
    """Kernels of one model in the order of launch, and what the runtime's profiler said of them.

    Args:
        kernels: in order.
        microseconds: ``(runs, n_kernels)``; the profiler itself takes part of it.
    """

    kernels: tuple[Kernel, ...]
    microseconds: NDArray[np.float64]

    def calm(self, share: float = 0.25) -> NDArray[np.float64]:
        """``(n_kernels,)`` mean of each kernel's shorter times.

        A mean, as the profiler counts whole microseconds.

        Args:
            share: of the runs that count, the shortest.
        """
        count = max(1, round(len(self.microseconds) * share))
        found: NDArray[np.float64] = np.sort(self.microseconds, axis=0)[:count].mean(axis=0)
        return found


def _tensors(data: list[list[object]]) -> tuple[Tensor, ...]:
    return tuple((str(kind), tuple(shape)) for kind, shape in data)  # type: ignore[arg-type]


def _size(tensor: Tensor) -> float:
    return float(math.prod(tensor[1]))
