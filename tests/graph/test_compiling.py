"""`torch.compile` of a graph's module: the same outputs, gradients and statistics as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.compress.apply import compress
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph

Named = Callable[[str], ModelGraph]
Noise = Callable[..., list[NDArray[Any]]]
INT8 = LayerPlan(weight_bits=8, activation_bits=8)

#: Network, how its layers are stored (float32 where nothing is said), and whether the second stays float32 and half of
#: each float32 weight is masked.
CASES: list[tuple[str, LayerPlan | None, bool]] = [
    ("vgg", INT8, True),
    ("mobilenet_v3", None, True),
    ("shufflenet", LayerPlan(weight_bits=4, activation_bits=8), False),
    ("unet", LayerPlan(weight_bits=4), True),
    ("vit", INT8, False),
    ("bert", LayerPlan(weight_bits=8, activation_bits=8, dynamic=True), False),
    ("gru", LayerPlan(weight_bits=8), False),
]
#: Compiling takes seconds; the others are slow.
QUICK = ("vgg", "gru")


def module_of(graph: ModelGraph, plan: LayerPlan | None, masked: bool, inputs: list[NDArray[Any]]) -> GraphModule:
    if plan is not None:
        layers = {"*": plan} | ({graph.layers()[1].name: LayerPlan()} if masked else {})
        graph = compress(graph, CompressionPlan(layers=layers), dataset=ArrayDataset(list(inputs)))
    rng = np.random.default_rng(0)
    masks = {
        name: rng.random(array.shape) < 0.5
        for name, array in graph.initializers.items()
        if masked and array.ndim > 1 and array.dtype == np.float32
    }
    assert bool(masks) == masked
    module: GraphModule = graph.to_torch(masks=masks)
    return module.train()


def trained(module: GraphModule, run: Callable[..., Any], inputs: list[NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Outputs, gradients of every parameter, and running statistics after one step's forward and backward."""
    module.zero_grad()
    before = {name: value.clone() for name, value in module.named_buffers()}
    found = run(*map(torch.from_numpy, inputs))
    outputs = found if isinstance(found, tuple) else (found,)
    sum(output.square().mean() for output in outputs).backward()  # type: ignore[union-attr]
    result = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    result |= {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    result |= {f"after {name}": value.clone() for name, value in module.named_buffers()}
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(before[name])
    return result


@pytest.mark.parametrize(
    ("name", "plan", "masked"),
    [case if case[0] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
    ids=lambda item: getattr(item, "label", str(item)),
)
def test_a_compiled_module_gives_and_trains_the_same(
    name: str, plan: LayerPlan | None, masked: bool, network_named: Named, noise: Noise
) -> None:
    graph = network_named(name)
    inputs = noise(graph, batch=4)
    module = module_of(graph, plan, masked, inputs)
    torch._dynamo.reset()
    wanted = trained(module, module, inputs)
    found = trained(module, torch.compile(module, backend="aot_eager", fullgraph=True), inputs)
    assert found.keys() == wanted.keys()
    assert sum(name in wanted for name, _ in module.named_parameters()) == len(list(module.parameters()))
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
