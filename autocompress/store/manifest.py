"""What a run was made with: versions, seeds, the host, the command line, hashes of model and data."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from autocompress.core.errors import RunFolderError

PACKAGES = ("autocompress", "numpy", "onnx", "onnx-ir", "onnxruntime", "optuna", "torch")


def make_manifest(
    *,
    model_digest: str,
    data_digest: str,
    seed: int,
    host: Mapping[str, Any] | str,
    command: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what someone else needs to repeat a run.

    Args:
        model_digest: of the imported graph.
        data_digest: of the data bundle.
        seed: of the search.
        host: fingerprint and facts of this machine.
        command: as typed; ``sys.argv`` where None.
        extra: whatever else the run depends on.

    Returns:
        Plain JSON values.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv if command is None else command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "seed": seed,
        "model_digest": model_digest,
        "data_digest": data_digest,
        "host": host if isinstance(host, str) else dict(host),
        **(extra or {}),
    }


def check_same_inputs(known: Mapping[str, Any] | None, fresh: Mapping[str, Any]) -> None:
    """Refuse to resume a run whose model or data changed under the same name.

    Args:
        known: the manifest in the run folder; None where there is none yet.
        fresh: the manifest of the run that wants to go on.

    Raises:
        RunFolderError: a digest differs.
    """
    for key, what in (("model_digest", "model"), ("data_digest", "data")):
        before = (known or {}).get(key)
        if before is not None and before != fresh[key]:
            raise RunFolderError(
                f"The {what} changed since the run began (digest {before}, now {fresh[key]}); choose another --out."
            )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
