"""The way to a process that holds TVM: started when first asked, started anew after a crash."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from autocompress.core import errors
from autocompress.core.errors import CandidateError, DeviceLostError, MissingExtraError, ModelError, TargetError
from autocompress.measure.affinity import pinned
from autocompress.measure.transports.agent_link import AgentDiedError

MODULE = "autocompress.measure.tvm_worker.worker"
MISSING = "TVM is not installed: pip install 'autocompress[tvm]'"
#: Longest silence between two messages of a worker.
SILENCE_SECONDS = 180.0
_START_SECONDS = 120.0
_SENT_BACK: dict[str, type[errors.AutocompressError]] = {
    kind.__name__: kind for kind in (ModelError, TargetError, MissingExtraError, DeviceLostError, AgentDiedError)
}


class WorkerDiedError(CandidateError):
    """The worker crashed or fell silent over a request; the next request starts another one."""


def need_tvm() -> None:
    """Raise :class:`MissingExtraError` where TVM is not installed."""
    if importlib.util.find_spec("tvm") is None:
        raise MissingExtraError(f"{MISSING}.")


def spare_torch() -> None:
    """To be called before TVM is imported: it takes torch in where it is there, 2 seconds, and needs none of it."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


class TvmWorker:
    """One worker process at a time.

    Args:
        threads: that run a kernel; a worker keeps them for life.
        affinity: cores that it stays on; all where None.
        environment: variables besides the program's own.

    Raises:
        MissingExtraError: TVM is not installed.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        affinity: Sequence[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        need_tvm()
        self.threads = threads
        #: How many processes there were: what an earlier one held is lost.
        self.generation = 0
        self._affinity = affinity
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    @property
    def pid(self) -> int | None:
        """Of the running process; None where none runs."""
        return None if self._process is None else self._process.pid

    def ask(
        self,
        verb: str,
        fields: Mapping[str, Any] | None = None,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        on_event: Callable[[Mapping[str, Any]], None] = lambda event: None,
    ) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Args:
            verb: one of the worker's.
            fields: JSON values.
            silence_seconds: how long nothing may come back before the worker counts as hung and is ended.
            on_event: told of progress.

        Raises:
            WorkerDiedError: it crashed or hung; the reason says how.
            CandidateError: the worker refuses.
            ModelError: likewise, for a file that is no model.
            TargetError: likewise, for a target that this TVM has no code for.
        """
        process = self._running()
        self._count += 1
        request = {"id": self._count, "verb": verb, **(fields or {})}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError:
            raise self._died(verb) from None
        while True:
            message = self._next(verb, silence_seconds)
            if message.get("id") != self._count:
                continue
            if "event" in message:
                on_event(message["event"])
                continue
            if "error" in message:
                raise _error(message["error"])
            result: dict[str, Any] = message["result"]
            return result

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, self._errors):
                if stream is not None:
                    stream.close()
            self._errors = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # A worker that is killed cannot clean up what it wrote.
        self._scratch = tempfile.TemporaryDirectory(prefix="autocompress-", ignore_cleanup_errors=True)
        environment = {
            **os.environ,
            "TMPDIR": self._scratch.name,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONIOENCODING": "utf-8",
            "TVM_NUM_THREADS": str(self.threads),
            # TVM would put its threads on the first cores, whatever cores there are for it.
            "TVM_BIND_THREADS": "0",
            **self._environment,
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        with pinned(self._affinity):
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,
            )
        self._process, self._lines = process, queue.Queue()
        self.generation += 1
        threading.Thread(target=_read, args=(process.stdout, self._lines), daemon=True).start()
        return process

    def _next(self, verb: str, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds + (_START_SECONDS if self._count == 1 else 0.0))
        except queue.Empty:
            self.close()
            raise WorkerDiedError(verb, f"TVM gave no sign of life for {seconds:.0f} s and was ended") from None
        if line is None:
            raise self._died(verb)
        message: dict[str, Any] = json.loads(line)
        return message

    def _died(self, verb: str) -> WorkerDiedError:
        process = self._process
        assert process is not None
        status = process.wait()
        last = self._last_words()
        self.close()
        how = f"was killed by signal {-status} ({_signal(-status)})" if status < 0 else f"ended {status}"
        return WorkerDiedError(verb, f"the process that holds TVM {how}{last}")

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1].strip()[:200]}" if lines else ""


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Move lines over until there are no more; None marks the end."""
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed while it was read
        pass
    lines.put(None)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _error(told: Mapping[str, Any]) -> errors.AutocompressError:
    kind = _SENT_BACK.get(str(told["type"]))
    return CandidateError(str(told["stage"]), str(told["reason"])) if kind is None else kind(str(told["reason"]))
