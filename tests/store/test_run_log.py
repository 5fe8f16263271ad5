"""The log in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autocompress.core.pareto import ParetoFront
from autocompress.core.request import SilentObserver
from autocompress.core.space import Refusal, SearchSpace
from autocompress.core.trial import Trial, TrialState
from autocompress.store.run_log import LoggedObserver

EMPTY = ParetoFront(objectives=(), trials=())


class Heard(SilentObserver):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def test_messages_are_passed_on_and_kept_one_line_each(tmp_path: Path) -> None:
    heard = Heard()
    log = LoggedObserver(heard, tmp_path / "log.txt")
    log.on_message("two\nlines")
    log.on_message("another")
    assert heard.messages == ["two\nlines", "another"]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["two lines", "another"]


def test_a_failure_is_logged_with_its_reason(tmp_path: Path, trial_factory: Callable[..., Trial]) -> None:
    log = LoggedObserver(SilentObserver(), tmp_path / "log.txt")
    log.on_trial(trial_factory(3, state=TrialState.FAIL, error="build: no kernel"), EMPTY, 0.0, 1.0, None)
    assert "trial 3 fail: build: no kernel" in (tmp_path / "log.txt").read_text()


def test_refusals_are_logged(tmp_path: Path) -> None:
    log = LoggedObserver(SilentObserver(), tmp_path / "log.txt")
    refused = (Refusal(subject="all layers", option="int8", reason="no DP4A"),)
    log.on_space(SearchSpace(choices=(), refused=refused), {"accuracy": 0.9})
    assert "refused int8 for all layers: no DP4A" in (tmp_path / "log.txt").read_text()
