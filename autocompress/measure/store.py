"""Measurements kept by what was measured: SQLite in the user's cache folder, shared by every process.

A key holds everything that a figure depends on: the digests of the files, the runtime with its version and build, the
machine with its kernel and microcode, and the policy. So a changed file, driver or runtime never hits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.measure.agent_store import StoreError, locked
from autocompress.measure.cache import cache_folder
from autocompress.measure.latency import model_files, now

FILE_NAME = "measurements.sqlite3"
#: Layout of the table and of the keys; a database of another one is set aside.
SCHEMA = 1
#: The oldest entries go when there are more.
MOST_ENTRIES = 5000
_BUSY_SECONDS = 30.0
_CREATE = (
    "CREATE TABLE IF NOT EXISTS measurements (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, "
    "key TEXT NOT NULL, entry TEXT NOT NULL, stored TEXT NOT NULL)"
)


class MeasurementStore:
    """Entries by key; whatever is wrong with the database counts as nothing kept, and is said once.

    Args:
        folder: where the database lies; :func:`~autocompress.measure.cache.cache_folder` where None.
        on_message: told what is wrong, one line.
    """

    def __init__(self, folder: Path | None = None, *, on_message: Callable[[str], None] = lambda text: None) -> None:
        self.path = (cache_folder() if folder is None else folder) / FILE_NAME
        self._on_message = on_message
        self._said: set[str] = set()

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was written under ``key``, or None."""
        if not self.path.is_file():
            return None
        with self._usable() as connection:
            return None if connection is None else _entry(connection, key_digest(key))
        return None

    def write(self, key: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        """Keep ``entry`` in place of an earlier one: one transaction, whole or not at all."""
        self.update(key, lambda _: entry)

    def update(
        self, key: Mapping[str, Any], change: Callable[[dict[str, Any] | None], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Put ``change(what is kept)`` in its place, in one transaction: of two processes at once none loses anything.

        Args:
            key: of the entry.
            change: from what is kept, None where nothing is, to what shall be kept.

        Returns:
            What ``change`` gave; where the database cannot be used, what it makes of None.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._say(f"Measurements are not kept: {str(self.path.parent)!r} cannot be made: {error.strerror}.")
            return change(None)
        digest, entry = key_digest(key), None
        with self._usable() as connection:
            if connection is not None:
                connection.execute("BEGIN IMMEDIATE")
                entry = change(_entry(connection, digest))
                values = (digest, json.dumps(key, sort_keys=True), json.dumps(entry), now())
                # REPLACE gives a new id, so that the oldest are those with the lowest.
                connection.execute("REPLACE INTO measurements (digest, key, entry, stored) VALUES (?, ?, ?, ?)", values)
                connection.execute(
                    "DELETE FROM measurements WHERE id <= (SELECT max(id) FROM measurements) - ?", (MOST_ENTRIES,)
                )
                connection.execute("COMMIT")
        return change(None) if entry is None else entry

    def count(self) -> int:
        """Entries kept."""
        if not self.path.is_file():
            return 0
        with self._usable() as connection:
            if connection is not None:
                return int(connection.execute("SELECT count(*) FROM measurements").fetchone()[0])
        return 0

    @contextlib.contextmanager
    def _usable(self) -> Iterator[sqlite3.Connection | None]:
        """A connection for one transaction; None, or an end of the block, where the database cannot be used."""
        for _ in range(2):
            seen = _identity(self.path)
            try:
                connection = self._open()
            except _OtherSchemaError as error:
                self._set_aside(seen, str(error))
                continue
            except sqlite3.OperationalError as error:
                # Locked too long, a full disk, a folder that cannot be written: nothing is wrong with the content.
                self._say(f"Measurements are not kept: {str(self.path)!r}: {error}.")
                break
            except sqlite3.DatabaseError as error:
                self._set_aside(seen, f"it is damaged ({error})")
                continue
            with contextlib.closing(connection):
                try:
                    yield connection
                except sqlite3.OperationalError as error:
                    self._say(f"Measurements are not kept: {str(self.path)!r}: {error}.")
                except sqlite3.DatabaseError as error:
                    self._set_aside(seen, f"it is damaged ({error})")
            return
        yield None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            # Readers go on while another process writes.
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version == SCHEMA:
                return connection
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have made it in the meantime.
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
            if version not in (0, SCHEMA) or (version == 0 and tables):
                raise _OtherSchemaError(f"it has layout {version}, not {SCHEMA}")
            connection.execute(_CREATE)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, seen: tuple[int, int] | None, reason: str) -> None:
        """Rename the database, unless another process did so first."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        try:
            with locked(str(self.path.with_suffix(".lock")), lambda seconds, holder: None):
                if seen is None or _identity(self.path) != seen:
                    return
                # The journal belongs to it: left behind, it would be read into the next database.
                for suffix in ("-wal", "-shm", ""):
                    part = self.path.with_name(self.path.name + suffix)
                    with contextlib.suppress(FileNotFoundError):
                        part.replace(self.path.with_name(f"{self.path.name}.{stamp}.old{suffix}"))
        except (OSError, StoreError) as error:
            self._say(f"Measurements are not kept: {str(self.path)!r} cannot be set aside: {error}.")
            return
        self._say(f"The cache of measurements was set aside as {self.path.name}.{stamp}.old: {reason}.")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._on_message(text)


class _OtherSchemaError(Exception):
    """The database is of another release."""


def _entry(connection: sqlite3.Connection, digest: str) -> dict[str, Any] | None:
    row = connection.execute("SELECT entry FROM measurements WHERE digest = ?", (digest,)).fetchone()
    with contextlib.suppress(ValueError):
        entry = json.loads(row[0]) if row is not None else None
        return entry if isinstance(entry, dict) else None
    return None


def key_digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of a key's canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_digest(model: str | PathLike[str] | bytes) -> str:
    """SHA-256 of a serialized model, or of a model file with the names and bytes of the data files it names.

    Raises:
        ModelError: there is no such file, or it is not an ONNX model.
    """
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    first, *rest = model_files(model)
    digest = _file_digest(first)
    if not rest:
        return digest
    parts = [digest, *(f"{path.name} {_file_digest(path)}" for path in rest)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sample_digest(sample: Sequence[Any] | None) -> str:
    """SHA-256 of the first sample of each input, with types and shapes; ``random`` for the fixed random ones."""
    if sample is None:
        return "random"
    state = hashlib.sha256()
    for value in sample:
        array = np.ascontiguousarray(np.asarray(value)[:1])
        state.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return state.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino
