"""``autocompress measure``."""

from __future__ import annotations

from collections.abc import Sequence
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

    timings = api.measure(files, target=target, device=device, runtime=runtime, threads=threads)
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
            "remark": "" if timing["details"].get("calm", True) else "the machine was busy: measure again",
        }
        for timing in timings
    ]
    print_rows(f"Latency on {target}, measured; ratios are to the first file, intervals at 95%", rows)
    first = timings[0]
    typer.echo(f"{first['runtime']}, {first['details'].get('threads')} thread(s); {first['fingerprint']}")


def _ends(interval: Sequence[float]) -> str:
    return f"{interval[0]:.4g}, {interval[1]:.4g}"
