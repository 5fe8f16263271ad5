"""Residual blocks that can be skipped whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress.apply import Compressor
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan
from autocompress.graph.blocks import drop_repeated_activations, without_blocks
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.vgg import vgg_tiny

X = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def _random_statistics(net: nn.Module) -> nn.Module:
    """Running statistics and scales that are not those of a fresh network."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return net.eval()


@pytest.fixture(scope="module")
def resnet() -> ModelGraph:
    return load_model(_random_statistics(resnet20(3)), (torch.from_numpy(X),))


@pytest.fixture(scope="module")
def mobilenet() -> ModelGraph:
    return load_model(_random_statistics(mobilenet_tiny(3)), (torch.from_numpy(X),))


def _run(graph: ModelGraph) -> np.ndarray:
    return OnnxRuntime().build(graph).run((X,))[0]


def _silenced(graph: ModelGraph, names: set[str]) -> ModelGraph:
    """The graph with the blocks' branches multiplied by zero just before their Add."""
    copy = graph.clone().model
    joins = {block.join: block for block in graph.blocks() if block.name in names}
    zero = ir.Value(
        name="zero", const_value=ir.tensor(np.float32(0), name="zero"), type=ir.TensorType(ir.DataType.FLOAT)
    )
    zero.shape = ir.Shape([])
    copy.graph.register_initializer(zero)
    for node in list(copy.graph):
        block = joins.get(str(node.name))
        if block is None:
            continue
        index = next(i for i, v in enumerate(node.inputs) if v is not None and str(v.name) != block.kept)
        value = node.inputs[index]
        assert value is not None
        times = ir.Node("", "Mul", [value, zero], name=f"{node.name}_silent")
        times.outputs[0].name = f"{node.name}_silenced"
        times.outputs[0].type = value.type
        copy.graph.insert_before(node, times)
        node.replace_input_with(index, times.outputs[0])
    return ModelGraph(copy)


def test_a_resnets_identity_blocks_are_found(resnet: ModelGraph) -> None:
    names = [block.name for block in resnet.blocks()]
    assert names == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    assert resnet.blocks()[1].layers == ("layer1.1.conv1", "layer1.1.conv2")


def test_a_chain_has_no_blocks() -> None:
    assert load_model(vgg_tiny(3).eval(), (torch.from_numpy(X[:, :, :16, :16]),)).blocks() == ()


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_skipped_block_is_a_silent_branch(resnet: ModelGraph, data: st.DataObject) -> None:
    names = set(data.draw(st.lists(st.sampled_from([b.name for b in resnet.blocks()]), unique=True, min_size=1)))
    wanted = _run(_silenced(resnet, names))
    np.testing.assert_allclose(_run(without_blocks(resnet, names)), wanted, rtol=1e-4, atol=1e-4)


def test_linear_bottlenecks_are_skipped_too(mobilenet: ModelGraph) -> None:
    names = {block.name for block in mobilenet.blocks()}
    assert names
    np.testing.assert_allclose(
        _run(without_blocks(mobilenet, names)), _run(_silenced(mobilenet, names)), rtol=1e-4, atol=1e-4
    )


def test_skipping_and_pruning_go_together(resnet: ModelGraph) -> None:
    compressor = Compressor(resnet)
    both = compressor.pruned(CompressionPlan(skip=("layer1.1", "layer3.1"), prune={"*": 0.5}))
    narrow = compressor.pruned(CompressionPlan(prune={"*": 0.5}))
    np.testing.assert_allclose(_run(both), _run(without_blocks(narrow, ["layer1.1", "layer3.1"])), rtol=1e-4, atol=1e-4)


def test_weights_of_a_skipped_block_are_gone(resnet: ModelGraph) -> None:
    block = resnet.blocks()[0]
    left = without_blocks(resnet, [block.name])
    assert not set(block.initializers) & set(left.initializers)
    assert set(resnet.initializers) - set(left.initializers) == set(block.initializers)


def test_an_unknown_block_names_the_nearest(resnet: ModelGraph) -> None:
    with pytest.raises(PlanError, match=r"did you mean 'layer1\.1'"):
        without_blocks(resnet, ["layer1.11"])


def test_repeated_activations_go_and_nothing_changes(resnet: ModelGraph) -> None:
    left = without_blocks(resnet, ["layer1.1", "layer2.1"])
    copy = left.clone().model
    before = sum(node.op_type == "Relu" for node in copy.graph)
    drop_repeated_activations(copy.graph)
    assert before - sum(node.op_type == "Relu" for node in copy.graph) == 2
    np.testing.assert_array_equal(_run(ModelGraph(copy)), _run(left))


class _Awkward(nn.Module):
    """Sums that are no residual blocks: two towers, a branch that is read twice, one operand twice, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        towers = self.a(x) + self.b(x)
        branch = self.c(towers)
        again = towers + branch
        twice = again + again
        return twice * branch, twice + self.d(twice)


def test_sums_that_are_no_blocks_are_left_alone() -> None:
    graph = load_model(_Awkward().eval(), (torch.from_numpy(X),))
    assert graph.blocks() == ()


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.a(x)
        return self.b(y + self.a(y))


def test_a_block_whose_weight_others_read_stays() -> None:
    assert load_model(_Shared().eval(), (torch.from_numpy(X),)).blocks() == ()
