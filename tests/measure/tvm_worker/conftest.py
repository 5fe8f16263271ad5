"""One worker for the tests of what it does; this process imports no TVM."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.measure.runtimes.tvm import TvmRuntime


@pytest.fixture(scope="session")
def tvm_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TvmRuntime]:
    if importlib.util.find_spec("tvm") is None:
        pytest.skip("TVM is not installed")
    schedules: Path = tmp_path_factory.mktemp("schedules")
    made = TvmRuntime(schedules=schedules)
    yield made
    made.close()
