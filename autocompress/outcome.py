"""What a run folder holds, put together: trials with their last figures, the front, the recommended points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.core.errors import RunFolderError
from autocompress.core.measurement import Provenance
from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import ParetoFront, constrained_front, miss
from autocompress.core.plan import CompressionPlan
from autocompress.core.request import SearchOutcome
from autocompress.core.space import Choice, Refusal, SearchSpace
from autocompress.core.trial import Trial
from autocompress.report.html import write_report
from autocompress.report.tables import write_trials
from autocompress.search.aim import quality_limit
from autocompress.store.front_keeper import final_trial, has_pending
from autocompress.store.optuna_store import read_trials
from autocompress.store.run_dir import RunFolder

#: What the least of a cost is called.
_LEAST = {"size_bytes": "smallest", "energy_mj": "least energy", "peak_memory_bytes": "least memory"}
#: A cost up to this share above the least counts as equal where the two intervals overlap.
_EQUAL_COST = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as its folder tells it.

    Args:
        trials: in order of number, front trials with their last figures.
        front: what to show.
        feasible: whether the front respects the constraints.
        baseline: trial of the uncompressed model.
        objectives: of the search.
        constraints: of its last session.
    """

    trials: tuple[Trial, ...]
    front: ParetoFront
    feasible: bool
    baseline: Trial
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]


def read_run(run: RunFolder) -> RunRecord:
    """Read a run, finished or not.

    Raises:
        RunFolderError: it holds no trial yet, or something unreadable.
    """
    manifest = run.read_json(run.manifest) or {}
    objectives = tuple(Objective(metric=str(metric)) for metric in manifest.get("objectives", ()))
    constraints = tuple(Constraint(metric=str(m), bound=float(b)) for m, b in manifest.get("constraints", ()))
    if not objectives:
        raise RunFolderError(f"{str(run.path)!r} holds no finished trial yet.")
    return record_of(run, read_trials(run.study), objectives, constraints)


def record_of(
    run: RunFolder, trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> RunRecord:
    """Put the trials of a study together with the last figures of those on the front.

    Raises:
        RunFolderError: no trial of the uncompressed model completed.
    """
    last = {trial.number: final_trial(run, trial) for trial in trials}
    merged = tuple(last[trial.number] or trial for trial in trials)
    # Only what the end of a search has seen may stand on a finished front: others would win by a lucky reading.
    finished = [trial for trial in last.values() if trial is not None]
    ended = bool(finished) and not has_pending(run)
    front, feasible = constrained_front(finished if ended else merged, objectives, constraints)
    baseline = next((t for t in merged if t.plan == CompressionPlan() and objectives[0].metric in t.measurements), None)
    if baseline is None:
        raise RunFolderError(f"{str(run.path)!r} holds no finished trial of the uncompressed model yet.")
    return RunRecord(
        trials=merged,
        front=front,
        feasible=feasible,
        baseline=baseline,
        objectives=tuple(objectives),
        constraints=tuple(constraints),
    )


def recommend(record: RunRecord) -> dict[str, Trial]:
    """Up to three points of the front that answer what most users ask; title to trial."""
    trials = record.front.trials
    quality = next((o.metric for o in record.objectives if o.metric in QUALITY_METRICS), None)
    if not trials or quality is None:
        return {}
    cost = next((o for o in record.objectives if o.metric not in QUALITY_METRICS), None)
    metric = cost.metric if cost is not None else "latency_ms"
    best = _LEAST.get(metric, "fastest")
    if not record.feasible:
        return {"nearest to what was asked": min(trials, key=lambda t: miss(t, record.constraints))}
    found: dict[str, Trial] = {}
    limit = quality_limit(quality, record.baseline.value(quality), record.constraints)
    bounded = any(c.metric == quality for c in record.constraints)
    title = f"{best} within the {quality} limit" if bounded else f"{best} with at most 1 point of {quality} lost"
    # Shares of samples are rounded: a loss of exactly one point is within one point.
    fitting = [t for t in trials if t.value(quality) >= limit - 1e-9]
    if fitting:
        found[title] = _best_of_equals(fitting, metric, quality)
    found[f"most {quality}"] = max(trials, key=lambda t: (t.value(quality), -t.value(metric)))
    found[f"{best} of all"] = min(trials, key=lambda t: t.value(metric))
    return found


def _best_of_equals(trials: Sequence[Trial], cost: str, quality: str) -> Trial:
    """The cheapest, or the best of those whose cost cannot be told from its: a structure trained for longer is one."""
    cheapest = min(trials, key=lambda t: t.value(cost))
    most = cheapest.value(cost) * (1.0 + _EQUAL_COST)
    interval = cheapest.measurements[cost].interval
    # Estimates of one run are off together: what separates two of them does not blur.
    if interval is None or cheapest.measurements[cost].provenance is not Provenance.MEASURED:
        return cheapest
    intervals = [(trial, trial.measurements[cost].interval) for trial in trials if trial.value(cost) <= most]
    equals = [trial for trial, other in intervals if other is not None and other.low <= interval.high]
    return max(equals, key=lambda t: (t.value(quality), -t.value(cost)))


def outcome_of(run: RunFolder, record: RunRecord, messages: Sequence[str] = ()) -> SearchOutcome:
    """The answer of a search."""
    quality = next((o.metric for o in record.objectives if o.metric in QUALITY_METRICS), record.objectives[0].metric)
    latency = record.baseline.measurements.get("latency_ms")
    return SearchOutcome(
        run_dir=run.path,
        front=record.front,
        trials=record.trials,
        recommended=recommend(record),
        metric=quality,
        provenance=latency.provenance if latency is not None else Provenance.MEASURED,
        baseline=record.baseline,
        messages=list(messages),
    )


def write_documents(run: RunFolder, record: RunRecord) -> None:
    """Write ``report.html`` and ``trials.csv``.

    Raises:
        RunFolderError: they cannot be written, or the run's model cannot be read.
    """
    from autocompress.graph.importing import load_model

    graph = load_model(run.baseline)
    manifest: Mapping[str, Any] = run.read_json(run.manifest) or {}
    request = run.request
    write_trials(run.trials_csv, record.trials, record.front)
    write_report(
        run.report,
        trials=record.trials,
        front=record.front,
        objectives=record.objectives,
        space=read_space(run),
        sensitivities=run.read_json(run.sensitivities),
        manifest=manifest,
        baseline=record.baseline,
        layers=graph.layers(),
        groups=graph.groups(),
        blocks=graph.blocks(),
        recommended=recommend(record),
        title=f"{request.get('model', 'model')} on {request.get('target', 'target')}",
    )


def write_space(run: RunFolder, space: SearchSpace) -> None:
    """Keep the space, so that a report can be written without building it again."""
    choices = {"choices": space.choices, "fixed": space.fixed}
    run.write_json(
        run.space,
        {
            **{
                key: [
                    {
                        "name": c.name,
                        "kind": c.kind,
                        "subject": c.subject,
                        "options": list(c.options),
                        "ordered": c.ordered,
                    }
                    for c in found
                ]
                for key, found in choices.items()
            },
            "refused": [{"subject": r.subject, "option": r.option, "reason": r.reason} for r in space.refused],
            "channel_multiple": dict(space.channel_multiple),
            "inside": {block: list(subjects) for block, subjects in space.inside.items()},
        },
    )


def read_space(run: RunFolder) -> SearchSpace:
    """What :func:`write_space` kept; an empty space where nothing was.

    Raises:
        RunFolderError: it is unreadable.
    """
    data = run.read_json(run.space) or {}
    try:
        choices, fixed = (
            tuple(Choice(**{**item, "options": tuple(item["options"])}) for item in data.get(key, ()))
            for key in ("choices", "fixed")
        )
        refused = tuple(Refusal(**item) for item in data.get("refused", ()))
    except (TypeError, KeyError) as error:
        raise RunFolderError(f"{str(run.space)!r} is no search space: {error}.") from error
    return SearchSpace(
        choices=choices,
        fixed=fixed,
        refused=refused,
        channel_multiple=data.get("channel_multiple", {}),
        inside={block: tuple(subjects) for block, subjects in data.get("inside", {}).items()},
    )
