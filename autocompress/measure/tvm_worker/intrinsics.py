"""TVM's tensor instructions, those of one processor: defining all of them takes half a minute of a process's life."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import tvm

from autocompress.measure.tvm_worker.dot_products import dot_product_of

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
    if target.kind.name == "cuda":
        importlib.import_module(f"{_PACKAGE}.cuda")
    dot = dot_product_of(target)
    if dot is not None:
        dot.define()
