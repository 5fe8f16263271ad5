"""TVM's object files made into what a machine loads: a library where there is a linker, an archive otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from tvm.support import cc, tar

from autocompress.core.compile_target import CompileTarget
from autocompress.measure.tvm_worker.targets import host_triple

_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


def link(module: tvm.runtime.Module | tvm.runtime.Executable, target: CompileTarget, path: Path) -> Path:
    """Write code to a file.

    Args:
        module: what was compiled.
        target: that it was compiled for.
        path: of the file, without its suffix.

    Returns:
        The file: ``.so``, or ``.tar`` of the objects where no linker for the target is here; whoever loads that needs
        a C compiler.
    """
    linker = linker_for(target)
    found = path.with_name(path.name + (".tar" if linker is None else ".so"))
    module.export_library(str(found), fcompile=linker or tar.tar)
    return found


def linker_for(target: CompileTarget) -> Callable[..., Any] | None:
    """What links libraries for a target on this machine, or None."""
    if not target.triple or _alike(target.triple, host_triple()):
        own: Callable[..., Any] | None = None if cc.get_cc() is None else cc.create_shared
        return own
    found = shutil.which(cross_linker(target.triple))
    if found is None:
        return None
    made: Callable[..., Any] = cc.cross_compiler(found, options=["-shared", "-fPIC"])
    return made


def cross_linker(triple: str) -> str:
    """Name of GNU's compiler for a triple."""
    machine, *rest = triple.split("-")
    system = [part for part in rest if part not in ("unknown", "none", "pc")]
    return "-".join([_MACHINES.get(machine, "arm" if machine.startswith("armv7") else machine), *system, "gcc"])


def _alike(one: str, other: str) -> bool:
    """Whether two triples name one machine and system: parts in between are vendors."""
    first, second = (triple.split("-") for triple in (one, other))
    machines = {_MACHINES.get(parts[0], parts[0]) for parts in (first, second)}
    return len(machines) == 1 and "linux" in one and "linux" in other and first[-1] == second[-1]
