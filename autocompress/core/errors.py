"""The errors this package raises.

AutocompressError
├── UserError              the user can mend it; the command line exits with 2
│   ├── UnknownNameError   a name that nothing has; the message lists the nearest
│   ├── ModelError         a model that cannot be loaded, exported or executed
│   ├── DataError          data that is missing, empty or of another shape
│   ├── PlanError          a plan that does not fit the graph
│   ├── SpaceError         a search space with nothing to choose
│   ├── RunFolderError     a run folder that cannot be read, written or resumed
│   ├── TargetError        a profile, runtime or device that cannot do what was asked
│   │   └── DeviceLostError  a device that does not answer now and may again
│   └── MissingExtraError  an optional dependency is not installed
├── CandidateError         one candidate failed; a search records it and goes on
└── Interrupted            the user asked to stop; the work in flight is dropped
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutocompressError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(AutocompressError):
    """Something the user can mend: one line with the thing, its value and what would be right."""


class ModelError(UserError):
    """A model that cannot be loaded, exported or executed."""


class DataError(UserError):
    """Data that is missing, empty, or of another shape than the model's inputs."""


class PlanError(UserError):
    """A compression plan that is malformed or does not fit the graph."""


class SpaceError(UserError):
    """A search space that is malformed or offers nothing to choose."""


class RunFolderError(UserError):
    """A run folder that cannot be read, written or resumed."""


class TargetError(UserError):
    """A profile, runtime or device that cannot do what was asked."""


class DeviceLostError(TargetError):
    """A device that does not answer now and may again: unplugged, restarting, out of reach."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message says which `pip install` brings it."""


class CandidateError(AutocompressError):
    """One candidate failed; `stage` says where (`prune`, `quantize`, `build`, `accuracy`, `latency`, ...)."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason


class Interrupted(AutocompressError):  # noqa: N818 - it is no error, it is a request
    """The user asked to stop; the work in flight is dropped."""


class UnknownNameError(UserError):
    """A name that nothing has.

    Args:
        kind: what the name should have named, such as ``target``.
        name: the name as given.
        known: every name that would be right.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = list(known)
        near = nearest(name, names)
        hint = f"; did you mean {near!r}?" if near else "."
        listed = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
        super().__init__(f"Unknown {kind} {name!r}{hint} Known: {listed or 'none'}.")
        self.kind = kind
        self.name = name


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None where none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return matches[0] if matches else None
