"""Which (operator, precision) pairs have a real kernel, and how near to its peak each kind of layer comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from autocompress.core.target import Capability, Precision, RuntimeSpec

LayerClass = Literal["dense", "pointwise", "depthwise", "gemm"]

#: Kinds of layer whose share of the peak differs, with their capability keys; ``dense`` is the operator's own.
CLASS_KEYS: Mapping[str, tuple[str, ...]] = {
    "pointwise": ("Conv:pointwise",),
    "depthwise": ("Conv:depthwise",),
    "gemm": ("Gemm", "MatMul"),
}
#: Integers in and out of the kernel.
INTEGER = (Precision.INT8, Precision.INT4, Precision.INT2)
#: Fewer bytes in the file at float32 speed.
STORAGE = (Precision.FP16_STORAGE, Precision.W8, Precision.W4, Precision.W2)
#: Latency as a share of float32's at which a precision is not worth having for speed.
NOT_FASTER = 0.98
#: Operations a clock and core, 2 a multiply-accumulate: instruction set to (float32, int8).
_OPS_A_CLOCK: Mapping[str, tuple[float, float]] = {
    "avx512_vnni": (64, 256),
    "avx512": (64, 128),
    "avx_vnni": (32, 128),
    "avx2": (32, 64),
    "i8mm": (16, 128),
    "dotprod": (16, 64),
    "neon": (8, 16),
}
_FALLBACK_CLOCK_GHZ = 2.5
_NO_INTEGER_CONV_TRANSPOSE = (
    "ONNX Runtime's CPU provider has no integer ConvTranspose (there is no QLinearConvTranspose)"
)
_NO_BFLOAT16 = (
    "ONNX Runtime's CPU provider has no bfloat16 arithmetic, even on processors with instructions for it "
    "(onnxruntime#28768)"
)
#: Share of the peak at the nominal clock, fitted to ONNX Runtime 1.31 on one core of an AMD EPYC (Zen 4).
_FLOAT_EFFICIENCY: Mapping[str, float] = {"dense": 0.7, "pointwise": 0.75, "depthwise": 0.12, "gemm": 0.3}
_INTEGER_EFFICIENCY: Mapping[str, float] = {"dense": 0.6, "pointwise": 0.5, "depthwise": 0.04, "gemm": 0.2}
_LAUNCH_US = 1.5


def layer_class(op_type: str, weight_shape: Sequence[int], group: int = 1) -> LayerClass:
    """The kind of a layer: depthwise is one input channel a group, pointwise a kernel of one position."""
    if op_type not in ("Conv", "ConvTranspose"):
        return "gemm"
    if group > 1 and weight_shape[1] == 1:
        return "depthwise"
    return "pointwise" if all(size == 1 for size in weight_shape[2:]) else "dense"


def class_capability(spec: RuntimeSpec, op_type: str, kind: LayerClass, precision: Precision) -> Capability:
    """The capability of a layer of one kind: its own where the runtime tells kinds apart, else the operator's."""
    return spec.capabilities.get((f"{op_type}:{kind}", precision)) or spec.capability(op_type, precision)


def best_isa(isa: Sequence[str]) -> str:
    """The instruction set that decides the speed; ``""`` where none is known."""
    return next((name for name in _OPS_A_CLOCK if name in isa), "")


def peak_gops(isa: Sequence[str], clock_ghz: float | None, cores: int = 1) -> tuple[float, float]:
    """Peaks in 10^9 operations a second, float32 and int8: clocks x units."""
    scalar, integer = _OPS_A_CLOCK.get(best_isa(isa), (4.0, 4.0))
    clocks = (clock_ghz or _FALLBACK_CLOCK_GHZ) * cores
    return scalar * clocks, integer * clocks


def default_multiples(isa: Sequence[str]) -> dict[Precision, int]:
    """Channel multiples where nothing was measured: the kernels' block of output channels."""
    wide = 16 if best_isa(isa).startswith("avx512") else 8
    integer = 16 if best_isa(isa) in ("avx512_vnni", "avx512", "dotprod", "i8mm") else 8
    return {p: integer if p in INTEGER else wide for p in Precision}


def onnxruntime_spec(
    *, isa: Sequence[str], clock_ghz: float | None, threads: int = 1, probe: Mapping[str, Any] | None = None
) -> RuntimeSpec:
    """ONNX Runtime's CPU provider on a machine with these instruction sets.

    Args:
        isa: names as in :class:`~autocompress.hardware.host.HostFacts`.
        clock_ghz: None where unknown.
        threads: that inference uses.
        probe: what was measured: ``int8_ratio`` and ``fp16_ratio`` (latency as a share of float32's),
            ``activation_type``, ``channel_multiple`` (precision to multiple), ``version``, ``threads``; any may be
            missing. Without a ratio the instruction sets decide.
    """
    known: Mapping[str, Any] = probe or {}
    float_peak, integer_peak = peak_gops(isa, clock_ghz, threads)
    refused = {p: reason for p in INTEGER if (reason := _integer_refusal(known))}
    refused.update({Precision.FP16: reason} if (reason := _half_refusal(known)) else {})
    refused[Precision.BF16] = _NO_BFLOAT16
    ratios = {Precision.INT8: known.get("int8_ratio"), Precision.FP16: known.get("fp16_ratio")}
    capabilities: dict[tuple[str, Precision], Capability] = {}
    for precision in Precision:
        if precision in refused:
            capabilities["*", precision] = Capability(supported=False, reason=refused[precision])
            continue
        ratio = ratios[Precision.INT8] if precision in INTEGER else ratios.get(precision)
        peak = integer_peak if precision in INTEGER else float_peak
        shares = _INTEGER_EFFICIENCY if precision in INTEGER else _FLOAT_EFFICIENCY
        if precision is Precision.FP16 and ratio:
            peak = float_peak / float(ratio)
        remark = "packed, folded at load; computes in float32" if precision in STORAGE else _measured_remark(ratio)
        for key, efficiency in _class_efficiencies(shares):
            capabilities[key, precision] = Capability(
                supported=True, reason=remark, peak_gops=peak, efficiency=efficiency
            )
    for precision in INTEGER:
        capabilities["ConvTranspose", precision] = Capability(supported=False, reason=_NO_INTEGER_CONV_TRANSPOSE)
    return RuntimeSpec(
        name="onnxruntime",
        capabilities=capabilities,
        channel_multiple=_multiples(isa, known),
        activation_type=str(known.get("activation_type") or "uint8"),
        launch_overhead_us=_LAUNCH_US,
        threads=threads,
        # Without VNNI, uint8 x int8 kernels add pairs of products in saturating 16 bits (vpmaddubsw).
        reduce_range=best_isa(isa) in ("avx2", "avx512"),
    )


def _class_efficiencies(classes: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(key, efficiency) for name, efficiency in classes.items() for key in CLASS_KEYS.get(name, ("*",))]


def _multiples(isa: Sequence[str], probe: Mapping[str, Any]) -> dict[Precision, int]:
    """Measured multiples where there are any; precisions that share a kernel share its multiple."""
    multiples = default_multiples(isa)
    measured = probe.get("channel_multiple") or {}
    for precision in Precision:
        source = "int8" if precision in INTEGER else "fp32"
        if source in measured:
            multiples[precision] = int(measured[source])
    return multiples


def _integer_refusal(probe: Mapping[str, Any]) -> str:
    ratio = probe.get("int8_ratio")
    if ratio is None or float(ratio) < NOT_FASTER:
        return ""
    activations = probe.get("activation_type") or "uint8"
    run_on = f"{activations} activations{_run_on(probe)}"
    return f"measured on it: an int8 net takes {float(ratio):.2f}x the time of float32 ({run_on})"


def _half_refusal(probe: Mapping[str, Any]) -> str:
    ratio = probe.get("fp16_ratio")
    if ratio is None:
        return "ONNX Runtime's CPU provider casts float16 to float32 around its kernels (onnxruntime#25824)"
    if float(ratio) < NOT_FASTER:
        return ""
    return f"measured on it: a float16 net takes {float(ratio):.2f}x the time of float32{_run_on(probe)}"


def _run_on(probe: Mapping[str, Any]) -> str:
    version, threads = probe.get("version"), probe.get("threads")
    text = f", ONNX Runtime {version}" if version else ""
    return text + (f", {threads} thread{'s' * (threads != 1)}" if threads else "")


def _measured_remark(ratio: float | None) -> str:
    return f"measured on it: {float(ratio):.2f}x the time of float32" if ratio else ""
