"""A network with BatchNormalization, and data that can be watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from autocompress.core.protocols import Batch
from autocompress.graph.model_graph import ModelGraph


class Samples:
    """A dataset that gives its labels as they are, and remembers which samples were read."""

    name = "samples"
    labelled = True

    def __init__(self, images: NDArray[np.float32], labels: NDArray[Any] | None = None) -> None:
        self.images = images
        self.labels = labels
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> tuple[Batch, NDArray[Any] | None]:
        self.read.extend(int(index) for index in indices)
        return (self.images[indices],), None if self.labels is None else self.labels[indices]


@pytest.fixture
def samples() -> type[Samples]:
    return Samples


@pytest.fixture
def normed(net: Any) -> ModelGraph:
    """conv a - norm - relu - conv b - norm, plus the relu's values - relu - pool - fc: 12 channels in one group.

    Behind it a second linear layer, so that ``fc`` is a group of 6 without BatchNormalization.
    """
    made = net(3, 8, 8)
    made.node("Relu", [made.batch_norm(made.conv("x", "a", 12, 3), "a_norm", 12)], "a_relu")
    made.node("Add", [made.batch_norm(made.conv("a_relu", "b", 12, 12), "b_norm", 12), "a_relu"], "sum")
    made.node("Relu", ["sum"], "b_relu")
    made.node("GlobalAveragePool", ["b_relu"], "pool")
    made.node("Flatten", ["pool"], "flat")
    made.node("Relu", [made.gemm("flat", "fc", 6, 12)], "fc_relu")
    made.gemm("fc_relu", "out", 5, 6)
    graph: ModelGraph = made.graph("out")
    return graph


@pytest.fixture
def fixed(normed: ModelGraph) -> ModelGraph:
    """The same for batches of six."""
    copy = normed.clone()
    for value in [*copy.model.graph.inputs, *(v for node in copy.model.graph for v in node.outputs)]:
        assert value.shape is not None
        value.shape = ir.Shape([6, *list(value.shape)[1:]])
    return ModelGraph(copy.model)
