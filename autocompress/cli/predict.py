"""``autocompress predict``."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli.options import (
    JsonOption,
    ModelArgument,
    PlanOption,
    RuntimeOption,
    TargetOption,
    parse_duration,
    read_plan,
)

MeasureOption = Annotated[
    str | None,
    typer.Option(
        help="Measure latency prices of this model on this machine for so long first, such as 60s; they are kept."
    ),
]


def predict(
    model: ModelArgument,
    plan: PlanOption,
    target: TargetOption = "local",
    runtime: RuntimeOption = None,
    measure: MeasureOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate latency and size of a plan: from this machine's price list where it has one, else from a profile."""
    wanted = read_plan(plan)
    seconds = None if measure is None else parse_duration(measure)
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_document

    result = api.predict(model, wanted, target=target, runtime=runtime, measure_seconds=seconds)
    if json:
        echo_json(result)
        return
    print_document(f"Estimated for {model} on {target}", result)
