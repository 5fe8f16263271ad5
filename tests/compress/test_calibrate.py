"""Ranges of activations from one pass over data."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from autocompress.compress import calibrate as module
from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.core.errors import CandidateError, DataError, UnknownNameError
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph


class Unchecked:
    """Samples that nobody has looked at."""

    name, labelled = "unchecked", False

    def __init__(self, x: Any) -> None:
        self._x = x

    def __len__(self) -> int:
        return len(self._x)

    def batch(self, indices: Any) -> tuple[tuple[Any, ...], None]:
        return (self._x[indices],), None


def activations(graph: ModelGraph, names: list[str], x: Any) -> list[Any]:
    copy = graph.clone()
    known = set(copy.output_names)
    copy.model.graph.outputs.extend(copy.values[name] for name in names if name not in known)
    session = onnxruntime.InferenceSession(ModelGraph(copy.model).to_bytes(), providers=["CPUExecutionProvider"])
    return list(session.run(names, {"x": x}))


def test_minmax_is_numpys_over_the_samples(small: ModelGraph, small_calibration: Calibration, images: Any) -> None:
    names = ["a_relu", "sum", "b_relu", "pool", "fc"]
    for name, array in zip(names, activations(small, names, images), strict=True):
        if name in small_calibration:
            low, high = small_calibration.range(name)
            np.testing.assert_allclose((low, high), (min(0, array.min()), max(0, array.max())), rtol=1e-5)


def test_the_graphs_inputs_are_observed(small_calibration: Calibration, images: Any) -> None:
    assert small_calibration.range("x") == (images.min(), images.max())


def test_what_lies_inside_a_fused_pattern_is_not_observed(small_calibration: Calibration) -> None:
    assert "a" not in small_calibration
    assert "a_relu" in small_calibration


def test_another_layout_has_the_range_of_its_source(small_calibration: Calibration) -> None:
    assert small_calibration.range("flat") == small_calibration.range("pool")


def test_every_method_lies_within_the_extremes(small_calibration: Calibration) -> None:
    for name in small_calibration:
        low, high = small_calibration.range(name, "minmax")
        for method in ("percentile", "mse", "entropy"):
            found = small_calibration.range(name, method)
            assert low <= found[0] <= 0 <= found[1] <= high


@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_the_batch_size_changes_nothing(
    batch_size: int, small: ModelGraph, small_data: ArrayDataset, small_calibration: Calibration
) -> None:
    other = calibrate(small, small_data, batch_size=batch_size)
    for name in small_calibration:
        np.testing.assert_allclose(other.range(name), small_calibration.range(name), rtol=1e-5)


def test_a_batch_is_cut_down_to_what_memory_allows(
    small: ModelGraph, small_data: ArrayDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Watched(ArrayDataset):
        def batch(self, indices: Any) -> Any:
            sizes.append(len(indices))
            return super().batch(indices)

    monkeypatch.setattr(module, "BATCH_BYTES", 100_000)
    calibrate(small, Watched(list(small_data.batch(range(48))[0])))
    assert max(sizes) < 32
    assert sum(sizes) == 48


def test_no_more_samples_than_asked_for_are_used(small: ModelGraph, small_data: ArrayDataset) -> None:
    assert calibrate(small, small_data, samples=10).samples == 10


def test_names_are_those_of_the_folded_graph(demo: ModelGraph, demo_calibration: Calibration, demo_data: Any) -> None:
    unfolded = calibrate(demo, demo_data.train)
    assert list(unfolded) == list(demo_calibration)
    for name in demo_calibration:
        assert unfolded.range(name, "mse") == demo_calibration.range(name, "mse")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_a_bad_input_is_named(value: float, word: str, small: ModelGraph, images: Any) -> None:
    broken = images.copy()
    broken[3, 0, 0, 0] = value
    with pytest.raises(CandidateError, match=f"activation 'x' is {word}"):
        calibrate(small, Unchecked(broken))


def test_a_bad_activation_is_named(net: Any, small_data: ArrayDataset) -> None:
    made = net(3, 8, 8)
    made.node("Log", ["x"], "log")
    graph = made.graph(made.conv("log", "y", 4, 3))
    with pytest.raises(CandidateError, match="activation 'log' is NaN"):
        calibrate(graph, small_data)


def test_no_data_is_refused(small: ModelGraph) -> None:
    with pytest.raises(DataError, match="empty"):
        calibrate(small, Unchecked(np.zeros((0, 3, 8, 8), np.float32)))


def test_a_fixed_batch_is_kept_to(small: ModelGraph, small_data: ArrayDataset) -> None:
    copy = small.clone()
    copy.model.graph.inputs[0].shape = ir.Shape((9, 3, 8, 8))
    assert calibrate(ModelGraph(copy.model), small_data, samples=40).samples == 36


def test_too_little_data_for_a_fixed_batch_is_refused(small: ModelGraph, small_data: ArrayDataset) -> None:
    copy = small.clone()
    copy.model.graph.inputs[0].shape = ir.Shape((64, 3, 8, 8))
    with pytest.raises(DataError, match="batches of 64"):
        calibrate(ModelGraph(copy.model), small_data)


def test_extremes_alone_give_minmax_only(small: ModelGraph, small_data: ArrayDataset, images: Any) -> None:
    found = calibrate(small, small_data, histograms=False)
    assert found.range("x") == (images.min(), images.max())
    with pytest.raises(CandidateError, match="needs histograms"):
        found.range("x", "mse")


def test_unknown_names_list_the_known(small_calibration: Calibration) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'a_relu'"):
        small_calibration.range("a_rel")
    with pytest.raises(UnknownNameError, match="calibrator 'max'"):
        small_calibration.range("x", "max")
