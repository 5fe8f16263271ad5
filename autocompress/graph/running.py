"""Run a graph once in ONNX Runtime: the last word on whether a model is sound."""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from autocompress.core.errors import ModelError
from autocompress.graph.model_graph import InputSpec, ModelGraph
from autocompress.graph.quiet import first_line
from autocompress.graph.serializing import to_skeleton
from autocompress.graph.tensors import contiguous

#: Initializers from this size on are handed to a session from memory.
_LARGE_BYTES = 1 << 20
#: What must live as long as a session does.
_HELD: WeakKeyDictionary[onnxruntime.InferenceSession, list[onnxruntime.OrtValue]] = WeakKeyDictionary()


def open_session(model: ir.Model) -> onnxruntime.InferenceSession:
    """A session without optimizations: quick to make, and node for node what the graph says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Large weights are read where they lie, which a model past protobuf's 2 GB needs.
    skeleton = to_skeleton(model, _LARGE_BYTES)
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(contiguous(tensor.numpy()))
        for name, tensor in skeleton.taken.items()
    }
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    session = onnxruntime.InferenceSession(skeleton.joined(), options, providers=["CPUExecutionProvider"])
    _HELD[session] = list(values.values())
    return session


def check_runs(graph: ModelGraph, examples: tuple[Any, ...] = ()) -> None:
    """Run one batch of the examples, or of noise where they do not fit.

    Raises:
        ModelError: ONNX Runtime cannot load or run the graph, or it gives NaN for the examples.
    """
    try:
        session = open_session(graph.model)
    except Exception as error:  # ONNX Runtime's own kinds
        raise ModelError(f"ONNX Runtime cannot load it: {_reason(error)}") from error
    specs = graph.input_specs
    if any(None in spec.shape[1:] for spec in specs):
        return
    arrays = [np.asarray(example) for example in examples]
    given = len(arrays) == len(specs) and all(_fits(a, spec) for a, spec in zip(arrays, specs, strict=True))
    inputs = arrays if given else [_noise(spec) for spec in specs]
    try:
        outputs = session.run(None, {spec.name: array for spec, array in zip(specs, inputs, strict=True)})
    except Exception as error:  # ONNX Runtime's own kinds
        # Noise may be out of range, such as an index past a table's end: it tells nothing about the model.
        if given or all(spec.dtype.kind == "f" for spec in specs):
            raise ModelError(f"ONNX Runtime cannot run it: {_reason(error)}") from error
        return
    if given and not all(_finite(np.asarray(output)) for output in outputs):
        raise ModelError("It gives NaN or infinity for the data's first samples.")


def _reason(error: Exception) -> str:
    """ONNX Runtime's complaint without its error code and the place in its C++ source."""
    text = first_line(error, limit=2000).split(" : ", 3)[-1]
    return re.sub(r"^\S+\.(cc|h):\d+ .*\) (?=[A-Z])", "", text)[:300]


def _fits(array: NDArray[Any], spec: InputSpec) -> bool:
    sizes = zip(array.shape, spec.shape, strict=False)
    return array.dtype == spec.dtype and array.ndim == len(spec.shape) and all(b in (None, a) for a, b in sizes)


def _noise(spec: InputSpec) -> NDArray[Any]:
    shape = [size or 1 for size in spec.shape]
    if spec.dtype.kind != "f":
        return np.zeros(shape, spec.dtype)
    return np.random.default_rng(0).normal(size=shape).astype(spec.dtype)


def _finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
