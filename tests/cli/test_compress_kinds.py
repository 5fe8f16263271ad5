"""``autocompress compress`` with every way to quantize a layer: the file is written, runs, and says what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autocompress.cli.app import run

NETS = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval(), torch.zeros(2, 3, 12, 12)
"""
KINDS: dict[str, dict[str, Any]] = {
    "w4a32-block16-asymmetric": {"weight_bits": 4, "granularity": "block", "block_size": 16, "symmetric": False},
    "w6a32": {"weight_bits": 6},
    "w4a32-codebook": {"weight_bits": 4, "format": "codebook"},
    "w8a8-dynamic": {"weight_bits": 8, "activation_bits": 8, "dynamic": True},
    "w4a8-tensor-adaround": {
        "weight_bits": 4,
        "activation_bits": 8,
        "granularity": "tensor",
        "rounding": "adaround",
    },
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(32, 3, 12, 12)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("label", KINDS)
def test_a_plan_of_each_kind_becomes_a_file_that_runs(label: str, place: Path) -> None:
    plan = {"layers": {"*": KINDS[label]}, "equalize": True, "calibrator": "moving_average"}
    (place / "plan.json").write_text(json.dumps(plan))
    command = ["compress", "nets.py:net", "--plan", "plan.json", "--data", "npz:data.npz", "--out", "a.onnx"]
    assert run([*command, "--report", "r.json"]) == 0
    layers = json.loads((place / "r.json").read_text())["layers"]
    assert {layer["precision"] for layer in layers.values()} == {label}
    told = {layer["op_type"]: layer.get("fallback") for layer in layers.values()}
    reason = "MatMulNBits is for Linear layers, not Conv" if "block" in label else None
    assert told == {"Conv": reason, "Gemm": None}
    session = onnxruntime.InferenceSession("a.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: np.ones((2, 3, 12, 12), np.float32)})[0]
    assert found.shape == (2, 4) and np.isfinite(found).all()


def test_values_that_do_not_go_together_are_a_user_s_mistake(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "plan.json").write_text(json.dumps({"layers": {"*": {"weight_bits": 4, "dynamic": True}}}))
    assert run(["compress", "nets.py:net", "--plan", "plan.json", "--out", "a.onnx"]) == 2
    assert "`dynamic` needs 8-bit activations, but got activation_bits=32" in capsys.readouterr().err.replace("\n", " ")


def test_rounding_without_data_says_what_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = {"*": {"weight_bits": 4, "rounding": "adaround"}}
    (place / "plan.json").write_text(json.dumps({"layers": layers}))
    assert run(["compress", "nets.py:net", "--plan", "plan.json", "--out", "a.onnx"]) == 2
    assert "needs data: pass --data" in capsys.readouterr().err.replace("\n", " ")
