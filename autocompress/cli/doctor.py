"""``autocompress doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli.options import JsonOption


def doctor(
    device: Annotated[
        str, typer.Option(metavar="URL", help="An attached device, ssh://user@host; `local` is this machine.")
    ] = "local",
    json: JsonOption = False,
) -> None:
    """Check this machine: which precisions are fast, how noisy its timer is, packages, extras, ssh and folders.

    With --device check an attached device: what it is and lacks, which precisions are fast there, noise, clock, heat.
    """
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows

    checks = api.doctor(device)
    if json:
        echo_json(checks)
        return
    rows = [
        {
            "": "ok" if c["ok"] else "!!",
            "check": c["check"],
            "found": c["found"],
            "advice": "" if c["ok"] else c["advice"],
        }
        for c in checks
    ]
    print_rows("Doctor" if device == "local" else f"Doctor: {device}", rows)
