"""Sessions with explicit options."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.session import (
    ORT_ERRORS,
    SPIN_MICROSECONDS,
    create_session,
    first_line,
    session_options,
)

Graphs = Callable[..., ModelGraph]


def test_options_leave_nothing_to_the_machines_defaults() -> None:
    options = session_options(threads=2, spinning=True)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == str(SPIN_MICROSECONDS)


def test_threads_that_must_not_spin_sleep_at_once() -> None:
    options = session_options(threads=1, spinning=False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_weights_from_memory_give_the_outputs_of_the_whole_model(conv_graph: Graphs, images: np.ndarray) -> None:
    graph = conv_graph()
    skeleton, arrays = graph.skeleton(min_bytes=0)
    assert set(arrays) == set(graph.initializers)
    taken, held = create_session(skeleton, session_options(threads=1, spinning=True), arrays)
    whole, none = create_session(graph.to_bytes(), session_options(threads=1, spinning=True))
    assert len(held) == len(arrays) and none == []
    np.testing.assert_array_equal(taken.run(None, {"x": images})[0], whole.run(None, {"x": images})[0])


def test_a_session_keeps_working_when_the_graph_is_gone(conv_graph: Graphs, images: np.ndarray) -> None:
    def open_one() -> tuple[object, list[object]]:
        skeleton, arrays = conv_graph().skeleton(min_bytes=0)
        return create_session(skeleton, session_options(threads=1, spinning=True), arrays)

    session, held = open_one()
    before = session.run(None, {"x": images})[0]  # type: ignore[attr-defined]
    gc.collect()
    # Memory that was freed is soon handed out again.
    scratch = [np.full(50_000, np.nan, np.float32) for _ in range(50)]
    np.testing.assert_array_equal(session.run(None, {"x": images})[0], before)  # type: ignore[attr-defined]
    assert len(held) > 0 and len(scratch) == 50


def test_a_path_will_do(linear_file: Path) -> None:
    session, _ = create_session(linear_file, session_options(threads=1, spinning=True))
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[18, 22, 26]])


def test_what_cannot_be_loaded_raises_one_of_the_known_errors() -> None:
    with pytest.raises(ORT_ERRORS):
        create_session(b"this is not a model", session_options(threads=1, spinning=True))


def test_errors_are_told_in_one_line_without_the_code() -> None:
    error = RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Type Error: 'a'.\nsecond line")
    assert first_line(error) == "Type Error: 'a'"
    assert first_line(RuntimeError()) == "RuntimeError"
