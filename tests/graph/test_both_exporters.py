"""What torch.export gives is understood as what TorchScript gives is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autocompress.graph.model_graph import ModelGraph

Networks = Callable[[str], ModelGraph]


def test_a_network_is_the_same_from_both_exporters(
    network_name: str,
    network_named: Networks,
    network_by_dynamo: Networks,
    run_onnx: Callable[..., list[Any]],
    noise: Callable[..., list[Any]],
    check: Callable[..., None],
    random_keep: Callable[..., Any],
) -> None:
    graph, other = network_named(network_name), network_by_dynamo(network_name)
    inputs = noise(graph)
    wanted = run_onnx(graph, inputs)
    with torch.no_grad():
        found = other.to_torch().eval()(*map(torch.from_numpy, inputs))
    for ours, theirs in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()
    counts = [sorted(group.channels for group in one.groups() if group.prunable) for one in (graph, other)]
    assert counts[0] == counts[1]
    check(other, random_keep(other, 0), 0)
