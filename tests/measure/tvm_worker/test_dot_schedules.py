"""Every schedule that is listed for a kernel, on this machine's processor."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="TVM is not installed")
def test_all_of_them_compute_the_same() -> None:
    command = [sys.executable, str(Path(__file__).with_name("every_schedule.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for counts in json.loads(done.stdout).values():
        # A processor without dot products of 8-bit numbers has none of them.
        assert counts == [None, None] or min(counts) >= 1
