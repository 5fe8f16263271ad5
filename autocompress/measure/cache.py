"""Small JSON files in the user's cache folder: what costs seconds to find out about this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Names another cache folder.
CACHE_VARIABLE = "AUTOCOMPRESS_CACHE"


def cache_folder() -> Path:
    """The user's cache folder for this package, or the one that ``AUTOCOMPRESS_CACHE`` names."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("autocompress", appauthor=False))


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder and below it; 0 where there is none."""
    found = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += (Path(root) / name).stat().st_size
    return found


class JsonCache:
    """Entries by key, one file each; a file that cannot be read or written counts as absent.

    Args:
        kind: first part of the file names.
        folder: where they lie; :func:`cache_folder` where None.
    """

    def __init__(self, kind: str, folder: Path | None = None) -> None:
        self._kind = kind
        self._folder = cache_folder() if folder is None else folder

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file of one key."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{self._kind}-{digest}.json"

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was written under ``key``, or None where nothing readable is."""
        try:
            data = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def write(self, key: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        """Keep ``entry``; a reader sees all of it or nothing. A folder that cannot be written is left alone."""
        path, text = self.path(key), json.dumps(entry, indent=2)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(name).replace(path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
