"""Instructions that multiply and sum: four pairs of 8-bit numbers at once, or one pair of float32's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

#: Products of 8-bit numbers that one sum takes.
_GROUP = 4
#: Sums that are kept in registers where there are 16 or 32 of them; the rest is for operands.
_OF_16, _OF_32 = 12, 24
_LARGEST_CODE = 255
_LARGEST_PAIR, _SMALLEST_PAIR = 32767, -32768


@dataclass(frozen=True, slots=True, kw_only=True)
class DotProduct:
    """Such an instruction.

    Args:
        feature: of the processor that has it, as LLVM calls it.
        lanes: sums in a register.
        most: registers that may hold sums.
        data: type of the activations.
        weights: likewise.
        sums: likewise.
        group: products that each sum takes.
        saturates: whether the sum of two products is kept in 16 bits, which not all weights allow.
        make: code of it, from operands ``(group,)``, ``(lanes, group)`` and sums ``(lanes,)``; None where LLVM makes it
            of a product and a sum.
    """

    feature: str
    lanes: int
    most: int
    data: str
    weights: str = "int8"
    sums: str = "int32"
    group: int = _GROUP
    saturates: bool = False
    make: Callable[[Any, Any, Any], Any] | None = None

    @property
    def name(self) -> str:
        """Of TVM's tensor intrinsic."""
        return f"autocompress.{self.feature}.{self.lanes}"

    def fits(self, weights: NDArray[Any]) -> bool:
        """Whether no sum of two products overflows, whatever the activations.

        Args:
            weights: ``(outputs, ...)``; those that are multiplied together lie side by side on the last axis.
        """
        if not self.saturates:
            return True
        last = weights.shape[-1]
        padded = np.zeros((*weights.shape[:-1], last + last % 2), np.int32)
        padded[..., :last] = weights
        pairs = padded.reshape(-1, 2)
        high = _LARGEST_CODE * np.maximum(pairs, 0).sum(1)
        low = _LARGEST_CODE * np.minimum(pairs, 0).sum(1)
        return bool(high.max(initial=0) <= _LARGEST_PAIR and low.min(initial=0) >= _SMALLEST_PAIR)

    def define(self) -> None:
        """Let schedules use it."""
        if self.make is not None:
            TensorIntrin.register(self.name, _meaning(self), _code(self, self.make), override=True)


def dot_product_of(target: tvm.target.Target) -> DotProduct | None:
    """The best of 8-bit numbers that a processor has; None for one without, and for a GPU."""
    if target.kind.name != "llvm":
        return None
    has = tvm.target.codegen.target_has_features
    # 32-bit ARM has instructions of that name too, which LLVM calls otherwise.
    known = (dot for dot in _KNOWN if dot.feature != "dotprod" or _is_arm64(target))
    return next((dot for dot in known if has(dot.feature, target)), None)


def multiply_add_of(target: tvm.target.Target, kind: str) -> DotProduct | None:
    """A processor's multiplication and addition of floats; None for one without registers of several.

    Args:
        target: the processor.
        kind: ``float32`` or ``float16``.
    """
    if target.kind.name != "llvm":
        return None
    has = tvm.target.codegen.target_has_features
    triple = str(target.attrs["mtriple"])
    if triple.startswith(("x86_64", "i686")):
        wide = has("avx512f", target)
        bits, most = (512 if wide else 256 if has("avx", target) else 128), (_OF_32 if wide else _OF_16)
    elif _is_arm64(target):
        bits, most = 128, _OF_32
    elif has("neon", target):
        bits, most = 128, _OF_16
    else:
        return None
    if kind == "float16" and not has("fullfp16", target):
        return None
    lanes = bits // int(kind.removeprefix("float"))
    return DotProduct(feature="fma", lanes=lanes, most=most, data=kind, weights=kind, sums=kind, group=1)


def _is_arm64(target: tvm.target.Target) -> bool:
    return str(target.attrs["mtriple"]).startswith(("aarch64", "arm64"))


def _meaning(dot: DotProduct) -> Any:
    """The loops that schedules look for."""
    lanes, group, data = dot.lanes, dot.group, dot.data

    @T.prim_func(s_tir=True)
    def meaning(a: T.handle, b: T.handle, c: T.handle) -> None:
        activations = T.match_buffer(a, (group,), dtype=data, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), dtype="int8", offset_factor=1)
        sums = T.match_buffer(c, (lanes,), dtype="int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(sums[0:lanes], activations[0:group], weights[0:lanes, 0:group])
            T.writes(sums[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, group):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        sums[vi] = sums[vi] + T.cast(activations[vk], "int32") * T.cast(weights[vi, vk], "int32")

    return meaning


def _code(dot: DotProduct, make: Callable[[Any, Any, Any], Any]) -> Any:
    """What stands in their place."""
    lanes, group, data = dot.lanes, dot.group, dot.data
    few, many = f"{data}x{group}", f"{data}x{lanes * group}"
    numbers, words = f"int8x{lanes * group}", f"int32x{lanes}"

    def spread(four: Any) -> Any:
        """The same four for each sum."""
        return T.reinterpret(T.broadcast(T.reinterpret(four, dtype="int32"), lanes), dtype=many)

    @T.prim_func(s_tir=True)
    def code(a: T.handle, b: T.handle, c: T.handle) -> None:
        activations = T.match_buffer(a, (group,), dtype=data, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), dtype="int8", offset_factor=1)
        sums = T.match_buffer(c, (lanes,), dtype="int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(sums[0:lanes], activations[0:group], weights[0:lanes, 0:group])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = make(
                spread(activations.vload([0], few)),
                weights.vload([0, 0], dtype=numbers),
                sums.vload([0], dtype=words),
            )

    return code


def _call(name: str, dtype: str, *arguments: Any) -> Any:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.{name}"), *arguments, dtype=dtype)


def _vnni(lanes: int, bits: int) -> Callable[[Any, Any, Any], Any]:
    return lambda a, b, c: _call(f"x86.avx512.vpdpbusd.{bits}", f"int32x{lanes}", c, a, b)


def _multiply_add(lanes: int, bytes_name: str, words_name: str) -> Callable[[Any, Any, Any], Any]:
    """Sums of two in 16 bits, then sums of two of those."""
    pairs = f"int16x{2 * lanes}"

    def make(a: Any, b: Any, c: Any) -> Any:
        ones = T.broadcast(T.int16(1), 2 * lanes)
        return c + _call(f"x86.{words_name}", f"int32x{lanes}", _call(f"x86.{bytes_name}", pairs, a, b), ones)

    return make


#: The best first.
_KNOWN = (
    DotProduct(feature="avx512vnni", lanes=16, most=_OF_32, data="uint8", make=_vnni(16, 512)),
    DotProduct(feature="avxvnni", lanes=8, most=_OF_16, data="uint8", make=_vnni(8, 256)),
    DotProduct(
        feature="avx512bw",
        lanes=16,
        most=_OF_32,
        data="uint8",
        saturates=True,
        make=_multiply_add(16, "avx512.pmaddubs.w.512", "avx512.pmaddw.d.512"),
    ),
    DotProduct(
        feature="avx2",
        lanes=8,
        most=_OF_16,
        data="uint8",
        saturates=True,
        make=_multiply_add(8, "avx2.pmadd.ub.sw", "avx2.pmadd.wd"),
    ),
    DotProduct(
        feature="dotprod",
        lanes=4,
        most=_OF_32,
        data="int8",
        make=lambda a, b, c: _call("aarch64.neon.sdot.v4i32.v16i8", "int32x4", c, a, b),
    ),
)
