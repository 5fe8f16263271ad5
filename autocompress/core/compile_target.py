"""What a compiler has to know of the processor that will run its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Code that TVM can make: for a processor through LLVM, or for a GPU with such a processor as its host.
KINDS = ("llvm", "cuda", "opencl", "vulkan")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileTarget:
    """A processor, and the GPU beside it where that computes.

    Args:
        kind: one of :data:`KINDS`.
        triple: LLVM triple of the processor, such as ``aarch64-linux-gnu``; empty for the machine that compiles.
        mcpu: LLVM's name of the processor; empty for the machine's own, or for the triple's least.
        features: LLVM features such as ``+dotprod``.
        arch: of the GPU, such as ``sm_53``; needed for ``cuda``.
    """

    kind: str = "llvm"
    triple: str = ""
    mcpu: str = ""
    features: tuple[str, ...] = ()
    arch: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, but got {self.kind!r}.")
        if (self.kind == "cuda") != self.arch.startswith("sm_"):
            raise ValueError(f"`arch` such as sm_53 goes with cuda and with nothing else, but got {self.arch!r}.")
        unsigned = [name for name in self.features if name[:1] not in ("+", "-")]
        if unsigned:
            raise ValueError(f"features start with + or -, but got {unsigned[0]!r}.")
        if not self.triple and (self.mcpu or self.features):
            raise ValueError("`mcpu` and `features` go with a `triple`: without one the machine's own are taken.")

    @property
    def is_host(self) -> bool:
        """Whether it is the processor of the machine that compiles."""
        return self.kind == "llvm" and not self.triple

    def __str__(self) -> str:
        parts = (self.kind, self.arch, self.triple or "host", self.mcpu, *self.features)
        return " ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        return {**asdict(self), "features": list(self.features)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompileTarget:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "features": tuple(data["features"])})
