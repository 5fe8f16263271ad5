from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from autocompress.compress.derived import DerivedTensor, rows_of, shape_of, whole
from autocompress.compress.weights import quantize_weight

SOURCE = np.random.default_rng(0).normal(size=(12, 10, 3, 3)).astype(np.float32)
ROWS, COLUMNS = np.array([0, 3, 4, 11]), np.array([1, 2, 9])
SCALE = np.random.default_rng(1).uniform(-1, 1, 4).astype(np.float32)
EXPECTED = SOURCE[ROWS][:, COLUMNS]


def derived(**options: object) -> DerivedTensor:
    return DerivedTensor(SOURCE, {1: COLUMNS, 0: ROWS}, dtype=ir.DataType.FLOAT, name="w", **options)


def test_it_holds_the_kept_entries() -> None:
    np.testing.assert_array_equal(derived().numpy(), EXPECTED)


def test_rows_are_those_of_the_whole() -> None:
    np.testing.assert_array_equal(derived(scale=SCALE).rows(1, 3), derived(scale=SCALE).numpy()[1:3])


@pytest.mark.parametrize("axes", [{}, {0: ROWS}, {1: COLUMNS}, {0: ROWS, 1: COLUMNS}])
def test_reading_leaves_the_source_as_it_is(axes: dict[int, np.ndarray]) -> None:
    before = SOURCE.copy()
    rows = len(axes.get(0, SOURCE))
    DerivedTensor(SOURCE, axes, dtype=ir.DataType.FLOAT, name="w", scale=np.full(rows, 3, np.float32)).numpy()
    np.testing.assert_array_equal(SOURCE, before)


@pytest.mark.parametrize("read_before", [False, True])
def test_scaling_multiplies_each_row_whether_read_before_or_not(read_before: bool) -> None:
    plain = derived()
    if read_before:
        plain.numpy()
    np.testing.assert_array_equal(plain.scaled(SCALE, "w").numpy(), EXPECTED * SCALE[:, None, None, None])


def test_what_was_read_is_still_a_part_of_its_source() -> None:
    plain = derived()
    plain.numpy()
    assert plain.scaled(SCALE, "w").key == derived(scale=SCALE).key


def test_scaling_twice_rounds_twice() -> None:
    twice = derived(scale=SCALE).scaled(SCALE, "w").numpy()
    factors = SCALE[:, None, None, None]
    np.testing.assert_array_equal(twice, EXPECTED * factors * factors)


def test_it_is_computed_once() -> None:
    tensor = derived()
    assert tensor.numpy() is tensor.numpy()


def test_its_bytes_and_sizes_are_those_of_the_array() -> None:
    tensor = derived()
    assert tensor.tobytes() == EXPECTED.tobytes()
    assert tensor.nbytes == EXPECTED.nbytes
    assert shape_of(tensor) == EXPECTED.shape


def test_the_same_part_of_one_source_has_one_key() -> None:
    assert derived().key == derived().key
    assert derived(scale=SCALE).key == derived().scaled(SCALE.copy(), "v").key
    others = [
        derived(scale=SCALE),
        derived(scale=-SCALE),
        DerivedTensor(SOURCE, {0: ROWS}, dtype=ir.DataType.FLOAT, name="w"),
        DerivedTensor(SOURCE, {1: ROWS}, dtype=ir.DataType.FLOAT, name="w"),
        DerivedTensor(SOURCE.copy(), {1: COLUMNS, 0: ROWS}, dtype=ir.DataType.FLOAT, name="w"),
    ]
    assert len({tensor.key for tensor in [derived(), *others]}) == len(others) + 1


def test_rows_without_their_factors_are_those_of_the_source() -> None:
    np.testing.assert_array_equal(derived(scale=SCALE).unscaled_rows(np.array([0, 2])), EXPECTED[[0, 2]])
    plain = DerivedTensor(SOURCE, {1: COLUMNS}, dtype=ir.DataType.FLOAT, name="w")
    np.testing.assert_array_equal(plain.unscaled_rows(np.array([5, 1])), SOURCE[[5, 1]][:, COLUMNS])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_quantizes_like_its_array(bits: int) -> None:
    lazy, eager = quantize_weight(derived(scale=SCALE), bits, 0), quantize_weight(derived(scale=SCALE).numpy(), bits, 0)
    np.testing.assert_array_equal(lazy.values, eager.values)
    np.testing.assert_array_equal(lazy.scale, eager.scale)


def test_an_array_stands_for_itself() -> None:
    assert whole(SOURCE) is SOURCE
    assert shape_of(SOURCE) == SOURCE.shape
    np.testing.assert_array_equal(rows_of(SOURCE, 2, 5), SOURCE[2:5])
