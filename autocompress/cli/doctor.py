"""``autocompress doctor``."""

from __future__ import annotations

from autocompress.cli.options import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Check this machine: which precisions are fast, how noisy its timer is, packages, extras, ssh and folders."""
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows

    checks = api.doctor()
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
    print_rows("Doctor", rows)
