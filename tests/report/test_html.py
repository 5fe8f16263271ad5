"""report.html."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import RunFolderError
from autocompress.core.pareto import ParetoFront
from autocompress.core.trial import Trial
from autocompress.report.figures import plotly_script
from autocompress.report.html import write_report


class _Page(HTMLParser):
    """Collects what could load something, and the text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where in ("h1", "h2", "h3", "th"):
            self.headings.append(data)
        if where not in ("script", "style"):
            self.text.append(data)


def _write(run: Any, path: Path, **changes: Any) -> str:
    values = {name: getattr(run, name) for name in run.__dataclass_fields__}
    return write_report(path, **{**values, **changes}).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(made_up_run: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _write(made_up_run, tmp_path_factory.mktemp("report") / "report.html")


def _parse(text: str) -> _Page:
    parser = _Page()
    parser.feed(text.replace(plotly_script(), ""))
    return parser


def test_it_loads_nothing(page: str) -> None:
    assert _parse(page).loads == []
    assert "default-src 'none'" in page


def test_the_library_is_inline(page: str) -> None:
    assert plotly_script() in page


def test_every_section_is_there(page: str) -> None:
    wanted = {
        "Pareto front",
        "Layer by layer",
        "Hypervolume over trials",
        "Sensitivities",
        "All trials",
        "Refused",
        "Provenance",
    }
    assert wanted <= set(_parse(page).headings)


def test_text_from_outside_is_escaped(page: str) -> None:
    parsed = _parse(page)
    assert "<script>alert('x')" not in page
    assert any("<script>alert('x')</script>" in text for text in parsed.text)


def test_a_hostile_label_breaks_nothing(made_up_run: Any, trial_factory: Callable[..., Trial], tmp_path: Path) -> None:
    label = "</script><img src=x onerror=alert(1)>"
    trials = (made_up_run.baseline, trial_factory(1, label=label, latency_ms=0.5, ratio=0.2))
    front = ParetoFront.of(trials, made_up_run.objectives)
    text = _write(made_up_run, tmp_path / "r.html", trials=trials, front=front, title=label)
    assert label not in text
    assert "img" not in _parse(text).tags


def test_measured_runs_never_say_estimated(page: str) -> None:
    assert not any("estimated" in text for text in _parse(page).text)


def test_estimates_are_loud(estimated_run: Any, tmp_path: Path) -> None:
    text = _write(estimated_run, tmp_path / "r.html")
    headings = _parse(text).headings
    assert "Latencies are estimated" in text
    for heading in headings:
        if "latency" in heading or heading.startswith(("Pareto", "Hypervolume")):
            assert "estimated" in heading, heading


def test_recommended_points_head_the_page(made_up_run: Any, tmp_path: Path) -> None:
    text = _write(made_up_run, tmp_path / "r.html", recommended={"balanced knee": made_up_run.trials[18]})
    card = re.search(r"Balanced knee</div><div class=\"big\">([^<]*)<", text)
    assert card is not None
    assert card[1].endswith("× faster")


def test_an_empty_front_still_makes_a_report(made_up_run: Any, tmp_path: Path) -> None:
    front = ParetoFront(objectives=made_up_run.objectives, trials=())
    assert "No trial completed" in _write(made_up_run, tmp_path / "r.html", front=front, sensitivities=None)


def test_a_third_objective_gets_a_figure_of_its_own(made_up_run: Any, tmp_path: Path) -> None:
    from autocompress.core.objective import Objective

    objectives = (*made_up_run.objectives, Objective(metric="size_bytes"))
    front = ParetoFront.of(made_up_run.trials, objectives)
    text = _write(made_up_run, tmp_path / "r.html", objectives=objectives, front=front)
    assert 'id="figure-front-1"' in text


def test_one_objective_is_enough(made_up_run: Any, tmp_path: Path) -> None:
    objectives = made_up_run.objectives[1:]
    front = ParetoFront.of(made_up_run.trials, objectives)
    assert 'id="figure-front-0"' in _write(made_up_run, tmp_path / "r.html", objectives=objectives, front=front)


def test_an_unwritable_place_is_named(made_up_run: Any, tmp_path: Path) -> None:
    (tmp_path / "nowhere").write_text("a file where a folder is wanted")
    with pytest.raises(RunFolderError, match="nowhere"):
        _write(made_up_run, tmp_path / "nowhere" / "r.html")
