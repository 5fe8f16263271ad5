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

#: Share of the peak that kernels with listed schedules reach: ResNet-20 on one core of an AMD EPYC (Zen 3), where int8
#: took 0.63 of float32's time; depthwise and gemm unverified.
_EFFICIENCY: Mapping[str, float] = {"dense": 0.7, "pointwise": 0.7, "depthwise": 0.1, "gemm": 0.2}
_LAUNCH_US = 1.0
_NO_HALF = "this processor has no float16 arithmetic: LLVM converts each operation's operands to float32 and back"
_NO_INTEGER_CONV_TRANSPOSE = "there is no integer ConvTranspose in the lowering to TVM"
_INTEGER_EFFICIENCY: Mapping[str, float] = {"dense": 0.6, "pointwise": 0.6, "depthwise": 0.05, "gemm": 0.2}
_DOT_PRODUCTS = frozenset({"avx2", "avx_vnni", "avx512", "avx512_vnni", "dotprod"})
_NO_DOT_PRODUCT = (
    "this processor has no dot product of 8-bit numbers (x86 has from AVX2 on, ARM from the dotprod extension on), "
    "without which float32 is faster"
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
    # There are no kernels of 8-bit matrix products (i8mm).
    peak, integer_peak = peak_gops([name for name in isa if name != "i8mm"], clock_ghz, threads)
    capabilities: dict[tuple[str, Precision], Capability] = {}
    for precision in Precision:
        refused = _refusal(precision, isa)
        if refused:
            capabilities["*", precision] = Capability(supported=False, reason=refused)
            continue
        remark = _remark(precision)
        integer = precision in INTEGER
        rate = integer_peak if integer else 2 * peak if precision is Precision.FP16 else peak
        for name, efficiency in (_INTEGER_EFFICIENCY if integer else _EFFICIENCY).items():
            for key in CLASS_KEYS.get(name, ("*",)):
                capabilities[key, precision] = Capability(
                    supported=True, reason=remark, peak_gops=rate, efficiency=efficiency
                )
    for precision in INTEGER:
        capabilities["ConvTranspose", precision] = Capability(supported=False, reason=_NO_INTEGER_CONV_TRANSPOSE)
    return RuntimeSpec(
        name="tvm",
        capabilities=capabilities,
        channel_multiple=default_multiples(isa),
        launch_overhead_us=_LAUNCH_US,
        threads=threads,
        # Without VNNI sums of two products are kept in 16 bits: exact for weights of 7, as ONNX Runtime's are.
        reduce_range=best_isa(isa) in ("avx2", "avx512"),
        compile_target=compile_target,
    )


def _refusal(precision: Precision, isa: Sequence[str]) -> str:
    if precision is Precision.FP16 and "fp16" not in isa:
        return _NO_HALF
    if precision in INTEGER and not _DOT_PRODUCTS & set(isa):
        return _NO_DOT_PRODUCT
    return _NO_BFLOAT if precision.value.startswith("bf16") else ""


def _remark(precision: Precision) -> str:
    if precision in STORAGE:
        return "packed, unpacked when it is compiled; computes in float32"
    if precision in INTEGER:
        return "dot products of 8-bit numbers with 32-bit sums; grouped convolutions compute in float32"
    return ""
