"""The worker's memory: models that are compiled, and what is asked of them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError
from autocompress.measure import rounds
from autocompress.measure.array_files import load_arrays, save_arrays
from autocompress.measure.transports.tvm_address import TvmAddress
from autocompress.measure.transports.tvm_rpc import Wanted, free_machines
from autocompress.measure.tvm_worker import compiling, targets
from autocompress.measure.tvm_worker.compiled_kernels import CompiledKernels
from autocompress.measure.tvm_worker.database import FILE as SCHEDULES_FILE
from autocompress.measure.tvm_worker.database import Kernel, ScheduleStore
from autocompress.measure.tvm_worker.kernels import KernelTimer, LocalKernels
from autocompress.measure.tvm_worker.linking import link
from autocompress.measure.tvm_worker.remote import Remote, RemoteKernels, RemoteModel
from autocompress.measure.tvm_worker.tuning import Task, Tuner, TuningRequest, tasks_of

Event = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A compiled model that this machine can run.

    Args:
        module: its scheduled kernels and what calls them.
        made_for: what they were compiled for, as TVM has it.
        machine: TVM's virtual machine that runs it; None where the code is for another processor.
        device: that it runs on; None likewise.
        target: likewise, as profiles have it.
        schedules: of its kernels, where they are known.
        library: its code in a file, where it was compiled for a server.
    """

    module: tvm.IRModule
    made_for: tvm.target.Target
    machine: relax.VirtualMachine | None
    device: tvm.runtime.Device | None
    target: CompileTarget
    schedules: tuple[Kernel, ...]
    library: Path | None = None


class Session:
    """Answers requests; see :data:`VERBS` for what may be asked.

    Args:
        threads: that run a kernel.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._models: dict[int, Loaded] = {}
        self._compiled = CompiledKernels()
        self._count = 0
        self._remote: Remote | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="autocompress-")

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
            computes in), ``compiled`` (kernels that no earlier model had), ``kernels`` (what each one's schedule comes
            from), ``target`` as TVM has it, ``timed_on`` (the servers that timed kernels), ``lost`` (what is said of
            those lost over it) and ``seconds`` of the stages.
        """
        for handle in fields.get("drop", ()):
            self._drop(int(handle))
        wanted = CompileTarget.from_dict(fields["target"])
        target = targets.tvm_target(wanted, self.threads)
        started = time.perf_counter()
        lowered = compiling.lower(fields["model"], target, batch=int(fields.get("batch", 1)))
        imported = time.perf_counter()
        device = targets.device_of(target) if wanted.is_host else None
        tasks = tasks_of(lowered.module, target)
        store = ScheduleStore(Path(fields["schedules"]), target)
        with self._kernels(target, wanted, device) as timer:
            Tuner(target, store, timer, tell).schedule(tasks, TuningRequest.from_fields(fields["tuning"]))
        tuned = time.perf_counter()
        before = self._compiled.count
        module = compiling.scheduled(lowered, target, store.database([task.module for task in tasks]))
        executable = compiling.build(
            module, target, self._compiled, portable=device is None or self._remote is not None
        )
        machine = None if device is None else relax.VirtualMachine(executable, device)
        self._count += 1
        library = None
        if self._remote is not None:
            library = link(executable, wanted, Path(self._folder.name) / f"model{self._count}")
        built = time.perf_counter()
        known = [store.find(task.module) for task in tasks]
        self._models[self._count] = Loaded(
            module=module,
            made_for=target,
            machine=machine,
            device=device,
            target=wanted,
            schedules=tuple(kernel for kernel in known if kernel is not None),
            library=library,
        )
        return {
            "handle": self._count,
            "inputs": [asdict(tensor) for tensor in lowered.inputs],
            "outputs": [asdict(tensor) for tensor in lowered.outputs],
            "layers": [asdict(layer) for layer in lowered.layers],
            "compiled": self._compiled.count - before,
            "kernels": [_kernel(task, kernel) for task, kernel in zip(tasks, known, strict=True)],
            "target": str(target),
            **_servers(timer),
            "seconds": {"lower": imported - started, "tune": tuned - imported, "build": built - tuned},
        }

    def run(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Run ``handle`` on the arrays of the file ``inputs`` (.npz); outputs go to the file ``outputs``."""
        if self._remote is not None:
            outputs = self._sent(self._remote, fields["handle"]).run(load_arrays(Path(fields["inputs"])))
        else:
            machine, arguments = self._ready(fields["handle"], fields["inputs"])
            outputs = compiling.to_arrays(machine["main"](*arguments))
        save_arrays(Path(fields["outputs"]), outputs)
        return {"outputs": len(outputs)}

    def time(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Time ``candidate`` against ``reference``, handles, on the samples of their files, as ``policy`` says.

        Returns:
            What :func:`autocompress.measure.rounds.compare` found.
        """
        if self._remote is not None:
            return self._time_there(self._remote, fields, tell)
        calls = [self._call(fields[name], fields[f"{name}_inputs"]) for name in ("candidate", "reference")]
        return rounds.compare(
            calls[0],
            calls[1],
            fields["policy"],
            on_round=lambda count: tell({"round": count}),
        )

    def export(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Write ``handle`` into ``folder``: its code, and the schedules of its kernels as a store has them.

        Returns:
            Name of the ``library``.
        """
        model, folder = self.loaded(fields["handle"]), Path(fields["folder"])
        lines = [json.dumps(asdict(kernel)) + "\n" for kernel in model.schedules]
        (folder / SCHEDULES_FILE).write_text("".join(lines), encoding="utf-8")
        executable = compiling.build(model.module, model.made_for, self._compiled, portable=True)
        return {"library": link(executable, model.target, folder / "model").name}

    def attach(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """From now on compile for servers at ``host``, ``port`` (of ``key``), and run there.

        They have to be fit for ``target`` and ``affinity``, and be ``fingerprint`` where that is given.

        Returns:
            ``server``, and what it says of itself, see :func:`autocompress.measure.tvm_worker.agent.hello`.
        """
        self.detach(fields, tell)
        target, affinity = fields["target"], fields["affinity"]
        wanted = Wanted(
            threads=self.threads,
            affinity=None if affinity is None else tuple(affinity),
            target=None if target is None else CompileTarget.from_dict(target),
            fingerprint=fields["fingerprint"],
        )
        self._remote = Remote(_address(fields), wanted)
        return {"server": self._remote.server.name, **self._remote.server.about}

    def detach(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Let go of the server."""
        if self._remote is not None:
            self._remote.shrink(0)
            self._remote = None
        return {}

    def machines(self, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """How many servers at ``host``, ``port`` (of ``key``) could time at once now, with the one held: ``count``."""
        return {"count": 1 + free_machines(_address(fields))}

    def loaded(self, handle: int) -> Loaded:
        """A model by its handle.

        Raises:
            CandidateError: it is not there any more.
        """
        if handle not in self._models:
            raise CandidateError("run", f"the worker holds no model {handle}")
        return self._models[handle]

    def _drop(self, handle: int) -> None:
        model = self._models.pop(handle, None)
        if model is None or model.library is None:
            return
        if self._remote is not None:
            self._remote.forget(model.library)
        model.library.unlink(missing_ok=True)

    @contextmanager
    def _kernels(
        self, target: tvm.target.Target, wanted: CompileTarget, device: tvm.runtime.Device | None
    ) -> Iterator[KernelTimer | None]:
        """What times kernels while a model is compiled; None where none can run."""
        if self._remote is not None:
            with closing(RemoteKernels(self._remote, target, wanted)) as timer:
                yield timer
            return
        yield None if device is None else LocalKernels(target, device)

    def _time_there(self, remote: Remote, fields: Mapping[str, Any], tell: Event) -> dict[str, Any]:
        """Both on one server, whose own clock times them."""
        server = remote.server
        turns = [
            self._sent(remote, fields[name]).timer(load_arrays(Path(fields[f"{name}_inputs"])))
            for name in ("candidate", "reference")
        ]
        found = rounds.compare(
            turns[0],
            turns[1],
            fields["policy"],
            on_round=lambda count: tell({"round": count}),
            turn=lambda timer, calls: timer(calls),
            state=server.state,
        )
        found["details"]["server"] = server.name
        return found

    def _sent(self, remote: Remote, handle: int) -> RemoteModel:
        library = self.loaded(handle).library
        if library is None:
            raise CandidateError("run", "it was compiled before there was a server")
        return remote.model(library)

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


def _address(fields: Mapping[str, Any]) -> TvmAddress:
    return TvmAddress(host=fields["host"], port=int(fields["port"]), key=fields["key"])


def _servers(timer: KernelTimer | None) -> dict[str, Any]:
    return (
        {"timed_on": sorted(timer.timed_on), "lost": timer.lost}
        if isinstance(timer, RemoteKernels)
        else {"timed_on": [], "lost": []}
    )


def _kernel(task: Task, known: Kernel | None) -> dict[str, Any]:
    """A kernel of a model and its schedule's origin; a digest names it across models."""
    about = {"name": task.name, "digest": task.digest, "calls": task.calls}
    if known is None:
        return {**about, "origin": "untuned", "trials": 0}
    return {**about, "origin": known.origin, "trials": known.trials, "us": 1e6 * known.least_seconds}


#: What may be asked, by name: the session, the request's fields and where to tell of progress; gives JSON values.
VERBS: dict[str, Callable[[Session, Mapping[str, Any], Event], dict[str, Any]]] = {
    "hello": Session.hello,
    "check": Session.check,
    "explain": Session.explain,
    "compile": Session.compile,
    "export": Session.export,
    "attach": Session.attach,
    "detach": Session.detach,
    "machines": Session.machines,
    "run": Session.run,
    "time": Session.time,
}
