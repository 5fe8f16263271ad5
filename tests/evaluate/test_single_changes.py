"""Artifacts of plans that change one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.apply import Compressor
from autocompress.core.errors import CandidateError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.space import Choice
from autocompress.evaluate.data import load_data
from autocompress.evaluate.metrics import kl_divergence
from autocompress.evaluate.single_changes import SingleChanges
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing

RUNTIME = OnnxRuntime(threads=2)
BLOCK = "layer1.1"
CHOICES = (
    Choice(name=f"skip:{BLOCK}", kind="skip", subject=BLOCK, options=(0, 1)),
    Choice(name="ratio:layer3.2.conv1", kind="ratio", subject="layer3.2.conv1", options=(0.0, 0.5), ordered=True),
    Choice(name="precision:fc", kind="precision", subject="fc", options=("fp32", "int8")),
)
PLAN = CompressionPlan(skip=(BLOCK,))


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return load_graph("demo")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    (found,), _ = load_data("demo").validation.batch(range(128))
    return np.asarray(found)


@pytest.fixture(scope="module")
def compressor(graph: ModelGraph) -> Compressor:
    return Compressor(graph, dataset=load_data("demo").train)


@pytest.fixture
def healing(graph: ModelGraph, compressor: Compressor) -> StagedHealing:
    return StagedHealing(graph, load_data("demo").train, refit_samples=32, kept=compressor.kept_values)


def _ticking(*seconds: float) -> Callable[[], float]:
    times: Iterator[float] = iter(seconds)
    return lambda: next(times)


def _divergence(graph: ModelGraph, changes: SingleChanges, plan: CompressionPlan, x: NDArray[np.float32]) -> float:
    return kl_divergence(changes(plan).run((x,)), RUNTIME.build(graph).run((x,)))


def test_what_is_left_out_is_made_up_for(
    graph: ModelGraph, compressor: Compressor, healing: StagedHealing, images: NDArray[np.float32]
) -> None:
    refitted = SingleChanges(compressor, RUNTIME.build, healing)
    assert refitted.settle(CHOICES, 60.0)
    raw = SingleChanges(compressor, RUNTIME.build, None)
    assert not raw.settle(CHOICES, 60.0)
    after, before = (_divergence(graph, changes, PLAN, images) for changes in (refitted, raw))
    assert after < 0.3 * before


def test_other_changes_are_built_as_they_are(
    graph: ModelGraph, compressor: Compressor, healing: StagedHealing, images: NDArray[np.float32]
) -> None:
    plan = CompressionPlan(layers={"fc": LayerPlan(weight_bits=8, activation_bits=8)})
    refitted, raw = (SingleChanges(compressor, RUNTIME.build, way) for way in (healing, None))
    assert _divergence(graph, refitted, plan, images) == _divergence(graph, raw, plan, images)


def test_all_or_nothing_is_refitted(
    graph: ModelGraph, compressor: Compressor, healing: StagedHealing, images: NDArray[np.float32]
) -> None:
    changes = SingleChanges(compressor, RUNTIME.build, healing)
    assert not changes.settle(CHOICES, 9.0, _ticking(100.0, 105.0)), "two options would take 10 s"
    raw = SingleChanges(compressor, RUNTIME.build, None)
    assert _divergence(graph, changes, PLAN, images) == _divergence(graph, raw, PLAN, images)
    assert SingleChanges(compressor, RUNTIME.build, healing).settle(CHOICES, 11.0, _ticking(100.0, 105.0))


def test_what_cannot_be_refitted_is_taken_as_it_is(compressor: Compressor) -> None:
    class Broken:
        def heal(self, pruned: ModelGraph, plan: CompressionPlan, share: float) -> ModelGraph:
            raise CandidateError("heal", "values are not finite")

    assert not SingleChanges(compressor, RUNTIME.build, Broken()).settle(CHOICES, 60.0)
    unused: Any = Broken()
    assert not SingleChanges(compressor, RUNTIME.build, unused).settle(CHOICES[2:], 60.0)
