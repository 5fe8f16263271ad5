"""A ModelGraph as a torch module: its forward is the graph, its parameters are the initializers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.core.errors import ModelError, UnknownNameError
from autocompress.graph.codes import integers_of
from autocompress.graph.operator_node import Function, OperatorNode
from autocompress.graph.operators import DOMAINS, SCALARS_ARE_SETTINGS, TAKES_MODE, TRAINABLE, build_function
from autocompress.graph.operators_quantized import integer_outputs, keeps_codes
from autocompress.graph.operators_sizes import sizes_function, with_tensors
from autocompress.graph.plane_weights import PlaneWeights
from autocompress.graph.stored_weights import HalfWeight, IntegerWeight, Stored, masked_weights, stored_weights

if TYPE_CHECKING:
    from autocompress.graph.model_graph import ModelGraph

#: Positions of BatchNormalization's running statistics.
_STATISTICS = (3, 4)
#: The slot that always holds None: absent inputs and constants that a builder has read.
_NOTHING = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One node of the flat program; numbers are slots in the list of values."""

    node: OperatorNode
    function: Function
    takes_mode: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]


class GraphModule(nn.Module):
    """Runs a graph in torch, differentiably.

    Float initializers that are weights become parameters, BatchNormalization's running statistics become buffers; both
    are copies, so the graph never changes. In training mode BatchNormalization normalizes by the batch and updates its
    statistics; everything else is the same in both modes.

    Integers run as floats that hold integers (fake quantization): QuantizeLinear rounds half to even with
    straight-through gradients. A weight that the graph stores in integers or half floats is a float32 parameter of what
    they stand for, and is rounded to its grid at every use (:mod:`autocompress.graph.stored_weights`); scales and zero
    points stay. Where codes are places in a table, the table is the parameter. A weight in two planes of bits is one
    parameter, under the name of the value that they are joined to.

    Args:
        graph: what to run; every operator must be in :data:`~autocompress.graph.operators.OPERATORS`.
        channels_last: keep images and their weights in the channels-last memory format.
        masks: float32 weight to where it may be other than zero; the rest stays zero, whatever trains it.

    Raises:
        ModelError: an operator that torch cannot run here, named with its node, or a mask of another shape.
        UnknownNameError: a mask of what is no float32 initializer.
    """

    def __init__(
        self, graph: ModelGraph, *, channels_last: bool = False, masks: Mapping[str, NDArray[np.bool_]] | None = None
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        #: Share of BatchNormalization's running statistics that a training batch replaces; None as the graph says.
        self.momentum: float | None = None
        self.input_names = tuple(graph.input_names)
        self.output_names = tuple(graph.output_names)
        nodes, constants = _read(graph.model.graph, graph.initializers)
        self._planes = PlaneWeights(nodes, graph.initializers)
        nodes = self._planes.without_joins(nodes)
        initializers = {**graph.initializers, **self._planes.codes}
        constants |= self._planes.codes
        self._stored, self._frozen = stored_weights(nodes, initializers, self.output_names)
        self._stored |= masked_weights(initializers, masks or {})
        functions, codes = _functions(nodes, self._stored, self.output_names)
        slots: dict[str, int] = {name: i + 1 for i, name in enumerate(self.input_names)}
        self._keys: dict[str, str] = {}
        self._loads: list[tuple[int, str, Stored | None]] = []
        self._register(initializers, constants, [node for node, _ in nodes], slots)
        self._program = _compile(nodes, functions, slots, self.output_names)
        self._outputs = tuple((slots[name], codes.get(name)) for name in self.output_names)
        self._n_slots = len(slots) + 1

    def _register(
        self,
        initializers: Mapping[str, NDArray[Any]],
        constants: Mapping[str, NDArray[Any]],
        nodes: list[OperatorNode],
        slots: dict[str, int],
    ) -> None:
        """Make a parameter or a buffer of every constant that a node needs at run time."""
        weights: set[str] = set()
        statistics: set[str] = set()
        needed: dict[str, None] = {name: None for name in self.output_names if name in constants}
        for node in nodes:
            for position, name in enumerate(node.inputs):
                if name is None or name not in constants or position in node.consumed:
                    continue
                needed[name] = None
                if name in self._stored:
                    weights.add(name)
                elif name in initializers and name not in self._frozen and _is_weight(node, position, constants[name]):
                    weights.add(name)
                    if constants[name].dtype == np.float16:
                        self._stored[name] = HalfWeight(array=constants[name])
                if node.op_type == "BatchNormalization" and position in _STATISTICS:
                    statistics.add(name)
        for name in needed:
            key, stored = _key(name), self._stored.get(name)
            tensor = _tensor(constants[name]) if stored is None else stored.start()
            if self.channels_last and tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            if name in weights:
                self.register_parameter(key, nn.Parameter(tensor))
            else:
                self.register_buffer(key, tensor, persistent=name in statistics)
            if name in weights or (name in statistics and name in initializers):
                self._keys[name] = key
            slots[name] = len(slots) + 1
            self._loads.append((slots[name], key, stored))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Inputs in the graph's order to its output, or a tuple of them where it has several."""
        values = self._loaded(inputs)
        for step in self._program:
            self._run(step, values)
        outputs = tuple(values[slot] if kind is None else values[slot].to(kind) for slot, kind in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def walk(
        self,
        batches: Sequence[tuple[Tensor, ...]],
        *,
        before: Callable[[OperatorNode, list[list[Any]]], None] = lambda node, read: None,
        after: Callable[[OperatorNode, list[Any]], None] = lambda node, written: None,
    ) -> None:
        """Run several batches side by side, node by node; what a watcher does to a parameter holds from then on.

        Args:
            batches: inputs in the graph's order, a tuple for each batch.
            before: called with each node and what it is about to read: for each batch, a list of its inputs.
            after: called with each node and its first output for each batch: a tensor, or plain numbers where it is
                computed from sizes.
        """
        runs = [self._loaded(inputs) for inputs in batches]
        for step in self._program:
            before(step.node, [[values[slot] for slot in step.inputs] for values in runs])
            after(step.node, [self._run(step, values) for values in runs])

    def _loaded(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Every slot's value before the first node runs."""
        if len(inputs) != len(self.input_names):
            raise ModelError(f"The model takes {len(self.input_names)} inputs, but got {len(inputs)}.")
        values: list[Any] = [None] * self._n_slots
        for slot, value in enumerate(inputs, start=1):
            values[slot] = _channels_last(value) if self.channels_last and value.ndim == 4 else value
        parameters, buffers = self._parameters, self._buffers
        for slot, key, stored in self._loads:
            held: Any = parameters[key] if key in parameters else buffers[key]
            values[slot] = held if stored is None else stored.read(held)
        return values

    def _run(self, step: _Step, values: list[Any]) -> Any:
        """Run one node: its outputs go to their slots, the first is returned."""
        arguments = [values[slot] for slot in step.inputs]
        try:
            if step.takes_mode:
                result = step.function(self.training, self.momentum, *arguments)
            else:
                result = step.function(*arguments)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise step.node.error((str(error).splitlines() or [""])[0].rstrip(".")) from error
        if len(step.outputs) == 1:
            first = values[step.outputs[0]] = result[0] if isinstance(result, tuple) else result
        else:
            first = result[0]
            for slot, value in zip(step.outputs, result, strict=True):
                values[slot] = value
        for slot in step.frees:
            values[slot] = None
        return first

    def named_initializers(self) -> dict[str, Tensor]:
        """What training can change, by initializer name: parameters and running statistics."""
        return {name: self.initializer(name) for name in self._keys}

    def initializer(self, name: str) -> Tensor:
        """The parameter or buffer of one initializer.

        Raises:
            UnknownNameError: no parameter or running statistic has this name.
        """
        if name not in self._keys:
            raise UnknownNameError("trainable initializer", name, self._keys)
        key = self._keys[name]
        value = self._parameters[key] if key in self._parameters else self._buffers[key]
        assert value is not None
        return value

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What training can change as the graph stores it, by initializer name; copies."""
        found = {}
        for name, value in self.named_initializers().items():
            stored = self._stored.get(name)
            found[name] = np.array(value.detach().cpu().numpy()) if stored is None else stored.write(value)
        return self._planes.split(found)

    def batch_norms(self) -> Iterator[tuple[str, str]]:
        """Names of the running mean and variance of each BatchNormalization, in order."""
        seen: set[tuple[str, str]] = set()
        for step in self._program:
            if step.node.op_type == "BatchNormalization":
                mean, var = step.node.inputs[_STATISTICS[0]], step.node.inputs[_STATISTICS[1]]
                if mean in self._keys and var in self._keys and (mean, var) not in seen:
                    assert mean is not None
                    assert var is not None
                    seen.add((mean, var))
                    yield mean, var


def _key(name: str) -> str:
    """An attribute name for an initializer: reversible, without dots, and never that of a method."""
    return "initializer:" + name.replace("%", "%25").replace(".", "%2E")


def _channels_last(value: Tensor) -> Tensor:
    value = value.contiguous(memory_format=torch.channels_last)
    if value.shape[1] == 1:
        # One channel lies the same way in both formats: only its stride tells operators which one to go on in.
        size = value.shape
        value = value.as_strided(size, (size[2] * size[3], 1, size[3], 1))
    return value


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(integers_of(array), order="C"))


def _is_weight(node: OperatorNode, position: int, array: NDArray[Any]) -> bool:
    if position not in TRAINABLE.get(node.op_type, ()) or array.dtype.kind != "f" or array.size == 0:
        return False
    if node.op_type in SCALARS_ARE_SETTINGS and array.size == 1:
        return False
    # An infinite entry is a mask, not a weight.
    return bool(np.isfinite(array).all())


def _read(
    graph: ir.Graph, initializers: Mapping[str, NDArray[Any]]
) -> tuple[list[tuple[OperatorNode, tuple[str, ...]]], dict[str, NDArray[Any]]]:
    """Nodes with their output names in topological order, and every constant by name."""
    constants: dict[str, NDArray[Any]] = dict(initializers)
    nodes: list[tuple[OperatorNode, tuple[str, ...]]] = []
    for index, node in enumerate(graph):
        name = node.name or f"#{index}"
        if node.domain not in ("", "ai.onnx") and node.op_type not in DOMAINS.get(node.domain, ()):
            raise ModelError(f"Cannot run operator {node.domain}.{node.op_type} of node {name!r}: unknown domain.")
        outputs = [value.name or "" for value in node.outputs]
        attributes = {key: _attribute(attr) for key, attr in node.attributes.items()}
        if node.op_type == "Constant":
            constants[outputs[0]] = _constant(name, attributes)
            continue
        while len(outputs) > 1 and not _is_used(node.outputs[len(outputs) - 1]):
            outputs.pop()
        inputs = tuple(None if value is None else value.name for value in node.inputs)
        known = {i: constants[value] for i, value in enumerate(inputs) if value is not None and value in constants}
        item = OperatorNode(
            op_type=node.op_type,
            name=name,
            inputs=inputs,
            outputs=len(outputs),
            attributes=attributes,
            constants=known,
        )
        nodes.append((item, tuple(outputs)))
    return nodes, constants


def _functions(
    nodes: list[tuple[OperatorNode, tuple[str, ...]]], stored: Mapping[str, Stored], outputs: Sequence[str]
) -> tuple[list[Function], dict[str, torch.dtype]]:
    """The function of each node, and values that are floats holding integers of a type."""
    codes = {name: torch.int32 for name, kept in stored.items() if isinstance(kept, IntegerWeight)}
    functions: list[Function] = []
    ranks: dict[str, int] = {}
    for node, names in nodes:
        sizes = None if names[0] in outputs else sizes_function(node, ranks)
        if sizes is not None:
            functions.append(sizes[0])
            ranks[names[0]] = sizes[1]
            continue
        if keeps_codes(node) and node.inputs[0] in codes:
            functions.append(_as_it_is)
            codes[names[0]] = codes[str(node.inputs[0])]
            continue
        functions.append(with_tensors(node, build_function(node), ranks))
        codes.update({name: kind for name, kind in zip(names, integer_outputs(node), strict=False) if kind is not None})
    return functions, codes


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _attribute(attr: ir.Attr) -> Any:
    return attr.value.numpy() if attr.type == ir.AttributeType.TENSOR else attr.value


def _constant(name: str, attributes: Mapping[str, Any]) -> NDArray[Any]:
    for key, dtype in (("value", None), ("value_float", np.float32), ("value_floats", np.float32)):
        if key in attributes:
            return np.asarray(attributes[key], dtype)
    for key in ("value_int", "value_ints"):
        if key in attributes:
            return np.asarray(attributes[key], np.int64)
    raise ModelError(f"Cannot run operator Constant of node {name!r}: it holds neither a tensor nor numbers.")


def _compile(
    nodes: list[tuple[OperatorNode, tuple[str, ...]]],
    functions: list[Function],
    slots: dict[str, int],
    outputs: tuple[str, ...],
) -> tuple[_Step, ...]:
    """Give every value a slot, and free it after its last use; ``slots`` grows."""
    fixed = set(slots.values())
    wired: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for node, names in nodes:
        inputs = []
        for position, name in enumerate(node.inputs):
            if name is None or name == "" or position in node.consumed:
                inputs.append(_NOTHING)
            elif name not in slots:
                raise node.error(f"its input {name!r} is computed by no earlier node")
            else:
                inputs.append(slots[name])
        for name in names:
            slots[name] = len(slots) + 1
        wired.append((tuple(inputs), tuple(slots[name] for name in names)))
    for name in outputs:
        if name not in slots:
            raise ModelError(f"The model's output {name!r} is computed by no node.")
    # Parameters stay referenced by the module anyway, and outputs must survive.
    alive = fixed | {slots[name] for name in outputs} | {_NOTHING}
    frees: list[tuple[int, ...]] = []
    for inputs_, outputs_ in reversed(wired):
        dead = tuple(slot for slot in dict.fromkeys((*inputs_, *outputs_)) if slot not in alive)
        alive.update(dead)
        frees.append(dead)
    return tuple(
        _Step(
            node=node,
            function=function,
            takes_mode=node.op_type in TAKES_MODE,
            inputs=inputs_,
            outputs=outputs_,
            frees=free,
        )
        for (node, _), function, (inputs_, outputs_), free in zip(nodes, functions, wired, reversed(frees), strict=True)
    )
