"""Plain values as tables and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autocompress.cli.rows import echo_json, print_document, print_rows, size_text


def test_json_takes_paths_arrays_and_scalars(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"path": Path("a/b"), "array": np.arange(3), "scalar": np.float64(0.5), "set": {1}})
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "array": [0, 1, 2], "scalar": 0.5, "set": [1]}


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 B"), (1090, "1.09 kB"), (312_000, "312 kB"), (98_000_000, "98 MB")]
)
def test_sizes_are_readable(size: float, text: str) -> None:
    assert size_text(size) == text


def test_rows_hide_raw_samples(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("Latency", [{"file": "a.onnx", "median_ms": 1.25, "samples_ms": [1.0, 2.0]}], hidden=("samples",))
    shown = capsys.readouterr().out
    assert "1.25" in shown
    assert "samples" not in shown


def test_a_document_becomes_values_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_document(
        "demo",
        {
            "macs": 31_000_000,
            "layers": [{"name": "conv1", "weight_shape": (16, 1, 3, 3), "blocked": None}],
            "refused": [],
        },
    )
    shown = capsys.readouterr().out
    assert "macs: 31000000" in shown
    assert "16×1×3×3" in shown
    assert "refused: –" in shown
