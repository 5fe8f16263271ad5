"""What ONNX Runtime's kernels do at every inference besides a layer's arithmetic: unpack weights, find ranges.

Figures are ratios to float32 of single layers, interleaved, with ONNX Runtime 1.31 on one AVX2 core of an AMD EPYC:
linear layers of 256 to 3072 features for 1, 16 and 128 rows, convolutions of 16 to 128 channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.core.errors import PlanError
from autocompress.core.layer_rules import STORED_BITS, refused_packed
from autocompress.core.plan import LayerPlan
from autocompress.core.target import RuntimeSpec
from autocompress.cost.structure import Operation

#: Operations at float32's peak that MatMulNBits takes to unpack a weight, whatever the rows: 0.2 ns and 5 ns, measured.
_UNPACKING = {4: 20.0, 8: 500.0}
#: ConvInteger's time as a multiple of float32's, what quantizes its input included; depthwise apart.
_CONV_INTEGER, _DEPTHWISE = 5.0, 17.0
#: Dynamic linear layers took 0.3 to 0.8 of float32's time: half of its arithmetic, and 0.1 ns a weight for one row too.
_LINEAR_INTEGER, _LINEAR_READING = 0.5, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimeWork:
    """Added to the price of a float32 layer.

    Args:
        slower: times its arithmetic takes.
        operations: more of them, at the peak.
        kernels: more of them.
        weight_bytes: bytes of a weight as it is read; None for those of the precision.
    """

    slower: float = 1.0
    operations: float = 0.0
    kernels: int = 0
    weight_bytes: float | None = None


def run_time_work(op: Operation, plan: LayerPlan, spec: RuntimeSpec) -> RunTimeWork | None:
    """What a layer's plan adds to the kernel of its precision; None where it adds nothing.

    Raises:
        PlanError: ranges found at run time, on a runtime whose kernels for that are not known.
    """
    if plan.dynamic:
        if spec.name != "onnxruntime":
            raise PlanError(
                f"Layer {op.name!r} finds its ranges at run time, which is priced for ONNX Runtime only, not for "
                f"{spec.name}."
            )
        if op.kind == "gemm":
            reading = op.weights * _LINEAR_READING
            return RunTimeWork(slower=_LINEAR_INTEGER, operations=reading, kernels=1, weight_bytes=1.0)
        return RunTimeWork(slower=_DEPTHWISE if op.kind == "depthwise" else _CONV_INTEGER, kernels=3, weight_bytes=1.0)
    matrix = op.layer is not None and len(op.layer.weight_shape) == 2
    if not matrix or refused_packed(plan, op.op_type) is not None:
        return None
    bits = STORED_BITS[plan.weight_bits]
    return RunTimeWork(operations=op.weights * _UNPACKING[bits], weight_bytes=bits / 8 + 4 / plan.block_size)
