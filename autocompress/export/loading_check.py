"""Does plain ONNX Runtime load and run the file?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from autocompress.core.errors import ModelError
from autocompress.evaluate.bfloat16 import computes_in_bfloat16
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph

_DTYPES: dict[str, str] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output.

    Args:
        name: in the graph.
        dtype: NumPy's name of its element type.
        shape: sizes, or names of the symbolic ones.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape with 1 for every symbolic size."""
        return tuple(size if isinstance(size, int) else 1 for size in self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Inputs and outputs of a model."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def check_loads(path: Path) -> Signature:
    """Load the file on the CPU and run it once on zeros; bfloat16 arithmetic as float32.

    Raises:
        ModelError: it cannot be loaded or run, or an output is not finite.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(_runnable(path), options, providers=["CPUExecutionProvider"])
        signature = Signature(
            inputs=tuple(_port(i) for i in session.get_inputs()), outputs=tuple(_port(o) for o in session.get_outputs())
        )
        feeds = {port.name: np.zeros(port.sample_shape, port.dtype) for port in signature.inputs}
        outputs = session.run(None, feeds)
    except Exception as error:
        # ONNX Runtime raises classes of its own that share no base but Exception.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{str(path)!r} does not run in ONNX Runtime: {first}") from error
    for port, value in zip(signature.outputs, outputs, strict=True):
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise ModelError(f"Output {port.name!r} of {str(path)!r} is not finite for an input of zeros.")
    return signature


def _runnable(path: Path) -> Path | bytes:
    """The file, or the same model in float32 where it computes in bfloat16, which the CPU provider does not."""
    return load_model(path).to_bytes() if computes_in_bfloat16(ModelGraph(ir.load(path))) else path


def _port(node: Any) -> Port:
    return Port(name=node.name, dtype=_DTYPES.get(node.type, "float32"), shape=tuple(node.shape))
