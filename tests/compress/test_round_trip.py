"""A plan's JSON rebuilds the same artifact, byte for byte."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compress.apply import compress
from autocompress.core.errors import PlanError
from autocompress.core.layer_rules import FORMATS, GRANULARITIES, ROUNDINGS
from autocompress.core.plan import ACTIVATION_BITS, CALIBRATORS, WEIGHT_BITS, CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

FIELDS = ("weight_bits", "activation_bits", "granularity", "symmetric", "dynamic", "format", "rounding")
VALUES = (WEIGHT_BITS, ACTIVATION_BITS, GRANULARITIES, (True, False), (False, True), FORMATS, ROUNDINGS)


def valid_layers() -> list[LayerPlan]:
    found = []
    for values in itertools.product(*VALUES):
        try:
            found.append(LayerPlan(**dict(zip(FIELDS, values, strict=True))))
        except PlanError:
            continue
    return found


LAYERS = st.sampled_from(valid_layers())
PLANS = st.builds(
    CompressionPlan,
    layers=st.fixed_dictionaries({}, optional=dict.fromkeys(("*", "a", "b", "fc"), LAYERS)),
    prune=st.sampled_from([{}, {"*": 0.5}, {"a": 0.25}]),
    calibrator=st.sampled_from(CALIBRATORS),
    equalize=st.booleans(),
)


@given(PLANS)
@settings(max_examples=20, deadline=None)
def test_json_rebuilds_the_same_bytes(plan: CompressionPlan) -> None:
    graph, data = SMALL
    first = compress(graph, plan, dataset=data).to_bytes()
    again = compress(graph, CompressionPlan.from_json(plan.to_json()), dataset=data).to_bytes()
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize("layer", valid_layers(), ids=lambda layer: layer.label)
def test_every_valid_layer_runs_and_stays_near(
    layer: LayerPlan, small: ModelGraph, small_data: ArrayDataset, images: Any, run_graph: Any
) -> None:
    made = compress(small, CompressionPlan(layers={"*": layer}), dataset=small_data)
    found, expected = run_graph(made, images), run_graph(small, images)
    assert np.isfinite(found).all()
    limit = {2: 1.2, 3: 0.5, 4: 0.3}.get(layer.weight_bits, 0.3 if layer.format == "power_of_two" else 0.02)
    assert np.square(found - expected).mean() < limit * expected.var()


SMALL: Any = None


@pytest.fixture(autouse=True, scope="module")
def _small(small: ModelGraph, small_data: ArrayDataset) -> None:
    global SMALL
    SMALL = small, small_data
