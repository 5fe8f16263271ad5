"""Make ONNX Runtime sessions: explicit options, weights from memory, errors in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _state

#: What ONNX Runtime raises; most of its errors derive from Exception only.
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)
#: Idle threads of a pool spin this long, then sleep. The default is a million pauses (40 ms on a Zen 4): long enough
#: for the session timed last to spin into its rival's block, which made two equal models differ by a third.
SPIN_MICROSECONDS = 200
PROVIDER = "CPUExecutionProvider"
_FATAL = 4
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")


def session_options(*, threads: int, spinning: bool) -> ort.SessionOptions:
    """Options that leave nothing to the machine's defaults.

    Args:
        threads: of the one operator that runs at a time; operators run one after the other.
        spinning: whether idle threads wait by spinning (lower latency), for :data:`SPIN_MICROSECONDS` at most, or
            sleep at once (kinder to neighbours).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    # Its messages would go straight to the terminal; what matters of them comes as an exception.
    options.log_severity_level = _FATAL
    return options


def create_session(
    model: bytes | str | PathLike[str],
    options: ort.SessionOptions,
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[ort.InferenceSession, list[ort.OrtValue]]:
    """Create a session, its weights taken from ``arrays`` where the model only names them.

    ONNX Runtime reads such weights in place, before it optimizes: it folds constants, fuses QuantizeLinear pairs and
    packs weights as if they had stood in the model. Initializers of 4 and 2 bits must stand in the model.

    Args:
        model: a serialized model or a path.
        options: as :func:`session_options` makes them.
        arrays: initializers that ``model`` declares as external, by name.

    Returns:
        The session, and the values that must live as long as it does.

    Raises:
        One of :data:`ORT_ERRORS`: the model cannot be loaded.
    """
    values: list[ort.OrtValue] = []
    if arrays:
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays.values()]
        options.add_external_initializers(list(arrays), values)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=[PROVIDER]), values


def first_line(error: BaseException) -> str:
    """The error's first line without ONNX Runtime's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _PREFIX.sub("", lines[0]).rstrip(".")
