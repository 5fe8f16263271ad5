"""A linear model that counts what it is asked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.core.protocols import Artifact, Batch


class LinearArtifact:
    """``x @ weight``."""

    size_bytes = 100

    def __init__(self, weight: NDArray[Any]) -> None:
        self.weight = weight
        self.batches: list[int] = []

    def run(self, inputs: Batch) -> list[NDArray[Any]]:
        self.batches.append(len(inputs[0]))
        return [inputs[0] @ self.weight]


class LinearRuntime:
    """Runs linear artifacts; cannot time them."""

    name = "linear"

    def describe(self) -> Mapping[str, Any]:
        return {"name": "linear", "version": "1", "fingerprint": "abacus"}

    def build(self, graph: Any) -> LinearArtifact:
        return LinearArtifact(graph)

    def time(self, candidate: Artifact, reference: Artifact, policy: TimingPolicy) -> PairedTiming:
        raise CandidateError("latency", "an abacus keeps no time")


@pytest.fixture
def runtime() -> LinearRuntime:
    return LinearRuntime()


@pytest.fixture
def weight() -> NDArray[Any]:
    return np.random.default_rng(7).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def inputs() -> NDArray[Any]:
    return np.random.default_rng(8).normal(size=(250, 6)).astype(np.float32)
