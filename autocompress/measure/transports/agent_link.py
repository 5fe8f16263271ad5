"""One agent process and what is said to it: lines of JSON, some with bytes behind them, through pipes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from autocompress.core.errors import AutocompressError, DeviceLostError, TargetError
from autocompress.measure.transports.agent_bundle import READY, REFUSED, WANTED, AgentBundle

Part = bytes | Path
Event = Callable[[Mapping[str, Any]], None]
_CHUNK = 1 << 16
#: Lines that a login shell may print before the agent speaks.
_MOST_GREETINGS = 200


class AgentRefusalError(AutocompressError):
    """The agent answered that it cannot do what was asked; ``kind`` as in :class:`autocompress.measure.agent`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class AgentDiedError(DeviceLostError):
    """The agent's process ended by itself while the connection stood."""


class AgentLink:
    """A running agent.

    Args:
        process: started with the bundle's command, its standard input and output are pipes.
        bundle: sent over where it is not there yet.
        url: of the device, for messages.
        errors: what the process writes its standard error to.
        explain: turns the end of a process (exit status, standard error) into the error to raise.
        timeout_seconds: for it to start.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        bundle: AgentBundle,
        *,
        url: str,
        errors: IO[bytes],
        explain: Callable[[int, str], TargetError],
        timeout_seconds: float = 60.0,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.url = url
        #: Whether the agent had to be sent.
        self.copied = False
        self._process = process
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        self._errors = errors
        self._explain = explain
        self._buffer = bytearray()
        self._number = 0
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        try:
            self._start(bundle, time.monotonic() + timeout_seconds)
        except BaseException:
            self.close()
            raise

    def request(
        self,
        command: str,
        fields: Mapping[str, Any] | None = None,
        payload: Sequence[Part] = (),
        *,
        timeout_seconds: float,
        on_event: Event = lambda event: None,
    ) -> tuple[dict[str, Any], bytes]:
        """Ask for something and wait.

        Args:
            command: one of the agent's.
            fields: JSON values.
            payload: bytes, or files whose bytes go over.
            timeout_seconds: without a word from the agent; each event starts them anew.
            on_event: told of what the agent says in between.

        Returns:
            The result and the bytes behind it.

        Raises:
            AgentRefusalError: the agent cannot.
            DeviceLostError: it is gone or silent; the link is closed.
        """
        self._number += 1
        size = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in payload)
        head = {**(fields or {}), "id": self._number, "command": command, "bytes": size}
        try:
            deadline = time.monotonic() + timeout_seconds
            for chunk in _chunks([json.dumps(head).encode() + b"\n", *payload]):
                self._write(chunk, deadline)
            while True:
                message = self._message(time.monotonic() + timeout_seconds)
                if message.get("id") not in (self._number, None):
                    continue
                if "event" in message:
                    on_event(message)
                    continue
                data = self._read(int(message.get("bytes", 0)), time.monotonic() + timeout_seconds)
                break
        except BaseException:
            # Half a conversation cannot be taken up again.
            self.close()
            raise
        if not message.get("ok"):
            raise AgentRefusalError(str(message.get("kind")), str(message.get("error")))
        return dict(message["result"]), data

    def close(self) -> None:
        """End the agent; it ends by itself once its input does."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs and the link is open."""
        return self._process.poll() is None and self._process.stdin is not None and not self._process.stdin.closed

    def _start(self, bundle: AgentBundle, deadline: float) -> None:
        for _ in range(_MOST_GREETINGS):
            line = self._line(deadline).decode("utf-8", "replace").strip()
            if line == WANTED:
                self.copied = True
                self._write(bundle.data, deadline)
            elif line.startswith(REFUSED):
                raise TargetError(f"{self.url}: its agent refuses{line.removeprefix(REFUSED)}.")
            elif line.startswith('{"autocompress": "ready"'):
                return
            elif line == READY:
                continue
        raise TargetError(f"{self.url} says {line[:80]!r} and more, but no agent answers: its shell must stay silent.")

    def _message(self, deadline: float) -> dict[str, Any]:
        line = self._line(deadline)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise DeviceLostError(f"{self.url} sent {line[:80]!r} where its agent should answer.")
        return message

    def _line(self, deadline: float) -> bytes:
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            self._fill(deadline)
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _read(self, size: int, deadline: float) -> bytes:
        while len(self._buffer) < size:
            self._fill(deadline)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self, deadline: float) -> None:
        self._await(self._out, selectors.EVENT_READ, deadline)
        try:
            chunk = os.read(self._out, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            raise self._ended()
        self._buffer += chunk

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._await(self._in, selectors.EVENT_WRITE, deadline)
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def _await(self, handle: int, kind: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, kind)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise DeviceLostError(f"{self.url} does not answer in time.")

    def _ended(self) -> TargetError:
        """What the end of the process means."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = -1
        self._errors.seek(0)
        return self._explain(status, self._errors.read().decode("utf-8", "replace"))


def _chunks(parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with part.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk
