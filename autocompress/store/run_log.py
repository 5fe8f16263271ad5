"""What a search said, kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autocompress.core.pareto import ParetoFront
from autocompress.core.request import SearchObserver, SearchOutcome
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial


class LoggedObserver:
    """Passes everything on to another observer and writes a line of it to a file, with the time in UTC.

    Args:
        observer: what watches the search.
        path: of the log; lines are added at its end.
    """

    def __init__(self, observer: SearchObserver, path: Path) -> None:
        self._observer = observer
        self._path = path

    def on_message(self, text: str) -> None:
        """Log it and pass it on."""
        self._write(text)
        self._observer.on_message(text)

    def on_space(self, space: SearchSpace, baseline: Mapping[str, Any]) -> None:
        """Log its size and pass it on."""
        self._write(f"space of 10^{space.log10_size:.1f} plans, {len(space.refused)} refusals; {dict(baseline)}")
        for refusal in space.refused:
            self._write(f"refused {refusal.option} for {refusal.subject}: {refusal.reason}")
        self._observer.on_space(space, baseline)

    def on_stage(self, number: int, label: str, stage: str) -> None:
        """Pass it on."""
        self._observer.on_stage(number, label, stage)

    def on_trial(
        self, trial: Trial, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None
    ) -> None:
        """Log how it ended and pass it on."""
        figures = ", ".join(f"{name} {m.value:.6g} ({m.provenance})" for name, m in trial.measurements.items())
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in trial.stage_seconds.items())
        reason = f": {trial.error}" if trial.error else ""
        self._write(f"trial {trial.number} {trial.state}{reason} | {trial.candidate.label} | {figures} | {stages}")
        self._observer.on_trial(trial, front, hypervolume, elapsed, budget)

    def on_done(self, outcome: SearchOutcome) -> None:
        """Log the front and pass it on."""
        for message in outcome.messages:
            self._write(message)
        self._write(f"front: {', '.join(str(t.number) for t in outcome.front.trials) or 'empty'}")
        self._observer.on_done(outcome)

    def should_stop(self) -> bool:
        """As the observer says."""
        return self._observer.should_stop()

    def _write(self, text: str) -> None:
        line = " ".join(text.split())
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")
