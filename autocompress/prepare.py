"""What a search request means: everything that can be refused before the disk is touched."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from autocompress.compress.legal import legality
from autocompress.core.errors import TargetError, UserError
from autocompress.core.measurement import Measurement
from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.request import SearchRequest
from autocompress.core.space import SearchSpace
from autocompress.core.tool import READS
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.further_metrics import FURTHER_METRICS
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import Place, load_graph, load_place, tuning_of
from autocompress.search.samplers import check_sampler
from autocompress.search.space_builder import SpaceTemplate, build_space, load_template
from autocompress.search.tuner import Budget
from autocompress.store.run_dir import RunFolder

#: Trials where the user set neither a number nor a time.
DEFAULT_TRIALS = 100
OBJECTIVES = (*QUALITY_METRICS, "latency_ms", "size_bytes", *FURTHER_METRICS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request with what it names.

    Args:
        request: as the user asked.
        budget: how long to go on; its clock runs from here.
        place: target, runtime, and whether it can be measured.
        data: what to compress with.
        graph: what to compress.
        objectives: the quality metric first.
        space: every legal choice.
    """

    request: SearchRequest
    budget: Budget
    place: Place
    data: DataBundle
    graph: ModelGraph
    objectives: tuple[Objective, ...]
    space: SearchSpace


def prepare(request: SearchRequest) -> Prepared:
    """Load what a request names, and build its space.

    Raises:
        UserError: something in it is wrong.
    """
    budget = Budget(
        trials=request.trials if request.trials or request.budget_seconds else DEFAULT_TRIALS,
        seconds=request.budget_seconds,
    )
    check_sampler(request.sampler)
    template = load_template(request.space)
    tuning = tuning_of(request.runtime, request.tune_trials, request.tune_budget_seconds, transfer=True)
    place = load_place(request.target, request.device, request.runtime, affinity=request.affinity, tuning=tuning)
    try:
        return _prepared(request, budget, template, place)
    except BaseException:
        place.close()
        raise


def _prepared(request: SearchRequest, budget: Budget, template: SpaceTemplate, place: Place) -> Prepared:
    tool = place.spec.command
    if place.device is not None and tool is not None and tool.reads != "onnx":
        raise TargetError(
            f"{tool.argv[0]} times {' and '.join(READS[tool.reads])} files, but a search makes .onnx files: give "
            f"another --runtime of {place.target.name}, or convert the front's files and `measure` them."
        )
    data = load_data(request.data)
    metric = data.metric
    if data.labelled and "fidelity" in request.objectives:
        data, metric = data.without_labels(), "fidelity"
    objectives = _objectives(request, metric)
    graph = load_graph(request.model, data)
    sized = [Constraint(metric="size_bytes", bound=1.0)] if request.max_size_mb else []
    legal = legality(graph)
    space = build_space(graph, place.spec, template, objectives=objectives, constraints=sized, legal=legal)
    return Prepared(
        request=request, budget=budget, place=place, data=data, graph=graph, objectives=objectives, space=space
    )


def constraints_of(request: SearchRequest, baseline: Measurement) -> list[Constraint]:
    """The bounds of a request.

    Args:
        request: its ``max_`` fields.
        baseline: quality of the uncompressed model, which a drop is counted from.
    """
    found = []
    if request.max_accuracy_drop is not None:
        # Shares of samples are rounded: a drop of exactly the limit is within it.
        found.append(Constraint(metric=baseline.metric, bound=baseline.value - request.max_accuracy_drop - 1e-9))
    if request.max_latency_ms is not None:
        found.append(Constraint(metric="latency_ms", bound=request.max_latency_ms))
    if request.max_size_mb is not None:
        found.append(Constraint(metric="size_bytes", bound=request.max_size_mb * 1e6))
    if request.max_memory_mb is not None:
        found.append(Constraint(metric="peak_memory_bytes", bound=request.max_memory_mb * 1e6))
    if request.max_energy_mj is not None:
        found.append(Constraint(metric="energy_mj", bound=request.max_energy_mj))
    return found


def usual_folder(request: SearchRequest) -> Path:
    """Where a search without --out goes: the same command finds its folder again."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(request.model.rpartition("/")[2]).name).strip("-").lower() or "model"
    base = Path("runs") / f"{stem}-{request.target}"
    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([base], numbered) if RunFolder.may_hold(path, request.to_dict()))


def _objectives(request: SearchRequest, metric: str) -> tuple[Objective, ...]:
    """The quality metric that the data allows first, then the rest as asked."""
    for name in request.objectives:
        if name not in OBJECTIVES:
            raise UserError(f"{name!r} is not measured; objectives are {', '.join(OBJECTIVES)}.")
    rest = [name for name in request.objectives if name not in QUALITY_METRICS]
    return tuple(Objective(metric=name) for name in (metric, *rest))
