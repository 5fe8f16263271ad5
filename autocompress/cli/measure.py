"""``autocompress measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.options import DeviceOption, JsonOption, RuntimeOption, TargetOption


def measure(
    files: Annotated[list[Path], typer.Argument(metavar="A.onnx [B.onnx ...]", help="The first is the reference.")],
    target: TargetOption = "local",
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads of the runtime.")] = None,
    json: JsonOption = False,
) -> None:
    """Time models against the first one, interleaved, in processes of their own."""
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows

    rows = api.measure(files, target=target, device=device, runtime=runtime, threads=threads)
    if json:
        echo_json(rows)
        return
    kinds = {str(row.get("provenance", "measured")) for row in rows}
    word = "estimated latency" if "estimated" in kinds else "latency"
    print_rows(f"{word.capitalize()} on {target}; ratios are to the first file", rows, hidden=("samples",))
