"""What this machine is fit for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocompress.checkup import checks, host
from autocompress.checkup.check import Check, guarded
from autocompress.checkup.host import EXTRAS
from autocompress.checkup.machine import NOISE_RUNS
from autocompress.measure.cache import CACHE_VARIABLE
from autocompress.measure.store import FILE_NAME, MeasurementStore


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every check of this machine, by name, with a cache folder of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    try:
        return {check["check"]: check for check in checks()}
    finally:
        patch.undo()


def test_no_check_fails_by_itself(found: dict[str, dict[str, Any]]) -> None:
    assert not [check for check in found.values() if check["advice"] == "this check itself failed"]


def test_every_precision_was_timed(found: dict[str, dict[str, Any]]) -> None:
    for name in ("fp16 (throughout)", "int8 (uint8 activations)", "int8 (int8 activations)"):
        figures = found[name]["figures"]
        assert figures["interval"][0] <= figures["ratio"] <= figures["interval"][1]
        assert figures["verdict"] in ("faster", "slower", "no faster") and figures["measured"]
    assert found["fast precisions"]["found"].startswith("fp32")


def test_the_timers_noise_is_told_in_figures(found: dict[str, dict[str, Any]]) -> None:
    figures = found["timer"]["figures"]
    assert figures["runs"] == NOISE_RUNS
    assert 0 <= figures["told"] <= figures["runs"] and figures["median_half_width"] > 0
    assert 0 < figures["kept_share"] <= 1 and "calm" in found["timer"]["found"]


def test_each_extra_says_how_to_get_it(found: dict[str, dict[str, Any]]) -> None:
    for extra in EXTRAS:
        check = found[f"extra {extra}"]
        assert check["ok"]
        assert check["found"].startswith(EXTRAS[extra][0]) or f"pip install 'autocompress[{extra}]'" in check["advice"]


def test_the_project_file_has_every_extra() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in text and name in text for extra, (name, _) in EXTRAS.items())


def test_the_cache_folder_is_told_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    MeasurementStore().write({"a": 1}, {})
    (check,) = [c for c in host._folders() if c.check == "cache folder"]
    assert check.ok and check.figures["measurements"] == 1 and check.figures["bytes"] > 0
    assert str(tmp_path) in check.found


def test_a_damaged_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    (check,) = [c for c in host._folders() if c.check == "cache folder"]
    assert not check.ok and "set aside" in check.found


def test_free_space_is_told(found: dict[str, dict[str, Any]]) -> None:
    assert found["working folder"]["figures"]["free_bytes"] > 0


def test_without_an_ssh_client_boards_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = host._ssh()
    assert not check.ok and "openssh-client" in check.advice


def test_a_check_that_fails_is_a_finding() -> None:
    def broken() -> Any:
        yield Check(check="first", found="fine")
        raise ValueError("of all things\nand more")

    first, second = guarded(broken)
    assert first.ok and not second.ok
    assert (second.check, second.found) == ("broken", "ValueError: of all things")


def test_what_is_fine_needs_no_advice(found: dict[str, dict[str, Any]]) -> None:
    assert not [c for c in found.values() if c["ok"] and c["advice"] and not c["check"].startswith("extra ")]
