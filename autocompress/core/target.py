"""A piece of hardware: its facts, and what each runtime really runs fast on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.layer_rules import STORED_BITS, changed
from autocompress.core.plan import LayerPlan
from autocompress.core.tool import ToolCommand


class Precision(StrEnum):
    """How a layer computes and keeps its weights on a runtime.

    ``W8``/``W4``/``W2`` keep weights packed and compute in float32; ``INT8`` computes in integers, ``INT4`` and
    ``INT2`` too, with weights packed to fewer bits; ``FP16_STORAGE`` keeps float16 weights and computes in float32.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP16_STORAGE = "fp16_storage"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    W8 = "w8"
    W4 = "w4"
    W2 = "w2"

    @classmethod
    def of(cls, plan: LayerPlan) -> Precision:
        """The precision that a layer plan asks for.

        Raises:
            PlanError: a plan that ``compress`` applies but that searches do not offer, as nothing prices it.
        """
        found = cls.matching(plan)
        if found is None:
            raise PlanError(
                f"Only these precisions are priced and searched: {', '.join(cls)}; but got {plan.label}, which "
                "`autocompress compress` alone applies."
            )
        return found

    @classmethod
    def matching(cls, plan: LayerPlan) -> Precision | None:
        """The precision that a layer plan asks for; None where the plan has none (see :meth:`of`)."""
        if plan.float_type == "bfloat16":
            return cls.BF16 if plan.activation_bits == 16 else None
        return None if changed(plan) else _BY_BITS.get((plan.weight_bits, plan.activation_bits))

    @classmethod
    def pricing(cls, plan: LayerPlan) -> Precision:
        """The precision whose kernel runs a layer plan, however its numbers are made and stored."""
        # Weights are unpacked at load, so what they were kept in does not reach the kernel.
        stored = STORED_BITS.get(plan.weight_bits, plan.weight_bits)
        return cls.matching(plan) or _BY_BITS[(stored, plan.activation_bits)]

    @property
    def layer_plan(self) -> LayerPlan:
        """The layer plan that asks for this precision."""
        if self is Precision.BF16:
            return LayerPlan(weight_bits=16, activation_bits=16, float_type="bfloat16")
        weight_bits, activation_bits = next(bits for bits, p in _BY_BITS.items() if p is self)
        return LayerPlan(weight_bits=weight_bits, activation_bits=activation_bits)


_BY_BITS: dict[tuple[int, int], Precision] = {
    (32, 32): Precision.FP32,
    (16, 16): Precision.FP16,
    (16, 32): Precision.FP16_STORAGE,
    (8, 8): Precision.INT8,
    (4, 8): Precision.INT4,
    (2, 8): Precision.INT2,
    (8, 32): Precision.W8,
    (4, 32): Precision.W4,
    (2, 32): Precision.W2,
}


def option_of(plan: LayerPlan) -> str:
    """What a search calls a layer plan: its precision, else its label; rank and sparsity are choices of their own."""
    precision = Precision.matching(plan)
    return plan.label if precision is None else precision.value


def plan_of(option: str) -> LayerPlan:
    """The layer plan that :func:`option_of` names.

    Raises:
        PlanError: neither a precision nor a label.
    """
    return Precision(option).layer_plan if option in list(Precision) else LayerPlan.from_label(option)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value with its unit and where it comes from."""

    value: float | str
    source: str
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Whether a runtime has a real kernel for an operator in a precision.

    Args:
        supported: whether the space may offer it.
        reason: why not, or a remark; required where not supported.
        peak_gops: dense peak of multiply-accumulate hardware in 10^9 operations a second (2 a MAC), all threads.
        efficiency: share of the peak that real layers reach.
    """

    supported: bool
    reason: str = ""
    peak_gops: float | None = None
    efficiency: float = 0.5

    def __post_init__(self) -> None:
        if not self.supported and not self.reason:
            raise ValueError("A refused capability must say why.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSpec:
    """One runtime on one target.

    Args:
        name: such as ``onnxruntime`` or ``tensorrt``.
        capabilities: (operator or ``"*"``, precision) to capability; a missing pair is refused.
        channel_multiple: precision to the channel multiple its kernels want.
        activation_type: ``uint8`` or ``int8``: what its integer kernels want for activations.
        launch_overhead_us: fixed cost of an operator, microseconds.
        threads: default thread count.
        reduce_range: whether its 8-bit weights must stay within 7 bits: uint8 x int8 kernels that add pairs of products
            in saturating 16 bits give wrong sums otherwise.
        two_to_four: whether its kernels skip the zeros of 2:4 sparse weights.
        command: the tool that times models with it on an attached device; None where the profile names none.
        compile_target: what a compiler has to know of the processor; None where nothing is compiled.
    """

    name: str
    capabilities: Mapping[tuple[str, Precision], Capability]
    channel_multiple: Mapping[Precision, int] = field(default_factory=dict)
    activation_type: str = "uint8"
    launch_overhead_us: float = 5.0
    threads: int = 1
    reduce_range: bool = False
    two_to_four: bool = False
    command: ToolCommand | None = None
    compile_target: CompileTarget | None = None

    def capability(self, op_type: str, precision: Precision) -> Capability:
        """The capability of an operator, falling back to ``"*"``, else refused."""
        found = self.capabilities.get((op_type, precision)) or self.capabilities.get(("*", precision))
        return found or Capability(supported=False, reason=f"{self.name} has no {precision} kernel for {op_type}")

    def multiple(self, precision: Precision) -> int:
        """The channel multiple for a precision; 1 where none is known."""
        return self.channel_multiple.get(precision, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A piece of hardware.

    Args:
        name: of the profile, such as ``jetson-nano``; ``local`` is the host.
        title: as a person would say it.
        facts: name to :class:`Fact`; ``memory_bandwidth_gb_per_s`` feeds the roofline.
        runtimes: name to spec; the first is the default.
        notes: traps worth knowing, each with its source.
    """

    name: str
    title: str
    facts: Mapping[str, Fact]
    runtimes: Mapping[str, RuntimeSpec]
    notes: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether this is the machine the program runs on."""
        return self.name == "local"

    def runtime(self, name: str | None = None) -> RuntimeSpec:
        """A runtime by name, or the default.

        Raises:
            UnknownNameError: the profile has no such runtime.
        """
        if name is None:
            return next(iter(self.runtimes.values()))
        if name not in self.runtimes:
            raise UnknownNameError(f"runtime of {self.name}", name, self.runtimes)
        return self.runtimes[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for `targets --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "facts": {k: {"value": f.value, "unit": f.unit, "source": f.source} for k, f in self.facts.items()},
            "runtimes": {
                r.name: {
                    "capabilities": [
                        {
                            "operator": op,
                            "precision": p.value,
                            "supported": c.supported,
                            "reason": c.reason,
                            "peak_gops": c.peak_gops,
                            "efficiency": c.efficiency,
                        }
                        for (op, p), c in r.capabilities.items()
                    ],
                    "channel_multiple": {p.value: m for p, m in r.channel_multiple.items()},
                    "activation_type": r.activation_type,
                    "launch_overhead_us": r.launch_overhead_us,
                    "threads": r.threads,
                    "reduce_range": r.reduce_range,
                    "compile_target": None if r.compile_target is None else r.compile_target.to_dict(),
                }
                for r in self.runtimes.values()
            },
            "notes": list(self.notes),
        }
