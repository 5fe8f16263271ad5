"""Code of kernels, made once for all models of this process that share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import GlobalVar
from tvm.relax.expr_functor import PyExprMutator, mutator

from autocompress.hardware.host import usable_cores

#: Kernels that are kept; those of a model are a few dozen.
_MOST = 2000
#: Arguments are a virtual machine's or a timer's own; checking them is a third of a small kernel's code.
CONFIG = {"tirx.disable_assert": True}


class CompiledKernels:
    """Compiles kernels that it does not have yet, several at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tvm.runtime.Module] = {}
        self._here: set[str] = set()
        #: Kernels that were compiled so far.
        self.count = 0
        self._builders = ThreadPoolExecutor(max_workers=usable_cores())

    def of(self, kernels: Sequence[tvm.tirx.PrimFunc], target: tvm.target.Target) -> list[tvm.runtime.Module]:
        """The code of scheduled kernels, in order; what one is called is part of it."""
        keys = [(str(target), tvm_ffi.structural_hash(kernel)) for kernel in kernels]
        missing = {key: kernel for key, kernel in zip(keys, kernels, strict=True) if key not in self._known}
        made = self._builders.map(lambda kernel: _code(kernel, target), missing.values())
        self._known.update(zip(missing, made, strict=True))
        self.count += len(missing)
        found = [self._known[key] for key in keys]
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        return found

    def here(
        self, kernels: Sequence[tvm.tirx.PrimFunc], libraries: Sequence[tvm.runtime.Module]
    ) -> list[tvm.runtime.Module]:
        """Let every model of this process find the code of kernels by their names; nothing is left to link."""
        for kernel, library in zip(kernels, libraries, strict=True):
            name = str(kernel.attrs["global_symbol"])
            if name not in self._here:
                # What a model imports is copied, and LLVM would make the code of each copy anew.
                tvm_ffi.register_global_func(name, library.get_function(name), override=True)
                self._here.add(name)
        return []


def with_common_names(module: tvm.IRModule) -> tvm.IRModule:
    """The module with its kernels called by what they do: equal ones are called the same in every model."""
    builder = relax.BlockBuilder()
    names: dict[GlobalVar, GlobalVar] = {}
    others = {}
    for variable, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc):
            digest = tvm_ffi.structural_hash(function.without_attr("global_symbol")) & (2**64 - 1)
            name = f"{str(variable.name_hint)[:80]}_{digest:016x}"
            names[variable] = builder.add_func(function.with_attr("global_symbol", name), name)
        else:
            others[variable] = function
    renamed = builder.get()
    for variable, function in others.items():
        renamed[variable] = _Renamer(names).visit_expr(function) if isinstance(function, relax.Function) else function
    return renamed.with_attrs(module.attrs) if module.attrs else renamed


@mutator
class _Renamer(PyExprMutator):  # type: ignore[misc]
    """Calls kernels by their other names."""

    def __init__(self, names: Mapping[GlobalVar, GlobalVar]) -> None:
        super().__init__()
        self._names = names

    def visit_global_var_(self, variable: GlobalVar) -> Any:
        """The other name."""
        return self._names.get(variable, variable)


def _code(kernel: tvm.tirx.PrimFunc, target: tvm.target.Target) -> tvm.runtime.Module:
    name = str(kernel.attrs["global_symbol"])
    with tvm.transform.PassContext(opt_level=3, config=CONFIG):
        return tvm.tirx.build(tvm.IRModule({name: kernel}), target=target)
