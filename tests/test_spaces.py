"""Searches of the demo in the larger spaces, to the end: what the front keeps loads and gives what is stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from autocompress.core.request import SearchRequest
from autocompress.core.trial import TrialState
from autocompress.evaluate.data import load_data
from autocompress.pipeline import run_search


#: As many trials as baselines and a candidate or two to heal: `thorough` heals one for 1,000 steps.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("space", "trials"), [("size", 4), ("thorough", 3)])
def test_every_artifact_of_the_front_runs_with_the_stated_accuracy_and_size(
    space: str, trials: int, tmp_path: Path
) -> None:
    objectives = ("accuracy", "latency_ms", "size_bytes")
    out = tmp_path / "run"
    request = SearchRequest(
        model="demo", data="demo", target="local", space=space, trials=trials, objectives=objectives, out=out
    )
    outcome = run_search(request)
    assert len(outcome.trials) >= trials
    assert not [trial.error for trial in outcome.trials if trial.state is TrialState.FAIL]
    assert any(trial.candidate.plan.restructures for trial in outcome.trials)
    data = load_data("demo").validation
    (images,), labels = data.batch(np.arange(len(data)))
    assert outcome.front.trials
    for trial in outcome.front.trials:
        path = out / "front" / str(trial.number) / "model.onnx"
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1)
        assert trial.value("accuracy") == pytest.approx(float((answers == labels).mean()), abs=1e-9)
        assert trial.value("size_bytes") == path.stat().st_size
