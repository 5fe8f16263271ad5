"""The executor against the torch module it came from: a training step's forward and backward, in one thread."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import interleaved, milliseconds, ratio, table
from torch import Tensor, nn

from autocompress.graph.importing import load_model
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnet50 import resnet50


def training_step(module: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        nn.functional.cross_entropy(module(x), labels).backward()

    return step


def forward(module: nn.Module, x: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            module(x)

    return call


def rows_of(name: str, original: nn.Module, x: Tensor, rounds: int) -> list[tuple[str, str, str, str]]:
    graph = load_model(original.eval(), (x[:2],))
    executor = graph.to_torch()
    labels = torch.arange(len(x)) % 10
    original.train(), executor.train()
    step = interleaved(
        {"module": training_step(original, x, labels), "executor": training_step(executor, x, labels)}, rounds
    )
    original.eval(), executor.eval()
    plain = interleaved({"module": forward(original, x), "executor": forward(executor, x)}, rounds)
    return [
        (f"{name}, {what}", milliseconds(t["module"]), milliseconds(t["executor"]), ratio(t["executor"], t["module"]))
        for what, t in (("forward and backward", step), ("inference", plain))
    ]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [
        *rows_of("ResNet-20, 64 images of 28x28", resnet20(in_channels=1), torch.randn(64, 1, 28, 28), 21),
        *rows_of("ResNet-20, 4 images of 28x28", resnet20(in_channels=1), torch.randn(4, 1, 28, 28), 41),
        *rows_of("ResNet-50, 4 images of 224x224", resnet50(), torch.randn(4, 3, 224, 224), 9),
    ]
    table("graph.to_torch() against the original", ("", "module, ms", "executor, ms", "ratio"), rows)


if __name__ == "__main__":
    main()
