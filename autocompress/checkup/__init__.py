"""``doctor``: what a machine can run, which precisions are fast on it, how noisy its timer is, and what is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autocompress.checkup.check import guarded


def checks(device: str = "local") -> list[dict[str, Any]]:
    """One record a check: ``check``, ``ok``, ``found``, ``figures`` and, where something can be done, ``advice``.

    Args:
        device: ``local``, this machine, or the URL of an attached device.

    Raises:
        TargetError: the device cannot be reached.
    """
    from autocompress.checkup import attached, host

    if device == "local":
        return [asdict(check) for group in host.GROUPS for check in guarded(group)]
    return [asdict(check) for check in attached.checks_of(device)]
