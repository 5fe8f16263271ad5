"""Quality of an artifact over a data set."""

from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import CandidateError, DataError
from autocompress.core.measurement import Provenance
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.datasets import ArrayDataset


@pytest.fixture
def labelled(inputs: Any, weight: Any) -> ArrayDataset:
    labels = (inputs @ weight).argmax(1)
    labels[:50] = (labels[:50] + 1) % 4
    return ArrayDataset([inputs], labels, name="toy")


def test_accuracy_is_the_share_of_hits_with_its_provenance(runtime: Any, labelled: ArrayDataset, weight: Any) -> None:
    found = QualityEvaluator(runtime, labelled).score(runtime.build(weight))
    assert (found.metric, found.value, found.provenance) == ("accuracy", pytest.approx(0.8), Provenance.MEASURED)
    assert (found.runtime, found.fingerprint, found.details["n"]) == ("linear 1", "abacus", 250)
    assert found.interval is not None
    assert found.interval.low < 0.8 < found.interval.high


def test_samples_are_the_means_of_chunks(runtime: Any, labelled: ArrayDataset, weight: Any) -> None:
    found = QualityEvaluator(runtime, labelled).score(runtime.build(weight))
    assert len(found.samples) == 20
    assert np.mean(found.samples) == pytest.approx(found.value, abs=0.02)


def test_it_runs_in_batches_and_a_small_sample_stops_early(runtime: Any, labelled: ArrayDataset, weight: Any) -> None:
    artifact = runtime.build(weight)
    evaluator = QualityEvaluator(runtime, labelled)
    assert evaluator.score(artifact, samples=130).details["n"] == 130
    assert artifact.batches == [100, 30]
    whole = evaluator.score(artifact, samples=9999)
    assert artifact.batches == [100, 30, 100, 50], "the first batch was run before"
    assert whole.value == QualityEvaluator(runtime, labelled).score(runtime.build(weight)).value


def test_a_small_sample_is_not_the_head_of_the_data(runtime: Any, labelled: ArrayDataset, weight: Any) -> None:
    assert QualityEvaluator(runtime, labelled).score(runtime.build(weight), samples=50).value > 0.6


def test_unlabelled_data_score_fidelity_and_run_the_reference_once(runtime: Any, inputs: Any, weight: Any) -> None:
    reference = runtime.build(weight)
    evaluator = QualityEvaluator(runtime, ArrayDataset([inputs]), reference)
    assert evaluator.score(runtime.build(weight)).value == 1.0
    noisy = evaluator.score(runtime.build(weight + 0.5 * np.eye(6, 4, dtype=np.float32)))
    assert noisy.metric == "fidelity"
    assert 0.3 < noisy.value < 1.0
    evaluator.score(runtime.build(weight), samples=120)
    assert sum(reference.batches) == 250


def test_a_longer_sample_after_a_shorter_one_asks_the_reference_again(runtime: Any, inputs: Any, weight: Any) -> None:
    evaluator = QualityEvaluator(runtime, ArrayDataset([inputs]), runtime.build(weight))
    assert [evaluator.score(runtime.build(weight), samples=n).value for n in (30, 80, None)] == [1.0, 1.0, 1.0]


def test_unlabelled_data_need_a_reference(runtime: Any, inputs: Any) -> None:
    with pytest.raises(DataError, match="no labels"):
        QualityEvaluator(runtime, ArrayDataset([inputs]))


def test_nan_outputs_fail_the_candidate(runtime: Any, labelled: ArrayDataset, weight: Any) -> None:
    with pytest.raises(CandidateError, match=r"accuracy: output 0 has .* NaN"):
        QualityEvaluator(runtime, labelled).score(runtime.build(weight * np.nan))


def test_a_label_that_no_logit_stands_for_is_the_users_mistake(runtime: Any, inputs: Any, weight: Any) -> None:
    dataset = ArrayDataset([inputs], np.full(len(inputs), 9))
    with pytest.raises(DataError, match="label 9, but the model has 4 classes"):
        QualityEvaluator(runtime, dataset).score(runtime.build(weight))
