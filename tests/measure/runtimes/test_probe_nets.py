"""The tiny nets that the probe times."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest

from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe_nets import Variant, residual_net

VARIANTS: tuple[Variant, ...] = ("fp32", "fp16", "uint8", "int8")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_net_is_a_valid_model_of_fixed_shape(variant: Variant) -> None:
    model = onnx.load_from_string(residual_net(variant, channels=12, size=8))
    onnx.checker.check_model(model, full_check=True)
    artifact = OnnxRuntime().build(model.SerializeToString())
    assert artifact.input_specs[0].shape == (1, 12, 8, 8)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_every_variant_computes_the_same_net(variant: Variant) -> None:
    runtime = OnnxRuntime()
    x = np.random.default_rng(0).normal(size=(1, 8, 10, 10)).astype(np.float32)
    found, wanted = (runtime.build(residual_net(v, channels=8, size=10)).run((x,))[0] for v in (variant, "fp32"))
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted).mean()


@pytest.mark.parametrize(("variant", "kind"), [("uint8", np.uint8), ("int8", np.int8)])
def test_activations_are_of_the_type_asked_for(variant: Variant, kind: type) -> None:
    model = onnx.load_from_string(residual_net(variant, channels=8, size=8))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {arrays[name].dtype for name in points} == {np.dtype(kind)}
    assert {a.dtype for n, a in arrays.items() if n.endswith("_w_q")} == {np.dtype(np.int8)}


def test_there_is_a_shortcut_around_two_convolutions() -> None:
    counts = collections.Counter(node.op_type for node in onnx.load_from_string(residual_net("fp32")).graph.node)
    assert (counts["Conv"], counts["Add"]) == (3, 1)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert residual_net("int8") == residual_net("int8") != residual_net("int8", seed=1)
