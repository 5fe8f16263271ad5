"""Durations, plans and configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.cli.options import parse_cores, parse_duration, read_config, read_plan
from autocompress.cli.search import READERS
from autocompress.core.errors import PlanError, UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("3m", 180), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), ("45", 45), (" 3M ", 180)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3x", "m", "-3m", "0s", "3m2", "1h 30"])
def test_a_bad_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="duration"):
        parse_duration(text)


def test_config_reads_both_spellings_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "target: local\nmax-accuracy-drop: 0.01\nmax_size_mb: 2\nbudget: 3m\nobjective: [accuracy, size_bytes]\n"
    )
    assert read_config(path, READERS) == {
        "target": "local",
        "max_accuracy_drop": 0.01,
        "max_size_mb": 2.0,
        "budget": 180.0,
        "objective": ("accuracy", "size_bytes"),
    }


def test_one_objective_may_stand_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("objective: latency_ms\n")
    assert read_config(path, READERS) == {"objective": ("latency_ms",)}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tragets: 1", "target"),
        ("max-acuracy-drop: 0.1", "max-accuracy-drop"),
        ("seed: many", "whole number"),
        ("trials: true", "whole number"),
        ("budget: 3x", "3x"),
        ("- a", "list"),
        ("a: [", "not YAML"),
    ],
)
def test_a_bad_config_names_the_fault(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=hint):
        read_config(path, READERS)


def test_an_empty_config_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert read_config(path, READERS) == {}


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.yaml"):
        read_config(tmp_path / "c.yaml", READERS)


def test_plan_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"layer": {}}')
    with pytest.raises(PlanError, match=r"plan\.json.*layers"):
        read_plan(path)


@pytest.mark.parametrize(("text", "cores"), [("0", (0,)), ("2-3", (2, 3)), ("5, 0-2", (0, 1, 2, 5))])
def test_cores_are_numbers_and_ranges(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,,1", "-1", "0-99999", "1.5"])
def test_what_names_no_cores_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Cores are written like"):
        parse_cores(text)


def test_a_core_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="named twice"):
        parse_cores("0-2,1")
