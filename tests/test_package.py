"""The package's public face."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from pathlib import Path

import pytest

import autocompress

ROOT = Path(__file__).resolve().parents[1]


def test_public_names_are_sorted_and_exist() -> None:
    assert autocompress.__all__ == sorted(autocompress.__all__)
    for name in autocompress.__all__:
        assert getattr(autocompress, name) is not None


def test_dir_shows_the_public_names() -> None:
    assert set(autocompress.__all__) <= set(dir(autocompress))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = autocompress.no_such_name


def test_version_is_that_of_the_distribution() -> None:
    assert autocompress.__version__ == metadata.version("autocompress")


def test_the_changelog_knows_the_version() -> None:
    assert f"## {autocompress.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    required = [r for r in metadata.requires("autocompress") or [] if "extra ==" not in r]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-") for requirement in required}
    assert names <= pinned


def test_request_defaults_are_the_demo() -> None:
    request = import_module("autocompress.core.request").SearchRequest()
    assert (request.model, request.data, request.target) == ("demo", "demo", "local")
