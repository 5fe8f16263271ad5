"""``autocompress measure``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.cli.options import (
    AffinityOption,
    DeviceOption,
    JsonOption,
    NoCacheOption,
    RuntimeOption,
    TargetOption,
    TuneBudgetOption,
    TuneTrialsOption,
    parse_cores,
    parse_duration,
)

#: Comparisons of a model with itself where the user did not say how many.
RUNS = 10
#: Where the schedule of a compiled kernel comes from.
KERNELS = ("tuned", "transferred", "untuned")


def measure(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="A.onnx [B.onnx ...]",
            help="The first is the reference. On a device also what its runtime's tool reads: .tflite, ncnn's .param.",
        ),
    ],
    target: TargetOption = "local",
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads of the runtime.")] = None,
    affinity: AffinityOption = None,
    tune_trials: TuneTrialsOption = None,
    tune_budget: TuneBudgetOption = None,
    aa: Annotated[bool, typer.Option("--aa", help="Time A.onnx against itself.")] = False,
    runs: Annotated[int | None, typer.Option(metavar="N", help=f"Comparisons of --aa. Default: {RUNS}.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="F", help="Longest time of each, with --aa.")] = None,
    no_cache: NoCacheOption = False,
    json: JsonOption = False,
) -> None:
    """Time models against the first one, interleaved, in processes of their own.

    --aa tells how often the timer finds a difference where there is none, with an interval, or that too few runs were
    made, or too few of their rounds were calm, to tell.
    """
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows

    cores = None if affinity is None else parse_cores(affinity)
    tune_seconds = None if tune_budget is None else parse_duration(tune_budget)
    if aa:
        found = api.measure_itself(
            _only(files),
            runs=RUNS if runs is None else runs,
            seconds=seconds,
            target=target,
            device=device,
            runtime=runtime,
            threads=threads,
            affinity=cores,
            tune_trials=tune_trials,
            tune_budget_seconds=tune_seconds,
        )
        echo_json(found) if json else _print_itself(found)
        return
    _refuse_without_aa(runs=runs, seconds=seconds)
    timings = api.measure(
        files,
        target=target,
        device=device,
        runtime=runtime,
        threads=threads,
        affinity=cores,
        tune_trials=tune_trials,
        tune_budget_seconds=tune_seconds,
        cache=not no_cache,
        on_message=lambda text: typer.echo(text, err=True),
    )
    if json:
        echo_json(timings)
        return
    rows = [
        {
            "file": timing["path"],
            "median ms": f"{timing['median_ms']:.4g} [{_ends(timing['interval'])}]",
            "ratio": f"{timing['ratio']:.3f} [{_ends(timing['ratio_interval'])}]",
            "size_bytes": timing["size_bytes"],
            "calm rounds": f"{sum(timing['kept'])} of {len(timing['kept'])}",
            "remark": _remark(timing["details"]),
        }
        for timing in timings
    ]
    print_rows(f"Latency on {target}, measured; ratios are to the first file, intervals at 95%", rows)
    first = timings[0]
    typer.echo(f"{first['runtime']}, {_threads_text(first['details'])}; {first['fingerprint']}")


def _print_itself(found: Mapping[str, Any]) -> None:
    from autocompress.cli.rows import print_rows

    rows = [
        {
            "run": number,
            "ratio": f"{run['ratio']:.4f} [{_ends(run['ratio_interval'])}]",
            "finds a difference": not run["ratio_interval"][0] <= 1 <= run["ratio_interval"][1],
            "calm rounds": f"{run['kept_share']:.0%}",
            "remark": _remark(run),
        }
        for number, run in enumerate(found["comparisons"], start=1)
    ]
    print_rows(f"{found['path']} against itself: every difference is the timer's", rows)
    typer.echo(
        f"{_alarms_text(found)}\n"
        f"Median half-width of the interval: {found['median_half_width']:.2%}; "
        f"{found['kept_share']:.0%} of the rounds were calm.\n"
        f"{found['runtime']}, {_threads_text(found)}; {found['fingerprint']}"
    )


def _alarms_text(found: Mapping[str, Any]) -> str:
    """How often the timer is wrong, as far as the runs can tell."""
    from autocompress.measure.self_comparison import runs_needed

    told, runs = found["told"], found["runs"]
    silent = f" {runs - told} of {runs} runs kept too few calm rounds to tell anything." if told < runs else ""
    if not told:
        return f"How often the timer is wrong cannot be told:{silent} Give more --seconds, or a quieter machine."
    low, high, _ = found["false_alarm_interval"]
    _, most, _ = found["false_difference_interval"]
    verdict = {
        "good": "as rare as it should be",
        "bad": "too often: differences found here cannot be trusted",
        "cannot tell": f"too few runs to tell whether that is right: give --runs {runs_needed()} or more",
    }[found["verdict"]]
    return (
        f"The interval excludes 1 in {found['false_alarm_share']:.0%} of {told} runs ({low:.0%} to {high:.0%} at 95%; "
        f"5% expected): {verdict}.{silent}\n"
        f"The ratio is 1% or more off in {found['notable_share']:.0%}, worst {found['worst_ratio']:.4f}; both in "
        f"{found['false_difference_share']:.0%} (at most {most:.0%})."
    )


def _threads_text(details: Mapping[str, Any]) -> str:
    cores = details.get("affinity")
    return f"{details.get('threads')} thread(s)" + (f" on cores {','.join(map(str, cores))}" if cores else "")


def _remark(details: Mapping[str, Any]) -> str:
    if details.get("cached"):
        return f"from the cache, measured {details['cached']} (--no-cache measures anew)"
    schedules = details.get("schedules") or {}
    if schedules.get("untuned"):
        return f"{schedules['untuned']} of {sum(map(schedules.get, KERNELS))} kernels untuned (--tune-trials)"
    return "" if details.get("calm", True) else "the machine was busy: measure again"


def _only(files: Sequence[Path]) -> Path:
    from autocompress.core.errors import UserError

    if len(files) != 1:
        raise UserError(f"--aa times one model against itself, but got {len(files)} files.")
    return files[0]


def _refuse_without_aa(**given: float | None) -> None:
    from autocompress.core.errors import UserError

    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name} {value:g} counts with --aa only.")


def _ends(interval: Sequence[float]) -> str:
    return f"{interval[0]:.4g}, {interval[1]:.4g}"
