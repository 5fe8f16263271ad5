"""Shared by every verb: the model, the data and the target that a request names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autocompress.core.errors import CandidateError, DataError, TargetError, UserError
from autocompress.core.target import RuntimeSpec, Target

if TYPE_CHECKING:
    from autocompress.core.protocols import Batch, Runtime
    from autocompress.evaluate.data import DataBundle
    from autocompress.graph.model_graph import ModelGraph
    from autocompress.hardware.host import HostFacts
    from autocompress.measure.device import Device
    from autocompress.measure.runtimes.tvm import TvmRuntime
    from autocompress.measure.runtimes.tvm_tuning import Tuning
    from autocompress.measure.tvm_device import TvmDevice

#: Runtimes that can run an artifact on the host.
HOST_RUNTIMES = ("onnxruntime", "tvm")
#: Runtimes that need no command in a profile to be measured on an attached device.
ATTACHED_RUNTIMES = ("onnxruntime",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an artifact runs, or would run.

    Args:
        target: the hardware.
        spec: the runtime on it.
        measured: whether latency can be measured there now; otherwise it is estimated.
        device: attached device to measure on; None is this machine.
        affinity: cores of it to measure on; all where None.
        tuning: what a compiling runtime may spend on schedules; nothing where None.
    """

    target: Target
    spec: RuntimeSpec
    measured: bool
    device: Device | TvmDevice | None = None
    affinity: tuple[int, ...] | None = None
    tuning: Tuning | None = None

    @property
    def where(self) -> str:
        """Where latencies are measured, for a message."""
        return "this machine" if self.device is None else f"{self.device.url} ({self.device.fingerprint})"

    @property
    def computes_elsewhere(self) -> bool:
        """Whether its runtime gives outputs, and is not the one that quality is scored in."""
        return self.measured and self.spec.command is None and (self.device is not None or self.spec.name == "tvm")

    @property
    def has_fresh_timers(self) -> bool:
        """Whether :meth:`fresh_timer` makes them; where not, this machine's fresh processes are ONNX Runtime's own."""
        return self.device is not None or self.spec.name == "tvm"

    def timer(self, *, threads: int, sample: Batch | None = None) -> Runtime:
        """What times models there.

        Raises:
            TargetError: it cannot be measured there.
        """
        return self._timer(self.device, threads, sample)

    @contextlib.contextmanager
    def fresh_timer(self, *, threads: int, sample: Batch | None = None) -> Iterator[Runtime]:
        """The same in a process of its own: nothing is loaded there yet."""
        if self.device is None:
            with contextlib.closing(self._compiling_timer(None, threads, sample)) as timer:
                yield timer
            return
        with self.device.fresh() as device:
            yield self._timer(device, threads, sample)

    def lanes(self) -> int:
        """How many fresh timers can time at once, each on a device of its own; 1 where none answers just now."""
        from autocompress.measure.tvm_device import TvmDevice

        if not isinstance(self.device, TvmDevice):
            return 1
        try:
            return self.device.lanes()
        except (TargetError, CandidateError):
            # The comparison that needs a device tells what is wrong, or waits for it.
            return 1

    def close(self) -> None:
        """Let go of the device."""
        if self.device is not None:
            self.device.close()

    def _timer(self, device: Device | TvmDevice | None, threads: int, sample: Batch | None) -> Runtime:
        from autocompress.measure.affinity import check_threads
        from autocompress.measure.device import Device
        from autocompress.measure.runtimes.command import CommandRuntime
        from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
        from autocompress.measure.runtimes.remote import RemoteOnnxRuntime

        cores = self.affinity
        check_threads(threads, cores)
        if not isinstance(device, Device):
            if self.spec.name == "tvm":
                return self._compiling_timer(device, threads, sample)
            return OnnxRuntime(threads=threads, sample=sample, affinity=cores)
        if self.spec.command is not None:
            return CommandRuntime(device, self.spec, threads=threads, affinity=cores)
        return RemoteOnnxRuntime(device, threads=threads, sample=sample, affinity=cores)

    def _compiling_timer(self, device: TvmDevice | None, threads: int, sample: Batch | None) -> TvmRuntime:
        from autocompress.measure.runtimes.tvm import HOST, TvmRuntime

        cores = self.affinity
        return TvmRuntime(
            threads=threads,
            sample=sample,
            target=(self.spec.compile_target or HOST) if device is None else device.target,
            tuning=self.tuning,
            worker=None if device is None else device.worker(threads=threads, affinity=cores),
            device=device,
            affinity=cores,
        )


def load_graph(model: Any, data: DataBundle | None = None) -> ModelGraph:
    """The graph of a model spec; ``demo`` is the embedded one. Example inputs come from ``data`` where needed.

    Raises:
        ModelError: it cannot be loaded.
        DataError: its inputs do not fit the data.
    """
    from autocompress.graph.importing import load_model

    examples = None if data is None else data.train.batch(range(min(2, len(data.train))))[0]
    if isinstance(model, str) and model == "demo":
        import numpy as np

        from autocompress.zoo.demo import demo_model

        graph = load_model(demo_model(), (np.zeros((2, 1, 28, 28), np.float32),))
    else:
        graph = load_model(model, examples)
    if data is not None:
        check_inputs(graph, data)
    return graph


def check_inputs(graph: ModelGraph, data: DataBundle) -> None:
    """Raise :class:`DataError` where the data's samples do not fit the graph's inputs."""
    inputs, _ = data.train.batch(range(1))
    if len(inputs) != len(graph.input_specs):
        raise DataError(
            f"The model has {len(graph.input_specs)} inputs ({', '.join(graph.input_names)}), "
            f"but {data.name!r} gives {len(inputs)} a sample."
        )
    for spec, array in zip(graph.input_specs, inputs, strict=True):
        sizes = list(zip(spec.shape[1:], array.shape[1:], strict=False))
        if len(spec.shape) != array.ndim or any(a is not None and a != b for a, b in sizes):
            raise DataError(
                f"Input {spec.name!r} of the model has shape {_shape(spec.shape)}, "
                f"but {data.name!r} gives samples of shape {_shape((None, *array.shape[1:]))}."
            )
        if array.dtype != spec.dtype:
            raise DataError(f"Input {spec.name!r} of the model is {spec.dtype}, but {data.name!r} gives {array.dtype}.")


def load_place(
    target: str,
    device: str | None = None,
    runtime: str | None = None,
    *,
    affinity: Sequence[int] | None = None,
    tuning: Tuning | None = None,
) -> Place:
    """The target with its runtime, and whether it can be measured.

    Args:
        target: name of a profile; ``local`` is this machine or whatever is attached.
        device: URL of an attached device.
        runtime: one of the target's; its first where None.
        affinity: cores to measure on; all where None.
        tuning: what a compiling runtime may spend on schedules; nothing where None.

    Raises:
        UnknownNameError: no such target or runtime.
        TargetError: the device cannot be reached, or is not that target.
        MissingExtraError: the runtime needs an extra.
    """
    from autocompress.measure.affinity import pinned
    from autocompress.measure.transports.tvm_address import SCHEME

    cores = None if affinity is None else tuple(affinity)
    if device is not None and device.startswith(f"{SCHEME}://"):
        return replace(_served(target, device, runtime), affinity=cores, tuning=tuning)
    if device not in (None, "local"):
        return replace(_attached(target, str(device), runtime), affinity=cores, tuning=tuning)
    with pinned(cores):
        pass  # A core that is not there is told before anything is loaded.
    return replace(_here(target, device, runtime), affinity=cores, tuning=tuning)


def tuning_of(runtime: str | None, trials: int | None, seconds: float | None, *, transfer: bool) -> Tuning | None:
    """What a compiling runtime may spend on schedules; None for a runtime that does not compile.

    Args:
        runtime: as asked for.
        trials: schedules for each kernel that has none; the usual number where None.
        seconds: for all of them; None for no limit.
        transfer: whether a kernel may take over its nearest neighbour's schedule.

    Raises:
        UserError: something is asked for that the runtime does not do.
    """
    from autocompress.measure.runtimes.tvm_tuning import Tuning

    if runtime == "tvm":
        return Tuning(trials=Tuning.trials_usual if trials is None else trials, seconds=seconds, transfer=transfer)
    if trials is not None or seconds is not None:
        raise UserError(f"--tune-trials and --tune-budget go with --runtime tvm, not with {runtime or 'the default'}.")
    return None


def _here(target: str, device: str | None, runtime: str | None) -> Place:
    """This machine, or a profile without a device."""
    from autocompress.hardware.profiles import load_target
    from autocompress.measure.runtimes.tvm_link import need_tvm

    if device == "local" and target != "local":
        raise TargetError(
            f"The device 'local' is this machine, not {target!r}: give --target local to measure here, "
            "or leave --device out for an estimate."
        )
    found = load_target(target) if target != "local" else _local()
    spec = found.runtime(runtime)
    if spec.name == "tvm" and found.is_local:
        need_tvm()
    return Place(target=found, spec=spec, measured=found.is_local and spec.name in HOST_RUNTIMES)


def _attached(name: str, url: str, runtime: str | None) -> Place:
    """A target with the device that stands for it; ``local`` is whatever is attached."""
    from autocompress.hardware.profiles import load_target
    from autocompress.measure.device import open_device

    # A profile's mistakes are told before anything is connected.
    profile = None if name == "local" else load_target(name)
    spec = None if profile is None else profile.runtime(runtime)
    if profile is not None and spec is not None and spec.name not in ATTACHED_RUNTIMES and spec.command is None:
        known = ", ".join(n for n, r in profile.runtimes.items() if n in ATTACHED_RUNTIMES or r.command) or "none"
        raise TargetError(
            f"{spec.name} on {name} cannot be measured through {url}: its profile names no command that times a "
            f"model; runtimes of {name} that can: {known}."
        )
    device = open_device(url)
    try:
        target = profile or _target_of(device)
        place = Place(target=target, spec=target.runtime(runtime), measured=True, device=device)
        if place.spec.command is None:
            device.need_onnxruntime()
        else:
            # A tool that is not there is told before a model is sent.
            place.timer(threads=place.spec.threads)
    except BaseException:
        device.close()
        raise
    return place


def _served(name: str, url: str, runtime: str | None) -> Place:
    """A target with the TVM servers that stand for it; ``local`` is whatever they are."""
    from autocompress.hardware.profiles import load_target, local_target
    from autocompress.measure.tvm_device import TvmDevice

    if runtime != "tvm":
        raise TargetError(f"{url} serves TVM and no {runtime or 'other runtime'}: add --runtime tvm.")
    profile = None if name == "local" else load_target(name)
    wanted = None
    if profile is not None:
        wanted = profile.runtime(runtime).compile_target
        if wanted is None:
            raise TargetError(f"The profile of {name} does not say what TVM compiles for: it has no `compile_target`.")
    device = TvmDevice(url, target=wanted)
    target = profile
    if target is None:
        made = _named_for(device.facts, local_target(host=device.facts))
        spec = replace(made.runtime(runtime), compile_target=device.target)
        target = replace(made, runtimes={spec.name: spec})
    return Place(target=target, spec=target.runtime(runtime), measured=True, device=device)


def _target_of(device: Device) -> Target:
    """An attached device without a profile: what it tells, and what ONNX Runtime was measured to run fast on it."""
    from autocompress.hardware.profiles import local_target
    from autocompress.measure.runtimes.probe import probe_int8
    from autocompress.measure.runtimes.remote import RemoteOnnxRuntime

    probe = probe_int8(runtime=RemoteOnnxRuntime(device))
    return _named_for(device.facts, local_target(probe.to_dict(), device.facts))


def _named_for(facts: HostFacts, target: Target) -> Target:
    """A target under the name of the device that it was made for."""
    title = facts.board or facts.cpu
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "device"
    return replace(target, name=name, title=f"{title}, {facts.cores} core{'s' * (facts.cores != 1)}")


def _local() -> Target:
    """The host, with what ONNX Runtime was measured to run fast on it."""
    from autocompress.hardware.profiles import local_target
    from autocompress.measure.runtimes.probe import probe_int8

    return local_target(probe_int8(threads=1).to_dict())


def _shape(sizes: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in sizes) + ")"
