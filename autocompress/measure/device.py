"""A device that models are measured on: what it is, requests that outlive a lost connection, models it keeps."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from autocompress.core.errors import CandidateError, DeviceLostError, Interrupted, TargetError
from autocompress.hardware.host import HostFacts, device_facts, device_versions
from autocompress.measure.agent_store import files_digest
from autocompress.measure.transports.agent_link import AgentDiedError, AgentLink, AgentRefusalError, Part
from autocompress.measure.transports.local import AGENT_SCHEMES, open_transport

Result = TypeVar("Result")
#: Seconds between attempts to reach a lost device: doubled each time, up to the last.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
#: Attempts where nobody set another number; a search has no limit.
USUAL_ATTEMPTS = 4
_SLOWEST_BYTES_A_SECOND = 50_000
_LOOK_SECONDS = 0.1
_MOST_EVICTIONS = 3


class Connection(Protocol):
    """A way to a device."""

    url: str

    def open_agent(self) -> AgentLink:
        """Start an agent there."""

    def close(self) -> None:
        """End the connection and what runs on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWatch:
    """Who waits for a device.

    Args:
        on_message: told when the device is lost, busy or back.
        should_stop: asked while waiting.
        on_pause: told how many seconds a pause took, when it is over; what was begun before it and has to be done again
            counts.
        attempts: to reach a lost device before it is given up; None for no limit.
    """

    on_message: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
    on_pause: Callable[[float], None] = lambda seconds: None
    attempts: int | None = USUAL_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SentModel:
    """A model as it goes over.

    Args:
        digest: of all its files; the device keeps it under this name.
        files: name, size and SHA-256 of each; the first is ``model.onnx``.
        parts: their bytes, or where they lie.
    """

    digest: str
    files: tuple[Mapping[str, Any], ...]
    parts: tuple[Part, ...] = field(repr=False)

    @classmethod
    def of(cls, contents: Mapping[str, Part]) -> SentModel:
        """Describe files by the name that they have over there."""
        files = tuple({"name": name, "size": _size(part), "sha256": _sha256(part)} for name, part in contents.items())
        return cls(digest=files_digest(files), files=files, parts=tuple(contents.values()))

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(int(file["size"]) for file in self.files)


class Device:
    """An attached device; see :func:`open_device`.

    Args:
        connection: the way to it.
        watch: who waits for it.
        first_wait: seconds before the second attempt to reach it when it is lost.

    Raises:
        TargetError: it cannot be used as it is.
        DeviceLostError: it cannot be reached now.
    """

    def __init__(
        self, connection: Connection, *, watch: DeviceWatch | None = None, first_wait: float = FIRST_WAIT
    ) -> None:
        self.url = connection.url
        self.watch = watch or DeviceWatch()
        self._connection = connection
        self._first_wait = first_wait
        self._link: AgentLink | None = None
        self._identity: tuple[str, str | None] | None = None
        #: Bytes of models sent so far.
        self.sent_bytes = 0
        self.facts: HostFacts
        self.versions: dict[str, str | None]
        #: Kernel, microcode and driver: what besides the hardware decides how fast it runs.
        self.system: dict[str, str] = {}
        self._agent()

    @property
    def fingerprint(self) -> str:
        """Readable and stable identity of the device."""
        return self.facts.fingerprint

    def find_program(self, program: str, places: Sequence[str] = ()) -> tuple[str, str] | None:
        """Where a program is on the device, and the SHA-256 of its file; None where it is not there.

        Args:
            program: its name, or its path.
            places: folders to look in after ``PATH``.
        """
        told, _ = self.request("which", {"program": program, "places": list(places)}, timeout_seconds=60.0)
        return None if told["path"] is None else (str(told["path"]), str(told["sha256"]))

    def need_onnxruntime(self) -> None:
        """Raise :class:`TargetError` where the device's Python lacks what times models."""
        missing = [name for name in ("numpy", "onnxruntime") if self.versions.get(name) is None]
        if missing:
            word = " and ".join(missing)
            raise TargetError(
                f"The Python {self.versions['python']} on {self.url} has no {word}: run `python3 -m venv ~/venv && "
                f"~/venv/bin/pip install {' '.join(missing)}` there and add ?python=~/venv/bin/python to the URL."
            )

    def request(
        self,
        command: str,
        fields: Mapping[str, Any] | None = None,
        payload: Sequence[Part] = (),
        *,
        models: Sequence[SentModel] = (),
        timeout_seconds: float,
    ) -> tuple[dict[str, Any], bytes]:
        """Ask the device's agent; where the device is lost, wait until it is back and ask again.

        Args:
            command: one of the agent's.
            fields: JSON values.
            payload: bytes or files.
            models: that must be there; sent where they are not.
            timeout_seconds: without a word from the agent.

        Raises:
            AgentRefusalError: the agent cannot; kinds ``model`` and ``input`` become :class:`CandidateError`.
            CandidateError: the model fails there, or ends the agent twice.
            DeviceLostError: the device stays lost.
            Interrupted: the user asked to stop while it was waited for.
        """
        deaths = evictions = 0
        while True:
            link = self._patiently(self._agent)
            asked = time.monotonic()
            try:
                self._send(link, models)
                return link.request(command, fields, payload, timeout_seconds=timeout_seconds, on_event=self._on_event)
            except AgentRefusalError as refusal:
                if refusal.kind == "missing" and evictions < _MOST_EVICTIONS:
                    # Another search's models pushed ours out between two requests.
                    evictions += 1
                    continue
                if refusal.kind in ("model", "input"):
                    raise CandidateError(command, str(refusal)) from refusal
                raise TargetError(f"{self.url}: {refusal}.") from refusal
            except AgentDiedError as error:
                # The connection stands, so what was asked ended it: once may be chance.
                deaths += 1
                if deaths > 1:
                    raise CandidateError(command, str(error).rstrip(".")) from error
            except DeviceLostError as error:
                # What was asked is asked again: the time since then is lost too.
                self._pause(error, since=asked)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Device]:
        """The same device with an agent process of its own: nothing is loaded there yet."""
        other = Device.__new__(Device)
        other.__dict__.update(self.__dict__)
        other._link = None
        try:
            yield other
        finally:
            other._drop()
            self.sent_bytes = other.sent_bytes

    def close(self) -> None:
        """End the agent and the connection."""
        self._drop()
        self._connection.close()

    def _agent(self) -> AgentLink:
        """The running agent, or a new one."""
        if self._link is not None and self._link.alive:
            return self._link
        self._drop()
        link = self._connection.open_agent()
        try:
            told, _ = link.request("hello", timeout_seconds=60.0)
            facts, versions = device_facts(told["facts"]), dict(told["versions"])
            identity = (facts.fingerprint, versions.get("onnxruntime"))
            if self._identity is not None and identity != self._identity:
                raise TargetError(
                    f"{self.url} is not what it was: {self._identity[0]} with ONNX Runtime {self._identity[1]}, now "
                    f"{identity[0]} with {identity[1]}; latencies of two devices do not mix."
                )
        except AgentRefusalError as refusal:
            link.close()
            raise TargetError(f"{self.url}: {refusal}.") from refusal
        except BaseException:
            link.close()
            raise
        self._identity, self.facts, self.versions = identity, facts, versions
        self.system = device_versions(told["facts"])
        self._link = link
        return link

    def _send(self, link: AgentLink, models: Sequence[SentModel]) -> None:
        if not models:
            return
        by_digest = {model.digest: model for model in models}
        told, _ = link.request("has", {"models": list(by_digest)}, timeout_seconds=60.0)
        for digest in told["missing"]:
            model = by_digest[digest]
            link.request(
                "put",
                {"model": digest, "files": list(model.files)},
                model.parts,
                timeout_seconds=60.0 + model.size_bytes / _SLOWEST_BYTES_A_SECOND,
                on_event=self._on_event,
            )
            self.sent_bytes += model.size_bytes

    def _patiently(self, attempt: Callable[[], Result]) -> Result:
        while True:
            try:
                return attempt()
            except TargetError as error:
                self._pause(error)

    def _pause(self, reason: TargetError, *, since: float | None = None) -> None:
        """Wait until an agent answers again; see :func:`wait_until_back`."""
        wait_until_back(
            self.url,
            reason,
            attempt=self._agent,
            drop=self._drop,
            watch=self.watch,
            first_wait=self._first_wait,
            since=since,
        )

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if self.watch.should_stop():
            raise Interrupted
        if event.get("event") == "waiting" and event.get("seconds", 0.0) < 2.0:
            holder = f" ({event['holder']})" if event.get("holder") else ""
            self.watch.on_message(f"{self.url} is busy with another measurement{holder}: waiting for it to end.")

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def wait_until_back(
    url: str,
    reason: TargetError,
    *,
    attempt: Callable[[], object],
    watch: DeviceWatch,
    drop: Callable[[], None] = lambda: None,
    first_wait: float = FIRST_WAIT,
    since: float | None = None,
) -> None:
    """Try to reach a lost device, in longer and longer intervals.

    Args:
        url: of the device.
        reason: why there is none now.
        attempt: reaches it.
        watch: who waits for it.
        drop: lets go of what is left of the connection.
        first_wait: seconds before the second attempt.
        since: when what has to be done again began, by the monotonic clock; now where None.

    Raises:
        Interrupted: the user asked to stop.
        TargetError: ``reason``, where the attempts are used up.
    """
    wait = first_wait
    started = time.monotonic() if since is None else since
    said, attempts = "", 0
    while True:
        drop()
        if watch.attempts is not None and attempts >= watch.attempts:
            raise reason
        if str(reason) != said:
            said = str(reason)
            watch.on_message(f"Paused: {said} It goes on when the device is back; Ctrl-C stops it, resumable.")
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if watch.should_stop():
                raise Interrupted
            time.sleep(min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        attempts, wait = attempts + 1, min(2 * wait, LONGEST_WAIT)
        try:
            attempt()
        except TargetError as error:
            reason = error
            continue
        break
    seconds = time.monotonic() - started
    watch.on_pause(seconds)
    watch.on_message(f"{url} is back after {seconds:.0f} s: going on.")


def open_device(url: str) -> Device:
    """Connect to a device that is reached through an agent.

    Args:
        url: ``ssh://[user@]host[:port][?python=PATH]``.

    Raises:
        TargetError: there is no such device, or it cannot be used as it is; the message says what to do.
        DeviceLostError: it cannot be reached now.
    """
    from autocompress.measure.transports.ssh import SshAddress, SshConnection

    if url.partition("://")[0] not in AGENT_SCHEMES:
        open_transport(url)
        raise TargetError(f"{url!r} is this machine, which needs no agent.")
    connection = SshConnection(SshAddress.parse(url))
    try:
        return Device(connection)
    except BaseException:
        connection.close()
        raise


def _size(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size


def _sha256(part: Part) -> str:
    if isinstance(part, bytes):
        return hashlib.sha256(part).hexdigest()
    with Path(part).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
