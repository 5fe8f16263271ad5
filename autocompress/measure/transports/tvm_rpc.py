"""The way to TVM's RPC servers: one at a time, directly or from a tracker; every wait has an end."""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import tvm
from tvm import rpc
from tvm.rpc import base

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import AutocompressError, CandidateError, DeviceLostError, TargetError
from autocompress.hardware.host import device_facts
from autocompress.measure.transports.agent_link import AgentDiedError
from autocompress.measure.transports.tvm_address import TvmAddress
from autocompress.measure.tvm_worker.agent import PREFIX
from autocompress.measure.tvm_worker.kernels import last_line

Result = TypeVar("Result")
#: Longest wait for a server that may be with another client, and for an answer to the smallest question.
FREE_SECONDS, ANSWER_SECONDS = 20.0, 10.0
#: Longest wait for whatever is asked of a server.
SILENCE_SECONDS = 300.0
_TRACKER_SECONDS = 10.0
#: A tracker may hand out servers that are gone.
_MOST_GONE = 8
_MACHINES = {"arm64": "aarch64", "armv7l": "arm", "armv7": "arm", "armv7a": "arm", "amd64": "x86_64", "armv8l": "arm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client needs of a server.

    Args:
        threads: of a kernel.
        affinity: cores to stay on; all where None.
        target: what it will be sent code for; the server's own processor where None.
        fingerprint: of the device that it must be; any where None.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    target: CompileTarget | None = None
    fingerprint: str | None = None


class RpcServer:
    """A server that this process has to itself until it lets go.

    Args:
        session: TVM's connection.
        place: host and port of the server.
        wanted: what is needed of it.

    Raises:
        TargetError: it is not fit for that.
        DeviceLostError: it is gone.
    """

    def __init__(self, session: rpc.RPCSession, place: tuple[str, int], wanted: Wanted) -> None:
        self.session = session
        self.name = f"{place[0]}:{place[1]}"
        self._place = place
        #: Why it answers no more; empty as long as it does.
        self.lost = ""
        self.about: dict[str, Any] = json.loads(self._own("hello"))
        self.facts = device_facts(self.about["facts"])
        self._check(wanted)
        refused = self._own("configure", json.dumps({"threads": wanted.threads, "affinity": wanted.affinity}))
        if refused:
            raise TargetError(f"{self.name}: {refused}.")
        kind = "cpu" if wanted.target is None or wanted.target.kind == "llvm" else wanted.target.kind
        self.device = session.device(kind)

    def ask(self, stage: str, what: Callable[[], Result], seconds: float = SILENCE_SECONDS) -> Result:
        """Do something that speaks to the server.

        Args:
            stage: named in errors.
            what: does it.
            seconds: longest wait.

        Raises:
            CandidateError: it fails and the server stands.
            AgentDiedError: the server's process for this client died of it, or fell silent.
            DeviceLostError: the server is gone.
        """
        if self.lost:
            raise DeviceLostError(self.lost)
        try:
            return _within(seconds, what)
        except TimeoutError:
            self.lost = f"{self.name} gave no sign of life for {seconds:.0f} s"
            raise AgentDiedError(self.lost) from None
        except AutocompressError:
            raise
        except Exception as error:  # whatever TVM raises, here and there
            if self._answers():
                raise CandidateError(stage, last_line(error)) from error
            if _listens(self._place):
                self.lost = f"the process that ran it on {self.name} crashed"
                raise AgentDiedError(self.lost) from error
            self.lost = f"The TVM server at {self.name} is gone."
            raise DeviceLostError(self.lost) from error

    def close(self) -> None:
        """Let another client have the server."""
        if not self.lost:
            self.lost = f"{self.name} was let go."
            _close(self.session)

    def state(self) -> dict[str, Any]:
        """What the machine does at this moment, see :func:`autocompress.measure.machine_state.machine_state`."""
        found: dict[str, Any] = json.loads(self.ask("time", partial(self._own, "state"), ANSWER_SECONDS))
        return found

    def _own(self, name: str, *arguments: str) -> str:
        return str(self.session.get_function(PREFIX + name)(*arguments))

    def _answers(self) -> bool:
        try:
            _within(ANSWER_SECONDS, partial(self._own, "state"))
        except Exception:  # whatever TVM raises, or no answer
            return False
        return True

    def _check(self, wanted: Wanted) -> None:
        version = str(self.about["version"])
        if version != tvm.__version__:
            raise TargetError(
                f"{self.name} has TVM {version} and this machine {tvm.__version__}: install the same version on both."
            )
        if wanted.fingerprint is not None and wanted.fingerprint != self.facts.fingerprint:
            raise TargetError(
                f"{self.name} is {self.facts.fingerprint} and not {wanted.fingerprint}; "
                "latencies of two devices do not mix."
            )
        target = wanted.target
        if target is None:
            return
        if target.kind != "llvm" and target.kind not in self.about["gpus"]:
            able = ", ".join(["llvm", *self.about["gpus"]])
            raise TargetError(
                f"The TVM on {self.name} runs no {target.kind}, so code for {target} cannot run there: it runs {able}."
            )
        machine = target.triple.partition("-")[0]
        if _MACHINES.get(machine, machine) != _MACHINES.get(self.facts.machine, self.facts.machine):
            raise TargetError(f"{self.name} is {self.facts.machine}, so code for {target} cannot run there.")


def lease(address: TvmAddress, wanted: Wanted, *, seconds: float = FREE_SECONDS) -> RpcServer:
    """Get a server that is free.

    Args:
        address: of a server, or of a tracker with a key.
        wanted: what is needed of it.
        seconds: to wait for one that is with another client.

    Raises:
        TargetError: it is not fit for that.
        DeviceLostError: there is none now.
    """
    if not address.key:
        return _connect((address.host, address.port), "", wanted, seconds)
    for _ in range(_MOST_GONE):
        host, port, key = _ask_tracker(address, [base.TrackerCode.REQUEST, address.key, "", 1], seconds)
        try:
            return _connect((host, port), key, wanted, seconds)
        except TargetError as error:
            if not isinstance(error, DeviceLostError):
                raise
            reason = error
    raise reason


def free_servers(address: TvmAddress) -> int:
    """How many servers of the key wait for a client; none where there is no tracker."""
    if not address.key:
        return 0
    told = _ask_tracker(address, [base.TrackerCode.SUMMARY], _TRACKER_SECONDS)
    return int(told["queue_info"].get(address.key, {}).get("free", 0))


def free_machines(address: TvmAddress) -> int:
    """How many servers of the key wait for a client; none where two share a machine, as neither is calm then."""
    if not address.key:
        return 0
    told = _ask_tracker(address, [base.TrackerCode.SUMMARY], _TRACKER_SECONDS)
    hosts = [s["addr"][0] for s in told["server_info"] if s["key"] == f"server:{address.key}"]
    free = int(told["queue_info"].get(address.key, {}).get("free", 0))
    return free if len(set(hosts)) == len(hosts) else 0


def _connect(place: tuple[str, int], key: str, wanted: Wanted, seconds: float) -> RpcServer:
    name = f"{place[0]}:{place[1]}"
    try:
        session = _within(seconds, partial(rpc.connect, *place, key))
        try:
            return _within(ANSWER_SECONDS, partial(RpcServer, session, place, wanted))
        except BaseException:
            _close(session)
            raise
    except TimeoutError:
        reason = f"The TVM server at {name} is with another client, or hangs: it took none in {seconds:.0f} s."
    except AttributeError as error:
        raise TargetError(f"{name} is a plain TVM server: `autocompress agent --tvm` starts what is needed.") from error
    except AutocompressError:
        raise
    except Exception as error:  # whatever TVM raises
        if _listens(place):
            reason = f"{name} answers, but as no free TVM server: {last_line(error)}"
        else:
            reason = f"There is no TVM server at {name}: `autocompress agent --tvm --port {place[1]}` starts one there."
    raise DeviceLostError(reason)


def _ask_tracker(address: TvmAddress, question: list[Any], seconds: float) -> Any:
    """A tracker's answer."""
    place = (address.host, address.port)
    try:
        with socket.create_connection(place, timeout=_TRACKER_SECONDS) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_TRACKER_MAGIC:
                raise TargetError(f"{place[0]}:{place[1]} is no TVM tracker.")
            connection.settimeout(seconds)
            base.sendjson(connection, question)
            code, answer = base.recvjson(connection)
    except TimeoutError:
        asked = question[0] == base.TrackerCode.REQUEST
        silent = f"The TVM tracker at {place[0]}:{place[1]} does not answer."
        raise DeviceLostError(_taken(address) if asked else silent) from None
    except OSError as error:
        raise DeviceLostError(
            f"There is no TVM tracker at {place[0]}:{place[1]}: {error.strerror or error}; "
            "`python -m tvm.exec.rpc_tracker` starts one."
        ) from error
    if code != base.TrackerCode.SUCCESS:
        raise DeviceLostError(f"The TVM tracker at {place[0]}:{place[1]} refuses: {answer}.")
    return answer


def _taken(address: TvmAddress) -> str:
    """Why a tracker gave no server."""
    told = _ask_tracker(address, [base.TrackerCode.SUMMARY], _TRACKER_SECONDS)
    keys = [str(server["key"]).removeprefix("server:") for server in told["server_info"]]
    count = keys.count(address.key)
    if count:
        return f"Every server of key {address.key!r} is taken ({count} at {address.host}:{address.port})."
    known = ", ".join(sorted(set(keys))) or "none"
    return f"The tracker at {address.host}:{address.port} has no server of key {address.key!r}; it has: {known}."


def _close(session: rpc.RPCSession) -> None:
    """End a connection now: what is left of it anywhere would keep it open."""
    with suppress(Exception):  # it may be gone already
        _within(ANSWER_SECONDS, session.get_function("CloseRPCConnection"))


def _listens(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _within(seconds: float, what: Callable[[], Result]) -> Result:
    """A call in a thread of its own, which is left to itself after some time: TVM's sockets wait for ever."""
    box: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)

    def call() -> None:
        try:
            box.put((what(), None))
        except BaseException as error:
            box.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    found: Result = result
    return found
