"""The machine the program runs on as a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from autocompress.core.errors import TargetError
from autocompress.measure.transports.agent_bundle import agent_bundle
from autocompress.measure.transports.agent_link import AgentDiedError, AgentLink
from autocompress.measure.transports.tvm_address import SCHEME as TVM_SCHEME

LOCAL = "local"
#: Devices that are reached through an agent, see :mod:`autocompress.measure.device`.
AGENT_SCHEMES = ("ssh",)


class Transport(Protocol):
    """Runs this package's modules on a device."""

    url: str

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        """Run ``python -m module`` in a fresh process, ``request`` on its standard input; its standard output.

        Raises:
            TargetError: it fails or takes too long.
        """


def ask_module(
    transport: Transport, module: str, request: Mapping[str, Any], *, timeout_seconds: float, subject: str
) -> dict[str, Any]:
    """Send a module one request of JSON values and read its answer: the last line of what it prints.

    Args:
        transport: runs it.
        module: answers on standard output.
        request: for its standard input.
        timeout_seconds: for all of it.
        subject: what it is asked about, for the message where it gives no answer.

    Raises:
        TargetError: it fails, takes too long or answers nothing that is JSON.
    """
    output = transport.run_module(module, json.dumps(request), timeout_seconds=timeout_seconds)
    try:
        # Only the last line is ours: a library may have printed something of its own.
        found: dict[str, Any] = json.loads((output.splitlines() or [""])[-1])
    except ValueError as error:
        raise TargetError(f"{module} on {transport.url} gave no answer for {subject!r}.") from error
    return found


class LocalTransport:
    """Fresh Python processes on this machine."""

    url = LOCAL

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        """See :meth:`Transport.run_module`."""
        # The child must find this very package, installed or run from a checkout.
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command: Sequence[str] = (sys.executable, "-m", module)
        try:
            done = subprocess.run(
                command,
                input=request,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=timeout_seconds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"{module} on {self.url} took more than {timeout_seconds:.0f} s.") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
            how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended {done.returncode}"
            raise TargetError(f"{module} on {self.url} {how}: {last}")
        return done.stdout


class LocalConnection:
    """Agents on this machine: what a device is without a network in between.

    Args:
        python: the interpreter and its options.
        folder: for models and the lock.
    """

    url = LOCAL

    def __init__(self, *, python: tuple[str, ...] = (sys.executable,), folder: str = "") -> None:
        self._python = python
        self._folder = folder

    def open_agent(self) -> AgentLink:
        """Start an agent in a process of its own."""
        bundle = agent_bundle()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the link closes it
        process = subprocess.Popen(
            bundle.command(self._python, folder=self._folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        return AgentLink(process, bundle, url=self.url, errors=errors, explain=_explain)

    def close(self) -> None:
        """There is nothing to close."""


def open_transport(url: str | None = None) -> Transport:
    """The way to this machine.

    Args:
        url: ``local``, which is also what None means.

    Raises:
        TargetError: it is something else.
    """
    if url is None or url == LOCAL:
        return LocalTransport()
    scheme = url.partition("://")[0]
    if scheme == TVM_SCHEME:
        raise TargetError(
            f"{url!r} serves models that TVM compiles and nothing else: search and measure time them there."
        )
    raise TargetError(
        f"Unknown device {url!r}: known are `local`, ssh://user@host[:port] and {TVM_SCHEME}://host:port[/key]."
    )


def _explain(status: int, errors: str) -> TargetError:
    lines = errors.strip().splitlines() or ["nothing on standard error"]
    how = f"was killed by signal {-status}" if status < 0 else f"ended {status}"
    return AgentDiedError(f"The agent on this machine {how}: {lines[-1]}.")
