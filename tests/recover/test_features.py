"""Where a student is compared with its teacher inside the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan
from autocompress.graph.executor import GraphModule
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.features import (
    MOST_POINTS,
    feature_loss,
    feature_points,
    match_features,
    with_outputs,
)
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.vgg import vgg_tiny

X = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32))


@pytest.fixture(scope="module")
def resnet() -> ModelGraph:
    return load_model(resnet20(3).eval(), (X,))


@pytest.fixture(scope="module")
def mobilenet() -> ModelGraph:
    return load_model(mobilenet_tiny(3).eval(), (X,))


def test_points_are_where_branches_meet(resnet: ModelGraph) -> None:
    points = feature_points(resnet)
    assert len(points) == 9
    assert all(resnet.values[point].producer().op_type == "Relu" for point in points)


def test_a_chain_is_matched_where_it_is_pooled() -> None:
    graph = load_model(vgg_tiny(3).eval(), (X[:, :, :16, :16],))
    points = feature_points(graph)
    assert points
    assert all(
        any(use.node.op_type in ("MaxPool", "GlobalAveragePool", "AveragePool") for use in graph.values[p].uses())
        for p in points
    )


def test_points_are_thinned_out(mobilenet: ModelGraph) -> None:
    assert len(feature_points(mobilenet)) <= MOST_POINTS


def test_a_pruned_student_matches_the_channels_it_kept(resnet: ModelGraph) -> None:
    """Inner channels are no part of any point; the channels of the residual stream are, with those that stayed."""
    plan = CompressionPlan(prune={"layer1.0.conv1": 0.5})
    compressor = Compressor(resnet)
    student = compressor.pruned(plan)
    features = match_features(resnet, student, feature_points(resnet), compressor.kept_values(plan))
    assert len(features) == 9
    assert all(not feature.kept for feature in features), "inner channels are no part of any point"
    plan = CompressionPlan(prune={"conv1": 0.5})
    student = compressor.pruned(plan)
    features = match_features(resnet, student, feature_points(resnet), compressor.kept_values(plan))
    kept = compressor.kept(plan)["conv1"]
    first = next(f for f in features if "layer1.0" in f.teacher)
    np.testing.assert_array_equal(first.kept[1].numpy(), kept)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_skipped_blocks_point_is_matched_by_what_it_passes_on(name: str, request: pytest.FixtureRequest) -> None:
    graph: ModelGraph = request.getfixturevalue(name)
    block = graph.blocks()[-1]
    plan = CompressionPlan(skip=(block.name,))
    student = Compressor(graph).pruned(plan)
    points = feature_points(graph)
    features = match_features(graph, student, points, {})
    assert [feature.teacher for feature in features] == list(points)
    module = with_outputs(student, [f.student for f in features]).to_torch().eval()
    assert len(module(X)) == 1 + len(features)


def test_loss_is_zero_for_the_teacher_itself_and_grows_with_distance(resnet: ModelGraph) -> None:
    points = feature_points(resnet)
    features = match_features(resnet, resnet, points, {})
    values = [v.detach() for v in with_outputs(resnet, points).to_torch().eval()(X)[1:]]
    assert float(feature_loss(values, values, features)) == 0.0
    near, far = ([v + shift for v in values] for shift in (0.1, 0.2))
    assert 0 < float(feature_loss(near, values, features)) < float(feature_loss(far, values, features))


def test_loss_is_the_mean_relative_squared_error() -> None:
    teacher = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    student = teacher[:, :, :1] + 1.0
    feature = match_free(axis=2, kept=[0])
    wanted = 1.0 / float(teacher[:, :, :1].var(unbiased=False))
    assert float(feature_loss([student], [teacher], [feature])) == pytest.approx(wanted)


def match_free(axis: int, kept: list[int]):  # type: ignore[no-untyped-def]
    from autocompress.recover.features import Feature

    return Feature(teacher="t", student="s", kept={axis: torch.tensor(kept)})


@pytest.mark.parametrize("channels", [1, 3])
def test_training_images_never_leaves_channels_last(channels: int) -> None:
    """Neither values nor gradients, whatever the number of channels and with some of them gone."""
    graph = load_model(resnet20(channels).eval(), (X[:, :channels],))
    plan = CompressionPlan(prune={"*": 0.25})
    compressor = Compressor(graph)
    student = compressor.pruned(plan)
    points = feature_points(graph)
    features = match_features(graph, student, points, compressor.kept_values(plan))
    assert any(feature.kept for feature in features)
    teacher = GraphModule(with_outputs(graph, points), channels_last=True).eval()
    module = GraphModule(with_outputs(student, [f.student for f in features]), channels_last=True).train()
    places = dict(zip(points, teacher(X[:, :channels])[1:], strict=True))
    _, *mine = module(X[:, :channels])
    loss = feature_loss(mine, [places[feature.teacher].detach() for feature in features], features)
    gradients = torch.autograd.grad(loss, mine, retain_graph=True)
    for value in (*mine, *gradients):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert not value.is_contiguous()
