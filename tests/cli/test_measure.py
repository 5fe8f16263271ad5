"""What a series of comparisons of a model with itself is said to tell."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.cli.measure import _alarms_text
from autocompress.measure.self_comparison import summary


def run(*, alarm: bool = False, rounds_kept: int = 9) -> dict[str, Any]:
    low, ratio, high = (1.01, 1.02, 1.03) if alarm else (0.99, 1.0, 1.01)
    told = {"calm": True, "kept_share": 0.5, "rounds_kept": rounds_kept}
    return {"ratio": ratio, "ratio_interval": [low, high, 0.95], **told}


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run()] * 40, "in 0% of 40 runs (0% to 9% at 95%; 5% expected): as rare as it should be."),
        (
            [run()] * 10,
            "in 0% of 10 runs (0% to 28% at 95%; 5% expected): too few runs to tell whether that is right: ",
        ),
        ([run(alarm=True)] * 5 + [run()] * 5, "too often: differences found here cannot be trusted."),
        ([run()] * 40 + [run(rounds_kept=3)], "1 of 41 runs kept too few calm rounds to tell anything."),
        ([run(rounds_kept=3)] * 4, "How often the timer is wrong cannot be told: 4 of 4 runs kept too few calm rounds"),
    ],
)
def test_a_share_comes_with_what_it_is_worth(runs: list[dict[str, Any]], said: str) -> None:
    assert said in _alarms_text(summary(runs))
