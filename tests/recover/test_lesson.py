"""What is kept of the uncompressed network's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.features import with_outputs
from autocompress.recover.lesson import Lesson, Taught


def taught(graph: ModelGraph, images: NDArray[np.float32], *sizes: int, seed: int = 0) -> Lesson:
    batches = [(torch.from_numpy(part),) for part in np.split(images[: sum(sizes)], np.cumsum(sizes)[:-1])]
    lesson = Lesson(graph, sizes, seed=seed)
    with torch.no_grad():
        lesson.module.walk(batches, after=lesson.after)
    return lesson


def test_rows_are_the_values_at_their_places(small: ModelGraph, images: NDArray[np.float32]) -> None:
    value = taught(small, images, 50, 40).values["b_bn"]
    graph = with_outputs(small, ["b_bn"])
    with torch.no_grad():
        whole = [graph.to_torch().eval()(torch.from_numpy(part))[1] for part in (images[:50], images[50:90])]
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 16) for x in whole]
    wanted = torch.cat([x[places] for x, places in zip(flat, value.places, strict=True)])
    torch.testing.assert_close(value.rows, wanted, rtol=1e-4, atol=1e-4)
    assert value.axis == 1
    assert value.positions == [(50, 8, 8), (40, 8, 8)]


def test_places_rise_and_none_comes_twice(small: ModelGraph, images: NDArray[np.float32]) -> None:
    for value in taught(small, images, 90).values.values():
        (places,) = value.places
        assert bool((places.diff() > 0).all())


def test_another_seed_looks_elsewhere(small: ModelGraph, images: NDArray[np.float32]) -> None:
    many = np.concatenate([images] * 2)
    first, second, again = (taught(small, many, 180, seed=seed).values["a_bn"].places[0] for seed in (0, 1, 0))
    assert len(first) < 180 * 64
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("sizes", "used"), [((90,), 63), ((40, 50), 63), ((10,), 7), ((1,) * 10, 7), ((3,), 2), ((2,), 1), ((1,), 1)]
)
def test_the_last_samples_are_held_out_whole(
    sizes: tuple[int, ...], used: int, small: ModelGraph, images: NDArray[np.float32]
) -> None:
    """Three tenths of them, at least one, of one alone none."""
    values = taught(small, images, *sizes).values
    assert values["y"].used == used
    deep = values["a_bn"]
    samples = np.concatenate(
        [p.numpy() // 64 + first for p, first in zip(deep.places, np.cumsum([0, *sizes]), strict=False)]
    )
    assert deep.used == int((samples < used).sum())


def test_values_are_alike_where_shape_and_axis_are(small: ModelGraph, images: NDArray[np.float32]) -> None:
    values: dict[str, Taught] = taught(small, images, 30).values
    assert values["a_bn"].like(values["a_bn"])
    assert not values["a_bn"].like(values["b_bn"])
    assert not values["a_bn"].like(values["y"])


def test_a_branch_that_is_added_to_an_earlier_one_is_kept_as_the_sum_alone(net: Any) -> None:
    """The first of two branches may have to be fitted for itself: what is added to it is not known yet."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(3, 3, 1, 1)).astype(np.float32) for name in ("s", "a", "b")}
    nodes = [
        helper.make_node("Conv", ["x", "s"], ["skip"], name="n_s"),
        helper.make_node("Conv", ["skip", "a"], ["first"], name="n_a"),
        helper.make_node("Add", ["first", "skip"], ["t"], name="n_t"),
        helper.make_node("Conv", ["t", "b"], ["second"], name="n_b"),
        helper.make_node("Add", ["t", "second"], ["y"], name="n_y"),
    ]
    graph = net(nodes, arrays, {"x": ["batch", 3, 8, 8]})
    assert set(taught(graph, np.zeros((4, 3, 8, 8), np.float32), 4).values) == {"skip", "t", "y"}
    two = [
        helper.make_node("Conv", ["x", "a"], ["first"], name="n_a"),
        helper.make_node("Conv", ["x", "b"], ["second"], name="n_b"),
        helper.make_node("Add", ["first", "second"], ["y"], name="n_y"),
    ]
    graph = net(two, {name: arrays[name] for name in ("a", "b")}, {"x": ["batch", 3, 8, 8]})
    assert set(taught(graph, np.zeros((4, 3, 8, 8), np.float32), 4).values) == {"first", "y"}
