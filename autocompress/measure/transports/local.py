"""Where a model is measured: so far on the machine the program runs on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from autocompress.core.errors import TargetError

LOCAL = "local"
_LATER = ("ssh", "tvm-rpc")


class Transport(Protocol):
    """Runs this package's modules on a device."""

    url: str

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        """Run ``python -m module`` in a fresh process, ``request`` on its standard input; its standard output.

        Raises:
            TargetError: it fails or takes too long.
        """


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


def open_transport(url: str | None = None) -> Transport:
    """The way to a device.

    Args:
        url: ``local``, which is also what None means. ``ssh://user@host`` and ``tvm-rpc://tracker`` are for a later
            release.

    Raises:
        TargetError: this release cannot reach such a device.
    """
    if url is None or url == LOCAL:
        return LocalTransport()
    scheme = url.partition("://")[0]
    if scheme in _LATER:
        raise TargetError(f"This release measures on the device 'local' only; {scheme}:// is not in it: got {url!r}.")
    raise TargetError(f"Unknown device {url!r}; this release knows 'local'.")
