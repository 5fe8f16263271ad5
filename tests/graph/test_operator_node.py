"""What builders read of a node, and what the executor then need not pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import ModelError
from autocompress.graph.operator_node import OperatorNode


def node(**values: Any) -> OperatorNode:
    return OperatorNode(op_type="Pad", name="n", inputs=("x", "a", None), **values)


def test_an_optional_input_may_be_absent_or_left_out() -> None:
    assert [node().has(position) for position in range(4)] == [True, True, False, False]


def test_a_constant_that_was_read_is_not_passed_again() -> None:
    item = node(constants={1: np.array([[1, 2]])})
    assert item.integers(2) is None
    assert item.consumed == set()
    assert item.integers(1) == (1, 2)
    assert item.consumed == {1}


@pytest.mark.parametrize(
    ("array", "wanted"), [(np.array([2.5]), 2.5), (np.array(3), 3.0), (np.array([1.0, 2.0]), None)]
)
def test_a_scalar_has_one_element(array: Any, wanted: float | None) -> None:
    item = node(constants={1: array})
    assert item.scalar(1) == wanted
    assert item.consumed == ({1} if wanted is not None else set())


def test_a_choice_that_is_not_known_is_named_with_those_that_are() -> None:
    known = ("constant", "edge")
    assert node().choice("mode", "constant", known) == "constant"
    assert node(attributes={"mode": "edge"}).choice("mode", "constant", known) == "edge"
    with pytest.raises(ModelError, match=r"operator Pad of node 'n': mode 'wrap' .* \(known: constant, edge\)"):
        node(attributes={"mode": "wrap"}).choice("mode", "constant", known)
