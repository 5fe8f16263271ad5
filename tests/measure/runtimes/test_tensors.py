"""What a session wants and gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from autocompress.core.errors import DataError, ModelError
from autocompress.measure.runtimes.tensors import TensorSpec, check_inputs, non_finite, random_sample


def spec(shape: tuple[int | None, ...], dtype: type = np.float32, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape)


IMAGE = spec((None, 3, 8, 8))
TOKENS = spec((2, None), np.int64, "tokens")


def test_a_spec_is_read_from_a_session(linear_model: Callable[..., bytes]) -> None:
    found = ort.InferenceSession(linear_model(), providers=["CPUExecutionProvider"])
    assert TensorSpec.of(found.get_inputs()[0]) == spec((None, 4))
    assert TensorSpec.of(found.get_outputs()[0]) == spec((None, 3), name="y")


def test_text_is_no_tensor_of_numbers(node_model: Callable[..., bytes]) -> None:
    model = node_model("Identity", {"words": (TensorProto.STRING, [1])}, TensorProto.STRING)
    found = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    with pytest.raises(ModelError, match=r"'words' is a tensor\(string\); only tensors of numbers"):
        TensorSpec.of(found.get_inputs()[0])


def test_a_spec_reads_as_a_person_would_write_it() -> None:
    assert str(IMAGE) == "'x' (n, 3, 8, 8) float32"
    assert str(TOKENS) == "'tokens' (2, n) int64"


def test_a_sample_is_the_same_every_time_and_for_every_seed_another() -> None:
    first, again, other = (random_sample([IMAGE], seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sizes_that_vary_are_the_batch_on_the_first_axis_and_one_elsewhere() -> None:
    assert [array.shape for array in random_sample([IMAGE, TOKENS, spec((None, None))], batch=5)] == [
        (5, 3, 8, 8),
        (2, 1),
        (5, 1),
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_])
def test_a_sample_has_the_type_that_is_wanted(dtype: type) -> None:
    (found,) = random_sample([spec((4, 50), dtype)])
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    if found.dtype.kind != "f":
        assert set(np.unique(found).tolist()) == {0, 1}


def test_a_scalar_input_gets_a_scalar() -> None:
    assert random_sample([spec(())])[0].shape == ()


def test_inputs_that_fit_come_back_contiguous_and_cast() -> None:
    given = np.arange(2 * 3 * 8 * 8, dtype=np.float64).reshape(8, 8, 3, 2).transpose(3, 2, 0, 1)
    (found,) = check_inputs([IMAGE], (given,))
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, given)


def test_too_few_inputs_list_what_is_wanted() -> None:
    with pytest.raises(DataError, match=r"wants 2 input\(s\), 'x' .* float32, 'tokens' .* int64, but got 1"):
        check_inputs([IMAGE, TOKENS], (np.zeros((1, 3, 8, 8), np.float32),))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 8, 9)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"wants 'x' \(n, 3, 8, 8\) float32, but got an array of shape"):
        check_inputs([IMAGE], (np.zeros(shape, np.float32),))


def test_a_fixed_batch_may_be_left_out_of_the_check() -> None:
    array = np.zeros((5, 3), np.int64)
    assert check_inputs([TOKENS], (array,), any_batch=True)[0] is array
    with pytest.raises(DataError, match="shape"):
        check_inputs([TOKENS], (array,))


def test_floats_are_no_tokens() -> None:
    with pytest.raises(DataError, match=r"wants 'tokens' \(2, n\) int64, but got float32"):
        check_inputs([TOKENS], (np.zeros((2, 3), np.float32),))


def test_outputs_that_are_finite_have_nothing_to_say() -> None:
    assert non_finite(["y", "index"], [np.ones(3, np.float32), np.arange(3)]) is None


def test_the_output_that_is_not_finite_is_named_and_counted() -> None:
    good, bad = np.ones(4, np.float32), np.array([1, np.nan, np.inf, 2], np.float32)
    assert non_finite(["a", "b"], [good, bad]) == "output 'b' holds NaN (2 of 4 values are not finite)"
    assert non_finite(["a"], [np.array([np.inf], np.float16)]) == (
        "output 'a' holds infinity (1 of 1 values are not finite)"
    )
