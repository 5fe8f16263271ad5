"""A network that torch cannot run is searched and compressed all the same, without healing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress import api
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.request import SearchRequest, SilentObserver
from autocompress.core.trial import TrialState
from autocompress.pipeline import run_search

TEMPLATE = """
name: small
precisions: [fp32, int8]
ratios: {max_options: 3, min_kept: 0.25}
importance: [l1, taylor]
distillation: {steps: [0, 4], learning_rate: [0.02], temperature: [2.0], batch_size: [32]}
"""
REASON = "Cannot run operator If of node 'it': torch has no function for it"


class Listener(SilentObserver):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network that chooses at run time, data, and a small search space."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    node = helper.make_node
    branches = {
        name: helper.make_graph(
            [node(op, ["g"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )
        for name, op in (("then_branch", "Identity"), ("else_branch", "Neg"))
    }
    nodes = [
        node("Conv", ["x", "a.weight"], ["a"], name="a", pads=[1] * 4),
        node("Relu", ["a"], ["ra"]),
        node("Conv", ["ra", "b.weight"], ["b"], name="b", pads=[1] * 4),
        node("Relu", ["b"], ["rb"]),
        node("GlobalAveragePool", ["rb"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fc.weight"], ["g"], name="fc", transB=1),
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], name="it", **branches),
    ]
    shapes = {"a.weight": (32, 3, 3, 3), "b.weight": (32, 32, 3, 3), "fc.weight": (4, 32)}
    weights = {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(w, n) for n, w in {**weights, "zero": np.float32(-9)}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "net.onnx")
    (tmp_path / "small.yaml").write_text(TEMPLATE)
    x = rng.normal(size=(120, 3, 10, 10)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=rng.integers(0, 4, 120))
    return tmp_path


def test_compress_prunes_it_and_says_that_it_is_not_healed(place: Path) -> None:
    plan = CompressionPlan(prune={"*": 0.5}, distillation=DistillationPlan(steps=3))
    found: dict[str, Any] = api.compress("net.onnx", plan, data="npz:data.npz", out="small.onnx")
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith(f"Not healed: {REASON}")
    assert found["layers"]["b"]["weight_shape"] == [16, 16, 3, 3]


@pytest.mark.slow
def test_a_search_goes_on_without_healing(place: Path) -> None:
    listener = Listener()
    request = SearchRequest(
        model="net.onnx", data="npz:data.npz", target="local", space="small.yaml", trials=6, out=Path("run")
    )
    outcome = run_search(request, listener)
    assert any(message.startswith(f"Candidates are not healed: {REASON}") for message in listener.messages)
    assert {t.state for t in outcome.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(any(t.candidate.plan.prune.values()) for t in outcome.trials)
    assert {t.candidate.plan.importance for t in outcome.trials} == {"l1"}
