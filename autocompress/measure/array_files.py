"""Arrays in order, in a file that another process reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(path: Path, arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays to an ``.npz`` file; :func:`load_arrays` reads them back in the same order."""
    np.savez(path, *arrays)


def load_arrays(path: Path) -> list[NDArray[Any]]:
    """What :func:`save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{index}"] for index in range(len(file.files))]
