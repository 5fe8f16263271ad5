"""The executor against the torch module it came from: a training step's forward and backward, in one thread."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import interleaved, milliseconds, ratio, table
from torch import Tensor, nn

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.zoo.bert import minilm
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnet50 import resnet50


def training_step(module: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        nn.functional.cross_entropy(module(*inputs), labels).backward()

    return step


def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            module(*inputs)

    return call


def rows_of(name: str, original: nn.Module, inputs: tuple[Tensor, ...], rounds: int) -> list[tuple[str, str, str, str]]:
    graph = load_model(original.eval(), tuple(x[:2] for x in inputs))
    executor = graph.to_torch()
    labels = torch.arange(len(inputs[0])) % 2
    original.train(), executor.train()
    step = interleaved(
        {"module": training_step(original, inputs, labels), "executor": training_step(executor, inputs, labels)}, rounds
    )
    original.eval(), executor.eval()
    plain = interleaved({"module": forward(original, inputs), "executor": forward(executor, inputs)}, rounds)
    return [
        (f"{name}, {what}", milliseconds(t["module"]), milliseconds(t["executor"]), ratio(t["executor"], t["module"]))
        for what, t in (("forward and backward", step), ("inference", plain))
    ]


def texts(count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 30522, (count, 128)), torch.ones(count, 128)


def fake_quantized(name: str, original: nn.Module, x: Tensor, rounds: int) -> list[tuple[str, str, str, str]]:
    """A training step through the int8 graph: fake quantization on top of the float32 one."""
    graph = load_model(original.eval(), (x[:2],))
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    compressor = Compressor(graph, dataset=ArrayDataset([x.numpy()]))
    executor = compressor.finish(compressor.pruned(plan), plan).to_torch().train()
    labels = torch.arange(len(x)) % 2
    times = interleaved(
        {
            "module": training_step(original.train(), (x,), labels),
            "executor": training_step(executor, (x,), labels),
        },
        rounds,
    )
    row = (milliseconds(times["module"]), milliseconds(times["executor"]), ratio(times["executor"], times["module"]))
    return [(f"{name}, forward and backward", *row)]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [
        *rows_of("ResNet-20, 64 images of 28x28", resnet20(in_channels=1), (torch.randn(64, 1, 28, 28),), 21),
        *rows_of("ResNet-20, 4 images of 28x28", resnet20(in_channels=1), (torch.randn(4, 1, 28, 28),), 41),
        *rows_of("ResNet-50, 4 images of 224x224", resnet50(), (torch.randn(4, 3, 224, 224),), 9),
        *rows_of("MiniLM, 4 texts of 128 tokens", minilm(), texts(4), 9),
        *fake_quantized("int8 ResNet-20, 64 images", resnet20(in_channels=1), torch.randn(64, 1, 28, 28), 15),
    ]
    table("graph.to_torch() against the original", ("", "module, ms", "executor, ms", "ratio"), rows)


if __name__ == "__main__":
    main()
