"""Keep exporters and optimizers from talking to the user."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_TALKATIVE = ("onnx_ir", "onnxscript", "torch", "torch.onnx", "torch.export")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log lines and prints of the libraries called inside."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error that says something, cut at ``limit``; the kind of error where it has no text."""
    for line in str(error).splitlines():
        text = _without_colours(line).strip()
        if text:
            return text[:limit]
    return type(error).__name__


def _without_colours(text: str) -> str:
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
