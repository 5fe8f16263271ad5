"""The pool that distillation trains on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autocompress.core.errors import DataError, UnknownNameError, UserError
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import InputSpec
from autocompress.recover import samples
from autocompress.recover.samples import TeacherSamples

N = 10


class Specs:
    """Stands for a graph: its inputs are all that is read of it."""

    def __init__(self, *inputs: tuple[Any, tuple[int | None, ...]]) -> None:
        self.input_specs = tuple(
            InputSpec(name=f"x{i}", dtype=np.dtype(dtype), shape=shape) for i, (dtype, shape) in enumerate(inputs)
        )


class SumTeacher:
    """Answers with each sample's sum; counts the samples it was shown."""

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        self.shown += len(inputs[0])
        return [sum(x.reshape(len(x), -1).float().sum(1, keepdim=True) for x in inputs)]  # type: ignore[list-item]


IMAGES = Specs((np.float32, (None, 1, 2, 3)))
VECTORS = Specs((np.float32, (None, 6)))
TOKENS = Specs((np.int64, (None, 4)))
Make = Callable[..., TeacherSamples]


@pytest.fixture
def teacher() -> SumTeacher:
    return SumTeacher()


@pytest.fixture
def pictures() -> np.ndarray:
    return np.arange(N * 6, dtype=np.float32).reshape(N, 1, 2, 3)


@pytest.fixture
def make(teacher: SumTeacher, pictures: np.ndarray) -> Make:
    def pool(augment: str = "none", *, seed: int = 0, copies: int = 1, specs: Any = IMAGES, data: Any = None) -> Any:
        dataset = ArrayDataset([pictures]) if data is None else data
        return TeacherSamples(teacher, specs, dataset, seed=seed, augment=augment, copies=copies)

    return pool


def firsts(pool: TeacherSamples, steps: range, size: int) -> list[float]:
    """The first pixel of every sample of some steps."""
    return [float(x[0, 0, 0]) for step in steps for x in pool.batch(step, size)[0][0]]


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own(make: Make, pictures: np.ndarray) -> None:
    pool = make()
    epochs = [firsts(pool, range(5 * e, 5 * e + 5), 2) for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == pictures[:, 0, 0, 0].tolist()
    assert epochs[0] != epochs[1]


def test_a_step_may_go_from_one_epoch_into_the_next(make: Make) -> None:
    assert firsts(make(), range(5), 4) == firsts(make(), range(10), 2)


def test_a_step_may_be_larger_than_the_pool(make: Make) -> None:
    pool = make()
    (inputs,), (outputs,) = pool.batch(0, 25)
    assert torch.equal(inputs.reshape(25, -1).sum(1, keepdim=True), outputs)


def test_a_step_depends_on_its_number_and_the_seed_alone(make: Make) -> None:
    first, second = make("mixup", copies=3), make("mixup", copies=3)
    for step in (0, 1, 2):
        first.batch(step, 4)
    assert torch.equal(first.batch(3, 4)[0][0], second.batch(3, 4)[0][0])
    assert not torch.equal(first.batch(3, 4)[0][0], make("mixup", copies=3, seed=1).batch(3, 4)[0][0])


@pytest.mark.parametrize(("augment", "copies"), [("none", 1), ("flip", 1), ("mixup", 3)])
def test_the_outputs_are_the_teachers_for_just_these_inputs(make: Make, augment: str, copies: int) -> None:
    pool = make(augment, copies=copies)
    for step in range(30):
        (inputs,), (outputs,) = pool.batch(step, 4)
        torch.testing.assert_close(outputs, inputs.reshape(4, -1).sum(1, keepdim=True))


def test_the_teacher_sees_each_sample_once(make: Make, teacher: SumTeacher) -> None:
    pool = make("mixup", copies=2)
    for step in range(20):
        pool.batch(step, 5)
    assert teacher.shown == len(pool) == 2 * N


def test_outputs_too_large_to_keep_are_computed_anew(
    make: Make, teacher: SumTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CACHE_BYTES", 4 * N - 1)
    pool = make()
    for step in range(4):
        (inputs,), (outputs,) = pool.batch(step, 5)
        torch.testing.assert_close(outputs, inputs.reshape(5, -1).sum(1, keepdim=True))
    assert teacher.shown == 20


def test_flip_adds_every_image_mirrored(make: Make, pictures: np.ndarray) -> None:
    pool = make("flip")
    (inputs,), _ = pool.batch(0, len(pool))
    wanted = np.concatenate([pictures, pictures[..., ::-1]])
    assert sorted(map(tuple, inputs.reshape(2 * N, -1).tolist())) == sorted(map(tuple, wanted.reshape(2 * N, -1)))


def test_mixup_gives_convex_combinations_of_two_samples(make: Make, pictures: np.ndarray) -> None:
    pool = make("mixup", copies=2)
    (inputs,), _ = pool.batch(0, len(pool))
    # Samples are 6 apart in every pixel, so that one number tells where between the samples a mixture lies.
    offsets = inputs.reshape(2 * N, -1) - torch.arange(6)
    assert torch.allclose(offsets, offsets[:, :1], atol=1e-4)
    assert float(offsets.min()) >= 0 and float(offsets.max()) <= pictures[-1, 0, 0, 0]
    assert not torch.allclose(offsets[:, 0] % 6, torch.zeros(2 * N), atol=1e-3)


def test_all_inputs_of_a_sample_are_mixed_by_the_same_share(make: Make) -> None:
    values = np.arange(N, dtype=np.float32)
    data = ArrayDataset([values.reshape(N, 1), 10 * values.reshape(N, 1, 1)])
    pool = make("mixup", specs=Specs((np.float32, (None, 1)), (np.float32, (None, 1, 1))), data=data)
    first, second = pool.batch(0, N)[0]
    torch.testing.assert_close(second[:, 0], 10 * first)


@pytest.mark.parametrize(("specs", "resolved"), [(VECTORS, "mixup"), (TOKENS, "none")])
def test_auto_mixes_floats_only(make: Make, specs: Specs, resolved: str) -> None:
    assert make("auto", specs=specs).augment == resolved


def test_tokens_are_passed_as_they_are(make: Make) -> None:
    tokens = np.arange(4 * N).reshape(N, 4)
    (inputs,), _ = make("auto", specs=TOKENS, data=ArrayDataset([tokens])).batch(0, N)
    assert inputs.dtype == torch.int64
    assert sorted(inputs[:, 0].tolist()) == tokens[:, 0].tolist()


def test_labels_are_never_read(data: Any, teacher: SumTeacher, small: Any) -> None:
    pool = TeacherSamples(teacher, small, data, seed=0, augment="mixup", copies=2)
    pool.batch(0, 64)
    assert len(data.asked) == 128


def test_mixing_tokens_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="`mixup` needs float inputs"):
        make("mixup", specs=TOKENS)


def test_flipping_what_is_no_image_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="`flip` needs images"):
        make("flip", specs=VECTORS)


def test_an_unknown_augmentation_names_the_nearest(make: Make) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mixup'"):
        make("mixap")


def test_no_copies_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="`copies` must be at least 1, but got 0"):
        make("mixup", copies=0)


def test_data_without_samples_are_refused(make: Make) -> None:
    class Nothing:
        name, labelled = "nothing", False

        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="'nothing' is empty"):
        make(data=Nothing())
