"""The families of the zoo: the sizes of the papers, and what the small ones give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress import api
from autocompress.graph.importing import load_model
from autocompress.graph.layers import RECURRENT_GATES
from autocompress.graph.model_graph import ModelGraph
from autocompress.zoo.audio import audio_m5, audio_tiny
from autocompress.zoo.bert import bert_base, bert_tiny, minilm
from autocompress.zoo.convnext import convnext_small, convnext_tiny
from autocompress.zoo.efficientnet import (
    efficientnet_b0,
    efficientnet_lite0,
    efficientnet_lite_tiny,
    efficientnet_tiny,
)
from autocompress.zoo.gpt import gpt_small, gpt_tiny
from autocompress.zoo.inception import inception_small, inception_tiny
from autocompress.zoo.mobilenet_v1 import mobilenet_v1, mobilenet_v1_tiny
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_small, mobilenet_v3_tiny
from autocompress.zoo.recurrent import gru_small, gru_tiny, lstm_small, lstm_tiny
from autocompress.zoo.resnext import resnext29, resnext_tiny
from autocompress.zoo.shufflenet import shufflenet_tiny, shufflenet_v2
from autocompress.zoo.squeezenet import squeezenet, squeezenet_tiny
from autocompress.zoo.unet import unet_resize_tiny, unet_small, unet_tiny
from autocompress.zoo.vit import vit_small, vit_split_tiny, vit_tiny
from autocompress.zoo.yolo import yolo_small, yolo_tiny

Builder = Callable[[], nn.Module]
Inputs = tuple[torch.Tensor, ...]


def images(side: int = 16) -> Inputs:
    return (torch.zeros(2, 3, side, side),)


def ids(tokens: int = 12) -> Inputs:
    return (torch.zeros(2, tokens, dtype=torch.int64),)


STEPS = (torch.zeros(2, 6, 8),)
CLASSES = [(2, 10)]

#: Builder of a network, a batch of inputs, and the shapes of its outputs.
SMALL: list[tuple[Builder, Inputs, list[tuple[int, ...]]]] = [
    (audio_tiny, (torch.zeros(2, 1, 256),), CLASSES),
    (bert_tiny, ids() * 2, [(2, 2)]),
    (convnext_tiny, images(), CLASSES),
    (efficientnet_lite_tiny, images(), CLASSES),
    (efficientnet_tiny, images(), CLASSES),
    (gpt_tiny, ids(), [(2, 12, 24)]),
    (gru_tiny, STEPS, CLASSES),
    (inception_tiny, images(), CLASSES),
    (lstm_tiny, STEPS, CLASSES),
    (mobilenet_v1_tiny, images(), CLASSES),
    (mobilenet_v3_tiny, images(), CLASSES),
    (resnext_tiny, images(), CLASSES),
    (shufflenet_tiny, images(), CLASSES),
    (squeezenet_tiny, images(), CLASSES),
    (unet_resize_tiny, images(), [(2, 10, 16, 16)]),
    (unet_tiny, images(), [(2, 10, 16, 16)]),
    (vit_split_tiny, images(), CLASSES),
    (vit_tiny, images(), CLASSES),
    (yolo_tiny, images(), [(2, 16, 15), (2, 4, 15)]),
]
LARGE: list[tuple[Builder, Inputs, list[tuple[int, ...]]]] = [
    (audio_m5, (torch.zeros(2, 1, 8000),), CLASSES),
    (bert_base, ids(16) * 2, [(2, 2)]),
    (convnext_small, images(32), CLASSES),
    (efficientnet_b0, images(32), CLASSES),
    (efficientnet_lite0, images(32), CLASSES),
    (gpt_small, ids(16), [(2, 16, 50257)]),
    (gru_small, STEPS, CLASSES),
    (inception_small, images(32), CLASSES),
    (lstm_small, STEPS, CLASSES),
    (minilm, ids(16) * 2, [(2, 2)]),
    (mobilenet_v1, images(32), CLASSES),
    (mobilenet_v3_small, images(32), CLASSES),
    (resnext29, images(32), CLASSES),
    (shufflenet_v2, images(32), CLASSES),
    (squeezenet, images(32), CLASSES),
    (unet_small, images(32), [(2, 10, 32, 32)]),
    (vit_small, images(32), CLASSES),
    (yolo_small, images(32), [(2, 64, 15), (2, 16, 15)]),
]


@functools.cache
def exported(build: Builder, inputs: Inputs) -> tuple[nn.Module, ModelGraph]:
    torch.manual_seed(0)
    net = build().eval()
    return net, load_model(net, inputs)


def builder_name(value: object) -> str | None:
    return str(value.__name__) if hasattr(value, "__name__") else ""


@pytest.mark.parametrize(("build", "inputs", "shapes"), SMALL + LARGE, ids=builder_name)
def test_a_network_gives_outputs_of_the_stated_shapes(
    build: Builder, inputs: Inputs, shapes: list[tuple[int, ...]]
) -> None:
    with torch.device("meta"):
        net = build().eval()
    found = net(*(x.to("meta") for x in inputs))
    assert [tuple(output.shape) for output in (found if isinstance(found, tuple) else (found,))] == shapes


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (lambda: efficientnet_b0(num_classes=1000), 5.289),
        (lambda: efficientnet_lite0(num_classes=1000), 4.652),
        (lambda: mobilenet_v1(num_classes=1000), 4.232),
        (lambda: mobilenet_v3_small(num_classes=1000), 2.543),
        (lambda: shufflenet_v2(num_classes=1000), 2.279),
        (lambda: squeezenet(num_classes=1000), 1.235),
        (minilm, 22.6),
        (bert_base, 109.5),
    ],
)
def test_parameters_are_about_those_of_the_papers(build: Builder, millions: float) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in build().parameters()) / 1e6
    assert found == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize(("build", "inputs", "shapes"), SMALL, ids=builder_name)
def test_an_export_leaves_the_batch_open_and_names_layers_after_modules(
    build: Builder, inputs: Inputs, shapes: list[tuple[int, ...]]
) -> None:
    net, graph = exported(build, inputs)
    assert graph.batch_axis_dynamic
    assert [graph.value_shape(name) for name in graph.output_names] == [(None, *shape[1:]) for shape in shapes]
    kinds = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    modules = {name for name, part in net.named_modules() if isinstance(part, kinds)}
    # Exporters put the weights of recurrent layers together anew: their nodes name them.
    layers = {layer.name for layer in graph.layers() if layer.op_type not in RECURRENT_GATES}
    # The head of the GPT has no weight of its own: it is that of the embedding, transposed.
    assert layers ^ modules <= ({"head", "/head/MatMul"} if build is gpt_tiny else set())


@pytest.mark.parametrize(("build", "inputs", "shapes"), SMALL, ids=builder_name)
def test_analysis_lists_every_layer_and_group(
    build: Builder, inputs: Inputs, shapes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    _, graph = exported(build, inputs)
    path = tmp_path / "model.onnx"
    graph.save(path)
    found = api.analyze(str(path), target="raspberry-pi-4b")
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in graph.layers()]
    assert [group["name"] for group in found["groups"]] == [group.name for group in graph.groups()]
    assert [group["blocked"] for group in found["groups"]] == [group.blocked for group in graph.groups()]
