"""Kept entries are told as the user's file lays its weights out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress import api
from autocompress.core.plan import CompressionPlan
from autocompress.graph.source_layout import kept_in_file

RNG = np.random.default_rng(0)
node = helper.make_node


def _save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]]) -> Path:
    """A model of ``x`` of shape ``(n, 12)`` to ``y`` of shape ``(n, 4)``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


VIEWS = {
    "as it is": ([], (12, 16)),
    "transposed": ([node("Transpose", ["w"], ["v"], perm=[1, 0])], (16, 12)),
    "reshaped": ([node("Reshape", ["w", "sizes"], ["v"])], (1, 12, 16)),
    "both": ([node("Reshape", ["w", "sizes"], ["u"]), node("Transpose", ["u"], ["v"], perm=[1, 0])], (16, 3, 4)),
}


@pytest.mark.parametrize("case", VIEWS)
def test_slicing_the_file_as_reported_gives_the_compressed_model(case: str, tmp_path: Path) -> None:
    views, shape = VIEWS[case]
    sizes = np.array([16, -1] if case == "both" else [-1, 16])
    layers = [
        *views,
        node("MatMul", ["x", "v" if views else "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "last"], ["y"], transB=1),
    ]
    weights: dict[str, NDArray[np.generic]] = {"w": _normal(*shape), "last": _normal(4, 16)}
    file = _save(tmp_path / "a.onnx", layers, {**weights, "sizes": sizes})
    result = api.compress(str(file), CompressionPlan(prune={"*": 0.5}), out=tmp_path / "b.onnx")
    for name, axes in result["kept"].items():
        for axis, kept in axes.items():
            weights[name] = weights[name].take(kept, axis=int(axis))
    assert "w" in result["kept"]
    sliced = _save(tmp_path / "c.onnx", layers, {**weights, "sizes": np.array([8, -1] if case == "both" else [-1, 8])})
    x = _normal(5, 12)
    compressed, by_hand = (ort.InferenceSession(p).run(None, {"x": x})[0] for p in (tmp_path / "b.onnx", sliced))
    np.testing.assert_allclose(compressed, by_hand, rtol=1e-5, atol=1e-5)


def test_copies_of_a_shared_initializer_stand_under_it(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["b"], ["copy"]),
        node("Gemm", ["x", "w", "b"], ["h"]),
        node("Gemm", ["x", "w2", "copy"], ["y"]),
    ]
    file = _save(tmp_path / "a.onnx", nodes, {"w": _normal(12, 4), "w2": _normal(12, 4), "b": _normal(4)})
    kept = {"b": {0: [1, 2]}, "copy": {0: [1, 2]}, "w": {1: [1, 2]}}
    assert kept_in_file(file, kept) == {"b": {0: [1, 2]}, "w": {1: [1, 2]}}
    assert kept_in_file(file, {"copy": {0: [0]}}) == {"b": {0: [0]}}


def test_what_is_no_choice_along_axes_is_left_out(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["w", "sizes"], ["v"]), node("MatMul", ["x", "v"], ["y"])]
    file = _save(tmp_path / "a.onnx", nodes, {"w": _normal(12, 2, 2), "sizes": np.array([12, 4])})
    assert kept_in_file(file, {"w": {1: [0, 3]}}) == {}
    assert kept_in_file(file, {"w": {1: [0, 2]}}) == {"w": {2: [0]}}
