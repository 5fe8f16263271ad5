"""One finding of ``doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Args:
        check: what was looked at.
        ok: whether nothing needs doing.
        found: in words.
        advice: what to do where it is not ok.
        figures: what was measured; JSON values.
    """

    check: str
    ok: bool = True
    found: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def guarded(group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """A check that itself fails is a finding, not the end of the others."""
    try:
        yield from group()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        name = getattr(group, "__name__", "check").strip("_")
        yield Check(check=name, ok=False, found=f"{type(error).__name__}: {first}", advice="this check itself failed")
