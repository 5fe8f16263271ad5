"""From a torch module, an exported program or a ``.onnx`` file to a ModelGraph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from autocompress.core.errors import ModelError
from autocompress.graph.factories import factory_object, load_factory, missing_file
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.graph.quiet import first_line
from autocompress.graph.running import check_runs
from autocompress.graph.serializing import densify
from autocompress.graph.shapes import structure

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_factory", "load_model"]

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl")


def load_model(source: nn.Module | str | Path, example_inputs: Sequence[Any] | None = None) -> ModelGraph:
    """Load a network.

    Args:
        source: a torch module, ``"pkg.module:factory"``, ``"file.py:factory"``, or the path of a ``.pt2`` or ``.onnx``
            file. A factory returns the module, or the module and its example inputs.
        example_inputs: one batch of inputs, tensors or arrays. A torch module is exported with them; in a ``.onnx``
            file they fix the sizes, other than the batch, that the file leaves open. Those of a factory go first.

    Returns:
        The normalized graph; its batch axis is dynamic where the network allows.

    Raises:
        ModelError: it cannot be found, loaded or exported; one line says why.
    """
    examples = _as_tuple(example_inputs)
    if not isinstance(source, str | Path):
        return _from_module(source, examples, type(source).__name__)
    text = str(source)
    suffix = Path(text).suffix.lower()
    if suffix == ".onnx":
        return _from_onnx(Path(text), examples)
    if suffix == ".pt2":
        return _from_archive(Path(text), examples)
    if ":" in text:
        return _from_factory(text, examples)
    if suffix in _CHECKPOINTS:
        raise ModelError(
            f"{text!r} holds weights, not a network: give 'file.py:factory' whose factory builds the network and loads "
            "them, or export it to .onnx or .pt2."
        )
    raise ModelError(
        f"Cannot tell what model {text!r} is: give 'pkg.module:factory', 'file.py:factory', a .pt2 or a .onnx file."
    )


def _as_tuple(example_inputs: Any) -> tuple[Any, ...]:
    if example_inputs is None:
        return ()
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)


def _from_factory(spec: str, examples: tuple[Any, ...]) -> ModelGraph:
    from torch import nn

    factory = load_factory(spec)
    found = factory_object(factory)
    try:
        made = found if isinstance(found, nn.Module) else factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"The factory {spec!r} raised {type(error).__name__}: {first_line(error)}") from error
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return _from_module(made[0], _as_tuple(made[1]) or examples, spec)
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"The factory {spec!r} must return an nn.Module or (module, example inputs), "
            f"but it returned {type(made).__name__}."
        )
    return _from_module(made, examples, spec)


def _from_module(module: Any, examples: tuple[Any, ...], title: str) -> ModelGraph:
    from torch import nn

    from autocompress.graph.torch_export import export_module

    if not isinstance(module, nn.Module):
        raise ModelError(f"A model must be an nn.Module or a path, but got {type(module).__name__}.")
    if not examples:
        raise ModelError(
            f"{title} needs example inputs to be exported: let the factory return (module, example inputs), "
            "pass `example_inputs`, or give data (--data)."
        )
    return ModelGraph(export_module(module, examples, title))


def _from_archive(path: Path, examples: tuple[Any, ...]) -> ModelGraph:
    from autocompress.graph.archives import export_archive

    model = export_archive(path)
    try:
        graph = ModelGraph(normalize(model))
        check_runs(graph, examples)
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error
    return graph


def _from_onnx(path: Path, examples: tuple[Any, ...]) -> ModelGraph:
    if not path.is_file():
        raise ModelError(missing_file(path, "model file"))
    try:
        proto = onnx.load(str(path), load_external_data=False)
        if not proto.graph.output or not proto.graph.node:
            raise ModelError(f"{str(path)!r} is not an ONNX model: it has no {_lacks(proto)}.")
        _check_external(proto, path)
        if proto.graph.sparse_initializer:
            densify(proto)
            model = ir.from_proto(proto)
        else:
            model = ir.load(path)
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()  # a truncated data file shows here, while the path is at hand
    except ModelError:
        raise
    except Exception as error:  # protobuf and onnx_ir raise many kinds on a broken file
        raise ModelError(f"{str(path)!r} is not a readable ONNX model: {first_line(error)}") from error
    _fix_sizes(model, examples)
    try:
        graph = ModelGraph(normalize(model))
        onnx.checker.check_model(structure(graph.model))  # as bytes, a large model would be past protobuf's limit
        check_runs(graph, examples)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{str(path)!r} is not a valid ONNX model: {first_line(error)}") from error
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error
    return graph


def _lacks(proto: onnx.ModelProto) -> str:
    return "outputs" if proto.graph.node else "operators"


def _check_external(proto: onnx.ModelProto, path: Path) -> None:
    """External data may lie in the model's own folder only, so that a model cannot read the user's other files."""
    folder = path.parent.resolve()
    for tensor in _tensors(proto):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            file = (folder / entry.value).resolve()
            if not file.is_relative_to(folder):
                raise ModelError(f"{str(path)!r} keeps weight {tensor.name!r} outside its folder, in {entry.value!r}.")
            if not file.is_file():
                raise ModelError(
                    f"{str(path)!r} keeps weights in {entry.value!r}, but there is no such file beside it."
                )


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, and attributes of nodes in subgraphs and functions too."""
    graphs: list[Any] = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                graphs.extend((attribute.g, *attribute.graphs))


def _fix_sizes(model: ir.Model, examples: tuple[Any, ...]) -> None:
    """Fix open sizes other than the batch to those of the examples, so that shapes are known through the graph."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != len(examples):
        return
    for value, example in zip(inputs, examples, strict=True):
        sizes = tuple(np.shape(example))
        if value.shape is None or len(value.shape) != len(sizes):
            continue
        known = [dim if isinstance(dim, int) else size for dim, size in zip(value.shape, sizes, strict=True)]
        value.shape = ir.Shape([*list(value.shape)[:1], *known[1:]])
