"""Models and kernels on TVM servers: sent over, run and timed there."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError, DeviceLostError, TargetError
from autocompress.hardware.host import usable_cores
from autocompress.measure.transports.agent_link import AgentDiedError
from autocompress.measure.transports.tvm_address import TvmAddress
from autocompress.measure.transports.tvm_rpc import RpcServer, Wanted, free_servers, lease
from autocompress.measure.tvm_worker.kernels import READING_MS, REPEATS, Reading, arguments_of, build_kernel, last_line
from autocompress.measure.tvm_worker.linking import link

#: Longest wait for one kernel.
_KERNEL_SECONDS = 60.0


class RemoteModel:
    """A model that a server has loaded.

    Args:
        server: that runs it.
        library: what :func:`link` wrote.
    """

    def __init__(self, server: RpcServer, library: Path) -> None:
        self._server = server
        self._machine: relax.VirtualMachine = server.ask("load", partial(self._load, library))

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs, fetched."""

        def run() -> list[NDArray[Any]]:
            self._machine.set_input("main", *self._arguments(arrays))
            self._machine.invoke_stateful("main")
            found = self._machine.get_outputs("main")
            return [value.numpy() for value in (found if isinstance(found, list | tuple) else [found])]

        return self._server.ask("run", run)

    def timer(self, arrays: Sequence[NDArray[Any]]) -> Callable[[int], list[float]]:
        """What times inferences there, one by one.

        Returns:
            Gives the milliseconds of each of so many calls, sorted.
        """

        def bind() -> None:
            self._machine.save_function("main", "timed", *self._arguments(arrays), include_return=False)

        self._server.ask("time", bind)

        def turn(calls: int) -> list[float]:
            timer = self._machine.time_evaluator("timed", self._server.device, number=1, repeat=calls)
            return sorted(1e3 * float(seconds) for seconds in timer().results)

        return lambda calls: self._server.ask("time", partial(turn, calls))

    def _load(self, library: Path) -> relax.VirtualMachine:
        self._server.session.upload(str(library), library.name)
        return relax.VirtualMachine(self._server.session.load_module(library.name), self._server.device)

    def _arguments(self, arrays: Sequence[NDArray[Any]]) -> list[tvm.runtime.Tensor]:
        return [tvm.runtime.tensor(array, self._server.device) for array in arrays]


class Remote:
    """The servers that this process has: one for its models, more of them while kernels are tuned.

    Args:
        address: where they come from.
        wanted: what is needed of them.

    Raises:
        TargetError: the first is not fit for that.
        DeviceLostError: there is none now.
    """

    def __init__(self, address: TvmAddress, wanted: Wanted) -> None:
        self.servers = [lease(address, wanted)]
        self._lost = ""
        self._address = address
        self._wanted = wanted
        self._models: dict[tuple[str, Path], RemoteModel] = {}
        #: Of kernels: a second library of one name would be taken for the first, which is loaded already.
        self.numbers = itertools.count()

    @property
    def server(self) -> RpcServer:
        """The one that runs models.

        Raises:
            DeviceLostError: it is lost.
        """
        if not self.servers:
            raise DeviceLostError(self._lost)
        return self.servers[0]

    def model(self, library: Path) -> RemoteModel:
        """A model on the server, sent there where it is not yet."""
        server = self.server
        key = (f"{server.name} {id(server)}", library)
        if key not in self._models:
            self._models[key] = RemoteModel(server, library)
        return self._models[key]

    def forget(self, library: Path) -> None:
        """Let go of a model."""
        for key in [key for key in self._models if key[1] == library]:
            del self._models[key]

    def grow(self) -> None:
        """Take every other server of the key that is free now; those that are not fit are left alone."""
        with suppress(DeviceLostError):
            for _ in range(free_servers(self._address)):
                with suppress(TargetError):
                    self.servers.append(lease(self._address, self._wanted, seconds=2.0))

    def replace(self, server: RpcServer) -> RpcServer | None:
        """A server in place of one that crashed; None where none is free."""
        self.drop(server)
        try:
            found = lease(self._address, self._wanted)
        except TargetError:
            return None
        self.servers.append(found)
        return found

    def drop(self, server: RpcServer) -> None:
        """Forget a server that is lost."""
        self._lost = server.lost
        if server in self.servers:
            self.servers.remove(server)

    def shrink(self, count: int = 1) -> None:
        """Let go of all servers but the first ones."""
        for server in self.servers[count:]:
            server.close()
        del self.servers[count:]


class RemoteKernels:
    """See :class:`autocompress.measure.tvm_worker.kernels.KernelTimer`; on all servers of the key that are free.

    Args:
        remote: the servers.
        target: of the kernels, as TVM has it.
        wanted: the same, for the linker.
    """

    def __init__(self, remote: Remote, target: tvm.target.Target, wanted: CompileTarget) -> None:
        self._remote = remote
        self._target = target
        self._wanted = wanted
        self._builders = ThreadPoolExecutor(max_workers=usable_cores())
        self._folder = tempfile.TemporaryDirectory(prefix="autocompress-")
        self._grown = False
        #: Names of the servers that timed a kernel, and what was said of those that were lost over it.
        self.timed_on: set[str] = set()
        self.lost: list[str] = []

    def read(self, modules: Sequence[tvm.IRModule]) -> list[Reading]:
        """Each kernel is timed on one server; one whose server is lost goes to another.

        Raises:
            DeviceLostError: every server is lost.
        """
        if not self._grown and len(modules) > 1:
            self._remote.grow()
            self._grown = True
        built = list(self._builders.map(self._build, modules))
        readings: list[Reading | None] = [item if isinstance(item, Reading) else None for item in built]
        waiting = deque(index for index, item in enumerate(built) if isinstance(item, Path))

        def work(server: RpcServer | None) -> None:
            while server is not None:
                try:
                    index = waiting.popleft()
                except IndexError:
                    return
                library = built[index]
                assert isinstance(library, Path)
                try:
                    readings[index] = self._time(server, library, modules[index])
                except AgentDiedError as error:
                    readings[index] = Reading(error=f"run: {error}")
                    server = self._remote.replace(server)
                except DeviceLostError as error:
                    waiting.append(index)
                    self.lost.append(str(error))
                    self._remote.drop(server)
                    return

        threads = [threading.Thread(target=work, args=(server,)) for server in self._remote.servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while waiting:
            work(self._remote.server)
        for item in built:
            if isinstance(item, Path):
                item.unlink(missing_ok=True)
        return [reading for reading in readings if reading is not None]

    def close(self) -> None:
        """Let go of the further servers."""
        self._remote.shrink()
        self._builders.shutdown()
        self._folder.cleanup()

    def _build(self, module: tvm.IRModule) -> Path | Reading:
        try:
            name = f"kernel{next(self._remote.numbers)}"
            return link(build_kernel(module, self._target), self._wanted, Path(self._folder.name) / name)
        except Exception as error:  # whatever the compiler raises
            return Reading(error=f"build: {last_line(error)}")

    def _time(self, server: RpcServer, library: Path, module: tvm.IRModule) -> Reading:
        def read() -> tuple[float, ...]:
            session = server.session
            session.upload(str(library), library.name)
            code = session.load_module(library.name)
            session.remove(library.name)
            fill = session.get_function("tvm.contrib.random.random_fill_for_measure")
            arguments = [tvm.runtime.empty(list(a.shape), a.dtype, server.device) for a in arguments_of(module)]
            for argument in arguments:
                fill(argument)
            timer = code.time_evaluator("main", server.device, number=1, repeat=REPEATS, min_repeat_ms=READING_MS)
            return tuple(float(value) for value in timer(*arguments).results)

        try:
            seconds = server.ask("tune", read, _KERNEL_SECONDS)
        except CandidateError as error:
            return Reading(error=f"run: {error.reason}")
        self.timed_on.add(server.name)
        return Reading(seconds=seconds)
