"""What a search space rules out, and why."""

from __future__ import annotations

from autocompress.core.space import Refusal

ALL_LAYERS = "all layers"
SIZE_ONLY_REASON = "only makes the file smaller: give --objective size_bytes or --max-size-mb to search it"


class Refusals:
    """What was ruled out, one line a reason however many layers it holds for."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._subjects: dict[tuple[str, str], list[str]] = {}

    def add(self, subject: str, option: str, reason: str) -> None:
        """Note that a layer or group cannot take an option."""
        self._subjects.setdefault((option, reason), []).append(subject)

    def listed(self) -> tuple[Refusal, ...]:
        """One refusal a reason, in the order of the first."""
        return tuple(
            Refusal(subject=self._name(subjects, option), option=option, reason=reason)
            for (option, reason), subjects in self._subjects.items()
        )

    def _name(self, subjects: list[str], option: str) -> str:
        if option != "prune" and len(subjects) == self._n_layers:
            return ALL_LAYERS
        more = f" and {len(subjects) - 3} more" if len(subjects) > 3 else ""
        return ", ".join(subjects[:3]) + more
