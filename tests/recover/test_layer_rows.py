"""Rows times weight is what the layer gives at those places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from autocompress.graph.operator_node import OperatorNode
from autocompress.recover.layer_rows import input_rows, output_rows, rows_between, stored_weight, weight_matrix

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"weight": (6, 4, 3, 3), "pads": [1, 1, 1, 1]},
    "strided": {"weight": (6, 4, 3, 3), "pads": [1, 1, 1, 1], "strides": [2, 2]},
    "dilated": {"weight": (6, 4, 3, 3), "pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "grouped": {"weight": (6, 2, 3, 3), "pads": [1, 1, 1, 1], "group": 2},
    "depthwise": {"weight": (4, 1, 3, 3), "pads": [0, 0, 0, 0], "group": 4},
    "pointwise": {"weight": (6, 4, 1, 1)},
    "lopsided": {"weight": (6, 4, 3, 2), "pads": [2, 0, 1, 1]},
    "one axis": {"weight": (6, 4, 5), "pads": [2, 2]},
}


def _node(op_type: str, **attributes: Any) -> OperatorNode:
    return OperatorNode(op_type=op_type, name="n", inputs=("x", "w"), attributes=attributes)


def _convolve(x: torch.Tensor, weight: torch.Tensor, node: OperatorNode) -> torch.Tensor:
    rank = x.ndim - 2
    pads = list(node.attributes.get("pads", [0] * 2 * rank))
    both = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]
    options = {
        "stride": tuple(node.attributes.get("strides", [1] * rank)),
        "dilation": tuple(node.attributes.get("dilations", [1] * rank)),
        "groups": node.attributes.get("group", 1),
    }
    function = functional.conv2d if rank == 2 else functional.conv1d
    return function(functional.pad(x, both), weight, **options)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_of_a_convolution(name: str) -> None:
    attributes = dict(CONVOLUTIONS[name])
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(attributes.pop("weight"), generator=generator)
    x = torch.randn((3, 4, *[9] * (weight.ndim - 2)), generator=generator)
    node = _node("Conv", **attributes)
    written = _convolve(x, weight, node)
    places = torch.randperm(written.numel() // written.shape[1], generator=generator)[:20].sort().values
    found = input_rows(node, x, weight, places) @ weight_matrix(node, weight).mT
    together = found.transpose(0, 1).flatten(1)
    torch.testing.assert_close(together, output_rows(written, places, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_weight_of_a_convolution_is_stored_as_it_was(name: str) -> None:
    attributes = dict(CONVOLUTIONS[name])
    weight = torch.randn(attributes.pop("weight"))
    node = _node("Conv", **attributes)
    assert torch.equal(stored_weight(node, weight_matrix(node, weight), weight.shape), weight)


@pytest.mark.parametrize(("op_type", "attributes"), [("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})])
def test_the_matrix_of_a_product_has_a_row_for_each_output(op_type: str, attributes: dict[str, Any]) -> None:
    weight, node = torch.randn(5, 8), _node(op_type, **attributes)
    matrix = weight_matrix(node, weight)
    assert torch.equal(matrix, weight[None] if attributes else weight.T[None])
    assert torch.equal(stored_weight(node, matrix, weight.shape), weight)


def test_rows_of_several_batches_follow_each_other() -> None:
    node, weight = _node("MatMul"), torch.randn(4, 2)
    values, places = [torch.randn(3, 4), torch.randn(5, 4)], [torch.tensor([0, 2]), torch.tensor([1, 3, 4])]
    all_rows = torch.cat([value[some] for value, some in zip(values, places, strict=True)])
    for first, last in ((0, 5), (0, 2), (1, 4), (2, 5), (4, 5)):
        assert torch.equal(rows_between(node, values, weight, places, range(first, last))[0], all_rows[first:last])


@pytest.mark.parametrize("shape", [(7, 5), (2, 6, 5), (2, 3, 4, 5)])
def test_rows_of_a_matrix_product(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn((5, 8), generator=generator)
    places = torch.tensor([0, 3, 6])
    (rows,) = input_rows(_node("MatMul"), x, weight, places)
    torch.testing.assert_close(rows @ weight, output_rows(x @ weight, places, -1))
