"""``autocompress compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.options import DataOption, ModelArgument, PlanOption, RuntimeOption, read_plan


def compress(
    model: ModelArgument,
    plan: PlanOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the compressed .onnx file goes.")],
    data: DataOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of what was done to each layer and channel.")
    ] = None,
    target: Annotated[str, typer.Option("--target", metavar="T", help="Whose fast integers are used.")] = "local",
    runtime: RuntimeOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of healing; that of the search, to repeat it.")] = 0,
    rewind_to: Annotated[
        str | None,
        typer.Option("--rewind-to", metavar="MODEL", help="Early weights that importance `lottery` starts again from."),
    ] = None,
) -> None:
    """Apply one plan to a model; without --data it only slices and packs."""
    wanted = read_plan(plan)
    from autocompress import api
    from autocompress.cli.rows import size_text

    result = api.compress(
        model, wanted, out=out, data=data, report=report, target=target, runtime=runtime, seed=seed, rewind_to=rewind_to
    )
    size = result.get("size_bytes")
    typer.echo(f"{out}: {size_text(size)}" if size is not None else str(out))
    for note in result.get("notes", []):
        typer.echo(note)
    if report is not None:
        typer.echo(f"report: {report}")
