"""Parts of arrays that belong to units, entry for entry."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.compress.importance.members import aggregate, normalized, of_role, rows_by_unit, sum_by_unit
from autocompress.core.layer import GroupMember, PruneGroup

#: Three units; each has two entries of the second axis.
INDICES = np.array([[0, 3], [1, 4], [5, 2]])
MEMBER = GroupMember(initializer="w", axis=1, indices=INDICES, role="in")
ARRAY = np.random.default_rng(0).normal(size=(2, 6, 3))


def test_a_unit_has_all_that_lies_at_its_entries() -> None:
    rows, sums = rows_by_unit(ARRAY, MEMBER), sum_by_unit(ARRAY, MEMBER)
    assert rows.shape == (3, 12)
    for unit, entries in enumerate(INDICES):
        mine = [ARRAY[a, entry, b] for entry in entries for a in range(2) for b in range(3)]
        np.testing.assert_array_equal(np.sort(rows[unit]), np.sort(mine))
        assert sums[unit] == pytest.approx(sum(mine))


def test_sums_are_in_double_precision() -> None:
    array = np.full((1 << 12, 2), 1.0, np.float32)
    array[0] = 2.0**24
    member = GroupMember(initializer="w", axis=1, indices=np.array([[0], [1]]), role="out")
    assert sum_by_unit(array, member).tolist() == [2.0**24 + 4095] * 2


def test_members_are_told_apart_by_their_roles() -> None:
    out = GroupMember(initializer="v", axis=0, indices=INDICES, role="out")
    group = PruneGroup(name="g", channels=3, members=(MEMBER, out))
    assert list(of_role(group, "out")) == [out]
    assert list(of_role(group, "scale")) == []


@pytest.mark.parametrize(("how", "wanted"), [("sum", [4, 4]), ("mean", [2, 2]), ("max", [3, 4])])
def test_scores_of_coupled_members_are_joined(how: str, wanted: list[float]) -> None:
    assert aggregate([np.array([3.0, 0.0]), np.array([1.0, 4.0])], how).tolist() == wanted


def test_a_normalized_score_has_a_mean_of_one_and_zeros_stay() -> None:
    assert normalized(np.array([1.0, 3.0])).tolist() == [0.5, 1.5]
    assert normalized(np.zeros(3)).tolist() == [0, 0, 0]
