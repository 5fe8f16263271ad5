"""Which ways to quantize a layer go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autocompress.core.errors import PlanError

if TYPE_CHECKING:
    from autocompress.core.plan import LayerPlan

GRANULARITIES = ("channel", "tensor", "block")
FORMATS = ("uniform", "codebook", "log", "power_of_two")
ROUNDINGS = ("nearest", "adaround")
FLOAT_TYPES = ("float16", "bfloat16")
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: Bits of the narrowest type of ONNX that takes as many as are asked for.
STORED_BITS = {8: 8, 6: 8, 4: 4, 3: 4, 2: 2}
#: Fields of a layer's plan that say how its integers are made, and what they are where a plan is silent.
QUANTIZATION_DEFAULTS: dict[str, Any] = {
    "granularity": "channel",
    "block_size": 32,
    "symmetric": True,
    "dynamic": False,
    "format": "uniform",
    "rounding": "nearest",
}
_KNOWN: dict[str, tuple[Any, ...]] = {
    "granularity": GRANULARITIES,
    "block_size": BLOCK_SIZES,
    "float_type": FLOAT_TYPES,
    "format": FORMATS,
    "rounding": ROUNDINGS,
}
_Rule = tuple[Callable[["LayerPlan"], bool], str, Callable[["LayerPlan"], str]]
#: What is wrong, the rule, and the value; the first that applies is told.
_RULES: tuple[_Rule, ...] = (
    (
        lambda p: p.granularity != "block" and p.block_size != QUANTIZATION_DEFAULTS["block_size"],
        "`block_size` is read with granularity 'block' only",
        lambda p: f"granularity {p.granularity!r}",
    ),
    (
        lambda p: p.weight_bits > 8 and bool(changed(p)),
        "How integers are made can be chosen for weights of at most 8 bits",
        lambda p: f"{', '.join(f'{k} {v!r}' for k, v in changed(p).items())} with weight_bits={p.weight_bits}",
    ),
    (
        lambda p: p.float_type != "float16" and p.weight_bits != 16,
        "`float_type` is read with 16-bit weights only",
        lambda p: f"{p.float_type!r} with weight_bits={p.weight_bits}",
    ),
    (
        lambda p: p.dynamic and p.activation_bits != 8,
        "`dynamic` needs 8-bit activations",
        lambda p: f"activation_bits={p.activation_bits}",
    ),
    (
        lambda p: p.dynamic and not p.symmetric,
        "`dynamic` layers take symmetric weights: ConvInteger has one zero point for all channels",
        lambda p: f"symmetric={p.symmetric}",
    ),
    (
        lambda p: p.activation_bits == 8 and p.granularity == "block",
        "Integer kernels take one scale a channel or tensor; blocks need activation_bits 32",
        lambda p: f"granularity {p.granularity!r} with activation_bits={p.activation_bits}",
    ),
    (
        lambda p: p.activation_bits == 8 and p.format != "uniform",
        "Integer kernels take uniform weights; other formats are storage and need activation_bits 32",
        lambda p: f"format {p.format!r} with activation_bits={p.activation_bits}",
    ),
    (
        lambda p: p.format != "uniform" and not p.symmetric,
        "Only the uniform format has zero points",
        lambda p: f"format {p.format!r} with symmetric={p.symmetric}",
    ),
    (
        lambda p: p.format == "power_of_two" and p.weight_bits == 8,
        "Powers of two take at most 6 bits, as 8 would reach down to 2^-126 of the largest weight",
        lambda p: f"weight_bits={p.weight_bits}",
    ),
    (
        lambda p: p.rounding == "adaround" and not (p.format == "uniform" and p.symmetric and p.granularity != "block"),
        "Rounding 'adaround' needs uniform symmetric weights with one scale a channel or tensor",
        lambda p: f"format {p.format!r}, symmetric={p.symmetric}, granularity {p.granularity!r}",
    ),
)


#: Bits a weight that ONNX Runtime's CPU kernel for packed weights (MatMulNBits) unpacks.
KERNEL_BITS = (4, 8)


def refused_packed(plan: LayerPlan, op_type: str) -> str | None:
    """Why a layer's weight cannot stay packed at run time, or None."""
    if plan.granularity != "block" or plan.format != "uniform" or plan.activation_bits != 32:
        return "MatMulNBits takes uniform blocks with float32 activations"
    if op_type not in ("MatMul", "Gemm"):
        return f"MatMulNBits is for Linear layers, not {op_type}"
    if STORED_BITS[plan.weight_bits] not in KERNEL_BITS:
        return f"MatMulNBits holds 4 or 8 bits, not {plan.weight_bits}"
    return None


def changed(plan: LayerPlan) -> dict[str, Any]:
    """The fields of :data:`QUANTIZATION_DEFAULTS` that a plan changes."""
    found = {name: getattr(plan, name) for name in QUANTIZATION_DEFAULTS}
    return {name: value for name, value in found.items() if value != QUANTIZATION_DEFAULTS[name]}


def check_quantization(plan: LayerPlan) -> None:
    """Raise :class:`PlanError` for a value that does not exist or values that do not go together."""
    for name, known in _KNOWN.items():
        if getattr(plan, name) not in known:
            raise PlanError(f"`{name}` must be one of {known}, but got {getattr(plan, name)!r}.")
    for name in ("symmetric", "dynamic"):
        if not isinstance(getattr(plan, name), bool):
            raise PlanError(f"`{name}` must be true or false, but got {getattr(plan, name)!r}.")
    for wrong, rule, value in _RULES:
        if wrong(plan):
            raise PlanError(f"{rule}, but got {value(plan)}.")
