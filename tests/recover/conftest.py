"""A small network with BatchNormalization, unlabelled images for it, and the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.loading import load_graph


class ForbiddenLabels:
    """Labels that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"labels were read: {name}")


class LabelledData:
    """Images whose labels may not be looked at; remembers which samples were asked for."""

    labelled = True

    def __init__(self, images: NDArray[np.float32]) -> None:
        self.name = "guarded"
        self.images = images
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Any) -> Any:
        rows = np.asarray(indices, np.intp)
        self.asked.extend(rows.tolist())
        return (self.images[rows],), ForbiddenLabels()


def graph_of(
    nodes: Sequence[NodeProto], arrays: Mapping[str, NDArray[Any]], inputs: Mapping[str, Sequence[int | str]]
) -> ModelGraph:
    """A graph that gives out ``y``."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ModelGraph(normalize(ir.from_proto(model)))


def small_net(batch: int | str = "batch") -> ModelGraph:
    """conv a - bn - relu - conv b - bn - relu - pool - fc, of ``(batch, 3, 8, 8)`` to ``(batch, 5)``."""
    rng = np.random.default_rng(3)
    arrays: dict[str, NDArray[np.float32]] = {}
    nodes = []

    def add(op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def keep(name: str, array: NDArray[Any]) -> str:
        arrays[name] = array.astype(np.float32)
        return name

    def block(source: str, name: str, into: int, out: int) -> str:
        weight = keep(f"{name}.weight", rng.normal(0, 1 / np.sqrt(9 * into), (out, into, 3, 3)))
        add("Conv", [source, weight], name, pads=[1] * 4)
        parts = {"scale": np.ones(out), "shift": rng.normal(0, 0.3, out), "mean": np.zeros(out), "var": np.ones(out)}
        add("BatchNormalization", [name, *(keep(f"{name}.{k}", v) for k, v in parts.items())], f"{name}_bn")
        return add("Relu", [f"{name}_bn"], f"{name}_relu")

    block(block("x", "a", 3, 8), "b", 8, 16)
    add("GlobalAveragePool", ["b_relu"], "pool")
    add("Flatten", ["pool"], "flat")
    weight = keep("fc.weight", rng.normal(0, 1.5, (5, 16)))
    add("Gemm", ["flat", weight, keep("fc.bias", np.zeros(5))], "y", transB=1)
    return graph_of(nodes, arrays, {"x": [batch, 3, 8, 8]})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two processes with two threads each on two cores wait for each other in every operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def net() -> Callable[..., ModelGraph]:
    return graph_of


@pytest.fixture(scope="session")
def small() -> ModelGraph:
    return small_net()


@pytest.fixture(scope="session")
def small_fixed() -> ModelGraph:
    """The same net for batches of 4 and no others."""
    return small_net(4)


@pytest.fixture(scope="session")
def small_one() -> ModelGraph:
    """The same net for one sample at a time."""
    return small_net(1)


@pytest.fixture(scope="session")
def small_pruned(small: ModelGraph) -> ModelGraph:
    """Without half of its channels."""
    return Compressor(small).pruned(CompressionPlan(prune={"*": 0.5}))


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0.4, 1.5, size=(90, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def data(images: NDArray[np.float32]) -> LabelledData:
    return LabelledData(images)


@pytest.fixture(scope="session")
def unlabelled(images: NDArray[np.float32]) -> ArrayDataset:
    return ArrayDataset([images])


@pytest.fixture(scope="session")
def same_weights() -> Callable[[ModelGraph, ModelGraph], bool]:
    """Whether two graphs have the same initializers, bit for bit."""

    def same(first: ModelGraph, second: ModelGraph) -> bool:
        names = set(first.initializers)
        return names == set(second.initializers) and all(
            np.array_equal(first.initializers[n], second.initializers[n]) for n in names
        )

    return same


@pytest.fixture(scope="session")
def demo() -> ModelGraph:
    return load_graph("demo")


@pytest.fixture(scope="session")
def demo_data() -> DataBundle:
    return load_data("demo")
