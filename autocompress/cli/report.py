"""``autocompress report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder; a search may still be running in it.")],
) -> None:
    """Write report.html and trials.csv of a run again."""
    from autocompress import api

    typer.echo(str(api.report(run)))
