"""Estimates by fitted coefficients."""

from dataclasses import replace

import numpy as np
import pytest

from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import Precision
from autocompress.cost.calibrated_roofline import CalibratedPrices
from autocompress.cost.roofline import Roofline
from autocompress.cost.workload import workload
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.calibrations import calibration
from autocompress.hardware.profiles import load_target

FP16 = CompressionPlan(layers={"*": LayerPlan(weight_bits=16, activation_bits=16)})
INT8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
PI = load_target("raspberry-pi-4b")
TPU = load_target("coral-edgetpu")


def test_an_estimate_is_the_workload_times_the_coefficients(graph: ModelGraph) -> None:
    fit = calibration("raspberry-pi-4b", "ncnn", 4, "fp32")
    assert fit is not None
    found = Roofline(PI, PI.runtime("ncnn")).estimate(graph, CompressionPlan())
    amounts = np.array(list(workload(graph).values()))
    # The spec's kernels want multiples of 8, so the 10 outputs of the last layer cost as 16.
    assert found.value == pytest.approx(float(amounts @ np.array(fit.coefficients)), rel=0.01)


def test_an_estimate_carries_the_error_of_its_fit(graph: ModelGraph) -> None:
    found = Roofline(PI, PI.runtime("ncnn")).estimate(graph, CompressionPlan())
    assert found.details["estimator"] == "calibrated roofline"
    assert found.details["validated"] is True
    assert "each held out: median error" in found.fingerprint


def test_a_runtime_without_rows_keeps_the_plain_roofline_and_says_so(graph: ModelGraph) -> None:
    found = Roofline(PI, PI.runtime("onnxruntime")).estimate(graph, CompressionPlan())
    assert found.details["estimator"] == "roofline"
    assert "not validated" in found.fingerprint


def test_a_precision_without_rows_is_scaled_and_not_validated(graph: ModelGraph) -> None:
    nano = load_target("jetson-nano")
    found = Roofline(nano, nano.runtime("tensorrt")).estimate(graph, CompressionPlan())
    half = Roofline(nano, nano.runtime("tensorrt")).estimate(graph, FP16)
    assert found.details["validated"] is False
    assert "no published fp32 latencies were fitted" in found.fingerprint
    assert found.value > half.value


def test_integers_use_their_own_fit(graph: ModelGraph) -> None:
    prices = CalibratedPrices(PI, PI.runtime("tflite"))
    fit = prices.fit_of(Precision.INT8)
    assert fit is not None
    assert fit.precision == "int8"
    assert Roofline(PI, PI.runtime("tflite")).estimate(graph, INT8).details["validated"] is True


def test_weights_past_the_chip_are_streamed_every_inference(graph: ModelGraph) -> None:
    small = Roofline(TPU, TPU.runtime()).estimate(graph, INT8)
    assert "streamed_weights_ms" not in small.details
    roofline = Roofline(TPU, TPU.runtime())
    operations = roofline.estimate_layers(graph, INT8)
    big = [replace(operations[0], weight_bytes=143e6)]
    assert roofline._streamed_ms(big) == pytest.approx((143e6 - 8 * 2**20) / 0.38e6, rel=1e-6)
