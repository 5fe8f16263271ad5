"""Every network of the zoo, and one that nothing was written for, through `analyze` and `compress` from its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress import api
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.graph.importing import load_model
from autocompress.hardware.profiles import local_target
from autocompress.zoo.audio import audio_tiny
from autocompress.zoo.bert import bert_tiny
from autocompress.zoo.convnext import convnext_tiny
from autocompress.zoo.densenet import densenet_tiny
from autocompress.zoo.efficientnet import efficientnet_lite_tiny, efficientnet_tiny
from autocompress.zoo.gpt import gpt_tiny
from autocompress.zoo.inception import inception_tiny
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.mobilenet_v1 import mobilenet_v1_tiny
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_tiny
from autocompress.zoo.recurrent import gru_tiny, lstm_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnext import resnext_tiny
from autocompress.zoo.senet import senet_tiny
from autocompress.zoo.shufflenet import shufflenet_tiny
from autocompress.zoo.squeezenet import squeezenet_tiny
from autocompress.zoo.unet import unet_tiny
from autocompress.zoo.vgg import vgg_tiny
from autocompress.zoo.vit import vit_split_tiny, vit_tiny
from autocompress.zoo.yolo import yolo_tiny

INT8 = LayerPlan(weight_bits=8, activation_bits=8)
PLANS = {
    "int8": CompressionPlan(layers={"*": INT8}),
    "half": CompressionPlan(prune={"*": 0.5}),
    "half in int8": CompressionPlan(prune={"*": 0.5}, layers={"*": INT8}),
    "4-bit weights": CompressionPlan(layers={"*": LayerPlan(weight_bits=4)}),
    "low rank": CompressionPlan(layers={"*": LayerPlan(rank=RankPlan(ratio=0.5))}),
}


class Unheard(nn.Module):
    """A trunk that two heads share, of branches with kernels of their own, gates and odd widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU())
        self.wide = nn.Conv2d(12, 10, (1, 5), padding=(0, 2))
        self.tall = nn.Conv2d(12, 14, (5, 1), padding=(2, 0), dilation=1)
        self.grouped = nn.Conv2d(24, 24, 3, 2, padding=1, groups=3)
        self.gate = nn.Linear(24, 24)
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.boxes = nn.Conv2d(24, 5, 1)
        self.classes = nn.Sequential(nn.Linear(24, 20), nn.GELU(), nn.Linear(20, 7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        both = torch.cat([torch.relu(self.wide(stem)), nn.functional.leaky_relu(self.tall(stem))], 1)
        deep = self.grouped(both)
        gated = deep * torch.sigmoid(self.gate(deep.mean((2, 3))))[:, :, None, None]
        back = torch.cat([self.up(gated), stem], 1)
        return self.boxes(back).flatten(2), self.classes(gated.amax((2, 3)))


def images(side: int) -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(16, 3, side, side)).astype(np.float32)


def tokens(count: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, count, (16, 12))


STEPS = np.random.default_rng(0).normal(size=(16, 6, 8)).astype(np.float32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[NDArray[Any], ...]]] = {
    "unheard of": (Unheard, (images(16),)),
    "audio": (audio_tiny, (np.random.default_rng(0).normal(size=(16, 1, 256)).astype(np.float32),)),
    "bert": (bert_tiny, (tokens(40), np.ones((16, 12), np.int64))),
    "convnext": (convnext_tiny, (images(16),)),
    "densenet": (densenet_tiny, (images(16),)),
    "efficientnet": (efficientnet_tiny, (images(16),)),
    "efficientnet_lite": (efficientnet_lite_tiny, (images(16),)),
    "gpt": (gpt_tiny, (tokens(24),)),
    "gru": (gru_tiny, (STEPS,)),
    "inception": (inception_tiny, (images(16),)),
    "lstm": (lstm_tiny, (STEPS,)),
    "mobilenet": (mobilenet_tiny, (images(16),)),
    "mobilenet_v1": (mobilenet_v1_tiny, (images(16),)),
    "mobilenet_v3": (mobilenet_v3_tiny, (images(16),)),
    "resnet20": (lambda: resnet20(3), (images(16),)),
    "resnext": (resnext_tiny, (images(16),)),
    "senet": (senet_tiny, (images(16),)),
    "shufflenet": (shufflenet_tiny, (images(16),)),
    "squeezenet": (squeezenet_tiny, (images(16),)),
    "unet": (unet_tiny, (images(16),)),
    "vgg": (vgg_tiny, (images(16),)),
    "vit": (vit_tiny, (images(16),)),
    "vit_split": (vit_split_tiny, (images(16),)),
    "yolo": (yolo_tiny, (images(32),)),
}


def run(path: Path, inputs: tuple[NDArray[Any], ...]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [
        np.asarray(o) for o in session.run(None, dict(zip((i.name for i in session.get_inputs()), inputs, strict=True)))
    ]


def _error(outputs: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> float:
    return sum(float(np.mean((o - w) ** 2) / np.mean(w**2)) for o, w in zip(outputs, wanted, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_goes_through_analyze_and_every_plan(name: str, tmp_path: Path) -> None:
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    load_model(build().eval(), tuple(torch.from_numpy(x[:2]) for x in inputs)).save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **{f"x{i}": x for i, x in enumerate(inputs)})
    found = api.analyze(str(tmp_path / "net.onnx"), target="raspberry-pi-4b")
    assert found["layers"]
    wanted = run(tmp_path / "net.onnx", inputs)
    for label, plan in PLANS.items():
        out = tmp_path / f"{label}.onnx"
        made = api.compress(str(tmp_path / "net.onnx"), plan, data=f"npz:{tmp_path / 'data.npz'}", out=out)
        outputs = run(out, inputs)
        assert [o.shape for o in outputs] == [w.shape for w in wanted], label
        assert all(np.isfinite(o).all() for o in outputs), label
        if label == "half":
            bare = tmp_path / "bare.onnx"
            api.compress(str(tmp_path / "net.onnx"), plan, out=bare)
            assert _error(outputs, wanted) < _error(run(bare, inputs), wanted), "healing makes it no worse"
        if "half" in label:
            before = {layer["name"]: layer["weight_shape"] for layer in found["layers"]}
            assert any(tuple(item["weight_shape"]) != tuple(before[n]) for n, item in made["layers"].items()), label
        if label == "int8":
            errors = [np.sqrt(np.mean((o - w) ** 2) / np.mean(w**2)) for o, w in zip(outputs, wanted, strict=True)]
            # 7 bits where 8 saturate.
            assert max(errors) < (0.12 if local_target().runtime().reduce_range else 0.05)
