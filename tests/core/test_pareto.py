"""Dominance and hypervolume against independent computations; picking from a front."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autocompress.core.errors import UnknownNameError, UserError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import Objective
from autocompress.core.pareto import ParetoFront, hypervolume, non_dominated_mask
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Candidate, Trial, TrialState

POINTS = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 6).map(float))


@given(POINTS)
def test_mask_marks_exactly_the_points_nobody_dominates(points: np.ndarray) -> None:
    mask = non_dominated_mask(points)
    for i, p in enumerate(points):
        dominated = any(all(q <= p) and any(q < p) for q in points)
        assert mask[i] == (not dominated)


def test_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        non_dominated_mask(np.array([[0.0, np.nan]]))


@settings(deadline=None)
@given(POINTS)
def test_hypervolume_counts_the_dominated_grid_cells(points: np.ndarray) -> None:
    """On integer points the volume is the number of unit cells below the reference that some point dominates."""
    dims = points.shape[1]
    cells = np.stack(np.meshgrid(*[np.arange(7)] * dims, indexing="ij"), -1).reshape(-1, dims)
    covered = (points[None] <= cells[:, None]).all(2).any(1).sum()
    assert hypervolume(points, np.full(dims, 7.0)) == pytest.approx(covered)


def trial(number: int, accuracy: float, latency: float, provenance: Provenance = Provenance.MEASURED) -> Trial:
    def item(metric: str, value: float, unit: str) -> Measurement:
        return Measurement(metric=metric, value=value, unit=unit, provenance=provenance, samples=(value,))

    return Trial(
        number=number,
        candidate=Candidate(plan=CompressionPlan(), source="test"),
        state=TrialState.COMPLETE,
        measurements={"accuracy": item("accuracy", accuracy, "1"), "latency_ms": item("latency_ms", latency, "ms")},
    )


OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))


def front() -> ParetoFront:
    trials = [trial(0, 0.95, 1.0), trial(1, 0.94, 0.5), trial(2, 0.90, 0.3), trial(3, 0.90, 0.6)]
    return ParetoFront.of(trials, OBJECTIVES)


def test_front_keeps_the_non_dominated_trials() -> None:
    assert sorted(t.number for t in front().trials) == [0, 1, 2]


def test_of_equal_trials_one_is_kept() -> None:
    assert len(ParetoFront.of([trial(0, 0.9, 1.0), trial(1, 0.9, 1.0)], OBJECTIVES).trials) == 1


def test_mixed_provenance_is_refused() -> None:
    with pytest.raises(ValueError, match="measured in some"):
        ParetoFront.of([trial(0, 0.9, 1.0), trial(1, 0.8, 0.5, Provenance.ESTIMATED)], OBJECTIVES)


@pytest.mark.parametrize(
    ("expression", "number"),
    [
        ("latency_ms<0.6", 1),
        ("latency_ms < 0.6 and accuracy >= 0.9", 1),
        ("accuracy>=0.93", 1),
        ("2", 2),
        ("#0", 0),
        ("fastest", 2),
        ("best", 0),
    ],
)
def test_pick(expression: str, number: int) -> None:
    assert front().pick(expression).number == number


def test_pick_names_the_nearest_miss() -> None:
    with pytest.raises(UserError, match=r"nearest is trial 2 with latency_ms = 0\.3"):
        front().pick("latency_ms<0.1")


@pytest.mark.parametrize("expression", ["latency<5", "latency_ms<<5", "__import__('os')", ""])
def test_pick_refuses_what_it_cannot_read(expression: str) -> None:
    with pytest.raises(UserError):
        front().pick(expression)


def test_pick_of_an_unknown_number_lists_the_front() -> None:
    with pytest.raises(UnknownNameError, match="Known: "):
        front().pick("17")


def test_front_hypervolume_takes_natural_directions() -> None:
    assert ParetoFront.of([trial(0, 0.9, 0.5)], OBJECTIVES).hypervolume((0.0, 1.0)) == pytest.approx(0.45)
