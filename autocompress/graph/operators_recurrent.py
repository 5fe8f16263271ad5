"""ONNX recurrent layers as torch functions: whole layers, by torch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autocompress.graph.operator_node import Function, OperatorNode

_DIRECTIONS = ("forward", "reverse", "bidirectional")
#: Gates in ONNX's weights by their place in torch's: ONNX has i, o, f, c and z, r, h; torch has i, f, c, o and r, z, n.
_LSTM_GATES = (0, 2, 3, 1)
_GRU_GATES = (1, 0, 2)
_SEQUENCE_LENGTHS, _PEEPHOLES = 4, 7


def lstm(node: OperatorNode) -> Function:
    """LSTM with the standard activations; inputs ``(steps, n, features)``, outputs Y, Y_h and Y_c."""
    _check(node, ("Sigmoid", "Tanh", "Tanh"))
    if node.has(_PEEPHOLES) or node.attributes.get("input_forget", 0):
        raise node.error("peepholes and `input_forget` are not supported")
    return _layer(node, _LSTM_GATES, torch.lstm, states=2)


def gru(node: OperatorNode) -> Function:
    """GRU as torch and cuDNN have it (`linear_before_reset`); outputs Y and Y_h."""
    _check(node, ("Sigmoid", "Tanh"))
    if not node.attributes.get("linear_before_reset", 0):
        raise node.error("only `linear_before_reset` = 1 is supported")
    return _layer(node, _GRU_GATES, torch.gru, states=1)


def _check(node: OperatorNode, activations: tuple[str, ...]) -> None:
    found = tuple(str(name) for name in node.attributes.get("activations", ()))
    if found and found != activations * (len(found) // len(activations)):
        raise node.error(f"activations {', '.join(found)} are not supported (known: {', '.join(activations)})")
    if "clip" in node.attributes or node.attributes.get("layout", 0):
        raise node.error("neither `clip` nor `layout` is supported")
    if node.has(_SEQUENCE_LENGTHS):
        raise node.error("lengths of sequences are not supported")


def _layer(node: OperatorNode, gates: tuple[int, ...], run_torch: Callable[..., Any], states: int) -> Function:
    direction = node.choice("direction", "forward", _DIRECTIONS)
    hidden = int(node.attributes["hidden_size"])
    both, outputs = direction == "bidirectional", node.outputs

    def reordered(weight: Tensor) -> Tensor:
        return weight.reshape(len(gates), hidden, *weight.shape[1:])[list(gates)].flatten(0, 1)

    def run(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, *rest: Tensor | None) -> Any:
        parameters = []
        for way in range(2 if both else 1):
            parameters += [reordered(w[way]), reordered(r[way])]
            if b is not None:
                parameters += [reordered(part) for part in b[way].chunk(2)]
        given = [*rest[1 : 1 + states], *(None,) * states][:states]
        zeros = x.new_zeros(w.shape[0], x.shape[1], hidden)
        first = tuple(zeros if state is None else state for state in given)
        source = x.flip(0) if direction == "reverse" else x
        state = first if states == 2 else first[0]
        steps, *last = run_torch(source, state, parameters, b is not None, 1, 0.0, False, both, False)
        if direction == "reverse":
            steps = steps.flip(0)
        # Torch puts the ways behind one another in the last axis, ONNX has an axis for them.
        found = (steps.reshape(*steps.shape[:2], -1, hidden).transpose(1, 2), *last)
        return found[0] if outputs == 1 else found[:outputs]

    return run
