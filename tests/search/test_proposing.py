"""Who proposes after the recipes."""

from __future__ import annotations

import pytest

from autocompress.core.errors import UnknownNameError
from autocompress.core.objective import Objective
from autocompress.core.protocols import TrialStore
from autocompress.hardware.profiles import load_target
from autocompress.loading import load_graph
from autocompress.search.frontier import Frontier
from autocompress.search.promotion import Promotion
from autocompress.search.proposing import proposer_of
from autocompress.search.samplers.study_sampler import StudySampler
from autocompress.search.space_builder import build_space, load_template

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))


class Empty:
    def append(self, trial: object) -> None:
        raise AssertionError(trial)

    def trials(self) -> tuple[()]:
        return ()


def _proposer(sampler: str) -> Promotion:
    graph = load_graph("demo")
    store: TrialStore = Empty()
    found = proposer_of(
        sampler,
        space=build_space(graph, load_target("x86-avx2").runtime(), load_template("default")),
        graph=graph,
        estimates={"latency_ms": lambda plan: 1.0},
        sensitivities={},
        store=store,
        objectives=OBJECTIVES,
    )
    assert isinstance(found, Promotion)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_samplers_take_turns_with_changed_points_of_the_front(sampler: str) -> None:
    assert isinstance(_proposer(sampler)._inner, Frontier)


def test_chance_stays_alone() -> None:
    assert isinstance(_proposer("random")._inner, StudySampler)


def test_an_unknown_sampler_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="tpe"):
        _proposer("tpr")
