"""Models with bfloat16 arithmetic, which ONNX Runtime's CPU provider does not load: torch runs them.

Targets whose runtime has such kernels are estimated; what their artifact answers is still found out with its own bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError, ModelError
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.loaded import LoadedModel
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime, SkeletonGraph
from autocompress.measure.runtimes.tensors import TensorSpec


class TorchModel(LoadedModel):
    """A graph that torch runs, every operator in the type that the graph says.

    Args:
        graph: what to run.
    """

    def __init__(self, graph: ModelGraph) -> None:
        specs = [TensorSpec(name=s.name, dtype=np.dtype(s.dtype), shape=s.shape) for s in graph.input_specs]
        super().__init__(specs, graph.output_names)
        self._module = graph.to_torch().eval()
        self.size_bytes = graph.size_bytes()

    def _run_once(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        import torch

        with torch.no_grad():
            found = self._module(*(torch.from_numpy(np.array(array)) for array in arrays))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]


class QualityRuntime(OnnxRuntime):
    """ONNX Runtime, with torch for what computes in bfloat16; it times only what ONNX Runtime loads."""

    def build(self, graph: SkeletonGraph | str | PathLike[str] | bytes) -> Any:
        """Load a graph, a path or a serialized model.

        Raises:
            ModelError: a file or bytes that cannot be loaded.
            CandidateError: a graph that ONNX Runtime refuses for another reason than bfloat16.
        """
        if isinstance(graph, ModelGraph) and computes_in_bfloat16(graph):
            return TorchModel(graph)
        try:
            return super().build(graph)
        except (CandidateError, ModelError):
            stored = _read(Path(graph)) if isinstance(graph, str | PathLike) else None
            if stored is None or not computes_in_bfloat16(stored):
                raise
            return TorchModel(stored)


def _read(path: Path) -> ModelGraph | None:
    """The model in a file as it stands there, or None."""
    try:
        return ModelGraph(ir.load(path))
    except (OSError, ValueError, DecodeError):
        return None


def computes_in_bfloat16(graph: ModelGraph) -> bool:
    """Whether an operator other than a Cast writes bfloat16."""
    return any(
        node.op_type != "Cast" and any(value.dtype == ir.DataType.BFLOAT16 for value in node.outputs)
        for node in graph.model.graph
    )
