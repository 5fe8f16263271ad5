"""What an agent keeps on its board: models by content, within a limit, and a lock so that only one of them works.

This file also runs on the board: Python 3.6 or newer, the standard library and nothing else.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Sequence

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")
#: A lock that is held: look again after this many seconds, and say so after this many.
_LOOK_SECONDS, _SAY_SECONDS = 0.05, 1.0


class StoreError(Exception):
    """Something that the other side sent, or the disk, is not right."""


class Store:
    """Models by digest, one folder each; the ones used longest ago go first when space is short.

    Args:
        folder: where they lie; made where there is none.
        limit_bytes: of all of them together. The one being written may exceed it by itself.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder = os.path.join(folder, "models")
        self.limit_bytes = limit_bytes
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """The folder of a model that is here; its time of use becomes now.

        Raises:
            KeyError: it is not here.
        """
        if not _DIGEST.fullmatch(digest):
            raise StoreError("a model's digest is 64 hexadecimal digits, but got %r" % digest[:80])
        path = os.path.join(self.folder, digest)
        if not os.path.isdir(path):
            raise KeyError(digest)
        os.utime(path)
        return path

    def space(self) -> Dict[str, Any]:
        """Where models lie and how many bytes are free there."""
        return {"folder": self.folder, "free_bytes": shutil.disk_usage(self.folder).free}

    def has(self, digest: str) -> bool:
        """Whether a model is here."""
        try:
            self.path(digest)
        except KeyError:
            return False
        return True

    def put(self, digest: str, files: Sequence[Mapping[str, Any]], stream: Callable[[int], bytes]) -> None:
        """Read a model's files from a stream; it is here whole or not at all.

        Args:
            digest: of all of it, see :func:`files_digest`.
            files: ``name``, ``size`` and ``sha256`` of each, in the order in which their bytes come.
            stream: reads up to so many bytes; none at the end.

        Raises:
            StoreError: a name that leaves the folder, bytes that are not those announced, or a full disk. Everything
                announced has been read from the stream.
        """
        left = sum(int(file["size"]) for file in files)
        part = os.path.join(self.folder, "%s.part-%d" % (digest[:16], os.getpid()))
        try:
            if files_digest(files) != digest:
                raise StoreError("the list of files is not that of model %s" % digest[:80])
            self._make_room(left)
            os.makedirs(part, mode=0o700, exist_ok=True)
            for file in files:
                with open(_inside(part, str(file["name"])), "wb") as out:
                    state = hashlib.sha256()
                    size = int(file["size"])
                    while size:
                        chunk = stream(min(size, _CHUNK))
                        if not chunk:
                            raise StoreError("the connection ended in the middle of a file")
                        size -= len(chunk)
                        left -= len(chunk)
                        state.update(chunk)
                        out.write(chunk)
                if state.hexdigest() != file["sha256"]:
                    raise StoreError("%s arrived damaged" % file["name"])
            if not os.path.isdir(os.path.join(self.folder, digest)):
                os.rename(part, os.path.join(self.folder, digest))
        except OSError as error:
            raise StoreError("a model cannot be kept in %s: %s" % (self.folder, error.strerror)) from error
        finally:
            while left:
                chunk = stream(min(left, _CHUNK))
                if not chunk:
                    break
                left -= len(chunk)
            shutil.rmtree(part, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        models = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                # What a process that died left half written; living ones write for minutes at most.
                if ".part-" in entry.name and time.time() - entry.stat().st_mtime > 3600:
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif _DIGEST.fullmatch(entry.name):
                    models.append((entry.stat().st_mtime, folder_bytes(entry.path), entry.path))
        total = sum(held for _, held, _ in models)
        for _, held, path in sorted(models):
            if total + size <= self.limit_bytes:
                break
            shutil.rmtree(path, ignore_errors=True)
            total -= held


def files_digest(files: Sequence[Mapping[str, Any]]) -> str:
    """Digest of a model that consists of these files: names and contents."""
    state = hashlib.sha256()
    for file in files:
        state.update(("%s\0%d\0%s\n" % (file["name"], file["size"], file["sha256"])).encode())
    return state.hexdigest()


def folder_bytes(path: str) -> int:
    """Bytes of the files in a folder and below."""
    return sum(os.path.getsize(os.path.join(base, name)) for base, _, names in os.walk(path) for name in names)


def _inside(folder: str, name: str) -> str:
    """The path of a file below a folder; its own folders are made."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StoreError("a model's file may not be called %r" % name[:80])
    os.makedirs(os.path.join(folder, *parts[:-1]), mode=0o700, exist_ok=True)
    return os.path.join(folder, *parts)


@contextlib.contextmanager
def locked(path: str, waiting: Callable[[float, str], None]) -> Iterator[None]:
    """Hold the board for oneself; the system gives it back even where the process is killed.

    Args:
        path: of the lock file.
        waiting: told once a second how long it has been waiting, and for whom as far as that is known.
    """
    if fcntl is None:
        yield
        return
    handle = _open_lock(path)
    try:
        started = time.time()
        said = started
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise StoreError("the lock %s cannot be taken: %s" % (path, error.strerror)) from error
            if time.time() - said >= _SAY_SECONDS:
                said = time.time()
                waiting(said - started, _holder(handle))
            time.sleep(_LOOK_SECONDS)
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, b"process %d" % os.getpid(), 0)
        yield
    finally:
        os.close(handle)


def _open_lock(path: str) -> int:
    """Open or make the lock file; another user's may be read-only, which is enough to lock it."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    for mode in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDONLY):
        try:
            handle = os.open(path, flags | mode, 0o644)
        except OSError as error:
            last = error
            continue
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StoreError("the lock %s is no ordinary file" % path)
        return handle
    raise StoreError("the lock %s cannot be opened: %s" % (path, last.strerror))


def _holder(handle: int) -> str:
    try:
        return os.pread(handle, 80, 0).decode("ascii", "replace")
    except OSError:
        return ""


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, or fewer at the end of the stream."""
    parts = []  # type: List[bytes]
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            break
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)


def as_files(paths: Mapping[str, str]) -> List[Dict[str, Any]]:
    """The list that :meth:`Store.put` wants, of files by the name they should have there."""
    return [{"name": name, "size": os.path.getsize(path), "sha256": file_digest(path)} for name, path in paths.items()]


def file_digest(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            state.update(chunk)
    return state.hexdigest()
