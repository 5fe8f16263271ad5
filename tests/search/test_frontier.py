"""Proposals near the front, on a made-up network whose figures are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import CandidateError
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.aim import Aim
from autocompress.search.frontier import SOURCE, Frontier, _Point
from autocompress.search.promotion import SOURCE as PROMOTED

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
LAYERS = tuple("abcdefghij")
SPACE = SearchSpace(
    choices=(
        *(Choice(name=f"precision:{n}", kind="precision", subject=n, options=("fp32", "int8")) for n in LAYERS),
        *(
            Choice(name=f"ratio:{n}", kind="ratio", subject=n, options=(0.0, 0.25, 0.5), ordered=True)
            for n in LAYERS
        ),
    )
)  # fmt: skip
REFERENCE: dict[str, Any] = {c.name: "int8" if c.kind == "precision" else 0.0 for c in SPACE.choices}
BASELINE: dict[str, Any] = {c.name: c.options[0] for c in SPACE.choices}
#: Narrowing the first layers costs little, and saves more than the profile says in the first of all.
HARM = {name: 0.001 * 2**place for place, name in enumerate(LAYERS)}
SENSITIVITIES = {f"ratio:{n}": {"0.25": HARM[n], "0.5": 2 * HARM[n]} for n in LAYERS}


def _estimate(plan: CompressionPlan) -> float:
    total = 1.0
    for name in LAYERS:
        bits = plan.layers[name].weight_bits if name in plan.layers else 32
        total += (0.5 if bits == 8 else 1.0) * (1.0 - plan.prune.get(name, 0.0))
    return total


def _figures(assignment: dict[str, Any]) -> tuple[float, float]:
    """True accuracy and latency."""
    plan = SPACE.plan(assignment)
    harm = sum(4 * plan.prune.get(name, 0.0) * HARM[name] for name in LAYERS)
    slower = 1.3 if plan.prune.get("b", 0.0) else 1.0
    faster = 0.8 if plan.prune.get("a", 0.0) else 1.0
    return 0.95 - 0.05 * harm, _estimate(plan) * faster * slower


class Store:
    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        self.items = list(trials)

    def append(self, trial: Trial) -> None:
        self.items.append(trial)

    def trials(self) -> Sequence[Trial]:
        return tuple(self.items)


class Inner:
    """Proposes at random."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = 0

    def ask(self) -> Candidate | None:
        self.asked += 1
        rng = np.random.default_rng([1, len(self._store.items)])
        chosen = {c.name: c.options[rng.integers(len(c.options))] for c in SPACE.choices}
        return Candidate(plan=SPACE.plan(chosen), source="random", assignment=chosen)


Factory = Callable[..., Trial]


def _trial(factory: Factory, number: int, assignment: dict[str, Any], source: str = "recipe") -> Trial:
    accuracy, latency = _figures(assignment)
    plan = SPACE.plan(assignment)
    trial = factory(number, accuracy=accuracy, latency_ms=latency, plan=plan, source=source)
    return trial.replace(candidate=Candidate(plan=plan, source=source, assignment=assignment))


def _seeded(factory: Factory) -> Store:
    store = Store([_trial(factory, 0, BASELINE), _trial(factory, 1, REFERENCE)])
    for share in (0.25, 0.5):
        for count in (2, 4, 8):
            store.append(
                _trial(
                    factory, len(store.items), {**REFERENCE, **{f"ratio:{n}": share for n in LAYERS[:count]}}
                )
            )  # fmt: skip
    return store


def _frontier(store: Store, **changes: Any) -> Frontier:
    arguments: dict[str, Any] = {
        "space": SPACE,
        "estimates": {"latency_ms": _estimate},
        "reference": REFERENCE,
        "sensitivities": SENSITIVITIES,
        "store": store,
        "objectives": OBJECTIVES,
    }
    return Frontier(Inner(store), **{**arguments, **changes})


def _search(factory: Factory, proposer: Any, store: Store, count: int) -> float:
    """The least latency within a point of accuracy after so many trials."""
    for _ in range(count):
        candidate = proposer.ask()
        assert candidate is not None
        store.append(_trial(factory, len(store.items), dict(candidate.assignment), candidate.source))
    good = [t.value("latency_ms") for t in store.items if t.value("accuracy") >= 0.94]
    return min(good)


def test_it_finds_better_points_than_chance(trial_factory: Factory) -> None:
    ours, theirs = _seeded(trial_factory), _seeded(trial_factory)
    found = _search(trial_factory, _frontier(ours), ours, 40)
    by_chance = _search(trial_factory, Inner(theirs), theirs, 40)
    best = _figures({**REFERENCE, "ratio:a": 0.5, **{f"ratio:{n}": 0.5 for n in LAYERS[2:6]}})[1]
    assert found < 0.85 * by_chance
    assert found < 1.15 * best


def test_it_takes_turns_and_training_does_not_count(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    frontier = _frontier(store)
    first = frontier.ask()
    assert first is not None
    assert first.source == SOURCE
    store.append(_trial(trial_factory, 90, dict(first.assignment), SOURCE))
    store.append(_trial(trial_factory, 91, REFERENCE, PROMOTED))
    second = frontier.ask()
    assert second is not None
    assert second.source == "random"


def test_a_proposal_is_new_and_near_the_front(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    found = _frontier(store).ask()
    assert found is not None
    assert found.plan.digest not in {trial.plan.digest for trial in store.items}
    distances = [
        sum(trial.candidate.assignment[c.name] != found.assignment[c.name] for c in SPACE.choices)
        for trial in store.items
    ]
    assert 1 <= min(distances) <= 3


def test_a_resumed_search_proposes_the_same(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    asked = [_frontier(store, seed=seed).ask() for seed in (0, 0, 1, 2, 3, 4)]
    assert asked[0] == asked[1]
    assert len({candidate.plan.digest for candidate in asked if candidate is not None}) > 1


def test_with_little_known_the_other_proposes(trial_factory: Factory) -> None:
    store = Store([_trial(trial_factory, 0, BASELINE), _trial(trial_factory, 1, REFERENCE)])
    found = _frontier(store).ask()
    assert found is not None
    assert found.source == "random"


def test_trials_of_another_space_teach_nothing(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    strange = _trial(trial_factory, 50, REFERENCE).replace(
        candidate=Candidate(
            plan=CompressionPlan(prune={"a": 0.125}), source="recipe", assignment={**REFERENCE, "ratio:a": 0.125}
        )
    )
    elsewhere = [trial.replace(number=trial.number) for trial in store.items]
    known = _frontier(Store([*elsewhere, strange]))._points.of([*elsewhere, strange], _aim(elsewhere))
    assert len(known) == len(elsewhere)


def _aim(trials: Sequence[Trial]) -> Aim:
    return Aim.of(trials, OBJECTIVES[0], ())


def test_what_always_fails_is_not_proposed_again(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    first = _frontier(store).ask()
    assert first is not None
    changed = [
        (c.name, first.assignment[c.name])
        for c in SPACE.choices
        if not any(t.candidate.assignment[c.name] == first.assignment[c.name] for t in store.items)
    ]
    wanted = changed[0] if changed else ("precision:j", "fp32")
    store = Store([t for t in store.items if t.candidate.assignment[wanted[0]] != wanted[1]])
    while len(store.items) < 9:
        store.append(_trial(trial_factory, 20 + len(store.items), {**REFERENCE, "ratio:d": 0.25, "ratio:a": 0.25}))
    for number in range(3):
        failed = _trial(trial_factory, 30 + number, {**REFERENCE, wanted[0]: wanted[1], "ratio:e": 0.25})
        store.append(failed.replace(state=TrialState.FAIL, measurements={}, error="no kernel"))
    for seed in range(10):
        found = _frontier(store, seed=seed).ask()
        assert found is None or found.source != SOURCE or found.assignment[wanted[0]] != wanted[1]


def test_costs_are_learned_from_what_was_stopped_before_its_quality_was_known(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    dear = {**REFERENCE, "ratio:j": 0.25}
    stopped = _trial(trial_factory, 40, dear)
    latency = stopped.measurements["latency_ms"]
    stopped = stopped.replace(
        state=TrialState.PRUNED,
        error="out of reach at its best",
        measurements={"latency_ms": replace(latency, value=3.0 * latency.value)},
    )
    frontier = _frontier(store)
    place = [term.option == 0.25 and term.choice.name == "ratio:j" for term in frontier._terms.terms].index(True)

    def effect(trials: Sequence[Trial]) -> float:
        known = frontier._points.of(trials, _aim(store.items))
        return float(frontier._effects(known, _aim(store.items), np.random.default_rng(0))[place, 1])

    assert effect([*store.items, stopped]) > effect(store.items) + 0.2


def test_what_is_expected_past_a_bound_is_not_proposed(trial_factory: Factory) -> None:
    bound = 5.0
    for seed in range(8):
        store = _seeded(trial_factory)
        limited = _frontier(store, constraints=(Constraint(metric="latency_ms", bound=bound),), seed=seed).ask()
        assert limited is not None
        assert limited.source == SOURCE
        assert _figures(dict(limited.assignment))[1] < 1.2 * bound


def test_three_objectives_are_weighed_together(trial_factory: Factory) -> None:
    store = _seeded(trial_factory)
    objectives = (*OBJECTIVES, Objective(metric="size_bytes"))
    for index, trial in enumerate(store.items):
        size = replace(trial.measurements["latency_ms"], metric="size_bytes", value=1e5 + index)
        store.items[index] = trial.replace(measurements={**trial.measurements, "size_bytes": size})
    costs = {"latency_ms": _estimate, "size_bytes": lambda plan: 1e5 * _estimate(plan)}
    found = _frontier(store, objectives=objectives, estimates=costs).ask()
    assert found is not None
    assert found.source == SOURCE


BLOCKS = SearchSpace(
    choices=(
        *SPACE.choices,
        Choice(name="skip:block", kind="skip", subject="block", options=(0, 1)),
        Choice(name="distillation:steps", kind="distillation", subject="steps", options=(0, 40), ordered=True),
    ),
    inside={"block": ("a", "b", "c")},
)


def test_parts_of_a_skipped_block_are_not_counted_twice() -> None:
    frontier = _frontier(Store(), space=BLOCKS, reference={**REFERENCE, "skip:block": 0})
    moves = [(name, 0.5, np.zeros(2)) for name in ("ratio:a", "ratio:d", "skip:block")]
    point = _Point({**REFERENCE, "skip:block": 0}, np.zeros(2), moves)
    skipped = point.after(("skip:block", 1, np.zeros(2)), np.zeros(2), frontier._inside)
    assert [name for name, *_ in skipped.moves] == ["ratio:d"]
    narrowed = point.after(("ratio:d", 0.5, np.zeros(2)), np.zeros(2), frontier._inside)
    assert [name for name, *_ in narrowed.moves] == ["ratio:a", "skip:block"]


def test_a_proposal_is_not_trained_at_first(trial_factory: Factory) -> None:
    store = Store()
    for trial in _seeded(trial_factory).items:
        assignment = {**trial.candidate.assignment, "skip:block": 0, "distillation:steps": 40}
        plan = BLOCKS.plan(assignment)
        store.append(trial.replace(candidate=Candidate(plan=plan, source="recipe", assignment=assignment)))
    found = _frontier(store, space=BLOCKS, reference={**REFERENCE, "skip:block": 0}).ask()
    assert found is not None
    assert found.source == SOURCE
    assert found.assignment["distillation:steps"] == 0


@pytest.mark.parametrize(
    "objectives",
    [
        (Objective(metric="accuracy"),),
        (Objective(metric="latency_ms"), Objective(metric="size_bytes")),
        (Objective(metric="accuracy"), Objective(metric="fidelity")),
    ],
)
def test_it_stands_aside_where_quality_is_not_weighed_against_costs(
    trial_factory: Factory, objectives: tuple[Objective, ...]
) -> None:
    store = _seeded(trial_factory)
    found = _frontier(store, objectives=objectives, estimates={}).ask()
    assert found is not None
    assert found.source == "random"


def test_a_plan_without_a_price_is_no_error(trial_factory: Factory) -> None:
    def refuses(plan: CompressionPlan) -> float:
        raise CandidateError("estimate", "no price")

    found = _frontier(_seeded(trial_factory), estimates={"latency_ms": refuses}).ask()
    assert found is not None
    assert found.source == "random"

    def refuses_narrow(plan: CompressionPlan) -> float:
        if plan.prune.get("c"):
            raise CandidateError("estimate", "no price")
        return _estimate(plan)

    # Some of what is known has no price either.
    store = _seeded(trial_factory)
    for number, name in enumerate("abdefgh"):
        store.append(_trial(trial_factory, 60 + number, {**REFERENCE, f"ratio:{name}": 0.25}))
    found = _frontier(store, estimates={"latency_ms": refuses_narrow}).ask()
    assert found is not None
    assert found.source == SOURCE
    assert not found.plan.prune.get("c")
