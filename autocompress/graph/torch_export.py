"""Export torch modules to ONNX, and check that the export computes the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.core.errors import ModelError
from autocompress.graph.archives import detached
from autocompress.graph.channel_rules import CONTROL_FLOW
from autocompress.graph.normalizing import BATCH, normalize
from autocompress.graph.quiet import first_line, quiet
from autocompress.graph.running import open_session

#: The newest that the TorchScript exporter writes; normalizing converts it.
_TORCHSCRIPT_OPSET = 20
#: Largest difference to the torch module, relative to the largest output.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """One way to export: example inputs and outputs, and which of them carry the batch on their first axis."""

    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    batched: tuple[bool, ...]
    batched_outputs: tuple[bool, ...]

    @property
    def dynamic(self) -> bool:
        return any(self.batched)


def export_module(module: nn.Module, examples: tuple[Any, ...], title: str) -> ir.Model:
    """Export in eval mode and normalize; the batch axis is dynamic where the module allows.

    The faster TorchScript exporter goes first, `torch.export` second, both again with a fixed batch. What they give is
    run against the module: tracing can silently bake in control flow or the batch size.

    Args:
        module: stays in the mode it is in.
        examples: its inputs, tensors or arrays.
        title: the model's name, for messages.

    Raises:
        ModelError: NaN weights or outputs, inputs that do not fit, or no exporter that gives the same outputs.
    """
    _check_parameters(module, title)
    inputs = tuple(_tensor(item, index, title) for index, item in enumerate(examples))
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            outputs = _run(module, inputs, title)
            return _first_that_agrees(module, _ways(module, inputs, outputs), title)
    finally:
        for part, mode in modes.items():
            part.training = mode


def _first_that_agrees(module: nn.Module, ways: Iterator[_Export], title: str) -> ir.Model:
    problems: list[str] = []
    branching: ir.Model | None = None
    for way in ways:
        for export in (_export_torchscript, _export_dynamo):
            try:
                with quiet():
                    model = normalize(export(module, way))
                _compare(module, model, way)
            except (Exception, SystemExit) as error:  # exporters raise anything; the next way is tried
                problems.append(first_line(error))
                continue
            if not any(node.op_type in CONTROL_FLOW for node in model.graph):
                return model
            # Nothing can be pruned around it nor trained: another exporter, or a fixed batch, may do without.
            branching = branching or model
    if branching is not None:
        return branching
    raise ModelError(f"{title} cannot be exported to ONNX: {problems[0]}")


def _tensor(item: Any, index: int, title: str) -> Tensor:
    if isinstance(item, Tensor):
        tensor = item.detach().cpu()
    else:
        try:
            tensor = torch.from_numpy(np.array(item))
        except TypeError as error:
            raise ModelError(f"Example input {index} of {title} is no array: {type(item).__name__}.") from error
    if tensor.ndim and 0 in tensor.shape:
        raise ModelError(f"Example input {index} of {title} is empty: its shape is {tuple(tensor.shape)}.")
    return tensor


def _check_parameters(module: nn.Module, title: str) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype == torch.float64:
            raise ModelError(f"Weight {name!r} of {title} is float64; convert it to float32 first (`model.float()`).")
        if tensor.is_meta:
            raise ModelError(f"Weight {name!r} of {title} has no values: it is on the meta device.")
        if tensor.is_floating_point() and torch.isnan(tensor).any():
            raise ModelError(f"Weight {name!r} of {title} holds NaN.")


def _run(module: nn.Module, inputs: tuple[Tensor, ...], title: str) -> tuple[Tensor, ...]:
    """Run once: what does not fit is clearer here than from inside an exporter."""
    shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
    try:
        outputs = _outputs(module, inputs)
    except Exception as error:  # the user's forward may raise anything
        raise ModelError(f"{title} fails on inputs of shape {shapes}: {first_line(error)}") from error
    if not outputs:
        raise ModelError(f"{title} returns no tensor on inputs of shape {shapes}, but one or several are needed.")
    if any(not torch.isfinite(t).all() for t in outputs if t.is_floating_point()):
        raise ModelError(f"{title} gives NaN or infinity on inputs of shape {shapes}.")
    return outputs


def _outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Outputs in a row; the exporters flatten nested ones the same way."""
    leaves = torch.utils._pytree.tree_leaves(module(*(t.clone() for t in inputs)))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def _ways(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Iterator[_Export]:
    """Dynamic batch first, then a fixed batch of one, then the batch of the examples."""
    input_names = _names("input", len(inputs))
    output_names = _names("output", len(outputs))
    size = next((t.shape[0] for t in inputs if t.ndim), 0)
    batched = tuple(bool(t.ndim) and t.shape[0] == size for t in inputs)
    for count, dynamic in ((2, True), (1, False), (size, False)):
        resized = tuple(_resize(t, count) if b else t for t, b in zip(inputs, batched, strict=True))
        try:
            found = outputs if count == size else _outputs(module, resized)
        except Exception:  # the module is made for another batch size, as a later way has it
            continue
        yield _Export(
            inputs=resized,
            input_names=input_names,
            output_names=output_names,
            batched=tuple(dynamic and b for b in batched),
            batched_outputs=tuple(dynamic and bool(t.ndim) and t.shape[0] == count for t in found),
        )


def _names(stem: str, count: int) -> tuple[str, ...]:
    return (stem,) if count == 1 else tuple(f"{stem}{index}" for index in range(count))


def _resize(tensor: Tensor, count: int) -> Tensor:
    """The same samples again and again until there are ``count``."""
    return tensor[torch.arange(count) % tensor.shape[0]]


def _export_torchscript(module: nn.Module, way: _Export) -> ir.Model:
    named = (*zip(way.input_names, way.batched, strict=True), *zip(way.output_names, way.batched_outputs, strict=True))
    with tempfile.TemporaryDirectory() as folder, _graph_dumps_off(module):
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            way.inputs,
            str(path),
            dynamo=False,
            # Eval mode is set on the module: with EVAL here the exporter would fold BatchNormalization into Conv.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=list(way.input_names),
            output_names=list(way.output_names),
            dynamic_axes={name: {0: BATCH} for name, batched in named if batched} or None,
            opset_version=_TORCHSCRIPT_OPSET,
        )
        return detached(ir.load(path))


@contextmanager
def _graph_dumps_off(module: nn.Module) -> Iterator[None]:
    """Keep the exporter from writing the whole graph to the terminal when it fails.

    torch 2.13 turns that log on by mistake as an export begins, past Python's own streams; while the module is traced
    it can be turned off again.
    """
    hook = module.register_forward_pre_hook(lambda *_: torch._C._jit_set_onnx_log_enabled(False))
    try:
        yield
    finally:
        hook.remove()


def _export_dynamo(module: nn.Module, way: _Export) -> ir.Model:
    batch = torch.export.Dim(BATCH, min=1)
    shapes = tuple({0: batch} if batched else None for batched in way.batched)
    program = torch.onnx.export(
        module,
        way.inputs,
        dynamo=True,
        optimize=False,
        verbose=False,
        input_names=list(way.input_names),
        output_names=list(way.output_names),
        dynamic_shapes=shapes if way.dynamic else None,
    )
    if program is None:
        raise ModelError("the exporter returned nothing")
    return detached(program.model)


def _compare(module: nn.Module, model: ir.Model, way: _Export) -> None:
    """Run both on the examples and on noise, in other batch sizes; raise :class:`ModelError` where they differ."""
    session = open_session(model)
    for count, sign in ((3, 0), (1, 1), (1, -1)):
        inputs = tuple(
            _noise(_resize(t, count) if batched else t, sign)
            for t, batched in zip(way.inputs, way.batched, strict=True)
        )
        expected = [t.numpy() for t in _outputs(module, inputs)]
        feed = {name: t.numpy() for name, t in zip(way.input_names, inputs, strict=True)}
        actual = session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})
        gap = _gap(expected, actual)
        if gap <= _TOLERANCE:
            continue
        if _gap(expected, [t.numpy() for t in _outputs(module, inputs)]) > _TOLERANCE:
            raise ModelError("its outputs change from run to run on the same input.")
        raise ModelError(
            f"the exported graph's outputs differ from the module's by {gap:.2g} of their largest value; "
            "does its control flow depend on the data?"
        )


def _noise(tensor: Tensor, sign: int) -> Tensor:
    """Noise in place of a float input; the input itself for a sign of zero."""
    if not sign or not tensor.is_floating_point():
        return tensor
    return sign * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0), dtype=tensor.dtype)


def _gap(expected: list[NDArray[Any]], actual: list[NDArray[Any]]) -> float:
    """Largest difference relative to the largest value of an output; infinite where shapes differ."""
    if [a.shape for a in expected] != [a.shape for a in actual]:
        return float("inf")
    gaps = [0.0]
    for a, b in zip(expected, actual, strict=True):
        if a.dtype.kind == "f" and a.size:
            known = np.isfinite(a)
            scale = max(1e-6, float(np.abs(a[known]).max(initial=0.0)))
            gaps.append(float(np.abs(a[known] - b[known]).max(initial=0.0)) / scale)
    return max(gaps)
