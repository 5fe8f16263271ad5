"""The worker process: requests on standard input, answers on standard output, a line of JSON each.

A request is ``{"id": number, "verb": name, ...}``. Any number of ``{"id": ..., "event": {...}}`` may tell of progress;
then comes ``{"id": ..., "result": {...}}``, or ``{"id": ..., "error": {"type": class of core/errors.py, "stage": text,
"reason": text}}``. It ends with its standard input. What TVM prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from autocompress.core.errors import AutocompressError, CandidateError
from autocompress.measure.runtimes.tvm_link import spare_torch


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spare_torch()
    from autocompress.measure.tvm_worker.session import VERBS, Session

    session = Session(threads=int(os.environ["TVM_NUM_THREADS"]))
    for line in sys.stdin:
        request = json.loads(line)
        number = request["id"]

        def tell(event: Mapping[str, Any], number: int = number) -> None:
            _write(answers, {"id": number, "event": dict(event)})

        try:
            answer = {"result": VERBS[request["verb"]](session, request, tell)}
        except CandidateError as error:
            answer = {"error": _told(error, error.stage, error.reason)}
        except AutocompressError as error:
            answer = {"error": _told(error, "", str(error))}
        except Exception as error:  # TVM raises its own kinds, numpy too
            lines = [text.strip() for text in str(error).strip().splitlines() if text.strip()] or [""]
            reason = f"{type(error).__name__}: {lines[-1][:300]}"
            answer = {"error": {"type": "CandidateError", "stage": request["verb"], "reason": reason}}
        _write(answers, {"id": number, **answer})


def _told(error: AutocompressError, stage: str, reason: str) -> dict[str, Any]:
    return {"type": type(error).__name__, "stage": stage, "reason": reason}


def _write(stream: TextIO, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
