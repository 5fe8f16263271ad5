"""Small JSON files."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.measure.cache import CACHE_VARIABLE, JsonCache, cache_folder

KEY = {"fingerprint": "abacus", "threads": 1}


@pytest.fixture
def cache(tmp_path: Path) -> JsonCache:
    return JsonCache("probe", tmp_path / "deep" / "folder")


def test_what_was_written_is_read_back(cache: JsonCache) -> None:
    entry = {"ratio": 0.1 + 0.2, "name": "Prozessor ä", "list": [1, None, True]}
    cache.write(KEY, entry)
    assert cache.read(KEY) == entry


def test_a_later_entry_takes_the_place_of_an_earlier_one(cache: JsonCache) -> None:
    for ratio in (1, 2):
        cache.write(KEY, {"ratio": ratio})
    assert cache.read(KEY) == {"ratio": 2}


def test_the_order_of_a_keys_parts_does_not_matter_but_their_values_do(cache: JsonCache) -> None:
    assert cache.path(KEY) == cache.path(dict(reversed(KEY.items())))
    assert cache.path(KEY) != cache.path({**KEY, "threads": 2})


def test_kinds_do_not_meet(tmp_path: Path) -> None:
    JsonCache("probe", tmp_path).write(KEY, {"ratio": 1})
    assert JsonCache("price", tmp_path).read(KEY) is None


def test_what_was_never_written_is_absent(cache: JsonCache) -> None:
    assert cache.read(KEY) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_file_counts_as_absent(cache: JsonCache, content: bytes) -> None:
    cache.write(KEY, {})
    cache.path(KEY).write_bytes(content)
    assert cache.read(KEY) is None


def test_nothing_but_the_entry_is_left_in_the_folder(cache: JsonCache) -> None:
    cache.write(KEY, {"ratio": 1})
    assert list(cache.path(KEY).parent.iterdir()) == [cache.path(KEY)]


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the folder should be")
    cache = JsonCache("probe", blocked)
    cache.write(KEY, {"ratio": 1})
    assert cache.read(KEY) is None


def test_an_entry_that_cannot_be_written_leaves_no_part_behind(cache: JsonCache) -> None:
    cache.write(KEY, {"ratio": 1})
    with pytest.raises(TypeError):
        cache.write(KEY, {"ratio": object()})
    assert list(cache.path(KEY).parent.iterdir()) == [cache.path(KEY)]
    assert cache.read(KEY) == {"ratio": 1}


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    assert JsonCache("probe").path(KEY).parent == tmp_path


def test_without_it_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_folder().name == "autocompress"
