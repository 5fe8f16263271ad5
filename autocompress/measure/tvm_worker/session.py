"""The worker's memory: models that are compiled, and what is asked of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError
from autocompress.measure import rounds
from autocompress.measure.array_files import load_arrays, save_arrays
from autocompress.measure.tvm_worker import compiling, targets
from autocompress.measure.tvm_worker.database import Kernel, ScheduleStore
from autocompress.measure.tvm_worker.kernels import LocalKernels
from autocompress.measure.tvm_worker.tuning import Task, Tuner, TuningRequest, tasks_of

Event = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A compiled model that this machine can run.

    Args:
        lowered: what it was compiled from.
        executable: the code.
        machine: TVM's virtual machine that runs it; None where the code is for another processor.
        device: that it runs on; None likewise.
    """

    lowered: compiling.Lowered
    executable: relax.VMExecutable
    machine: relax.VirtualMachine | None
    device: tvm.runtime.Device | None


class Session:
    """Answers requests; see :data:`VERBS` for what may be asked.

    Args:
        threads: that run a kernel.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._models: dict[int, Loaded] = {}
        self._count = 0

    def hello(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """What this TVM is: ``version``, ``kinds``, ``backends``, ``triple``, ``cpu``, ``threads``."""
        return {
            "version": tvm.__version__,
            "kinds": list(targets.built_kinds()),
            "backends": list(targets.llvm_backends()),
            "triple": targets.host_triple(),
            "cpu": str(tvm.target.codegen.llvm_get_system_cpu()),
            "threads": self.threads,
        }

    def check(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Whether this TVM makes code for ``target``; an error says why not."""
        return {"target": str(targets.tvm_target(CompileTarget.from_dict(fields["target"]), self.threads))}

    def explain(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """What the ``layers`` of ``model`` compute in when it is compiled for ``target``; nothing is compiled."""
        target = targets.tvm_target(CompileTarget.from_dict(fields["target"]), self.threads)
        return {"layers": [asdict(layer) for layer in compiling.lower(fields["model"], target).layers]}

    def compile(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Compile ``model`` (a path) for ``target``; ``batch`` samples at a time. Models in ``drop`` are forgotten.

        Schedules come from the folder ``schedules``; those that are missing are found as ``tuning`` allows, see
        :class:`autocompress.measure.tvm_worker.tuning.TuningRequest`.

        Returns:
            ``handle`` for further requests, ``inputs`` and ``outputs`` (name, dtype, shape), ``layers`` (what each
            computes in), ``kernels`` (what each one's schedule comes from), ``target`` as TVM has it and ``seconds`` of
            the stages.
        """
        for handle in fields.get("drop", ()):
            self._models.pop(int(handle), None)
        wanted = CompileTarget.from_dict(fields["target"])
        target = targets.tvm_target(wanted, self.threads)
        started = time.perf_counter()
        lowered = compiling.lower(fields["model"], target, batch=int(fields.get("batch", 1)))
        imported = time.perf_counter()
        device = targets.device_of(target) if wanted.is_host else None
        tasks = tasks_of(lowered.module, target)
        store = ScheduleStore(Path(fields["schedules"]), target)
        timer = None if device is None else LocalKernels(target, device)
        Tuner(target, store, timer, tell).schedule(tasks, TuningRequest.from_fields(fields["tuning"]))
        tuned = time.perf_counter()
        executable = compiling.build(lowered, target, store.database([task.module for task in tasks]))
        machine = None if device is None else relax.VirtualMachine(executable, device)
        built = time.perf_counter()
        self._count += 1
        self._models[self._count] = Loaded(lowered=lowered, executable=executable, machine=machine, device=device)
        return {
            "handle": self._count,
            "inputs": [asdict(tensor) for tensor in lowered.inputs],
            "outputs": [asdict(tensor) for tensor in lowered.outputs],
            "layers": [asdict(layer) for layer in lowered.layers],
            "kernels": [_kernel(task, store.find(task.module)) for task in tasks],
            "target": str(target),
            "seconds": {"lower": imported - started, "tune": tuned - imported, "build": built - tuned},
        }

    def run(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Run ``handle`` on the arrays of the file ``inputs`` (.npz); outputs go to the file ``outputs``."""
        machine, arguments = self._ready(fields["handle"], fields["inputs"])
        outputs = compiling.to_arrays(machine["main"](*arguments))
        save_arrays(Path(fields["outputs"]), outputs)
        return {"outputs": len(outputs)}

    def time(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Time ``candidate`` against ``reference``, handles, on the samples of their files, as ``policy`` says.

        Returns:
            What :func:`autocompress.measure.rounds.compare` found.
        """
        calls = [self._call(fields[name], fields[f"{name}_inputs"]) for name in ("candidate", "reference")]
        return rounds.compare(
            calls[0],
            calls[1],
            fields["policy"],
            calm_ms=fields.get("calm_ms"),
            on_round=lambda count: tell({"round": count}),
        )

    def loaded(self, handle: int) -> Loaded:
        """A model by its handle.

        Raises:
            CandidateError: it is not there any more.
        """
        if handle not in self._models:
            raise CandidateError("run", f"the worker holds no model {handle}")
        return self._models[handle]

    def _ready(self, handle: int, path: str) -> tuple[relax.VirtualMachine, list[Any]]:
        model = self.loaded(handle)
        if model.machine is None or model.device is None:
            raise CandidateError("run", "it is compiled for another processor than this machine's")
        return model.machine, [tvm.runtime.tensor(array, model.device) for array in load_arrays(Path(path))]

    def _call(self, handle: int, path: str) -> Callable[[], Any]:
        """One inference with nothing around it: arguments are bound beforehand and the result stays there."""
        machine, arguments = self._ready(handle, path)
        name = f"timed_{handle}"
        machine.save_function("main", name, *arguments, include_return=False)
        function = machine[name]
        function()
        return function


def _kernel(task: Task, known: Kernel | None) -> dict[str, Any]:
    """A kernel of a model and its schedule's origin; a digest names it across models."""
    about = {"name": task.name, "digest": task.digest, "calls": task.calls}
    if known is None:
        return {**about, "origin": "untuned", "trials": 0}
    return {**about, "origin": known.origin, "trials": known.trials, "us": 1e6 * known.mean_seconds}


#: What may be asked, by name: the session, the request's fields and where to tell of progress; gives JSON values.
VERBS: dict[str, Callable[[Session, Mapping[str, Any], Event], dict[str, Any]]] = {
    "hello": Session.hello,
    "check": Session.check,
    "explain": Session.explain,
    "compile": Session.compile,
    "run": Session.run,
    "time": Session.time,
}
