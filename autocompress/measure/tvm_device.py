"""A device behind TVM's RPC: its identity, and requests that outlive a lost server."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError, DeviceLostError, TargetError
from autocompress.hardware.host import HostFacts, device_facts, device_versions
from autocompress.measure.device import FIRST_WAIT, DeviceWatch, wait_until_back
from autocompress.measure.runtimes.tvm_link import SILENCE_SECONDS, TvmWorker
from autocompress.measure.transports.agent_link import AgentDiedError
from autocompress.measure.transports.tvm_address import TvmAddress

#: A worker waits this long for a server itself, see :mod:`autocompress.measure.transports.tvm_rpc`.
_SERVER_SECONDS = 300.0


class TvmDevice:
    """One server, or all of a tracker's key, which are alike.

    Args:
        url: ``tvm-rpc://host:port[/key]``.
        target: what will be compiled for it; its own processor where None.
        watch: who waits for it.
        first_wait: seconds before the second attempt to reach it when it is lost.

    Raises:
        TargetError: it cannot be used as it is.
        DeviceLostError: it cannot be reached now.
        MissingExtraError: TVM is not installed here.
    """

    def __init__(
        self,
        url: str,
        *,
        target: CompileTarget | None = None,
        watch: DeviceWatch | None = None,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self.url = url
        self.address = TvmAddress.parse(url)
        self.watch = watch or DeviceWatch()
        self.first_wait = first_wait
        self.wanted = target
        self._known: str | None = None
        self._holder: AttachedWorker | None = None
        self._workers: list[AttachedWorker] = []
        self._lock = threading.Lock()
        try:
            told = self.worker(threads=1).attach()
        except BaseException:
            self.close()
            raise
        self.facts: HostFacts = device_facts(told["facts"])
        #: Kernel, microcode and driver: what besides the hardware decides how fast it runs.
        self.system = device_versions(told["facts"])
        self._known = self.fingerprint
        self.target = target or CompileTarget(triple=str(told["triple"]), mcpu=str(told["cpu"]))

    @property
    def fingerprint(self) -> str:
        """Readable and stable identity of the device."""
        return self.facts.fingerprint

    @property
    def identity(self) -> str | None:
        """What every server has to be; None as long as there was none."""
        return self._known

    def worker(self, *, threads: int, affinity: Sequence[int] | None = None) -> AttachedWorker:
        """A process of this machine that compiles for the device and runs models there."""
        first = self._workers[0] if len(self._workers) == 1 and not self._workers[0].used else None
        if first is not None and (first.threads, first.affinity) == (threads, affinity):
            return first
        made = AttachedWorker(self, threads=threads, affinity=affinity)
        self._workers.append(made)
        return made

    def take(self, worker: AttachedWorker) -> None:
        """Let only this worker hold a server: there may be no second one."""
        if self._holder is not None and self._holder is not worker:
            self._holder.let_go()
        self._holder = worker

    @contextlib.contextmanager
    def fresh(self) -> Iterator[TvmDevice]:
        """The same device with a process of its own: nothing is loaded there yet. Threads may each have one."""
        self._let_go()
        same = copy.copy(self)
        same._workers, same._holder = [], None
        try:
            yield same
        finally:
            same.close()

    def lanes(self) -> int:
        """How many comparisons can run at once, each on a server of its own machine."""
        worker = self._holder or self.worker(threads=1)
        worker.attach()
        return worker.machines()

    def _let_go(self) -> None:
        with self._lock:
            for worker in self._workers:
                worker.let_go()

    def close(self) -> None:
        """Let go of the servers and end what was started here."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class AttachedWorker(TvmWorker):
    """A worker whose models run on a device; it holds one of its servers from the first request on.

    Args:
        device: the device.
        threads: that run a kernel there.
        affinity: cores of the device to stay on; all where None.
    """

    def __init__(self, device: TvmDevice, *, threads: int, affinity: Sequence[int] | None = None) -> None:
        super().__init__(threads=threads)
        self.affinity = affinity
        self.used = False
        self._device = device
        self._attached = 0

    def ask(
        self,
        verb: str,
        fields: Mapping[str, Any] | None = None,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        on_event: Callable[[Mapping[str, Any]], None] = lambda event: None,
    ) -> dict[str, Any]:
        """See :meth:`TvmWorker.ask`; where the server is lost it is asked of another, or of the same when it is back.

        Raises:
            CandidateError: what is asked ends the server's process, twice.
            DeviceLostError: no server comes back.
            Interrupted: the user asked to stop while one was waited for.
        """
        self.used = True
        deaths = 0
        while True:
            asked = time.monotonic()
            try:
                self.attach()
                told = super().ask(verb, fields, silence_seconds=silence_seconds + _SERVER_SECONDS, on_event=on_event)
            except AgentDiedError as error:
                self._attached = 0
                deaths += 1
                # Once may be chance.
                if deaths > 1:
                    raise CandidateError(verb, f"{error}, twice".replace(".,", ",")) from error
            except DeviceLostError as error:
                self._attached = 0
                self._find_another(error, asked)
            else:
                for reason in told.get("lost", ()):
                    self._device.watch.on_message(f"{reason} Going on without it.")
                return told

    def attach(self) -> dict[str, Any]:
        """Hold a server; what it says of itself, or nothing where it was held before.

        Raises:
            TargetError: it is not fit for the target, or another device than before.
            DeviceLostError: there is none now.
        """
        if self._attached and self._attached == self.generation and self.pid is not None:
            return {}
        device = self._device
        device.take(self)
        fields = {
            **asdict(device.address),
            "target": None if device.wanted is None else device.wanted.to_dict(),
            "fingerprint": device.identity,
            "affinity": None if self.affinity is None else list(self.affinity),
        }
        told = super().ask("attach", fields, silence_seconds=_SERVER_SECONDS)
        self._attached = self.generation
        return told

    def machines(self) -> int:
        """How many servers of the device could each time something now."""
        return int(super().ask("machines", asdict(self._device.address))["count"])

    def let_go(self) -> None:
        """Let another client have the server."""
        if self._attached and self._attached == self.generation and self.pid is not None:
            super().ask("detach")
        self._attached = 0

    def _find_another(self, reason: DeviceLostError, asked: float) -> None:
        """Hold another server of the key, or wait for one."""
        try:
            told = self.attach()
        except TargetError as error:
            wait_until_back(
                self._device.url,
                error,
                attempt=self.attach,
                watch=self._device.watch,
                first_wait=self._device.first_wait,
                since=asked,
            )
            return
        self._device.watch.on_message(f"{reason} Going on with {told['server']}.")
