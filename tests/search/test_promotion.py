"""Front trials get more healing in their turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial
from autocompress.search.aim import HOPED, HOPED_LONGER, Aim
from autocompress.search.promotion import SOURCE, Promotion

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
SPACE = SearchSpace(
    choices=(
        Choice(name="ratio:a", kind="ratio", subject="a", options=(0.0, 0.25, 0.5), ordered=True),
        Choice(name="distillation:steps", kind="distillation", subject="steps", options=(0, 80, 240), ordered=True),
    )
)


class Store:
    def __init__(self, trials: Sequence[Trial]) -> None:
        self.items = list(trials)

    def append(self, trial: Trial) -> None:
        self.items.append(trial)

    def trials(self) -> Sequence[Trial]:
        return tuple(self.items)


class Inner:
    """Proposes the same plan again and again, or nothing."""

    def __init__(self, candidate: Candidate | None = None) -> None:
        self.candidate = candidate

    def ask(self) -> Candidate | None:
        return self.candidate


def _plan(ratio: float, steps: int) -> CompressionPlan:
    return CompressionPlan(prune={"a": ratio}, distillation=DistillationPlan(steps=steps))


OTHER = Candidate(plan=_plan(0.3, 0), source="tpe", label="other")


def _promotion(trials: Sequence[Trial], inner: Candidate | None = None) -> Promotion:
    return Promotion(Inner(inner), space=SPACE, store=Store(trials), objectives=OBJECTIVES)


def test_the_point_that_may_gain_most_is_promoted_first(trial_factory: Callable[..., Trial]) -> None:
    good = trial_factory(0, accuracy=0.95, latency_ms=2.0, plan=_plan(0.25, 80))
    poor = trial_factory(1, accuracy=0.90, latency_ms=1.0, plan=_plan(0.5, 80), label="prune 50%")
    found = _promotion([good, poor]).ask()
    assert found is not None
    assert found.plan == _plan(0.5, 240)
    assert found.source == SOURCE
    assert found.label == "prune 50%, healed for 240 steps"


def test_what_is_off_the_front_but_may_join_it_is_promoted(trial_factory: Callable[..., Trial]) -> None:
    front = trial_factory(0, accuracy=0.90, latency_ms=1.0, plan=_plan(0.25, 240))
    best = trial_factory(1, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan())
    behind = trial_factory(2, accuracy=0.88, latency_ms=1.1, plan=_plan(0.5, 0))
    found = _promotion([front, best, behind]).ask()
    assert found is not None
    assert found.plan.prune == {"a": 0.5}


def test_dominated_trials_are_not_promoted(trial_factory: Callable[..., Trial]) -> None:
    best = trial_factory(0, accuracy=0.95, latency_ms=1.0, plan=_plan(0.5, 240))
    beaten = trial_factory(1, accuracy=0.90, latency_ms=2.0, plan=_plan(0.25, 80))
    assert _promotion([best, beaten], OTHER).ask() is OTHER


def test_what_training_cannot_bring_within_a_bound_is_not_promoted(trial_factory: Callable[..., Trial]) -> None:
    whole = trial_factory(9, accuracy=0.95, latency_ms=4.0, size_bytes=99.0, plan=CompressionPlan())
    small = trial_factory(0, accuracy=0.90, latency_ms=2.0, size_bytes=10.0, plan=_plan(0.25, 80))
    large = trial_factory(1, accuracy=0.85, latency_ms=1.0, size_bytes=99.0, plan=_plan(0.5, 80))
    promotion = Promotion(
        Inner(),
        space=SPACE,
        store=Store([whole, small, large]),
        objectives=OBJECTIVES,
        constraints=[Constraint(metric="size_bytes", bound=50.0)],
    )
    found = promotion.ask()
    assert found is not None
    assert found.plan == _plan(0.25, 240)


def test_promotions_take_turns(trial_factory: Callable[..., Trial]) -> None:
    first = trial_factory(0, accuracy=0.90, latency_ms=0.8, plan=_plan(0.25, 80))
    second = trial_factory(1, accuracy=0.91, latency_ms=1.0, plan=_plan(0.5, 80))
    after = trial_factory(2, accuracy=0.95, latency_ms=1.0, plan=_plan(0.5, 240), source=SOURCE)
    assert _promotion([first, second, after], OTHER).ask() is OTHER
    assert _promotion([first, second, after]).ask() is not None, "with nothing else to do it is promoted anyway"


def test_a_promotion_is_made_once(trial_factory: Callable[..., Trial]) -> None:
    short = trial_factory(0, accuracy=0.95, latency_ms=2.0, plan=_plan(0.25, 80))
    long = trial_factory(1, accuracy=0.95, latency_ms=2.0, plan=_plan(0.25, 240))
    assert _promotion([short, long], None).ask() is None


def test_what_was_not_pruned_is_not_healed(trial_factory: Callable[..., Trial]) -> None:
    assert _promotion([trial_factory(0, plan=CompressionPlan())]).ask() is None


def test_what_users_ask_for_most_is_promoted_first(trial_factory: Callable[..., Trial]) -> None:
    """The cheapest point near the loss that is allowed goes before one that may gain more far below it."""
    trials = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.948, latency_ms=2.0, plan=_plan(0.1, 80)),
        trial_factory(2, accuracy=0.937, latency_ms=1.5, plan=_plan(0.25, 80), label="near the limit"),
        trial_factory(3, accuracy=0.60, latency_ms=0.5, plan=_plan(0.5, 80)),
    ]
    found = _promotion(trials).ask()
    assert found is not None
    assert found.label == "near the limit, healed for 240 steps"


def test_what_joins_the_front_after_two_trainings_only_is_trained_too(trial_factory: Callable[..., Trial]) -> None:
    trials = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.94, latency_ms=3.0, plan=_plan(0.1, 480)),
        trial_factory(2, accuracy=0.91, latency_ms=1.0, plan=_plan(0.7, 480)),
        trial_factory(3, accuracy=0.86, latency_ms=1.5, plan=_plan(0.5, 0), label="between"),
    ]
    promotion = _promotion(trials)
    aim = Aim.of(trials, OBJECTIVES[0], ())
    # After one training the faster trial is still the better one, after two no more.
    once, twice = (0.95 - aim.hoped(aim.gap(trials[3]), 0, lengths) for lengths in ((80,), (80, 240)))
    assert once < 0.91 < twice
    found = promotion.ask()
    assert found is not None
    assert found.label == "between, healed for 80 steps"


@pytest.mark.parametrize(
    ("tried", "left", "trains"), [(20, None, False), (28, None, True), (20, 100.0, False), (20, 4.0, True)]
)
def test_training_gets_more_time_once_much_was_tried(
    trial_factory: Callable[..., Trial], tried: int, left: float | None, trains: bool
) -> None:
    """With 12 others. Once more it would have 40% of the time: more than its share at first, less than that later."""
    trained = [
        _taking(0.06 * tried, trial_factory(n, accuracy=0.2, latency_ms=5.0, plan=_plan(n / 100, 80), source=SOURCE))
        for n in range(1, 11)
    ]
    poor = [
        _taking(1.0, trial_factory(n, accuracy=0.2, latency_ms=5.0, plan=_plan(n / 100, 0)))
        for n in range(11, tried + 11)
    ]
    baseline = trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()).replace(stage_seconds={})
    promising = trial_factory(tried + 11, accuracy=0.9, latency_ms=1.0, plan=_plan(0.9, 0)).replace(stage_seconds={})
    trials = [baseline, *trained, *poor, promising]
    promotion = Promotion(
        Inner(OTHER), space=SPACE, store=Store(trials), objectives=OBJECTIVES, seconds_left=lambda: left
    )
    found = promotion.ask()
    assert found is not None
    assert (found.source == SOURCE) is trains


def test_what_a_sampler_proposes_is_not_trained_at_first(trial_factory: Callable[..., Trial]) -> None:
    long = Candidate(plan=_plan(0.5, 240), source="tpe", assignment={"ratio:a": 0.5, "distillation:steps": 240})
    found = _promotion([trial_factory(0, plan=CompressionPlan())], long).ask()
    assert found is not None
    assert found.plan == _plan(0.5, 0)
    assert found.assignment["distillation:steps"] == 0
    tried = trial_factory(1, accuracy=0.5, latency_ms=9.0, plan=_plan(0.5, 0))
    assert _promotion([trial_factory(0, plan=CompressionPlan()), tried], long).ask() == long


def test_only_the_most_wanted_point_goes_past_the_space(trial_factory: Callable[..., Trial]) -> None:
    trials = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.945, latency_ms=1.5, plan=_plan(0.25, 240)),
        trial_factory(2, accuracy=0.60, latency_ms=0.5, plan=_plan(0.5, 240)),
    ]
    found = _promotion(trials).ask()
    assert found is not None
    assert found.plan == _plan(0.25, 480)
    done = trial_factory(3, accuracy=0.946, latency_ms=1.5, plan=_plan(0.25, 480), source=SOURCE)
    assert _promotion([*trials, done]).ask() is None


def test_a_point_for_the_careful_is_trained_beside_the_fastest_within_the_loss(
    trial_factory: Callable[..., Trial],
) -> None:
    trials = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.942, latency_ms=1.0, plan=_plan(0.5, 480)),
        trial_factory(2, accuracy=0.944, latency_ms=1.2, plan=_plan(0.25, 80)),
        trial_factory(3, accuracy=0.80, latency_ms=0.3, plan=_plan(0.75, 0)),
    ]
    found = _promotion(trials).ask()
    assert found is not None
    assert found.plan == _plan(0.25, 240), "half of the loss may be won back at little more latency"


def test_while_there_is_little_to_choose_from_a_further_point_goes_first(trial_factory: Callable[..., Trial]) -> None:
    """Between two points: near one of them, or in the middle of the gap, which adds about as much volume."""
    ends = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.949, latency_ms=3.0, plan=_plan(0.1, 480)),
        trial_factory(2, accuracy=0.90, latency_ms=1.0, plan=_plan(0.9, 480)),
    ]
    near = trial_factory(3, accuracy=0.911, latency_ms=1.03, plan=_plan(0.2, 80), label="near")
    apart = trial_factory(4, accuracy=0.911, latency_ms=1.2, plan=_plan(0.3, 80), label="apart")
    found = _promotion([*ends, near, apart]).ask()
    assert found is not None
    assert found.label == "apart, healed for 240 steps"
    many = [
        trial_factory(10 + n, accuracy=0.70 - 0.01 * n, latency_ms=0.9 - 0.05 * n, plan=_plan(n / 100, 480))
        for n in range(10)
    ]
    found = _promotion([*ends, *many, near, apart]).ask()
    assert found is not None
    assert found.label == "near, healed for 240 steps"


def _taking(seconds: float, trial: Trial) -> Trial:
    return trial.replace(stage_seconds={"heal": seconds})


def test_training_takes_no_more_than_its_share_of_the_time(trial_factory: Callable[..., Trial]) -> None:
    trials = [
        _taking(20.0, trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan())),
        _taking(20.0, trial_factory(1, accuracy=0.90, latency_ms=1.0, plan=_plan(0.25, 0))),
        _taking(30.0, trial_factory(2, accuracy=0.92, latency_ms=1.0, plan=_plan(0.25, 80), source=SOURCE)),
        _taking(1.0, trial_factory(3, accuracy=0.30, latency_ms=0.8, plan=_plan(0.5, 0))),
    ]
    assert _promotion(trials, OTHER).ask() is OTHER, "30 of 71 s are spent on it, 240 steps would make it 120 of 161"
    explored = _taking(500.0, trial_factory(4, accuracy=0.1, latency_ms=5.0, plan=_plan(0.4, 0)))
    found = _promotion([*trials, explored], OTHER).ask()
    assert found is not None
    assert found.plan == _plan(0.25, 240)


def test_what_takes_longer_than_is_left_is_not_begun(trial_factory: Callable[..., Trial]) -> None:
    trials = [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        _taking(20.0, trial_factory(1, accuracy=0.90, latency_ms=1.0, plan=_plan(0.25, 80))),
        trial_factory(2, accuracy=0.80, latency_ms=0.9, plan=_plan(0.5, 0)),
    ]

    def asked(left: float) -> Candidate | None:
        promotion = Promotion(
            Inner(), space=SPACE, store=Store(trials), objectives=OBJECTIVES, seconds_left=lambda: left
        )
        return promotion.ask()

    assert asked(19.0) is None
    found = asked(21.0)
    assert found is not None
    assert found.plan == _plan(0.5, 80), "80 steps take 20 s, 240 take 60"


def test_hopes_are_those_of_this_run(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan())
    before = trial_factory(1, accuracy=0.85, latency_ms=1.0, plan=_plan(0.25, 0))
    little = trial_factory(2, accuracy=0.86, latency_ms=1.0, plan=_plan(0.25, 80))
    much = trial_factory(2, accuracy=0.94, latency_ms=1.0, plan=_plan(0.25, 80))
    quality = OBJECTIVES[0]
    unseen = Aim.of([baseline, before], quality, ())
    assert unseen.first == HOPED
    assert unseen.longer == HOPED_LONGER
    assert Aim.of([baseline, before, little], quality, ()).first < 0.4
    assert Aim.of([baseline, before, much], quality, ()).first > 0.85
    assert Aim.of([baseline, before, much], quality, ()).longer == HOPED_LONGER


def test_the_loss_allowed_counts_from_the_uncompressed_model(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.94, latency_ms=4.0, plan=CompressionPlan())
    better = trial_factory(1, accuracy=0.952, latency_ms=3.0, plan=_plan(0.1, 80))
    quality = OBJECTIVES[0]
    assert Aim.of([baseline, better], quality, ()).allowed == pytest.approx(0.022)
    bound = Constraint(metric="accuracy", bound=0.935)
    assert Aim.of([baseline, better], quality, [bound]).allowed == pytest.approx(0.017)
