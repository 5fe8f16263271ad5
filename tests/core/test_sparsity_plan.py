"""Names of sparsities."""

import pytest

from autocompress.core.errors import PlanError
from autocompress.core.plan import LayerPlan
from autocompress.core.sparsity_plan import SparsityPlan


@pytest.mark.parametrize("label", ["2:4", "1:4 sparse", "unstructured 0.9 sparse", "block 4x8 0.75"])
def test_labels_read_back(label: str) -> None:
    assert SparsityPlan.from_label(label).label == label


@pytest.mark.parametrize("label", ["w6a8", "w3a32", "w4a32-block64-asymmetric", "w4a32-codebook", "w8a8-tensor"])
def test_labels_of_formats_read_back(label: str) -> None:
    assert LayerPlan.from_label(label).label == label


def test_a_wrong_label_shows_right_ones() -> None:
    with pytest.raises(PlanError, match=r"'2:4'.*but got 'half'"):
        SparsityPlan.from_label("half")
    with pytest.raises(PlanError, match=r"'w6a8'.*but got 'w6'"):
        LayerPlan.from_label("w6")
