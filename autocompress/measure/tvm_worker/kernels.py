"""Kernels built and timed in this process, as tuning wants them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from autocompress.hardware.host import usable_cores
from autocompress.measure.tvm_worker.compiled_kernels import CONFIG

#: Shortest time of one reading, milliseconds; a kernel that takes longer is run once after a warm-up.
READING_MS = 8
#: Readings of a kernel.
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Raw times of one run of a kernel, or why there are none.

    Args:
        seconds: of one run, one value a reading.
        error: in one line.
    """

    seconds: tuple[float, ...] = ()
    error: str = ""

    @property
    def least_seconds(self) -> float:
        """Of one run; what else the machine does only adds to it."""
        return min(self.seconds)


class KernelTimer(Protocol):
    """Builds scheduled kernels and times them where they will run."""

    def read(self, modules: Sequence[tvm.IRModule]) -> list[Reading]:
        """One reading a kernel, in order."""


class LocalKernels:
    """See :class:`KernelTimer`; on a device of this machine.

    Args:
        target: of the kernels.
        device: that runs them.
    """

    def __init__(self, target: tvm.target.Target, device: tvm.runtime.Device) -> None:
        self._target = target
        self._device = device
        self._fill = tvm.get_global_func("tvm.contrib.random.random_fill_for_measure")
        self._builders = ThreadPoolExecutor(max_workers=usable_cores())

    def read(self, modules: Sequence[tvm.IRModule]) -> list[Reading]:
        """All are built before the first is timed, so that building disturbs no reading."""
        built = list(self._builders.map(self._build, modules))
        return [
            library if isinstance(library, Reading) else self._time(library, module)
            for library, module in zip(built, modules, strict=True)
        ]

    def _build(self, module: tvm.IRModule) -> tvm.runtime.Module | Reading:
        try:
            return build_kernel(module, self._target)
        except Exception as error:  # whatever the compiler raises
            return Reading(error=f"build: {last_line(error)}")

    def _time(self, library: tvm.runtime.Module, module: tvm.IRModule) -> Reading:
        try:
            arguments = [tvm.runtime.empty(list(info.shape), info.dtype, self._device) for info in arguments_of(module)]
            for argument in arguments:
                self._fill(argument)
            timer = library.time_evaluator("main", self._device, number=1, repeat=REPEATS, min_repeat_ms=READING_MS)
            return Reading(seconds=tuple(float(value) for value in timer(*arguments).results))
        except Exception as error:  # whatever a kernel raises
            return Reading(error=f"run: {last_line(error)}")


def build_kernel(module: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
    """The code of one scheduled kernel; its weights are taken as packed already."""
    with tvm.transform.PassContext(opt_level=3, config=CONFIG):
        return tvm.tirx.build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def arguments_of(module: tvm.IRModule) -> list[ms.arg_info.ArgInfo]:
    """Shape and type of each argument of a kernel, its weights as its schedule packs them."""
    return list(ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True))


def last_line(error: BaseException) -> str:
    """What an error of TVM's says, without the stack above it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1][:200]
