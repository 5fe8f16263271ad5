"""What libraries say is kept from the user, and only inside."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from autocompress.graph.quiet import first_line, quiet


def test_prints_warnings_and_logs_are_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        sys.stdout.write("printed\n")
        sys.stderr.write("complained\n")
        warnings.warn("warned", stacklevel=1)
        logging.getLogger("torch.onnx").error("logged")
    assert capsys.readouterr() == ("", "")


def test_everything_is_as_before_afterwards_even_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch.onnx").level
    with pytest.raises(KeyError), quiet():
        raise KeyError
    sys.stdout.write("printed\n")
    assert capsys.readouterr().out == "printed\n"
    assert logging.getLogger("torch.onnx").level == level
    with pytest.warns(UserWarning, match="warned"):
        warnings.warn("warned", stacklevel=1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\ntwo", "one"),
        ("\n \n  two", "two"),
        ("\x1b[31m\x1b[1mred\x1b[0m", "red"),
        ("\x1b[31m\x1b[0m\nplain", "plain"),
        ("", "ValueError"),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_first_line_that_says_something(text: str, wanted: str) -> None:
    assert first_line(ValueError(text)) == wanted
