"""``autocompress export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    pick: Annotated[
        str,
        typer.Option(
            metavar="EXPR", help="'latency_ms<5', 'accuracy>=0.92, size_bytes<1e6', fastest, best or a number."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New or empty folder for the artifact.")],
    format: Annotated[
        str, typer.Option(metavar="F", help="onnx: the measured file; tvm: compiled from it for the target.")
    ] = "onnx",
    target: Annotated[
        str | None, typer.Option(metavar="T", help="Profile to compile for. Default: what the run was for.")
    ] = None,
) -> None:
    """Copy one point of the front to a folder that is ready to deploy, checked against what was measured."""
    from autocompress import api
    from autocompress.cli.rows import print_document

    result = api.export(run, pick, out, format=format, target=target)
    print_document(f"Exported to {out}", result)
