"""Exported programs (``.pt2``) to ONNX, and what every export from torch needs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from autocompress.core.errors import ModelError
from autocompress.graph.factories import missing_file
from autocompress.graph.quiet import first_line, quiet

#: Parts of a .pt2 archive that run code when they are loaded: pickled objects and compiled libraries.
_CODE = ("/custom_obj_", "/opaque_obj_", "/aotinductor/")


def export_archive(path: Path) -> ir.Model:
    """Convert a ``.pt2`` archive that ``torch.export.save`` wrote; not normalized yet.

    Raises:
        ModelError: no such file, not such an archive, or one that holds code.
    """
    if not path.is_file():
        raise ModelError(missing_file(path, "model file"))
    try:
        with zipfile.ZipFile(path) as archive:
            risky = [name for name in archive.namelist() if any(part in f"/{name}" for part in _CODE)]
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{str(path)!r} is not a .pt2 archive: {first_line(error)}") from error
    if risky:
        raise ModelError(f"{str(path)!r} holds code or pickled objects ({risky[0]}), which are never loaded.")
    try:
        with quiet(), _weights_only():
            program = torch.export.load(str(path))
    except Exception as error:  # torch raises anything on a broken archive
        raise ModelError(f"{str(path)!r} cannot be loaded as an exported program: {first_line(error)}") from error
    try:
        with quiet():
            exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except Exception as error:  # exporters raise anything
        raise ModelError(f"{str(path)!r} cannot be exported to ONNX: {first_line(error)}") from error
    if exported is None:
        raise ModelError(f"{str(path)!r} cannot be exported to ONNX: the exporter returned nothing.")
    return detached(exported.model)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Unpickle nothing but tensors: `torch.export.load` would fall back to a pickle that can run code."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def detached(model: ir.Model) -> ir.Model:
    """Cut what an exporter made loose from where it came from, in place.

    Weights are copied out of files, which go away, and torch storages, which may change. What exporters note beside
    the graph is dropped: stack traces with the user's paths, larger than small weights.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)
    ir.passes.common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    return model
