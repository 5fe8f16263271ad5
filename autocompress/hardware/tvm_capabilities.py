"""What TVM's code runs fast on a processor: every precision that its lowering has kernels for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.core.compile_target import CompileTarget
from autocompress.core.target import Capability, Precision, RuntimeSpec
from autocompress.hardware.capabilities import (
    CLASS_KEYS,
    INTEGER,
    STORAGE,
    best_isa,
    default_multiples,
    peak_gops,
)

#: Share of the float32 peak that tuned kernels reach, of a few dozen trials each; unverified.
_EFFICIENCY: Mapping[str, float] = {"dense": 0.4, "pointwise": 0.4, "depthwise": 0.1, "gemm": 0.2}
_LAUNCH_US = 1.0
_NO_HALF = "this processor has no float16 arithmetic: LLVM converts each operation's operands to float32 and back"
_NO_INTEGER_CONV_TRANSPOSE = "there is no integer ConvTranspose in the lowering to TVM"
_SLOW_INTEGERS = (
    "integer kernels are made without dot product instructions: on AVX2 those of ResNet-20 took 1.2 to 3 times as long "
    "as float32's"
)
_NO_BFLOAT = "the lowering to TVM has no bfloat16"


def tvm_spec(
    *, isa: Sequence[str], clock_ghz: float | None, threads: int, compile_target: CompileTarget
) -> RuntimeSpec:
    """TVM on a processor with these instruction sets.

    Args:
        isa: names as in :class:`~autocompress.hardware.host.HostFacts`.
        clock_ghz: None where unknown.
        threads: that inference uses.
        compile_target: what code is made for.
    """
    peak, _ = peak_gops(isa, clock_ghz, threads)
    capabilities: dict[tuple[str, Precision], Capability] = {}
    for precision in Precision:
        refused = _refusal(precision, isa)
        if refused:
            capabilities["*", precision] = Capability(supported=False, reason=refused)
            continue
        remark = _remark(precision)
        double = precision is Precision.FP16
        for name, efficiency in _EFFICIENCY.items():
            for key in CLASS_KEYS.get(name, ("*",)):
                capabilities[key, precision] = Capability(
                    supported=True, reason=remark, peak_gops=peak * (2 if double else 1), efficiency=efficiency
                )
    for precision in INTEGER:
        capabilities["ConvTranspose", precision] = Capability(supported=False, reason=_NO_INTEGER_CONV_TRANSPOSE)
    return RuntimeSpec(
        name="tvm",
        capabilities=capabilities,
        channel_multiple=default_multiples(isa),
        launch_overhead_us=_LAUNCH_US,
        threads=threads,
        # Its sums are exact; those of ONNX Runtime, which scores the quality of its artifacts, are not without VNNI.
        reduce_range=best_isa(isa) in ("avx2", "avx512"),
        compile_target=compile_target,
    )


def _refusal(precision: Precision, isa: Sequence[str]) -> str:
    if precision is Precision.FP16 and "fp16" not in isa:
        return _NO_HALF
    if precision in INTEGER and best_isa(isa).startswith("avx"):
        return _SLOW_INTEGERS
    return _NO_BFLOAT if precision.value.startswith("bf16") else ""


def _remark(precision: Precision) -> str:
    if precision in STORAGE:
        return "packed, unpacked when it is compiled; computes in float32"
    if precision in INTEGER:
        return "8-bit operands and 32-bit sums, without the processor's dot product instructions"
    return ""
