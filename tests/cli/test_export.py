"""Mistakes of ``autocompress export`` that are told before anything is read."""

from __future__ import annotations

import pytest

from autocompress.cli.app import EXIT_USER, run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "tmv"], "Unknown format 'tmv'; did you mean 'tvm'?"),
        (["--target", "jetson-nano"], "--target jetson-nano goes with --format tvm"),
    ],
)
def test_what_does_not_go_together_is_said(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "runs/none", "--pick", "fastest", "--out", "deploy", *options]) == EXIT_USER
    assert said in capsys.readouterr().err
