"""Factors of weights against decompositions of numpy's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.factors import Spectrum, factorize, ranks_by_ratio, relative_error, spectra
from autocompress.core.rank_plan import RankPlan

Weight = NDArray[np.float64]
SHAPES = {"svd": (12, 7), "spatial": (8, 5, 3, 5), "tucker2": (10, 6, 3, 3)}


def weight_of(*shape: int) -> Weight:
    return np.random.default_rng(4).normal(size=shape)


def multiplied(method: str, parts: list[Weight]) -> Weight:
    """The weight that factors amount to."""
    if method == "svd":
        first, second = (part.reshape(part.shape[:2]) for part in parts)
        return second @ first
    if method == "spatial":
        return np.einsum("riy,orx->oiyx", parts[0][..., 0], parts[1][:, :, 0])
    return np.einsum("ri,srab,os->oiab", parts[0][..., 0, 0], parts[1], parts[2][..., 0, 0])


def made(weight: Weight, method: str, *ranks: int) -> Weight:
    return multiplied(method, factorize(weight, method, ranks, spectra(weight, method)))


@pytest.mark.parametrize("method", SHAPES)
def test_full_rank_is_the_weight_itself(method: str) -> None:
    weight = weight_of(*SHAPES[method])
    ranks = [len(item.energies) for item in spectra(weight, method)]
    np.testing.assert_allclose(made(weight, method, *ranks), weight, atol=1e-10)


@pytest.mark.parametrize("shape", [(20, 2, 3, 3), (2, 20, 3, 3), (6, 6, 1, 3), (1, 1, 3, 3)])
def test_tucker2_of_a_lopsided_weight_is_the_weight_itself_at_full_rank(shape: tuple[int, ...]) -> None:
    weight = weight_of(*shape)
    found = spectra(weight, "tucker2")
    ranks = [len(item.energies) for item in found]
    np.testing.assert_allclose(made(weight, "tucker2", *ranks), weight, atol=1e-10)
    assert relative_error(weight, "tucker2", ranks, found) < 1e-6


@pytest.mark.parametrize("method", SHAPES)
def test_all_energy_is_the_weight_itself(method: str) -> None:
    weight = weight_of(*SHAPES[method])
    ranks = [item.rank(RankPlan(energy=1.0)) for item in spectra(weight, method)]
    np.testing.assert_allclose(made(weight, method, *ranks), weight, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9), (1, 6)])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_svd_loses_the_energy_of_the_singular_values_it_leaves_out(shape: tuple[int, int], rank: int) -> None:
    weight = weight_of(*shape)
    rank = min(rank, *shape)
    values = np.linalg.svd(weight, compute_uv=False)
    lost = np.square(made(weight, "svd", rank) - weight).sum()
    np.testing.assert_allclose(lost, np.square(values[rank:]).sum(), atol=1e-9)


def test_svd_is_numpy_s_truncated_svd() -> None:
    weight = weight_of(12, 7)
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(made(weight, "svd", 3), (u[:, :3] * s[:3]) @ v[:3], atol=1e-9)


def test_spatial_is_the_truncated_svd_over_rows_of_inputs_and_columns_of_outputs() -> None:
    weight = weight_of(8, 5, 3, 5)
    matrix = np.array([[weight[o, i, y, x] for o in range(8) for x in range(5)] for i in range(5) for y in range(3)])
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    wanted = ((u[:, :4] * s[:4]) @ v[:4]).reshape(5, 3, 8, 5).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(made(weight, "spatial", 4), wanted, atol=1e-9)


def test_tucker2_is_the_truncated_higher_order_svd() -> None:
    weight = weight_of(10, 6, 3, 3)
    outer = np.linalg.svd(weight.reshape(10, -1), full_matrices=False)[0][:, :5]
    inner = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1), full_matrices=False)[0][:, :2]
    core = np.einsum("oiab,os,ir->srab", weight, outer, inner)
    wanted = np.einsum("srab,os,ir->oiab", core, outer, inner)
    np.testing.assert_allclose(made(weight, "tucker2", 2, 5), wanted, atol=1e-9)


@pytest.mark.parametrize(("method", "ranks"), [("svd", (3,)), ("spatial", (4,)), ("tucker2", (2, 5))])
def test_the_relative_error_is_that_of_the_product(method: str, ranks: tuple[int, ...]) -> None:
    weight = weight_of(*SHAPES[method])
    wanted = np.linalg.norm(made(weight, method, *ranks) - weight) / np.linalg.norm(weight)
    assert relative_error(weight, method, ranks, spectra(weight, method)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("method", "ranks", "shapes"),
    [
        ("svd", (3,), [(3, 7), (12, 3)]),
        ("spatial", (4,), [(4, 5, 3, 1), (8, 4, 1, 5)]),
        ("tucker2", (2, 5), [(2, 6, 1, 1), (5, 2, 3, 3), (10, 5, 1, 1)]),
    ],
)
def test_factors_come_in_the_order_of_use(method: str, ranks: tuple[int, ...], shapes: list[Any]) -> None:
    weight = weight_of(*SHAPES[method])
    assert [part.shape for part in factorize(weight, method, ranks, spectra(weight, method))] == shapes


def test_both_sides_of_a_product_have_equal_norms() -> None:
    weight = 100 * weight_of(12, 7)
    first, second = factorize(weight, "svd", (3,), spectra(weight, "svd"))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=0), rtol=1e-9)


def test_energies_are_squared_singular_values() -> None:
    matrix = weight_of(6, 20)
    wanted = np.square(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(Spectrum.of(matrix).energies, wanted, rtol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95, 0.999])
def test_as_few_singular_values_stay_as_hold_the_energy(share: float) -> None:
    spectrum = Spectrum.of(weight_of(20, 20))
    rank, total = spectrum.rank(RankPlan(energy=share)), spectrum.energies.sum()
    assert spectrum.energies[:rank].sum() >= share * total
    assert spectrum.energies[: rank - 1].sum() < share * total


@pytest.mark.parametrize("method", SHAPES)
@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_a_ratio_means_the_same_before_the_weight_is_seen(method: str, ratio: float) -> None:
    found = spectra(weight_of(*SHAPES[method]), method)
    wanted = tuple(item.rank(RankPlan(ratio=ratio)) for item in found)
    assert ranks_by_ratio(SHAPES[method], method, ratio) == wanted


def test_a_ratio_is_of_the_full_rank_and_leaves_one_at_least() -> None:
    spectrum = Spectrum.of(weight_of(20, 30))
    assert [spectrum.rank(RankPlan(ratio=ratio)) for ratio in (0.001, 0.25, 0.5, 1.0)] == [1, 5, 10, 20]


@pytest.mark.parametrize("method", SHAPES)
def test_a_weight_of_zeros_has_factors_of_rank_one(method: str) -> None:
    weight = np.zeros(SHAPES[method])
    found = spectra(weight, method)
    ranks = [item.rank(RankPlan(energy=0.9)) for item in found]
    assert set(ranks) == {1}
    assert np.array_equal(multiplied(method, factorize(weight, method, ranks, found)), weight)
    assert relative_error(weight, method, ranks, found) == 0
