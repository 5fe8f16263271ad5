"""Every network of the zoo: shapes, sizes and export."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.zoo.densenet import densenet40, densenet_tiny
from autocompress.zoo.mobilenet import mobilenet_tiny, mobilenet_v2
from autocompress.zoo.resnet import CifarResNet, resnet20
from autocompress.zoo.resnet50 import resnet50
from autocompress.zoo.senet import se_resnet14, senet_tiny
from autocompress.zoo.vgg import VGG, vgg11, vgg_tiny

Builder = Callable[..., nn.Module]

#: Builder to the side of its images.
NETS: dict[Builder, int] = {
    densenet40: 32,
    densenet_tiny: 16,
    mobilenet_tiny: 16,
    mobilenet_v2: 32,
    resnet20: 32,
    se_resnet14: 32,
    senet_tiny: 16,
    vgg11: 32,
    vgg_tiny: 16,
}
ALL = pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)


@ALL
def test_images_become_logits(build: Builder) -> None:
    side = NETS[build]
    with torch.no_grad():
        assert build().eval()(torch.zeros(2, 3, side, side)).shape == (2, 10)


@ALL
def test_channels_and_classes_are_free(build: Builder) -> None:
    side = NETS[build]
    with torch.no_grad():
        assert build(in_channels=1, num_classes=4).eval()(torch.zeros(2, 1, side, side)).shape == (2, 4)


@pytest.mark.parametrize(("build", "millions"), [(densenet40, 0.176), (mobilenet_v2, 2.237), (resnet20, 0.272)])
def test_millions_of_parameters_are_those_of_the_papers(build: Builder, millions: float) -> None:
    assert sum(p.numel() for p in build().parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


@functools.cache
def exported(build: Builder) -> tuple[nn.Module, ModelGraph]:
    torch.manual_seed(0)
    net = build().eval()
    return net, load_model(net, (torch.zeros(2, 3, NETS[build], NETS[build]),))


@ALL
def test_an_export_computes_what_the_network_does(build: Builder) -> None:
    net, graph = exported(build)
    x = torch.randn(3, 3, NETS[build], NETS[build])
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {graph.input_names[0]: x.numpy()})
    with torch.no_grad():
        wanted = net(x).numpy()
    assert np.abs(np.asarray(found) - wanted).max() < 1e-4 * np.abs(wanted).max()


@ALL
def test_an_export_leaves_the_batch_open(build: Builder) -> None:
    _, graph = exported(build)
    assert graph.batch_axis_dynamic
    assert graph.value_shape("output") == (None, 10)


@ALL
def test_layers_carry_the_names_of_modules(build: Builder) -> None:
    net, graph = exported(build)
    modules = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert sorted(layer.name for layer in graph.layers()) == sorted(modules)


@pytest.mark.parametrize(("blocks", "convolutions"), [(1, 7), (3, 19), (9, 55)])
def test_depth_is_six_times_the_blocks_and_two(blocks: int, convolutions: int) -> None:
    kernels = [
        part for part in CifarResNet(blocks).modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] == 3
    ]
    assert len(kernels) == convolutions == 6 * blocks + 1


def test_the_classifier_of_vgg_fits_the_image() -> None:
    assert VGG(((4,), (8,)), hidden=16, image_size=24)(torch.zeros(1, 3, 24, 24)).shape == (1, 10)


@pytest.mark.parametrize(("width", "last"), [(0.25, 320), (0.5, 640), (1.4, 1792)])
def test_the_width_of_mobilenet_is_rounded_to_multiples_of_8(width: float, last: int) -> None:
    net = mobilenet_v2(width)
    channels = [part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert all(count % 8 == 0 for count in channels)
    assert net.classifier.in_features == last


def test_resnet50_has_the_size_of_the_paper() -> None:
    net = resnet50()
    assert sum(p.numel() for p in net.parameters()) == 25_557_032
    assert not net.training


def test_resnet50_is_the_same_for_the_same_seed() -> None:
    first, second, other = (resnet50(num_classes=10, seed=seed).fc.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_resnet50_is_exported() -> None:
    graph = load_model(resnet50(), (torch.zeros(2, 3, 224, 224),))
    assert graph.value_shape("output") == (None, 1000)
    assert graph.macs() == pytest.approx(4.09e9, rel=0.01)
