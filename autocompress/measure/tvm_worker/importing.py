"""From an ONNX model to Relax, quantized layers as integer kernels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from autocompress.core.errors import CandidateError
from autocompress.measure.tvm_worker.quantized import IntegerLowering, LayerKernel

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A model in Relax.

    Args:
        module: with one function, ``main``.
        layers: what each layer with weights computes in, and why it is not integers where it could have been.
    """

    module: tvm.IRModule
    layers: tuple[LayerKernel, ...]


def to_relax(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], target: tvm.target.Target) -> Imported:
    """Import a model whose constants are folded.

    Args:
        model: see :func:`autocompress.measure.tvm_worker.onnx_constants.read_model`.
        shapes: of its inputs.
        target: decides what is worth computing in integers.

    Raises:
        CandidateError: an operator that Relax cannot import; named with its node.
    """
    known = _get_convert_map()
    for node in model.graph.node:
        if node.op_type not in known and node.op_type not in ("If", "Constant"):
            raise CandidateError("build", _refused(node.op_type, node.name, "it has no such operator", node.domain))
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 1)
    importer = _Importer(shapes, target)
    with warnings.catch_warnings():
        # Renamed inputs are told as warnings; inputs are taken by their place.
        warnings.simplefilter("ignore")
        try:
            module = importer.from_onnx(model.graph, opset)
        except CandidateError:
            raise
        except Exception as error:
            raise CandidateError("build", f"TVM {tvm.__version__} cannot import the model: {_first(error)}") from error
    return Imported(module=module, layers=tuple(importer.lowering.layers))


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer, which asks for integer kernels first and names the node that it fails at."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], target: tvm.target.Target) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, "float32")
        self.lowering = IntegerLowering(self.bb, target)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        name = str(attrs["tvm_custom"]["name"])
        try:
            found = self.lowering.convert(op_name, name, list(inputs), attrs)
            return super()._convert_operator(op_name, inputs, attrs, opset) if found is None else found
        except Exception as error:  # whatever a converter raises
            raise CandidateError("build", _refused(op_name, name, _first(error))) from error


def _refused(op_type: str, node: str, reason: str, domain: str = "") -> str:
    operator = op_type if domain in _STANDARD else f"{domain}::{op_type}"
    return f"TVM {tvm.__version__} cannot import operator {operator} (node {node!r}): {reason}"


def _first(error: BaseException) -> str:
    """The line of an error that says what is wrong; TVM's end with it, below a trace."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
