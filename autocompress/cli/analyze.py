"""``autocompress analyze``."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli.options import DataOption, JsonOption, ModelArgument, RuntimeOption


def analyze(
    model: ModelArgument,
    target: Annotated[str, typer.Option(metavar="T", help="Hardware profile; `local` is this machine.")] = "local",
    runtime: RuntimeOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show a model's layers and channel groups, what the target allows, and with --data the sensitivities."""
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_document

    result = api.analyze(model, target=target, runtime=runtime, data=data)
    if json:
        echo_json(result)
        return
    print_document(f"{model} on {target}", result)
