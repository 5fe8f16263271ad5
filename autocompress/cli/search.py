"""``autocompress search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    AffinityOption,
    DeviceOption,
    NoCacheOption,
    RuntimeOption,
    TuneBudgetOption,
    TuneTrialsOption,
    as_integer,
    as_number,
    as_switch,
    as_text,
    as_texts,
    parse_cores,
    parse_duration,
    read_config,
)

if TYPE_CHECKING:
    from autocompress.core.request import SearchRequest

#: Keys of a `-c` file and what reads their values.
READERS: dict[str, Any] = {
    "model": as_text,
    "data": as_text,
    "target": as_text,
    "device": as_text,
    "runtime": as_text,
    "space": as_text,
    "objective": as_texts,
    "max_accuracy_drop": as_number,
    "max_latency_ms": as_number,
    "max_size_mb": as_number,
    "max_memory_mb": as_number,
    "max_energy_mj": as_number,
    "tune_trials": as_integer,
    "tune_budget": lambda value: parse_duration(as_text(value)),
    "trials": as_integer,
    "budget": lambda value: parse_duration(as_text(value)),
    "sampler": as_text,
    "seed": as_integer,
    "affinity": lambda value: parse_cores(as_text(value)),
    "cache": as_switch,
    "out": lambda value: Path(as_text(value)),
}
#: Options whose name in the request is another.
RENAMED = {"objective": "objectives", "budget": "budget_seconds", "tune_budget": "tune_budget_seconds"}


def search(
    model: Annotated[str | None, typer.Option(metavar="M", help=f"{MODEL_HELP} Default: demo.")] = None,
    data: Annotated[str | None, typer.Option(metavar="D", help=f"{DATA_HELP} Default: demo.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="T", help="Hardware profile (see `targets`). Default: local, this machine.")
    ] = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    space: Annotated[str | None, typer.Option(metavar="S", help="Search space template, name or file.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="O",
            help="Metric to optimize; repeat it: accuracy, fidelity, latency_ms, size_bytes, energy_mj, "
            "peak_memory_bytes. Default: accuracy latency_ms.",
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(metavar="F", help="Largest loss allowed, as a share: 0.01 is one point.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(metavar="F", help="Bound on latency.")] = None,
    max_size_mb: Annotated[float | None, typer.Option(metavar="F", help="Bound on the file's size.")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(metavar="F", help="Bound on peak memory.")] = None,
    max_energy_mj: Annotated[float | None, typer.Option(metavar="F", help="Bound on an inference's energy.")] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Stop after so many trials.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Stop after this time: 90s, 30m, 2h.")] = None,
    sampler: Annotated[str | None, typer.Option(metavar="NAME", help="tpe, nsga2, gp or random.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything that is random.")] = None,
    affinity: AffinityOption = None,
    tune_trials: TuneTrialsOption = None,
    tune_budget: TuneBudgetOption = None,
    no_cache: NoCacheOption = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; the same command on it resumes.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="YAML file of these options; the command line wins."),
    ] = None,
) -> None:
    """Search bitwidths, prune ratios and healing together for a target; Ctrl-C stops cleanly, again stops at once."""
    from autocompress.core.request import SearchRequest

    given = {
        "model": model,
        "data": data,
        "target": target,
        "device": device,
        "runtime": runtime,
        "space": space,
        "objective": tuple(objective) if objective else None,
        "max_accuracy_drop": max_accuracy_drop,
        "max_latency_ms": max_latency_ms,
        "max_size_mb": max_size_mb,
        "max_memory_mb": max_memory_mb,
        "max_energy_mj": max_energy_mj,
        "trials": trials,
        "budget": None if budget is None else parse_duration(budget),
        "sampler": sampler,
        "seed": seed,
        "affinity": None if affinity is None else parse_cores(affinity),
        "tune_trials": tune_trials,
        "tune_budget": None if tune_budget is None else parse_duration(tune_budget),
        "cache": False if no_cache else None,
        "out": out,
    }
    values = {} if config is None else read_config(config, READERS)
    values.update({name: value for name, value in given.items() if value is not None})
    request = SearchRequest(**{RENAMED.get(name, name): value for name, value in values.items() if value is not None})
    raise typer.Exit(_run(request))


def _run(request: SearchRequest) -> int:
    from autocompress import api
    from autocompress.cli.live import make_observer

    observer = make_observer(request)
    with observer:
        api.search(request, observer)
    return 130 if observer.should_stop() else 0
