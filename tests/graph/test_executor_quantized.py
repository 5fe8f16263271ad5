"""A graph in integers or half floats computes in torch what it computes in ONNX Runtime, and can be trained there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.compress.fold import fold_batch_norm
from autocompress.compress.legal import layer_plans, legality
from autocompress.compress.quantize import quantize
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import local_target
from autocompress.zoo.demo import demo_model

Arrays = list[NDArray[Any]]
Noise = Callable[..., Arrays]
Named = Callable[[str], ModelGraph]

#: Whether integer kernels of this machine give wrong sums with 8-bit weights.
SATURATES = local_target().runtime().reduce_range
INT8 = LayerPlan(weight_bits=8, activation_bits=8)
KINDS = [
    INT8,
    LayerPlan(weight_bits=8, activation_bits=8, granularity="tensor"),
    LayerPlan(weight_bits=8, activation_bits=8, symmetric=False),
    LayerPlan(weight_bits=4, activation_bits=8),
    LayerPlan(weight_bits=2, activation_bits=8),
    LayerPlan(weight_bits=8, activation_bits=8, dynamic=True),
    LayerPlan(weight_bits=16, activation_bits=16),
    LayerPlan(weight_bits=16),
    LayerPlan(weight_bits=8),
    LayerPlan(weight_bits=2),
    LayerPlan(weight_bits=4, granularity="block"),
    LayerPlan(weight_bits=4, granularity="block", symmetric=False),
    LayerPlan(weight_bits=2, granularity="block", symmetric=False),
    LayerPlan(weight_bits=4, format="codebook"),
    LayerPlan(weight_bits=4, format="power_of_two"),
]


def as_shipped(graph: ModelGraph, inputs: Sequence[NDArray[Any]]) -> Arrays:
    """Outputs in ONNX Runtime's fused integer kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(o) for o in session.run(None, dict(zip(graph.input_names, inputs, strict=True)))]


def in_torch(module: torch.nn.Module, inputs: Sequence[NDArray[Any]]) -> Arrays:
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs))
    return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]


def quantized(graph: ModelGraph, plan: LayerPlan, inputs: Arrays) -> ModelGraph:
    """Every layer of a graph that may be so by one plan, calibrated on a batch."""
    folded = fold_batch_norm(graph)
    calibration = calibrate(folded, ArrayDataset(list(inputs))) if plan.activation_bits == 8 else None
    plans = layer_plans(CompressionPlan(layers={"*": plan}), legality(folded))
    return quantize(folded, plans, calibration, reduce_range=SATURATES)


def assert_within_a_step(
    graph: ModelGraph, found: Arrays, wanted: Arrays, share: float = 1e-4, most: float = 0.99
) -> None:
    """Almost every output is within one of its quantization steps; within a 255th of its range where it is a float."""
    for value, ours, theirs in zip(graph.model.graph.outputs, found, wanted, strict=True):
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            step = float(graph.initializers[str(producer.inputs[1].name)])  # type: ignore[union-attr]
        elif any(node.op_type == "QuantizeLinear" for node in graph.model.graph):
            step = float(np.ptp(theirs)) / 255
        else:
            step = 0.0
        assert (np.abs(ours - theirs) <= 1.01 * step + share * np.abs(theirs).max()).mean() >= most


def assert_one_answer(found: Arrays, wanted: Arrays, share: float = 0.995) -> None:
    """The class of the largest number is one in almost all places, but where two classes are equal in integers."""
    for ours, theirs in zip(found, wanted, strict=True):
        axis = 1 if ours.ndim == 4 else -1
        picked = np.take_along_axis(theirs, ours.argmax(axis, keepdims=True), axis)
        same = np.isclose(picked, theirs.max(axis, keepdims=True), rtol=0, atol=1e-6)
        assert same.mean() >= share


def share_of(graph: ModelGraph) -> float:
    """The largest difference of floats: float16 is added up in another order."""
    half = any(array.dtype == np.float16 and array.ndim > 1 for array in graph.initializers.values())
    return 5e-3 if half else 1e-4


@pytest.fixture(params=KINDS, ids=lambda plan: plan.label)
def kind(request: pytest.FixtureRequest, network_named: Named, noise: Noise) -> ModelGraph:
    """A small VGG in one kind of quantization."""
    graph = network_named("vgg")
    return quantized(graph, request.param, noise(graph, batch=8))


@pytest.fixture(scope="module")
def demo_data() -> DataBundle:
    return load_data("demo")


@pytest.fixture(scope="module")
def demo() -> ModelGraph:
    return fold_batch_norm(load_model(demo_model(), (np.zeros((2, 1, 28, 28), np.float32),)))


@pytest.fixture(scope="module")
def demo_calibration(demo: ModelGraph, demo_data: DataBundle) -> Calibration:
    return calibrate(demo, demo_data.train)


def demo_in(bits: int, demo: ModelGraph, calibration: Calibration) -> ModelGraph:
    plan = LayerPlan(weight_bits=bits, activation_bits=8)
    return quantize(demo, {layer.name: plan for layer in demo.layers()}, calibration, reduce_range=SATURATES)


def test_every_kind_gives_what_onnx_runtime_gives(kind: ModelGraph, noise: Noise) -> None:
    inputs = noise(kind, 1, batch=8)
    found, wanted = in_torch(kind.to_torch().eval(), inputs), as_shipped(kind, inputs)
    assert_within_a_step(kind, found, wanted, share_of(kind))


def test_every_kind_makes_the_round_trip_to_the_byte(kind: ModelGraph) -> None:
    assert kind.with_weights(kind.to_torch()).to_bytes() == kind.to_bytes()


def test_gradients_reach_every_parameter_of_every_kind(kind: ModelGraph, noise: Noise) -> None:
    module = GraphModule(kind).eval()
    module(*map(torch.from_numpy, noise(kind, batch=8))).square().sum().backward()
    layers = sum(layer.op_type in ("Conv", "Gemm", "MatMul") for layer in kind.layers())
    trained = {name: p for name, p in module.named_initializers().items() if p.requires_grad}
    assert len(trained) >= 2 * layers > 0 or len(trained) >= 8
    for name, tensor in trained.items():
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name


def test_trained_weights_of_every_kind_run_in_onnx_runtime(kind: ModelGraph, noise: Noise) -> None:
    module, inputs = GraphModule(kind).eval(), noise(kind, batch=8)
    optimizer = torch.optim.SGD(module.parameters(), lr=3e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = module(*map(torch.from_numpy, inputs)).square().mean()
        loss.backward()
        optimizer.step()
    trained = kind.with_weights(module)
    assert trained.digest != kind.digest
    assert {n: (a.dtype, a.shape) for n, a in trained.initializers.items()} == {
        n: (a.dtype, a.shape) for n, a in kind.initializers.items()
    }
    found, wanted = in_torch(module, inputs), as_shipped(trained, inputs)
    assert_within_a_step(kind, found, wanted, share_of(kind))


def test_an_int8_network_is_within_a_step_of_onnx_runtime(network: ModelGraph, noise: Noise) -> None:
    integer = quantized(network, INT8, noise(network, batch=8))
    assert any(node.op_type == "QuantizeLinear" for node in integer.model.graph)
    inputs = noise(network, 1, batch=400)
    found, wanted = in_torch(integer.to_torch().eval(), inputs), as_shipped(integer, inputs)
    assert_within_a_step(integer, found, wanted)
    assert_one_answer(found, wanted)


def test_gradients_reach_every_parameter_of_an_int8_network(network: ModelGraph, noise: Noise) -> None:
    module = GraphModule(quantized(network, INT8, noise(network, batch=8))).eval()
    found = module(*map(torch.from_numpy, noise(network, 1, batch=8)))
    weights = torch.Generator().manual_seed(0)
    outputs = found if isinstance(found, tuple) else (found,)
    torch.stack([(o.square() * torch.rand(o.shape, generator=weights)).sum() for o in outputs]).sum().backward()
    for name, tensor in module.named_initializers().items():
        if tensor.requires_grad:
            assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_demo_answers_as_onnx_runtime_does(
    bits: int, demo: ModelGraph, demo_calibration: Calibration, demo_data: DataBundle
) -> None:
    graph = demo_in(bits, demo, demo_calibration)
    (images,), _ = demo_data.test.batch(np.arange(400))
    found, wanted = in_torch(graph.to_torch().eval(), [images]), as_shipped(graph, [images])
    # Coarse weights leave more answers on the edge, where one code that is rounded otherwise decides.
    assert_one_answer(found, wanted, 0.995 if bits == 8 else 0.985)
    assert_within_a_step(graph, found, wanted, most=0.99 if bits == 8 else 0.975)


@pytest.mark.parametrize("bits", [4, 2])
def test_training_brings_the_shipped_integers_closer_to_the_network(
    bits: int, demo: ModelGraph, demo_calibration: Calibration, demo_data: DataBundle
) -> None:
    graph = demo_in(bits, demo, demo_calibration)
    (images,), _ = demo_data.train.batch(np.arange(64))
    target = torch.log_softmax(torch.from_numpy(as_shipped(demo, [images])[0]), 1)

    def divergence(logits: torch.Tensor) -> torch.Tensor:
        found = torch.log_softmax(logits, 1)
        return torch.nn.functional.kl_div(found, target, log_target=True, reduction="batchmean")

    module = graph.to_torch().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=2e-2, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        divergence(module(torch.from_numpy(images))).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    before, after = (
        float(divergence(torch.from_numpy(as_shipped(shipped, [images])[0])))
        for shipped in (graph, graph.with_weights(module))
    )
    assert after < 0.9 * before


def test_three_bit_codes_stay_three_bits_wide(network_named: Named, noise: Noise) -> None:
    graph = network_named("vgg")
    narrow = quantized(graph, LayerPlan(weight_bits=3, activation_bits=8), noise(graph))
    module = GraphModule(narrow)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(10)
    codes = [a for n, a in narrow.with_weights(module).initializers.items() if n.endswith("_q3")]
    assert codes and all(array.astype(int).min() >= -3 and array.astype(int).max() <= 3 for array in codes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("bits", [32, 8])
def test_inductor_gives_and_trains_the_same(
    bits: int, demo: ModelGraph, demo_calibration: Calibration, demo_data: DataBundle
) -> None:
    graph = demo if bits == 32 else demo_in(bits, demo, demo_calibration)
    (images,), _ = demo_data.test.batch(np.arange(16))
    module = graph.to_torch().eval()
    torch._dynamo.reset()
    compiled = torch.compile(module)
    gradients = []
    for run in (module, compiled):
        module.zero_grad()
        found = run(torch.from_numpy(images))
        found.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    eager, other = gradients
    assert eager.numel() == sum(p.numel() for p in module.parameters())
    outputs, wanted = [found.detach().numpy()], in_torch(module, [images])
    # It adds in another order, so that values halfway between two integers round the other way now and then.
    assert float((other - eager).norm() / eager.norm()) < (1e-3 if bits == 32 else 0.2)
    assert_within_a_step(graph, outputs, wanted, most=0.99 if bits == 32 else 0.95)
    assert_one_answer(outputs, wanted)
