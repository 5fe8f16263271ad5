"""The one representation: an ONNX model held with onnx_ir, never changed in place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.core.errors import ModelError, UnknownNameError
from autocompress.core.layer import LayerInfo, PruneGroup, SkipBlock
from autocompress.core.plan import CompressionPlan
from autocompress.graph import serializing
from autocompress.graph.cloning import clone_model
from autocompress.graph.tensors import contiguous
from autocompress.graph.wire import Written

if TYPE_CHECKING:
    from torch import nn

_MAX_BYTES = serializing.MAX_BYTES
#: Smaller initializers stay inside a skeleton: copying them takes less time than handing each to a runtime.
_SKELETON_BYTES = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a graph.

    Args:
        name: as in the graph.
        dtype: numpy type.
        shape: sizes; None where they vary.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class _Initializers(Mapping[str, NDArray[Any]]):
    """Initializers as numpy arrays, decoded once, on demand; 4- and 2-bit ones have an `ml_dtypes` type."""

    def __init__(self, graph: ir.Graph) -> None:
        self._values = graph.initializers
        self._arrays: dict[str, tuple[ir.TensorProtocol, NDArray[Any]]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        tensor = self._values[name].const_value
        if tensor is None:
            raise KeyError(name)
        known = self._arrays.get(name)
        if known is None or known[0] is not tensor:
            known = self._arrays[name] = (tensor, tensor.numpy())
        return known[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


class ModelGraph:
    """A network as one ONNX graph: what is searched, pruned, quantized, trained, measured and shipped.

    Immutable by convention: every step returns a new graph, and graphs share the memory of weights they agree on.

    Args:
        model: normalized by :mod:`autocompress.graph.normalizing`; this object owns it from here on.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.initializers: Mapping[str, NDArray[Any]] = _Initializers(model.graph)

    def __repr__(self) -> str:
        nodes, weights = len(self._model.graph), len(self.initializers)
        return f"ModelGraph({', '.join(self.input_names)} -> {', '.join(self.output_names)}; {nodes=}, {weights=})"

    @property
    def model(self) -> ir.Model:
        """The onnx_ir model; clone the graph before changing it."""
        return self._model

    @cached_property
    def input_specs(self) -> tuple[InputSpec, ...]:
        """Inputs in order, without those that are initializers.

        Raises:
            ModelError: an input has no type or shape.
        """
        specs = []
        for value in self._model.graph.inputs:
            if value.is_initializer():
                continue
            if value.dtype is None or value.shape is None or value.name is None:
                raise ModelError(f"Input {value.name!r} has no type or shape.")
            specs.append(InputSpec(name=value.name, dtype=value.dtype.numpy(), shape=_sizes(value.shape)))
        return tuple(specs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.input_specs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(str(value.name) for value in self._model.graph.outputs)

    @property
    def batch_axis_dynamic(self) -> bool:
        """Whether the first axis of every input may be of any size."""
        return all(spec.shape and spec.shape[0] is None for spec in self.input_specs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the model was read, one sentence each: types changed, control flow kept."""
        from autocompress.graph.channel_rules import CONTROL_FLOW
        from autocompress.graph.float_types import notes

        kept = [node for node in self._model.graph if node.op_type in CONTROL_FLOW and node.domain in ("", "ai.onnx")]
        return (
            *notes(self._model),
            *(
                f"Node {node.name!r} ({node.op_type}) is control flow: it stays as it is, layers inside it too, and "
                "channels that reach it are not pruned."
                for node in kept
            ),
        )

    @cached_property
    def _layers(self) -> tuple[LayerInfo, ...]:
        from autocompress.graph.layers import find_layers

        return find_layers(self)

    def layers(self) -> tuple[LayerInfo, ...]:
        """Operators with a weight of their own, in topological order."""
        return self._layers

    @cached_property
    def _groups(self) -> tuple[PruneGroup, ...]:
        from autocompress.graph.channels import prune_groups

        return prune_groups(self)

    def groups(self) -> tuple[PruneGroup, ...]:
        """Channels that must be pruned together, blocked groups too."""
        return self._groups

    @cached_property
    def _blocks(self) -> tuple[SkipBlock, ...]:
        from autocompress.graph.blocks import residual_blocks

        return residual_blocks(self)

    def blocks(self) -> tuple[SkipBlock, ...]:
        """Residual blocks that can be skipped whole, in topological order."""
        return self._blocks

    def check_plan(self, plan: CompressionPlan) -> None:
        """Raise :class:`PlanError` where a plan names a layer, group or block that the graph has not."""
        plan.check(
            layers=[layer.name for layer in self.layers()],
            groups=[group.name for group in self.groups()],
            blocks=[block.name for block in self.blocks()],
        )

    def macs(self) -> int:
        """Multiply-accumulates of all layers for one sample."""
        return self._macs

    @cached_property
    def _macs(self) -> int:
        from autocompress.graph.layers import layer_macs

        return sum(layer_macs(self).values())

    @cached_property
    def values(self) -> Mapping[str, ir.Value]:
        """Every named value of the graph: inputs, initializers and node outputs."""
        graph = self._model.graph
        found: dict[str, ir.Value] = {str(v.name): v for v in graph.inputs}
        found.update(graph.initializers)
        for node in graph:
            found.update({v.name: v for v in node.outputs if v.name})
        return found

    def value_shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a value, None for a size that varies; None where nothing is known."""
        value = self.values.get(name)
        return None if value is None or value.shape is None else _sizes(value.shape)

    def clone(self) -> ModelGraph:
        """A copy of the structure; weights share their memory."""
        return ModelGraph(clone_model(self._model))

    def with_initializers(self, arrays: Mapping[str, NDArray[Any]]) -> ModelGraph:
        """A copy with some initializers replaced; the arrays are taken as they are, without a copy.

        Raises:
            UnknownNameError: a name that no initializer has.
        """
        copy = self.clone()
        initializers = copy.model.graph.initializers
        for name, array in arrays.items():
            if name not in initializers:
                raise UnknownNameError("initializer", name, initializers)
            tensor = ir.tensor(contiguous(array), name=name)
            initializers[name].const_value = tensor
            initializers[name].shape = ir.Shape(array.shape)
            initializers[name].type = ir.TensorType(tensor.dtype)
        return copy

    def to_bytes(self) -> bytes:
        """The serialized model, weights included.

        Raises:
            ModelError: it is past protobuf's 2 GB.
        """
        if self.size_bytes() > _MAX_BYTES:
            raise ModelError(f"The model takes {self.size_bytes():,} bytes, but a .onnx file holds {_MAX_BYTES:,}.")
        return serializing.to_bytes(self._model)

    def size_bytes(self) -> int:
        """Bytes of the file that :meth:`save` writes; of a single one where the weights lie beside it."""
        return self._size

    @cached_property
    def _size(self) -> int:
        if serializing.has_sparse(self._model):
            return len(serializing.to_bytes(self._model))
        return self._skeleton.file_bytes

    def save(self, path: str | PathLike[str], *, max_bytes: int = _MAX_BYTES) -> None:
        """Write a ``.onnx`` file; one past ``max_bytes`` has its weights beside it, in ``<name>.data``.

        Raises:
            ModelError: the folder does not exist or cannot be written.
        """
        path = Path(path)
        # Under its name stands a whole file or what stood there before, even where the disk is full.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        data = path.with_name(f"{path.name}.data")
        temporary_data = path.with_name(f".{data.name}.{os.getpid()}.tmp")
        try:
            if self.size_bytes() <= max_bytes:
                temporary.write_bytes(serializing.to_bytes(self._model))
            else:
                with temporary.open("wb") as model_file, temporary_data.open("wb") as data_file:
                    serializing.write_external(self._model, model_file, data_file, data.name)
                temporary_data.replace(data)
            temporary.replace(path)
        except OSError as error:
            raise ModelError(f"Cannot write {str(path)!r}: {error.strerror}.") from error
        finally:
            for left in (temporary, temporary_data):
                with contextlib.suppress(OSError):
                    left.unlink()

    @cached_property
    def _skeleton(self) -> Written:
        return serializing.to_skeleton(self._model, _SKELETON_BYTES)

    def skeleton(self, min_bytes: int = _SKELETON_BYTES) -> tuple[bytes, dict[str, NDArray[Any]]]:
        """The model without its larger weights, which a runtime can take from memory.

        Args:
            min_bytes: smaller initializers stay inside.

        Returns:
            A serialized model whose larger initializers are external placeholders, and their arrays by name.
        """
        shared = min_bytes == _SKELETON_BYTES
        written = self._skeleton if shared else serializing.to_skeleton(self._model, min_bytes)
        return written.joined(), {name: contiguous(self.initializers[name]) for name in written.taken}

    @cached_property
    def digest(self) -> str:
        """Digest of structure and weights, the same in every process."""
        return serializing.digest(self._skeleton)

    def to_torch(self, *, masks: Mapping[str, NDArray[np.bool_]] | None = None) -> nn.Module:
        """A torch module whose forward is this graph; its parameters are the initializers, be they floats or integers.

        Integers are trained as floats that fall onto the stored grid at every use; see
        :class:`~autocompress.graph.executor.GraphModule`.

        Args:
            masks: float32 weight to where it may be other than zero, as
                :func:`~autocompress.compress.sparsify.sparsity_masks` gives them; the rest stays zero in training.

        Raises:
            ModelError: an operator that the executor does not know, or a mask of another shape.
            UnknownNameError: a mask of what is no float32 initializer.
        """
        from autocompress.graph.executor import GraphModule

        return GraphModule(self, masks=masks)

    @cached_property
    def untrainable(self) -> str | None:
        """Why torch cannot run this graph, so that nothing can be trained or differentiated; None where it can."""
        try:
            self.to_torch()
        except ModelError as error:
            return str(error)
        return None

    def with_weights(self, module: nn.Module) -> ModelGraph:
        """A copy with the weights of a module that :meth:`to_torch` made, each stored as this graph stores it.

        Without training it is the same graph, byte for byte.

        Raises:
            ModelError: the module was not made by :meth:`to_torch`.
            UnknownNameError: it was made from another graph.
        """
        arrays = getattr(module, "arrays", None)
        if arrays is None:
            raise ModelError(f"{type(module).__name__} was not made by `to_torch()`.")
        return self.with_initializers(arrays())


def _sizes(shape: ir.Shape) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
