"""A search watched live: a table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from autocompress.cli.figures_text import (
    NONE,
    clock,
    is_estimated,
    is_uncompressed,
    latency_text,
    latency_title,
    quality_text,
    ratio_text,
    state_text,
)
from autocompress.cli.interrupt import GentleInterrupt
from autocompress.cli.results import print_outcome, space_lines
from autocompress.cli.rows import console
from autocompress.core.pareto import ParetoFront
from autocompress.core.request import SearchOutcome, SearchRequest
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Trials shown in the live table.
LATEST = 12


def make_observer(request: SearchRequest) -> SearchWatcher:
    """The live table where standard output is a terminal, else one line a trial."""
    return LiveWatcher(request) if sys.stdout.isatty() else SearchWatcher(request)


class SearchWatcher:
    """Prints one line a trial, and turns Ctrl-C into a clean stop."""

    def __init__(self, request: SearchRequest) -> None:
        self._request = request
        self._console = console()
        self._interrupt = GentleInterrupt(self.on_message)
        self._baseline: Trial | float | None = None
        self._trials: list[Trial] = []

    def __enter__(self) -> Self:
        self._interrupt.__enter__()
        request = self._request
        aims = ", ".join(request.objectives)
        self.on_message(f"autocompress: {request.model} with {request.data} on {request.target}, for {aims}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupt.__exit__(kind, error, trace)

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._interrupt.asked

    def on_message(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def on_space(self, space: SearchSpace, baseline: Mapping[str, Any]) -> None:
        """Print the space and the uncompressed model's figures."""
        for key in ("latency_ms", "estimated_latency_ms"):
            if isinstance(baseline.get(key), float):
                self._baseline = baseline[key]
        for line in space_lines(space, baseline):
            self.on_message(line)

    def on_stage(self, number: int, label: str, stage: str) -> None:
        """Nothing: one line a trial is enough where nobody watches."""

    def on_trial(
        self, trial: Trial, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None
    ) -> None:
        """Print the trial's figures and the state of the search."""
        self._remember(trial)
        on_front = any(t.number == trial.number for t in front.trials)
        estimated = "estimated " if is_estimated([trial]) else ""
        quality = quality_text(trial)
        self.on_message(
            f"trial {trial.number}  {trial.candidate.label or trial.candidate.source}  "
            f"quality {quality}{'' if quality == NONE else '%'}  {estimated}latency {latency_text(trial)} ms  "
            f"{estimated}ratio {ratio_text(trial, self._baseline)}  {state_text(trial, on_front, 110)}  "
            f"| {self._progress(front, hypervolume, elapsed, budget)}"
        )

    def on_done(self, outcome: SearchOutcome) -> None:
        """Print the front, the recommended points and the next command."""
        print_outcome(outcome, self._console)

    def _remember(self, trial: Trial) -> None:
        self._trials.append(trial)
        if not isinstance(self._baseline, Trial) and is_uncompressed(trial):
            self._baseline = trial

    def _progress(self, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None) -> str:
        left = f"{clock(elapsed)} gone" if budget is None else f"{clock(budget - elapsed)} left"
        return f"front {len(front.trials)}, hypervolume {hypervolume:.4g}, {left}"


class LiveWatcher(SearchWatcher):
    """A table of the latest trials that is redrawn at each event.

    It is not redrawn from a thread of its own: that would run while latencies are measured.
    """

    def __init__(self, request: SearchRequest) -> None:
        from rich.live import Live

        super().__init__(request)
        self._rows: deque[tuple[Trial, float]] = deque(maxlen=LATEST)
        self._running: tuple[int, str, str] | None = None
        self._front: ParetoFront | None = None
        self._hypervolume = 0.0
        self._budget = request.budget_seconds
        self._started = time.monotonic()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        super().__exit__(kind, error, trace)

    def on_stage(self, number: int, label: str, stage: str) -> None:
        """Show the stage of the running trial."""
        self._running = (number, label, stage)
        self._live.refresh()

    def on_trial(
        self, trial: Trial, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None
    ) -> None:
        """Add the trial to the table."""
        self._remember(trial)
        self._rows.append((trial, sum(trial.stage_seconds.values())))
        self._front, self._hypervolume, self._budget, self._running = front, hypervolume, budget, None
        self._started = time.monotonic() - elapsed
        self._live.refresh()

    def on_done(self, outcome: SearchOutcome) -> None:
        """Replace the live table by the result."""
        self._live.stop()
        super().on_done(outcome)

    def _render(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        latency = latency_title(self._trials)
        prefix = "estimated " if latency.startswith("estimated") else ""
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("plan", ratio=3, overflow="ellipsis", no_wrap=True)
        table.add_column("stage", overflow="ellipsis", no_wrap=True, min_width=9)
        table.add_column("quality (%)", justify="right", no_wrap=True)
        table.add_column(latency, justify="right", no_wrap=not prefix)
        table.add_column(f"{prefix}ratio", justify="right", no_wrap=not prefix)
        table.add_column("state", ratio=3, overflow="ellipsis", no_wrap=True)
        front = {t.number for t in self._front.trials} if self._front else set()
        styles = {"pruned": "dim", "fail": "red"}
        for trial, seconds in self._rows:
            on_front = trial.number in front
            table.add_row(
                str(trial.number),
                Text(trial.candidate.label or trial.candidate.source),
                f"{seconds:.1f} s",
                quality_text(trial),
                latency_text(trial),
                ratio_text(trial, self._baseline),
                Text(state_text(trial, on_front)),
                style="bold green" if on_front else styles.get(trial.state.value, ""),
            )
        if self._running is not None:
            number, label, stage = self._running
            table.add_row(
                str(number) if number >= 0 else "", Text(label), Text(stage), "", "", "", "running", style="cyan"
            )
        elapsed = time.monotonic() - self._started
        if self._front is None:
            line = f"{clock(elapsed)} gone"
        else:
            line = f"{len(self._trials)} trials, " + self._progress(
                self._front, self._hypervolume, elapsed, self._budget
            )
        stopping = " | stopping after this stage" if self.should_stop() else ""
        return Group(table, Text(line + stopping, style="bold"))
