"""TVM's word for a processor: LLVM's triple, processor and features, and how many cores run a kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import tvm

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import TargetError

#: LLVM backends by the first part of a triple.
_BACKENDS = {"i686": "i386", "armv7l": "arm", "armv7": "arm", "armv7a": "arm", "arm64": "aarch64"}
#: What a build for a GPU needs of the compiler library.
_BUILDERS = {"cuda": "target.build.cuda", "opencl": "target.build.opencl", "vulkan": "target.build.vulkan"}


def tvm_target(target: CompileTarget, threads: int) -> tvm.target.Target:
    """The target as TVM wants it.

    Args:
        target: processor and GPU.
        threads: that run a kernel; tuned schedules depend on it.

    Raises:
        TargetError: this build of TVM makes no code for it.
    """
    check_built(target)
    processor = _processor(target, threads)
    if target.kind == "llvm":
        return tvm.target.Target(processor)
    options: dict[str, Any] = {"kind": target.kind, "host": processor}
    if target.kind == "cuda":
        # Limits of every architecture since sm_30: CUDA C++ Programming Guide, Compute Capabilities.
        options |= {
            "arch": target.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
            "registers_per_block": 65536,
        }
    return tvm.target.Target(options)


def check_built(target: CompileTarget) -> None:
    """Raise :class:`TargetError` where this build of TVM makes no code for ``target``."""
    if target.kind in _BUILDERS and tvm.get_global_func(_BUILDERS[target.kind], allow_missing=True) is None:
        raise TargetError(
            f"TVM {tvm.__version__} as installed was built without {target.kind}, so it cannot compile for {target}: "
            f"it can for {', '.join(built_kinds())}; a TVM built with USE_{target.kind.upper()}=ON can for this one."
        )
    backend = _backend(target.triple or host_triple())
    if backend not in llvm_backends():
        raise TargetError(
            f"TVM's LLVM has no backend {backend!r}, so it cannot compile for {target}: "
            f"it has {', '.join(llvm_backends())}."
        )
    if target.mcpu and not tvm.target.codegen.llvm_is_valid_cpu(target.mcpu, target.triple):
        raise TargetError(f"TVM's LLVM knows no processor {target.mcpu!r} of {target.triple}.")


@cache
def built_kinds() -> tuple[str, ...]:
    """What this build of TVM makes code for."""
    found = [kind for kind, name in _BUILDERS.items() if tvm.get_global_func(name, allow_missing=True) is not None]
    return ("llvm", *found)


@cache
def llvm_backends() -> tuple[str, ...]:
    """Backends of TVM's LLVM."""
    return tuple(sorted(str(name) for name in tvm.target.codegen.llvm_get_targets()))


@cache
def host_triple() -> str:
    """This machine's triple."""
    return str(tvm.target.codegen.llvm_get_system_triple())


def device_of(target: tvm.target.Target) -> tvm.runtime.Device:
    """The device of this machine that runs a target's code.

    Raises:
        TargetError: there is none.
    """
    device = tvm.device("cpu" if target.kind.name == "llvm" else target.kind.name, 0)
    if not device.exist:
        raise TargetError(f"This machine has no {target.kind.name} device to run on.")
    return device


def _processor(target: CompileTarget, threads: int) -> dict[str, Any]:
    codegen = tvm.target.codegen
    options: dict[str, Any] = {"kind": "llvm", "num-cores": threads}
    if not target.triple:
        return {**options, "mtriple": host_triple(), "mcpu": str(codegen.llvm_get_system_cpu())}
    options["mtriple"] = target.triple
    if target.mcpu:
        options["mcpu"] = target.mcpu
    if target.features:
        options["mattr"] = list(target.features)
    if "gnueabihf" in target.triple:
        options["mfloat-abi"] = "hard"
    return options


def _backend(triple: str) -> str:
    first = triple.partition("-")[0]
    return _BACKENDS.get(first, first)
