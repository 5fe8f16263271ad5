"""Devices behind ``ssh://``: the system's OpenSSH client, one connection that everything shares.

``~/.ssh/config`` is respected; host keys are always checked; nothing ever asks for a password.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, urlsplit

from autocompress.core.errors import DeviceLostError, TargetError
from autocompress.measure.transports.agent_bundle import agent_bundle
from autocompress.measure.transports.agent_link import AgentDiedError, AgentLink

#: Names another configuration file than ``~/.ssh/config``.
CONFIG_VARIABLE = "AUTOCOMPRESS_SSH_CONFIG"
#: The Python of devices whose URL names none, with its options.
PYTHON_VARIABLE = "AUTOCOMPRESS_REMOTE_PYTHON"
#: The folder of devices whose URL names none.
FOLDER_VARIABLE = "AUTOCOMPRESS_REMOTE_FOLDER"
_EXAMPLE = "ssh://pi@raspberrypi or ssh://user@host:22?python=~/venv/bin/python"
_CONNECT_SECONDS = 10
_SSH_FAILED = 255
_NO_SUCH_COMMAND = (126, 127)
#: What OpenSSH says, what it means, and whether waiting may help.
_TROUBLES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed: if that is meant, forget the old one with `ssh-keygen -R {host}`",
        False,
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "its host key is not known: look at it and accept it once with `{ssh}`",
        False,
    ),
    (
        r"Permission denied",
        "none of your keys is accepted and passwords are not asked for: run `ssh-copy-id{port} {login}` once",
        False,
    ),
    (r"Could not resolve hostname", "there is no host {host!r}: check the name", False),
    (r"Bad configuration option|no argument after keyword", "{line}", False),
    (r"Connection refused", "it refuses connections: is it up, with sshd running?", True),
    (
        r"timed out|No route to host|unreachable|Connection closed|Connection reset",
        "it cannot be reached: {line}",
        True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAddress:
    """Where a device is.

    Args:
        host: name, address, or a ``Host`` of the configuration.
        user: None for what the configuration says.
        port: likewise.
        python: the interpreter over there and its options; ``~/`` is the home over there.
        folder: for the agent and its models; the cache folder over there where empty.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: tuple[str, ...] = ("python3",)
    folder: str = ""

    @classmethod
    def parse(cls, url: str) -> SshAddress:
        """Read ``ssh://[user@]host[:port][?python=PATH][&folder=PATH]``.

        Raises:
            TargetError: it is none.
        """
        try:
            parts = urlsplit(url)
            host, user, port = parts.hostname, parts.username, parts.port
            query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise TargetError(f"A device is written like {_EXAMPLE}, but got {url!r} ({error}).") from error
        if host is not None:
            # `hostname` is lower case, names of a configuration need not be.
            host = re.sub(r"^.*@|:\d*$", "", parts.netloc).strip("[]")
        bad = parts.scheme != "ssh" or parts.password is not None or parts.path not in ("", "/") or parts.fragment
        if bad or not host or set(query) - {"python", "folder"}:
            raise TargetError(f"A device is written like {_EXAMPLE}, but got {url!r}.")
        for name, value in (("host", host), ("user", user)):
            # A leading hyphen would be read as an option.
            if value is not None and not re.fullmatch(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*", value):
                raise TargetError(f"{url!r} has an impossible {name} {value!r}.")
        python = shlex.split(query.get("python") or os.environ.get(PYTHON_VARIABLE, "")) or ["python3"]
        folder = query.get("folder") or os.environ.get(FOLDER_VARIABLE, "")
        return cls(host=host, user=user, port=port, python=tuple(python), folder=folder)

    @property
    def login(self) -> str:
        """As one would type it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def url(self) -> str:
        """Without what is not the address."""
        return f"ssh://{self.login}{f':{self.port}' if self.port else ''}"


class SshConnection:
    """One connection to a device; agents share it.

    Args:
        address: of the device.
        config: another configuration file than the user's.
    """

    def __init__(self, address: SshAddress, config: str | None = None) -> None:
        self.address = address
        self.url = address.url
        self._config = config or os.environ.get(CONFIG_VARIABLE)
        # A socket's path may have about 100 characters: a short folder, made for us alone.
        self._folder = Path(tempfile.mkdtemp(prefix="ac-ssh-"))
        self._master: subprocess.Popen[bytes] | None = None
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def open_agent(self) -> AgentLink:
        """Start an agent over there; it is copied over first where it is not there yet.

        Raises:
            TargetError: the device cannot be used as it is; the message says what to do.
            DeviceLostError: it cannot be reached now.
        """
        self._connect()
        bundle = agent_bundle()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the link closes it
        command = bundle.command(self.address.python, folder=self.address.folder)
        line = " ".join([remote_word(command[0]), *map(shlex.quote, command[1:])])
        process = self._popen(["-S", str(self._socket), "-o", "ControlMaster=no", *self._where(), line], errors)
        return AgentLink(process, bundle, url=self.url, errors=errors, explain=self._explain)

    def close(self) -> None:
        """End the connection and every agent on it."""
        if self._master is not None:
            _stop(self._master)
            self._master = None
        self._finalizer()

    @property
    def _socket(self) -> Path:
        return self._folder / "s"

    def _connect(self) -> None:
        if self._master is not None and self._master.poll() is None:
            return
        self._socket.unlink(missing_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile() as errors:
            master = self._popen(["-M", "-N", "-S", str(self._socket), *self._where()], errors)
            finalizer = weakref.finalize(self, _stop, master)
            end = time.monotonic() + 3 * _CONNECT_SECONDS
            # The socket appears once the host and the user are accepted.
            while not self._socket.exists():
                if master.poll() is not None or time.monotonic() > end:
                    finalizer()
                    errors.seek(0)
                    raise self._explain(_SSH_FAILED, errors.read().decode("utf-8", "replace"))
                time.sleep(0.02)
        self._master = master

    def _popen(self, arguments: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(_CONNECT_SECONDS),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlPersist": "no",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "LogLevel": "ERROR",
        }
        command = ["ssh", *(["-F", self._config] if self._config else [])]
        command += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        try:
            return subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # Ctrl-C is for the search, which ends cleanly; it must not end the connection.
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise TargetError(
                "There is no `ssh` on this machine: install OpenSSH's client (Debian: apt-get install openssh-client)."
            ) from error

    def _where(self) -> list[str]:
        address = self.address
        port = ["-p", str(address.port)] if address.port else []
        return [*port, *(["-l", address.user] if address.user else []), "--", address.host]

    def _explain(self, status: int, errors: str) -> TargetError:
        """The error that the end of an ssh process stands for."""
        address = self.address
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        last = lines[-1].rstrip(".") if lines else "nothing on standard error"
        if status in _NO_SUCH_COMMAND:
            return TargetError(
                f"{self.url} has no {address.python[0]}: install Python 3.6 or newer there (Debian: "
                f"sudo apt-get install python3), or name another with {self.url}?python=PATH."
            )
        if status != _SSH_FAILED:
            how = f"was killed by signal {status - 128}" if status > 128 else f"ended {status}"
            return AgentDiedError(f"The agent on {self.url} {how}: {last}.")
        port = f" -p {address.port}" if address.port else ""
        words = {"host": address.host, "login": address.login, "port": port, "line": last}
        words["ssh"] = f"ssh{port} {address.login}"
        for pattern, meaning, passing in _TROUBLES:
            if re.search(pattern, errors):
                kind = DeviceLostError if passing else TargetError
                return kind(f"Cannot use {self.url}: {meaning.format_map(words)}.")
        return DeviceLostError(f"The connection to {self.url} ended: {last}.")


def remote_word(word: str) -> str:
    """One word for a shell over there, of which only a leading ``~/`` has a meaning."""
    return '"$HOME"/' + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
