"""The folder of one run: its request, its lock, and where everything lies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import yaml

from autocompress.core.errors import RunFolderError

#: Keys of the request that a resumed run must share with the first.
FIXED_KEYS = ("model", "data", "target", "device", "runtime", "threads", "affinity", "space", "objectives", "seed")
REQUEST_FILE = "run.yaml"


class RunFolder:
    """One run's folder, held by one process.

    Args:
        path: of the folder.
        request: what was asked for, plain YAML values.
        resumed: whether the folder held this run already.
        lock: open lock file; None for a folder that is only read.
    """

    def __init__(self, path: Path, request: Mapping[str, Any], *, resumed: bool, lock: IO[str] | None = None) -> None:
        self.path = path
        self.request = dict(request)
        self.resumed = resumed
        self._lock = lock

    @classmethod
    def create_or_open(cls, path: str | os.PathLike[str], request: Mapping[str, Any]) -> Self:
        """Make the folder, or open it to resume the run it holds.

        Args:
            path: of the folder.
            request: what is asked for; the values of :data:`FIXED_KEYS` must be those of the run in the folder, others
                (budgets, trials, sampler, constraints) may differ.

        Raises:
            RunFolderError: it cannot be written, another process runs in it, it holds other files, or another run.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"The run folder {str(folder)!r} cannot be made: {error.strerror}.") from error
        lock = _lock(folder)
        try:
            known = _read_request(folder)
            if known is None:
                _refuse_strangers(folder)
            else:
                _check_same(folder, known, request)
            run = cls(folder, request, resumed=known is not None, lock=lock)
            run.write_text(REQUEST_FILE, yaml.safe_dump(_plain(request), sort_keys=False, allow_unicode=True))
        except BaseException:
            lock.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder to read from it, also while a search runs in it.

        Raises:
            RunFolderError: it holds no run.
        """
        folder = Path(path)
        request = _read_request(folder)
        if request is None:
            raise RunFolderError(f"{str(folder)!r} holds no run (no {REQUEST_FILE}).")
        return cls(folder, request, resumed=True)

    @staticmethod
    def may_hold(path: str | os.PathLike[str], request: Mapping[str, Any]) -> bool:
        """Whether a folder is free for this request, or holds the run that it would resume."""
        folder = Path(path)
        if not folder.exists():
            return True
        try:
            known = _read_request(folder)
            if known is None:
                _refuse_strangers(folder)
            else:
                _check_same(folder, known, request)
        except (RunFolderError, OSError):
            return False
        return True

    @property
    def study(self) -> Path:
        """Optuna's SQLite file."""
        return self.path / "study.db"

    @property
    def trials_csv(self) -> Path:
        """The tidy table of trials."""
        return self.path / "trials.csv"

    @property
    def front(self) -> Path:
        """Folder of the front's artifacts."""
        return self.path / "front"

    @property
    def overtaken(self) -> Path:
        """Folder of artifacts that were on the front until they were measured again."""
        return self.path / "overtaken"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / "log.txt"

    @property
    def manifest(self) -> Path:
        """Versions, seeds, hashes and the host."""
        return self.path / "manifest.json"

    @property
    def space(self) -> Path:
        """What could be chosen and what was refused."""
        return self.path / "space.json"

    @property
    def sensitivities(self) -> Path:
        """One-at-a-time sensitivities."""
        return self.path / "sensitivities.json"

    @property
    def baseline(self) -> Path:
        """The uncompressed model as it was imported: the reference of every timing, and what plans apply to."""
        return self.path / "baseline" / "model.onnx"

    def front_folder(self, number: int) -> Path:
        """Folder of one front trial; made where there is none."""
        folder = self.front / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_text(self, name: str | Path, text: str) -> Path:
        """Write a file whole or not at all.

        Args:
            name: relative to the folder, or a path within it.
            text: its content.

        Raises:
            RunFolderError: it cannot be written.
        """
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str | Path, content: bytes) -> Path:
        """Write a file whole or not at all; see :meth:`write_text`."""
        return atomic_write(self._within(name), content)

    def write_json(self, name: str | Path, data: Any) -> Path:
        """Write indented JSON whole or not at all; see :meth:`write_text`."""
        return self.write_text(name, json.dumps(data, indent=2, sort_keys=True) + "\n")

    def read_json(self, name: str | Path) -> Any:
        """What :meth:`write_json` wrote, or None where there is no such file.

        Raises:
            RunFolderError: it is not JSON.
        """
        path = self._within(name)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{str(path)!r} cannot be read: {error}.") from error

    def _within(self, name: str | Path) -> Path:
        return Path(name) if Path(name).is_relative_to(self.path) else self.path / name

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def atomic_write(path: Path, data: bytes) -> Path:
    """Write beside the file, then rename: a reader, or a kill, sees the old content or the new.

    Raises:
        RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunFolderError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    return path


def _lock(folder: Path) -> IO[str]:
    path = folder / ".lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise RunFolderError(f"The run folder {str(folder)!r} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        by = f" (process {owner})" if owner else ""
        raise RunFolderError(
            f"Another search runs in {str(folder)!r}{by}; wait for it or choose another --out."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _read_request(folder: Path) -> dict[str, Any] | None:
    path = folder / REQUEST_FILE
    try:
        data = yaml.safe_load(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise RunFolderError(f"{str(path)!r} cannot be read: {first}.") from error
    if not isinstance(data, dict):
        raise RunFolderError(f"{str(path)!r} holds no request.")
    return data


def _refuse_strangers(folder: Path) -> None:
    """A folder with other files in it is somebody's; a search would mix with them."""
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    if others:
        raise RunFolderError(
            f"{str(folder)!r} is not empty and holds no run (it has {others[0]!r}); choose another --out."
        )


def _check_same(folder: Path, known: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    wanted = _plain(request)
    for key in FIXED_KEYS:
        if key in wanted and known.get(key) != wanted[key]:
            raise RunFolderError(
                f"{str(folder)!r} holds a run with {key} {known.get(key)!r}, but {wanted[key]!r} was asked; "
                "choose another --out, or ask for the same to resume it."
            )


def _plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as YAML gives it back: tuples become lists."""
    return dict(json.loads(json.dumps(request, default=str)))
