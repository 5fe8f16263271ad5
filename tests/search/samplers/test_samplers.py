"""One contract, every sampler."""

from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest

from autocompress.core.errors import UnknownNameError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import METRICS, Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.samplers import SAMPLERS, make_sampler

N_GROUPS = 8
RATIOS = (0.0, 0.25, 0.5, 0.75)
SPACE = SearchSpace(
    choices=(
        *(
            Choice(name=f"ratio:g{i}", kind="ratio", subject=f"g{i}", options=RATIOS, ordered=True)
            for i in range(N_GROUPS)
        ),
        Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8")),
        Choice(name="importance", kind="importance", subject="importance", options=("l1", "l2")),
    )
)
OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
Outcome = Callable[[Candidate], dict[str, float]]


class MemoryStore:
    """A store that lives in a list."""

    def __init__(self) -> None:
        self.items: list[Trial] = []

    def append(self, trial: Trial) -> None:
        self.items.append(trial)

    def trials(self) -> Sequence[Trial]:
        return tuple(self.items)


def pruning_pays(candidate: Candidate) -> dict[str, float]:
    """Every group pruned makes the model better and faster: whoever learns prunes more."""
    ratios = [candidate.plan.ratio(f"g{i}") for i in range(N_GROUPS)]
    return {"accuracy": 0.5 + 0.5 * float(np.mean(ratios)), "latency_ms": 10.0 - 8.0 * float(np.mean(ratios))}


def finish(
    number: int, candidate: Candidate, figures: dict[str, float], state: TrialState = TrialState.COMPLETE
) -> Trial:
    measurements = {
        name: Measurement(
            metric=name,
            value=value,
            unit=METRICS[name.removeprefix("quick_")][0],
            provenance=Provenance.MEASURED,
            samples=(value,),
        )
        for name, value in figures.items()
    }
    error = None if state is TrialState.COMPLETE else "stopped"
    return Trial(number=number, candidate=candidate, state=state, measurements=measurements, error=error)


def seeds() -> list[Candidate]:
    result = []
    for precision in ("fp32", "int8"):
        for ratio in RATIOS[:-1]:
            assignment = {c.name: ratio if c.kind == "ratio" else c.options[0] for c in SPACE.choices}
            assignment["precision:a"] = precision
            result.append(Candidate(plan=SPACE.plan(assignment), source="recipe", assignment=assignment))
    return result


def seeded_store(outcome: Outcome = pruning_pays) -> MemoryStore:
    store = MemoryStore()
    for candidate in seeds():
        store.append(finish(len(store.items), candidate, outcome(candidate)))
    return store


def search(
    name: str,
    store: MemoryStore,
    n: int,
    outcome: Outcome = pruning_pays,
    objectives: Sequence[Objective] = OBJECTIVES,
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
) -> list[Candidate]:
    sampler = make_sampler(name, SPACE, store, objectives, constraints, seed)
    proposed = []
    for _ in range(n):
        candidate = sampler.ask()
        assert candidate is not None
        proposed.append(candidate)
        store.append(finish(len(store.items), candidate, outcome(candidate)))
    return proposed


def mean_ratio(candidates: Sequence[Candidate]) -> float:
    return float(np.mean([c.plan.ratio(f"g{i}") for c in candidates for i in range(N_GROUPS)]))


@pytest.fixture(params=SAMPLERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestContract:
    def test_a_proposal_is_a_whole_assignment_and_its_plan(self, name: str) -> None:
        (candidate,) = search(name, seeded_store(), 1)
        assert candidate.source == name
        assert set(candidate.assignment) == {c.name for c in SPACE.choices}
        assert all(candidate.assignment[c.name] in c.options for c in SPACE.choices)
        assert candidate.plan == SPACE.plan(candidate.assignment)

    def test_a_seed_decides_what_is_proposed(self, name: str) -> None:
        first, again, other = (
            [c.plan.digest for c in search(name, seeded_store(), 3, seed=seed)] for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other

    def test_a_resumed_search_goes_on_as_if_never_stopped(self, name: str) -> None:
        whole = search(name, seeded_store(), 4)
        store = seeded_store()
        parts = search(name, store, 2) + search(name, store, 2)
        assert [c.plan for c in parts] == [c.plan for c in whole]

    def test_no_plan_is_proposed_twice(self, name: str) -> None:
        store = seeded_store()
        search(name, store, 6)
        assert len({t.plan.digest for t in store.items}) == len(store.items)

    def test_it_starts_from_nothing(self, name: str) -> None:
        assert len(search(name, MemoryStore(), 2)) == 2

    def test_it_goes_on_where_every_trial_failed(self, name: str) -> None:
        store = MemoryStore()
        sampler = make_sampler(name, SPACE, store, OBJECTIVES)
        for number in range(4):
            candidate = sampler.ask()
            assert candidate is not None
            store.append(finish(number, candidate, {}, TrialState.FAIL))
        assert len({t.plan.digest for t in store.items}) == 4

    def test_stopped_trials_are_no_obstacle(self, name: str) -> None:
        store = seeded_store()
        sampler = make_sampler(name, SPACE, store, OBJECTIVES)
        for figures in ({"latency_ms": 9.0}, {"latency_ms": 9.0, "quick_accuracy": 0.2}):
            candidate = sampler.ask()
            assert candidate is not None
            store.append(finish(len(store.items), candidate, figures, TrialState.PRUNED))
        assert sampler.ask() is not None

    def test_plans_from_outside_the_space_are_no_obstacle(self, name: str) -> None:
        store = seeded_store()
        outside = Candidate(plan=CompressionPlan(prune={"g0": 0.1}), source="recipe", assignment={"ratio:g0": 0.1})
        store.append(finish(len(store.items), outside, pruning_pays(outside)))
        assert len(search(name, store, 2)) == 2

    def test_one_objective_is_enough(self, name: str) -> None:
        assert len(search(name, seeded_store(), 2, objectives=OBJECTIVES[1:])) == 2

    def test_constraints_are_taken(self, name: str) -> None:
        bound = Constraint(metric="latency_ms", bound=8.0)
        assert len(search(name, seeded_store(), 2, constraints=[bound])) == 2

    def test_a_small_space_is_gone_through_to_its_end(self, name: str) -> None:
        space = SearchSpace(choices=SPACE.choices[:2])
        store = MemoryStore()
        sampler = make_sampler(name, space, store, OBJECTIVES)
        while (candidate := sampler.ask()) is not None:
            # GP proposals are dear, and random ones go through the space as well.
            state = TrialState.FAIL if name == "gp" else TrialState.COMPLETE
            store.append(finish(len(store.items), candidate, pruning_pays(candidate), state))
        assert len(store.items) == len(RATIOS) ** 2

    def test_optuna_says_nothing(self, name: str, capfd: pytest.CaptureFixture[str]) -> None:
        search(name, seeded_store(), 1)
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("learner", "n"), [("tpe", 15), ("nsga2", 40), ("gp", 5)])
def test_learners_prune_more_where_the_seeds_say_that_it_pays(learner: str, n: int) -> None:
    assert mean_ratio(search(learner, seeded_store(), n)) > 0.45
    assert mean_ratio(search("random", seeded_store(), n)) < 0.45


def pruning_costs(candidate: Candidate) -> dict[str, float]:
    """Accuracy falls with every ratio and latency too: a bound on accuracy says how much is allowed."""
    mean = pruning_pays(candidate)["accuracy"]
    return {"accuracy": 1.5 - mean, "latency_ms": 10.0 * (1.5 - mean)}


@pytest.mark.parametrize("learner", ["tpe", "nsga2"])
def test_learners_keep_away_from_what_a_constraint_forbids(learner: str) -> None:
    bound = Constraint(metric="accuracy", bound=0.9)
    free = mean_ratio(search(learner, seeded_store(pruning_costs), 20, pruning_costs))
    bounded = mean_ratio(search(learner, seeded_store(pruning_costs), 20, pruning_costs, constraints=[bound]))
    assert bounded < free


def test_an_unknown_sampler_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'nsga2'"):
        make_sampler("nsga", SPACE, MemoryStore(), OBJECTIVES)


def test_optunas_verbosity_is_given_back() -> None:
    before = optuna.logging.get_verbosity()
    make_sampler("random", SPACE, MemoryStore(), OBJECTIVES).ask()
    assert optuna.logging.get_verbosity() == before
