"""From Relax to an executable: fused kernels, tuned ones where the database has them, weights packed beforehand."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.s_tir import dlight
from tvm.s_tir import meta_schedule as ms

from autocompress.core.errors import CandidateError
from autocompress.measure.tvm_worker.compiled_kernels import CompiledKernels, with_common_names
from autocompress.measure.tvm_worker.dot_kernels import legalizers
from autocompress.measure.tvm_worker.importing import to_relax
from autocompress.measure.tvm_worker.layouts import fold_layouts, mark_weights
from autocompress.measure.tvm_worker.onnx_constants import read_model
from autocompress.measure.tvm_worker.quantized import LayerKernel

#: Kernels sum over channels that lie side by side, and their results too.
_LAYOUTS = {"relax.nn.conv2d": ["NHWC", "OHWI"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output.

    Args:
        name: as in the ONNX model.
        dtype: numpy's name.
        shape: sizes, the batch too.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A model as one call after another of kernels that are not scheduled yet.

    Args:
        module: ``main`` and its kernels.
        inputs: of the model.
        outputs: of the model.
        layers: what each layer computes in.
    """

    module: tvm.IRModule
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[LayerKernel, ...]


def lower(path: str | Path, target: tvm.target.Target, *, batch: int = 1) -> Lowered:
    """Import a model file and fuse it into kernels.

    Args:
        path: of the ``.onnx`` file.
        target: kernels depend on it where a library or layout does.
        batch: size of the inputs' first axis where it may vary; any other open size is 1.

    Raises:
        ModelError: the file cannot be read.
        CandidateError: TVM cannot import or fuse it.
    """
    model = read_model(path)
    inputs = _inputs(model, batch)
    imported = to_relax(model, {tensor.name: tensor.shape for tensor in inputs}, target)
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
        relax.transform.ConvertLayout(_LAYOUTS),
        fold_layouts,
        *_pipeline(target).library_dispatch_passes(target),
        relax.transform.LegalizeOps(legalizers(target)),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    if target.kind.name == "llvm":
        passes.append(mark_weights)
    with target, tvm.transform.PassContext(opt_level=3):
        module = tvm.transform.Sequential(passes)(imported.module)
    return Lowered(module=module, inputs=inputs, outputs=_outputs(model, module), layers=imported.layers)


def scheduled(lowered: Lowered, target: tvm.target.Target, database: ms.Database) -> tvm.IRModule:
    """The model with every kernel scheduled as the database says.

    Raises:
        CandidateError: TVM cannot lower it.
    """
    with target, database, tvm.transform.PassContext(opt_level=3):
        passes: list[Any] = [relax.transform.MetaScheduleApplyDatabase()]
        if target.kind.name == "llvm":
            passes += [relax.transform.SplitLayoutRewritePreproc(), fold_layouts, relax.transform.FoldConstant()]
        else:
            rules = (dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction())
            passes.append(dlight.ApplyDefaultSchedule(*rules, dlight.gpu.Fallback()))
        passes += [*_pipeline(target).dataflow_lower_passes(target), *_pipeline(target).finalize_passes(target)]
        return with_common_names(tvm.transform.Sequential(passes)(lowered.module))


def build(
    module: tvm.IRModule, target: tvm.target.Target, kernels: CompiledKernels, *, portable: bool
) -> relax.VMExecutable:
    """Compile the kernels of a scheduled model that are not compiled yet.

    Args:
        module: what :func:`scheduled` gave.
        target: of its kernels.
        kernels: that are known.
        portable: whether the result has all it needs in it; else it runs in this process only, and loads in no time.

    Raises:
        CandidateError: TVM cannot compile it.
    """
    with target:
        builder = relax.ExecBuilder()
        rest = relax.vm_build._vmcodegen(builder, module, "bytecode")
        functions = [function for function in rest.functions.values() if isinstance(function, tvm.tirx.PrimFunc)]
        libraries = kernels.of(functions, target)
        if not portable:
            libraries = kernels.here(functions, libraries)
        return relax.vm_build._vmlink(builder, target, ext_libs=libraries)


def _pipeline(target: tvm.target.Target) -> Any:
    """The home of a target's passes; `relax.pipeline` asks the packages above for them, which name none in TVM 0.27."""
    home = {"llvm": "cpu_generic", "cuda": "cuda"}.get(target.kind.name, "gpu_generic")
    return importlib.import_module(f"tvm.relax.backend.{home}.pipeline")


def _inputs(model: onnx.ModelProto, batch: int) -> tuple[Tensor, ...]:
    known = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in known:
            continue
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        shape = tuple((batch if axis == 0 else 1) if size is None else size for axis, size in enumerate(sizes))
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        found.append(Tensor(name=value.name, dtype=dtype, shape=shape))
    return tuple(found)


def _outputs(model: onnx.ModelProto, module: tvm.IRModule) -> tuple[Tensor, ...]:
    """Types are those that Relax found: the model's own leave the batch open."""
    found = module["main"].ret_ty
    kinds = list(found.fields) if isinstance(found, relax.TupleType) else [found]
    tensors = []
    for value, kind in zip(model.graph.output, kinds, strict=True):
        sizes = list(kind.shape) if kind.shape is not None else None
        if sizes is None or not all(hasattr(size, "value") for size in sizes):
            raise CandidateError("build", f"output {value.name!r} has a size that depends on the values of the input")
        shape = tuple(int(size.value) for size in sizes)
        tensors.append(Tensor(name=value.name, dtype=str(kind.dtype.dtype), shape=shape))
    return tuple(tensors)


def to_arrays(output: Any) -> list[NDArray[Any]]:
    """What ``main`` gave, as numpy arrays."""
    values: Sequence[Any] = [output] if isinstance(output, tvm.runtime.Tensor) else list(output)
    return [value.numpy() for value in values]
