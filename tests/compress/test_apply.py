"""From a plan to the artifact's graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autocompress.compress.apply import Compressor, compress
from autocompress.compress.calibrate import calibrate
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.data import DataBundle
from autocompress.graph.model_graph import ModelGraph

INT8 = LayerPlan(weight_bits=8, activation_bits=8)
ALL_INT8 = CompressionPlan(layers={"*": INT8})
Run = Callable[[ModelGraph, Any], Any]


class Counted:
    """Samples that count how often they are read."""

    labelled = False

    def __init__(self, data: Any) -> None:
        self._data, self.name, self.reads = data, data.name, 0

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, indices: Any) -> Any:
        self.reads += 1
        return self._data.batch(indices)


@pytest.fixture
def data(small_data: Any) -> Counted:
    return Counted(small_data)


@pytest.fixture
def compressor(small: ModelGraph, data: Counted) -> Compressor:
    return Compressor(small, dataset=data)


def test_nothing_to_prune_gives_the_graph_itself(compressor: Compressor, small: ModelGraph) -> None:
    assert compressor.pruned(ALL_INT8) is small


def test_nothing_to_quantize_folds_only(demo: ModelGraph) -> None:
    made = compress(demo, CompressionPlan())
    assert "BatchNormalization" not in {node.op_type for node in made.model.graph}
    assert {array.dtype for array in made.initializers.values()} <= {np.dtype(np.float32), np.dtype(np.int64)}


def test_data_are_read_once_for_all_plans(compressor: Compressor, small: ModelGraph, data: Counted) -> None:
    compressor.finish(small, ALL_INT8)
    reads = data.reads
    compressor.finish(small, ALL_INT8)
    compressor.finish(small, CompressionPlan(layers={"a": INT8}))
    assert data.reads == reads


def test_a_graph_with_the_same_weights_is_calibrated_once(
    compressor: Compressor, small: ModelGraph, data: Counted
) -> None:
    compressor.finish(small, ALL_INT8)
    reads = data.reads
    compressor.finish(small.clone(), ALL_INT8)
    assert data.reads == reads


def test_a_calibrator_that_needs_more_gets_another_pass(
    compressor: Compressor, small: ModelGraph, data: Counted
) -> None:
    compressor.finish(small, ALL_INT8)
    reads = data.reads
    compressor.finish(small, ALL_INT8.replace(calibrator="mse"))
    compressor.finish(small, ALL_INT8.replace(calibrator="entropy"))
    compressor.finish(small, ALL_INT8)
    assert data.reads == 2 * reads


def test_weights_are_quantized_once(small: ModelGraph, small_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = Compressor(small, dataset=small_data)
    first = compressor.finish(small, ALL_INT8)
    second = compressor.finish(small, CompressionPlan(layers={"a": INT8}))
    assert first.initializers["a.weight_q8"] is second.initializers["a.weight_q8"]


def test_a_draft_reads_no_data_for_a_pruned_graph(compressor: Compressor, small: ModelGraph, data: Counted) -> None:
    compressor.finish(small, ALL_INT8)
    reads = data.reads
    healed = small.with_initializers({"a.weight": small.initializers["a.weight"] * np.float32(3)})
    draft = compressor.finish(healed, ALL_INT8, draft=True)
    assert data.reads == reads
    final = compressor.finish(healed, ALL_INT8)
    assert [node.op_type for node in draft.model.graph] == [node.op_type for node in final.model.graph]
    assert draft.size_bytes() == final.size_bytes()


def test_integers_follow_the_healed_weights(compressor: Compressor, small: ModelGraph) -> None:
    healed = small.with_initializers({"a.weight": small.initializers["a.weight"] * np.float32(3)})
    made = compressor.finish(healed, ALL_INT8)
    np.testing.assert_allclose(
        made.initializers["a.weight_scale"],
        3 * compressor.finish(small, ALL_INT8).initializers["a.weight_scale"],
        rtol=1e-5,
    )


def test_integer_compute_without_data_says_what_to_do(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="Activation ranges need data: pass --data, or use activation_bits 32"):
        compress(small, ALL_INT8)


def test_weight_only_plans_need_no_data(small: ModelGraph, images: Any, run_graph: Run) -> None:
    made = compress(small, CompressionPlan(layers={"*": LayerPlan(weight_bits=8)}))
    np.testing.assert_allclose(run_graph(made, images), run_graph(small, images), atol=0.05)


def test_ranges_can_be_given(small: ModelGraph, small_data: Any) -> None:
    given = calibrate(small, small_data)
    assert (
        compress(small, ALL_INT8, calibration=given).to_bytes()
        == compress(small, ALL_INT8, dataset=small_data).to_bytes()
    )


def test_an_unknown_name_is_refused(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="unknown layer 'aa'"):
        compress(small, CompressionPlan(layers={"aa": LayerPlan(weight_bits=8)}))
    with pytest.raises(PlanError, match=r"prune group 'aa'|group 'aa'"):
        compress(small, CompressionPlan(prune={"aa": 0.5}))


def test_pruning_comes_before_quantizing(demo: ModelGraph, demo_data: DataBundle, run_graph: Run) -> None:
    plan = CompressionPlan(layers={"*": INT8}, prune={"layer1.0.conv1": 0.5})
    compressor = Compressor(demo, dataset=demo_data.train)
    pruned = compressor.pruned(plan)
    assert compressor.pruned(plan) is pruned
    assert pruned.initializers["layer1.0.conv1.weight"].shape == (8, 16, 3, 3)
    assert list(compressor.kept(plan)) == ["layer1.0.conv1"]
    made = compressor.finish(pruned, plan)
    assert made.initializers["layer1.0.conv1.weight_q8"].shape == (8, 16, 3, 3)
    (x,), _ = demo_data.validation.batch(range(200))
    agreement = (run_graph(made, x).argmax(1) == run_graph(pruned, x).argmax(1)).mean()
    assert agreement > 0.94


def test_a_healed_graph_is_what_is_quantized(small: ModelGraph, small_data: Any) -> None:
    healed = small.with_initializers({"fc.bias": small.initializers["fc.bias"] + np.float32(1)})
    made = compress(small, CompressionPlan(layers={"a": INT8}), dataset=small_data, healed=healed)
    np.testing.assert_array_equal(made.initializers["fc.bias"], healed.initializers["fc.bias"])


def test_the_same_plan_gives_the_same_bytes(demo: ModelGraph, demo_data: DataBundle) -> None:
    plan = CompressionPlan(layers={"*": INT8}, prune={"layer2.0.conv1": 0.25}, importance="random")
    made = [compress(demo, plan, dataset=demo_data.train, calibration=None, seed=3).to_bytes() for _ in range(2)]
    assert made[0] == made[1]


PRUNED_INT8 = CompressionPlan(layers={"*": INT8}, prune={"*": 0.5})


def test_what_was_read_of_the_pruned_graph_does_not_change_the_artifact(
    demo: ModelGraph, demo_data: DataBundle
) -> None:
    compressor = Compressor(demo, dataset=demo_data.train)
    before = compressor.finish(compressor.pruned(PRUNED_INT8), PRUNED_INT8, draft=True).to_bytes()
    compressor.pruned(PRUNED_INT8).to_bytes()
    assert compressor.finish(compressor.pruned(PRUNED_INT8), PRUNED_INT8, draft=True).to_bytes() == before


@pytest.mark.parametrize("remembered", [False, True])
def test_drafts_leave_the_graph_they_are_made_of(demo: ModelGraph, demo_data: DataBundle, remembered: bool) -> None:
    """The folded graph becomes the artifact where nothing else holds it, and is copied where something does."""
    compressor = Compressor(demo, dataset=demo_data.train)
    pruned = compressor.pruned(PRUNED_INT8)
    before = pruned.to_bytes()
    if remembered:
        folded = compressor.folded(pruned)
        unchanged = folded.to_bytes()
    first, second = (compressor.finish(pruned, PRUNED_INT8, draft=True).to_bytes() for _ in range(2))
    assert first == second
    assert pruned.to_bytes() == before
    if remembered:
        assert compressor.folded(pruned) is folded
        assert folded.to_bytes() == unchanged
    other = Compressor(demo, dataset=demo_data.train)
    other.folded(other.pruned(PRUNED_INT8))
    assert other.finish(other.pruned(PRUNED_INT8), PRUNED_INT8, draft=True).to_bytes() == first


def test_a_draft_that_has_no_ranges_begins_anew(
    small: ModelGraph, small_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the uncompressed graph's ranges do not fit, what was changed on the way there is not gone on with."""
    compressor = Compressor(small, dataset=small_data)
    expected = compressor.finish(small.clone(), ALL_INT8).to_bytes()
    graph, calibration = small.clone(), compressor.calibration

    class Unfit:
        def range(self, value: str, method: str = "minmax") -> tuple[float, float]:
            raise UnknownNameError("value", value, ())

        def means(self, value: str) -> None:
            return None

    def calibrated(float_graph: ModelGraph, calibrator: str = "minmax") -> Any:
        return Unfit() if float_graph is small else calibration(float_graph, calibrator)

    monkeypatch.setattr(compressor, "calibration", calibrated)
    assert compressor.finish(graph, ALL_INT8, draft=True).to_bytes() == expected
