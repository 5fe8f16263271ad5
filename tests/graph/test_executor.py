"""A graph in torch computes what it computes in ONNX Runtime, and can be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from autocompress.core.errors import ModelError, UnknownNameError
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph

Arrays = list[NDArray[Any]]
Run = Callable[[ModelGraph, Arrays], Arrays]
Noise = Callable[..., Arrays]
Write = Callable[..., ModelGraph]

node = helper.make_node
FLOAT = TensorProto.FLOAT


def run_torch(module: nn.Module, inputs: Arrays) -> Arrays:
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs))
    return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]


def module_of(graph: ModelGraph) -> GraphModule:
    return GraphModule(graph).eval()


@pytest.fixture
def batch_norm(write: Write) -> ModelGraph:
    """One BatchNormalization that keeps 0.8 of its old statistics."""
    rng = np.random.default_rng(0)
    names = ("scale", "shift", "mean", "var")
    return write(
        [node("BatchNormalization", ["x", *names], ["y"], momentum=0.8)],
        {name: (rng.uniform(0.5, 1.5, 3)).astype(np.float32) for name in names},
        {"x": (FLOAT, ("n", 3, 4, 4))},
        {"y": FLOAT},
    )


def two_inputs(write: Write) -> ModelGraph:
    """x times w plus z, and the first part alone."""
    return write(
        [node("MatMul", ["x", "w"], ["h"], name="mul"), node("Add", ["h", "z"], ["y"], name="add")],
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"x": (FLOAT, ("n", 2)), "z": (FLOAT, ("n", 3))},
        {"y": FLOAT, "h": FLOAT},
    )


def assert_close(found: Arrays, wanted: Arrays, share: float = 1e-4) -> None:
    """Differences are below a share of each output's largest value."""
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < share * np.abs(theirs).max()


def loss_of(module: nn.Module, inputs: Arrays) -> torch.Tensor:
    """One number that depends on every output; the weights keep normalized outputs from adding up to nothing."""
    found = module(*map(torch.from_numpy, inputs))
    outputs = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(0)
    losses = [(output.square() * torch.rand(output.shape, generator=generator)).mean() for output in outputs]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_network_gives_what_onnx_runtime_gives(network: ModelGraph, batch: int, run_onnx: Run, noise: Noise) -> None:
    inputs = noise(network, batch, batch=batch)
    found = run_torch(module_of(network), inputs)
    assert all(output.shape[0] == batch for output in found)
    assert_close(found, run_onnx(network, inputs))


def test_channels_last_gives_the_same(network: ModelGraph, noise: Noise) -> None:
    inputs = noise(network)
    found = run_torch(GraphModule(network, channels_last=True).eval(), inputs)
    assert_close(found, run_torch(module_of(network), inputs))


def test_gradients_reach_every_parameter(network: ModelGraph, noise: Noise) -> None:
    module = module_of(network)
    loss_of(module, noise(network)).backward()
    parameters = list(module.parameters())
    assert sum(p.numel() for p in parameters) > 0
    for name, tensor in module.named_initializers().items():
        if tensor.requires_grad:
            assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name


def test_every_float_initializer_but_numbers_and_statistics_is_a_parameter(network: ModelGraph) -> None:
    module = module_of(network)
    statistics = {name for pair in module.batch_norms() for name in pair}
    scales = {value.name for item in network.model.graph if item.op_type == "Resize" for value in item.inputs if value}
    floats = {name for name, array in network.initializers.items() if array.dtype.kind == "f" and array.ndim} - scales
    assert {name for name, tensor in module.named_initializers().items() if tensor.requires_grad} == floats - statistics


def test_weights_make_the_round_trip(network: ModelGraph) -> None:
    assert network.with_weights(network.to_torch()).digest == network.digest


def test_trained_weights_go_back_to_the_graph(network: ModelGraph, run_onnx: Run, noise: Noise) -> None:
    module, inputs = GraphModule(network).train(), noise(network, batch=8)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(module, inputs).backward()
        optimizer.step()
    trained = network.with_weights(module)
    found, wanted = run_torch(module.eval(), inputs), run_onnx(trained, inputs)
    assert_close(found, wanted)
    assert np.abs(wanted[0] - run_onnx(network, inputs)[0]).max() > 0


def test_masked_weights_stay_zero_in_training(network_named: Callable[[str], ModelGraph], noise: Noise) -> None:
    graph = network_named("vgg")
    weight = graph.layers()[1].weight
    mask = np.random.default_rng(0).random(graph.initializers[weight].shape) < 0.5
    module = graph.to_torch(masks={weight: mask})
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(module, noise(graph, batch=4)).backward()
        optimizer.step()
    trained = graph.with_weights(module).initializers[weight]
    assert not trained[~mask].any()
    assert (trained[mask] != graph.initializers[weight][mask]).mean() > 0.9


def test_a_mask_of_another_shape_or_name_is_refused(network_named: Callable[[str], ModelGraph]) -> None:
    graph = network_named("vgg")
    weight = graph.layers()[0].weight
    with pytest.raises(ModelError, match=rf"The mask of '{weight}' has shape \(2,\)"):
        graph.to_torch(masks={weight: np.ones(2, np.bool_)})
    with pytest.raises(UnknownNameError, match="did you mean"):
        graph.to_torch(masks={weight + "s": np.ones(2, np.bool_)})


def test_training_leaves_the_graph_as_it_was(network_named: Callable[[str], ModelGraph]) -> None:
    graph = network_named("vgg")
    before = graph.to_bytes()
    module = graph.to_torch()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.zero_()
    assert graph.to_bytes() == before


def test_batch_normalization_uses_its_statistics_in_evaluation(
    batch_norm: ModelGraph, run_onnx: Run, noise: Noise
) -> None:
    inputs = noise(batch_norm)
    np.testing.assert_allclose(run_torch(module_of(batch_norm), inputs)[0], run_onnx(batch_norm, inputs)[0], atol=1e-5)


def test_batch_normalization_normalizes_by_the_batch_in_training(batch_norm: ModelGraph, noise: Noise) -> None:
    inputs = noise(batch_norm)
    (found,) = run_torch(module_of(batch_norm).train(), inputs)
    (x,), weights = inputs, batch_norm.initializers
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    scale, shift = (weights[name][:, None, None] for name in ("scale", "shift"))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5) * scale + shift, atol=1e-5)


@pytest.mark.parametrize(("momentum", "replaced"), [(None, 0.2), (0.5, 0.5), (1.0, 1.0)])
def test_training_replaces_a_share_of_the_statistics(
    batch_norm: ModelGraph, noise: Noise, momentum: float | None, replaced: float
) -> None:
    module, inputs = module_of(batch_norm).train(), noise(batch_norm)
    module.momentum = momentum
    run_torch(module, inputs)
    batch = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), ddof=1)
    for name, new in zip(("mean", "var"), batch, strict=True):
        wanted = (1 - replaced) * batch_norm.initializers[name] + replaced * new
        np.testing.assert_allclose(module.initializer(name).numpy(), wanted, rtol=1e-5)


def test_evaluation_leaves_the_statistics_alone(batch_norm: ModelGraph, noise: Noise) -> None:
    module = module_of(batch_norm)
    run_torch(module, noise(batch_norm))
    np.testing.assert_array_equal(module.initializer("mean").numpy(), batch_norm.initializers["mean"])


def test_statistics_that_two_nodes_share_are_listed_once(write: Write) -> None:
    names = ("scale", "shift", "mean", "var")
    graph = write(
        [node("BatchNormalization", ["x", *names], ["h"]), node("BatchNormalization", ["h", *names], ["y"])],
        {name: np.ones(3, np.float32) for name in names},
        {"x": (FLOAT, ("n", 3, 4, 4))},
        {"y": FLOAT},
    )
    assert list(module_of(graph).batch_norms()) == [("mean", "var")]


def test_several_inputs_and_outputs_keep_their_order(write: Write, run_onnx: Run, noise: Noise) -> None:
    graph = two_inputs(write)
    inputs = noise(graph)
    for found, wanted in zip(run_torch(module_of(graph), inputs), run_onnx(graph, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_wrong_number_of_inputs_is_refused(write: Write) -> None:
    with pytest.raises(ModelError, match="The model takes 2 inputs, but got 1"):
        module_of(two_inputs(write))(torch.zeros(1, 2))


def test_a_wrong_shape_names_operator_and_node(write: Write) -> None:
    with pytest.raises(ModelError, match="Cannot run operator MatMul of node 'mul': mat1 and mat2"):
        module_of(two_inputs(write))(torch.zeros(1, 5), torch.zeros(1, 3))


def test_an_unknown_operator_names_itself_and_its_node(write: Write) -> None:
    graph = write(
        [node("Relu", ["x"], ["h"]), node("Compress", ["h", "rows"], ["y"], axis=0, name="some")],
        {"rows": np.array([True])},
        {"x": (FLOAT, ("n", 2))},
        {"y": FLOAT},
    )
    with pytest.raises(ModelError) as caught:
        graph.to_torch()
    assert str(caught.value) == (
        "Cannot run operator Compress of node 'some': torch has no function for it (nearest known: Cos)."
    )


def test_an_operator_of_another_domain_names_itself_and_its_node(write: Write) -> None:
    graph = write(
        [node("BiasGelu", ["x", "b"], ["h"], domain="com.microsoft", name="fused"), node("Relu", ["h"], ["y"])],
        {"b": np.zeros(2, np.float32)},
        {"x": (FLOAT, ("n", 2))},
        {"y": FLOAT},
        domains=["com.microsoft"],
    )
    with pytest.raises(ModelError, match=r"operator com\.microsoft\.BiasGelu of node 'fused': unknown domain"):
        graph.to_torch()


def test_numbers_and_masks_are_no_parameters(write: Write) -> None:
    graph = write(
        [node("Mul", ["x", "half"], ["h"]), node("Add", ["h", "mask"], ["k"]), node("Add", ["k", "bias"], ["y"])],
        {
            "half": np.float32(0.5),
            "mask": np.array([0, -np.inf], np.float32),
            "bias": np.array([1, 2], np.float32),
        },
        {"x": (FLOAT, ("n", 2))},
        {"y": FLOAT},
    )
    assert list(graph.to_torch().named_initializers()) == ["bias"]  # type: ignore[operator]


def test_an_initializer_that_is_an_output_is_given_out(write: Write) -> None:
    graph = write([node("Relu", ["x"], ["y"])], {"w": np.ones(2, np.float32)}, {"x": (FLOAT, ("n", 2))}, {"y": FLOAT})
    with_weight = write(
        [node("Add", ["x", "w"], ["y"]), node("Identity", ["w"], ["v"])],
        {"w": np.ones(2, np.float32)},
        {"x": (FLOAT, ("n", 2))},
        {"y": FLOAT, "v": FLOAT},
    )
    assert "w" not in graph.initializers
    np.testing.assert_array_equal(run_torch(module_of(with_weight), [np.zeros((1, 2), np.float32)])[1], np.ones(2))


def test_a_weight_that_two_layers_share_is_one_parameter(write: Write) -> None:
    graph = write(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
        {"w": np.eye(3, dtype=np.float32)},
        {"x": (FLOAT, ("n", 3))},
        {"y": FLOAT},
    )
    module = graph.to_torch()
    assert len(list(module.parameters())) == 1
    module(torch.ones(1, 3)).sum().backward()
    # Once for each use: 3 entries of ones through an identity, both ways.
    np.testing.assert_allclose(next(module.parameters()).grad.numpy(), np.full((3, 3), 2.0))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.b.weight", "a%2Eb", "forward", "training", "é/:0"])
def test_any_name_is_kept(name: str, write: Write) -> None:
    graph = write(
        [node("Add", ["x", name], ["y"])], {name: np.ones(2, np.float32)}, {"x": (FLOAT, ("n", 2))}, {"y": FLOAT}
    )
    module = module_of(graph)
    assert list(module.named_initializers()) == [name]
    assert graph.with_weights(module).digest == graph.digest
    assert len(module.state_dict()) == 1


def test_an_unknown_initializer_gets_the_nearest_name(network_named: Callable[[str], ModelGraph]) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'fc\.bias'"):
        module_of(network_named("resnet20")).initializer("fc.bais")


def test_a_state_goes_to_another_module_of_the_graph(network_named: Callable[[str], ModelGraph], noise: Noise) -> None:
    graph = network_named("senet")
    first, second = module_of(graph), module_of(graph)
    with torch.no_grad():
        for tensor in first.parameters():
            tensor.mul_(1.5)
    second.load_state_dict(first.state_dict())
    inputs = noise(graph)
    np.testing.assert_array_equal(run_torch(second, inputs)[0], run_torch(first, inputs)[0])


def test_sizes_read_from_a_batch_follow_it(export: Callable[..., ModelGraph], run_onnx: Run, noise: Noise) -> None:
    class Pool(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = nn.functional.interpolate(x[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear")
            return (x + pooled).reshape(x.shape[0], -1, x.shape[-1])

    graph = export(Pool(), torch.zeros(2, 3, 8, 8))
    for batch in (1, 4):
        inputs = noise(graph, batch=batch)
        np.testing.assert_allclose(run_torch(module_of(graph), inputs)[0], run_onnx(graph, inputs)[0], atol=1e-5)


def test_a_walk_runs_batches_side_by_side_and_keeps_to_what_a_watcher_changes(
    network_named: Callable[[str], ModelGraph], noise: Callable[..., Any]
) -> None:
    graph = network_named("vgg")
    module = GraphModule(graph).eval()
    batches = [tuple(map(torch.from_numpy, noise(graph, seed))) for seed in (0, 1)]
    last = list(graph.model.graph)[-1]
    changed, found = str(last.inputs[1].name), []

    def before(node: Any, read: list[list[Any]]) -> None:
        if node.name == last.name:
            module.initializer(changed).mul_(2.0)

    def after(node: Any, written: list[Any]) -> None:
        if node.name == last.name:
            found.extend(written)

    with torch.no_grad():
        module.walk(batches, before=before, after=after)
        for value, batch in zip(found, batches, strict=True):
            assert torch.equal(value, module(*batch))
