"""TVM's tensor instructions, those of one processor: defining all of them takes half a minute of a process's life."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import tvm

_PACKAGE = "tvm.s_tir.tensor_intrin"


def load_intrinsics(target: tvm.target.Target) -> None:
    """Define what schedules for this target may use.

    MetaSchedule imports the whole package whenever it makes a context; an empty package in its place, with the one
    module that is needed, spares that.
    """
    if _PACKAGE not in sys.modules:
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [str(Path(tvm.__file__).parent / "s_tir" / "tensor_intrin")]
        sys.modules[_PACKAGE] = package
    module = _module_of(target)
    if module:
        importlib.import_module(f"{_PACKAGE}.{module}")


def _module_of(target: tvm.target.Target) -> str:
    if target.kind.name == "cuda":
        return "cuda"
    if target.kind.name != "llvm":
        return ""
    backend = str(target.attrs.get("mtriple", "")).partition("-")[0]
    if backend in ("x86_64", "i686"):
        return "x86"
    return "arm_cpu" if backend.startswith(("aarch64", "arm")) else ""
