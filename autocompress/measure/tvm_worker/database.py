"""Schedules that were found, in a file for each target and TVM version that several processes read and append to.

A line is one kernel: its structural hash, what kind of kernel it is and its sizes, where its schedule comes from, the
schedule's trace as TVM writes it (compressed), and its raw times. A later line of a kernel replaces an earlier one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import tvm
import tvm_ffi
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule.instruction import Instruction, InstructionKind

from autocompress.measure.tvm_worker.dot_schedules import dot_schedules
from autocompress.measure.tvm_worker.intrinsics import load_intrinsics

#: Raised when schedules found by an earlier way of tuning should not be taken again.
FORMAT = 3
FILE = "schedules.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a kernel is like.

    Args:
        kind: kernels of one kind have the same stages with the same roles; a schedule of one may fit another.
        stages: extents of the axes of each stage.
        names: of the stages; kernels that are equal otherwise may differ in them, and schedules speak of them.
    """

    kind: str
    stages: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: tvm.IRModule) -> Shape:
        """Of an unscheduled kernel: names, axes' roles and types of its stages, less their sizes."""
        schedule = s_tir.Schedule(module)
        words: list[str] = []
        stages: list[tuple[int, ...]] = []
        names: list[str] = []
        for block in schedule.get_child_blocks(schedule.get_sblock("root")):
            stage = schedule.get(block)
            roles = "".join(str(int(axis.iter_type)) for axis in stage.iter_vars)
            kinds = ",".join(str(region.source.ty.dtype) for region in (*stage.reads, *stage.writes))
            names.append(str(stage.name_hint))
            words.append(f"{re.sub('[0-9]+', '', names[-1]).rstrip('_')}:{roles}:{kinds}")
            stages.append(tuple(int(axis.dom.extent) for axis in stage.iter_vars))
        kind = hashlib.sha256("|".join(words).encode()).hexdigest()[:16]
        return cls(kind=kind, stages=tuple(stages), names=tuple(names))

    @property
    def work(self) -> float:
        """Iterations of its largest stage."""
        return float(max((math.prod(sizes) for sizes in self.stages), default=1))

    def distance(self, other: Shape) -> float:
        """To a kernel of the same kind: the sum of the differences of the sizes' logarithms."""
        pairs = zip(chain(*self.stages), chain(*other.stages), strict=True)
        return sum(abs(math.log(mine / theirs)) for mine, theirs in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel, and the schedule that it has.

    Args:
        digest: structural hash of its unscheduled form.
        shape: what it is like.
        origin: ``tuned``, or ``transferred`` from a kernel of other sizes.
        trials: schedules that were timed to find it.
        seconds: raw times of one run.
        source: digest of the kernel it was transferred from.
        trace: of the schedule: JSON as TVM writes it, deflated, in base 64.
    """

    digest: str
    shape: Shape
    origin: str
    trials: int
    seconds: tuple[float, ...]
    trace: str
    source: str = ""

    @property
    def least_seconds(self) -> float:
        """Of one run."""
        return min(self.seconds)

    def schedule_trace(self, names: Sequence[str]) -> s_tir.Trace:
        """The trace as TVM wants it, on a kernel whose stages have these names."""
        read = tvm.ir.load_json(zlib.decompress(base64.b64decode(self.trace)).decode())
        # What was read has copies of the kinds of instruction, without the functions that carry them out.
        live = {
            old: Instruction(InstructionKind.get(old.kind.name), old.inputs, self._attributes(old, names), old.outputs)
            for old in read.insts
        }
        return s_tir.Trace(list(live.values()), {live[old]: decision for old, decision in read.decisions.items()})

    def _attributes(self, instruction: Instruction, names: Sequence[str]) -> list[object]:
        """Of an instruction; stages, and what was made of them (``<stage>_update``), are called as they are there."""
        found = list(instruction.attrs)
        if str(instruction.kind.name) != "GetSBlock":
            return found
        name = str(found[0])
        own = max((n for n in self.shape.names if name.startswith(n)), key=len, default=None)
        if own is not None:
            found[0] = names[self.shape.names.index(own)] + name.removeprefix(own)
        return found


def packed_trace(trace: s_tir.Trace) -> str:
    """What :attr:`Kernel.trace` holds."""
    return base64.b64encode(zlib.compress(tvm.ir.save_json(trace).encode())).decode()


class ScheduleStore:
    """The schedules of one target and one version of TVM.

    Args:
        folder: of all such stores; made when something is kept.
        target: as TVM has it, cores included.
    """

    def __init__(self, folder: Path, target: tvm.target.Target) -> None:
        name = hashlib.sha256(f"{FORMAT} {tvm.__version__} {target}".encode()).hexdigest()[:16]
        self.path = folder / f"{tvm.__version__}-{name}" / FILE
        self._target = target
        self._kernels: dict[str, Kernel] = {}
        self._read = 0

    def find(self, module: tvm.IRModule) -> Kernel | None:
        """The schedule of an unscheduled kernel, or None."""
        self._refresh()
        return self._kernels.get(digest_of(module))

    def nearest(self, shape: Shape, *, most: int = 2) -> list[Kernel]:
        """Tuned kernels of the same kind and of other sizes, the nearest sizes first."""
        self._refresh()
        alike = [k for k in self._kernels.values() if k.shape.kind == shape.kind and k.origin == "tuned"]
        return sorted(alike, key=lambda kernel: shape.distance(kernel.shape))[:most]

    def database(self, modules: Sequence[tvm.IRModule]) -> ms.Database:
        """The schedules of some kernels as a database of TVM's; where none is known, what dot products want by far."""
        found = ms.database.MemoryDatabase()
        load_intrinsics(self._target)
        for module in modules:
            kernel = self.find(module)
            if kernel is not None:
                trace, seconds = kernel.schedule_trace(Shape.of(module).names), list(kernel.seconds)
            else:
                first = next(dot_schedules(module, self._target), None)
                if first is None:
                    continue
                trace, seconds = first.trace, [1.0]
            workload = found.commit_workload(module)
            arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True)
            found.commit_tuning_record(ms.database.TuningRecord(trace, workload, seconds, self._target, arguments))
        return found

    def keep(self, kernel: Kernel) -> None:
        """Append one; a process that reads sees all of the line or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        (self.path.parent / "target.json").write_text(f"{self._target}\n", encoding="utf-8")
        line = asdict(kernel)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line).encode() + b"\n")
        self._refresh()

    def _refresh(self) -> None:
        """Read what was appended since, by whomever."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return
        self._read += len(added)
        for line in added.splitlines():
            values = json.loads(line)
            stages, names = tuple(map(tuple, values["shape"]["stages"])), tuple(values["shape"]["names"])
            shape = Shape(kind=values["shape"]["kind"], stages=stages, names=names)
            kernel = Kernel(**{**values, "shape": shape, "seconds": tuple(values["seconds"])})
            self._kernels[kernel.digest] = kernel


def digest_of(module: tvm.IRModule) -> str:
    """Structural hash of a kernel: equal in every process."""
    return f"{tvm_ffi.structural_hash(module) & (2**64 - 1):016x}"
