"""Data folders and strict YAML."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from autocompress.core.errors import TargetError, UserError
from autocompress.hardware.data_files import data_folder, data_names, load_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threads: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    parts: dict[str, Inner] = {}


def write(folder: Path, text: str) -> Path:
    path = folder / "thing.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_both_data_folders_are_found() -> None:
    assert "jetson-nano" in data_names("hardware_profiles")
    assert "default" in data_names("search_spaces")


def test_a_missing_data_folder_is_named() -> None:
    with pytest.raises(UserError, match="'no_such_folder' is missing"):
        data_folder("no_such_folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel: x", "unknown key 'titel'; did you mean 'title'"),
        ("title: x\nparts: {a: {thread: 2}}", "unknown key 'thread' in `parts.a`; did you mean 'threads'"),
        ("parts: {}", "`title` is missing"),
        ("title: x\nparts: {a: {threads: many}}", "`parts.a.threads`: .*, but got 'many'"),
        ("title: [", "thing.yaml is not YAML"),
        ("", "should be a valid"),
    ],
)
def test_a_fault_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        load_yaml(write(tmp_path, text), Outer, TargetError)
    assert "thing.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"Cannot read .*gone\.yaml"):
        load_yaml(tmp_path / "gone.yaml", Outer, TargetError)
