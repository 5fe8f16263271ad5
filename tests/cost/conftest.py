"""A small graph whose groups are known by hand."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.layer import GroupMember, PruneGroup, Role
from autocompress.graph.model_graph import ModelGraph


class GroupedGraph(ModelGraph):
    """A graph with given groups, so that these tests do not depend on the channel analysis."""

    given: tuple[PruneGroup, ...] = ()

    def groups(self) -> tuple[PruneGroup, ...]:
        return self.given


def group(name: str, channels: int, *members: tuple[str, int, Role]) -> PruneGroup:
    rows = np.arange(channels)[:, None]
    return PruneGroup(
        name=name,
        channels=channels,
        members=tuple(GroupMember(initializer=i, axis=a, indices=rows, role=r) for i, a, r in members),
    )


@pytest.fixture(scope="session")
def graph() -> GroupedGraph:
    """conv1 (3 -> 16) - Relu - conv2 (16 -> 32) - Relu - pool - fc (32 -> 10) on 16x16 images."""
    shapes = {
        "conv1.weight": (16, 3, 3, 3),
        "conv1.bias": (16,),
        "conv2.weight": (32, 16, 3, 3),
        "conv2.bias": (32,),
        "fc.weight": (10, 32),
        "fc.bias": (10,),
    }
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], name="n1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="n2"),
        helper.make_node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], name="n3", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="n4"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="n5"),
        helper.make_node("Flatten", ["e"], ["f"], name="n6"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], name="n7", transB=1),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
            [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    made = GroupedGraph(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    made.given = (
        group("conv1", 16, ("conv1.weight", 0, "out"), ("conv1.bias", 0, "bias"), ("conv2.weight", 1, "in")),
        group("conv2", 32, ("conv2.weight", 0, "out"), ("conv2.bias", 0, "bias"), ("fc.weight", 1, "in")),
    )
    return made
