"""From template, graph and runtime to the choices of a search."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.errors import SpaceError, UnknownNameError
from autocompress.core.layer import GroupMember, LayerInfo, PruneGroup, SkipBlock, kept_channels
from autocompress.core.objective import Constraint, Objective
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.target import Capability, Precision
from autocompress.hardware.capabilities import onnxruntime_spec
from autocompress.hardware.profiles import load_target
from autocompress.search.refusals import ALL_LAYERS, SIZE_ONLY_REASON
from autocompress.search.space_builder import (
    RatioTemplate,
    SpaceTemplate,
    build_space,
    group_multiple,
    load_template,
    ratio_options,
    template_names,
)

VNNI = load_target("x86-avx512-vnni").runtime()
NANO = load_target("jetson-nano").runtime()
DEFAULT = load_template("default")


@dataclass(frozen=True)
class FakeGraph:
    """Layers and groups, and nothing else."""

    infos: tuple[LayerInfo, ...]
    prune_groups: tuple[PruneGroup, ...]

    def layers(self) -> tuple[LayerInfo, ...]:
        return self.infos

    def groups(self) -> tuple[PruneGroup, ...]:
        return self.prune_groups

    def blocks(self) -> tuple[SkipBlock, ...]:
        return ()


def layer(name: str, op_type: str = "Conv", channels: int = 64) -> LayerInfo:
    return LayerInfo(
        name=name, op_type=op_type, weight=f"{name}.weight", weight_shape=(channels, 64, 3, 3),
        out_shape=(1, channels, 8, 8), macs=1000, params=100, prune_group=name, node=name,
    )  # fmt: skip


def group(name: str, channels: int, unit: int = 1, blocked: str | None = None) -> PruneGroup:
    rows = np.arange(channels * unit).reshape(channels, unit)
    member = GroupMember(initializer=f"{name}.weight", axis=0, indices=rows, role="out")
    return PruneGroup(name=name, channels=channels, members=(member,), blocked=blocked)


GRAPH = FakeGraph(
    (layer("a"), layer("b"), layer("fc", "Gemm")),
    (group("a", 64), group("b", 16), group("fc", 10, blocked="feeds the model's output 'logits'")),
)


def choice(space: SearchSpace, name: str) -> Choice:
    return next(c for c in (*space.choices, *space.fixed) if c.name == name)


def test_every_template_of_the_package_loads() -> None:
    for name in template_names():
        assert load_template(name).name == name


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'quantize'"):
        load_template("quantise")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("name: x\nprecision: [int8]", SpaceError, "unknown key 'precision'; did you mean 'precisions'"),
        ("name: x\nratios: {max_option: 3}", SpaceError, "unknown key 'max_option' in `ratios`"),
        ("name: x\nprecisions: [int7]", SpaceError, "but got 'int7'"),
        ("name: x\nimportance: [l3]", UnknownNameError, "importance 'l3'"),
        ("name: x\ndistillation: {steps: []}", SpaceError, "distillation.steps"),
    ],
)
def test_a_malformed_template_is_one_line(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        load_template(path)


def test_precisions_follow_the_runtime() -> None:
    assert choice(build_space(GRAPH, VNNI, DEFAULT), "precision:a").options == ("fp32", "int8")
    assert choice(build_space(GRAPH, NANO, DEFAULT), "precision:a").options == ("fp32", "fp16")


def test_jetson_nano_lists_int8_as_refused_once_with_the_reason() -> None:
    refused = [r for r in build_space(GRAPH, NANO, DEFAULT).refused if r.option == "int8"]
    assert [r.subject for r in refused] == [ALL_LAYERS]
    assert "no DP4A" in refused[0].reason


def test_int4_is_left_out_where_only_speed_counts() -> None:
    refused = [r for r in build_space(GRAPH, VNNI, DEFAULT).refused if r.option == "int4"]
    assert [(r.subject, r.reason) for r in refused] == [(ALL_LAYERS, SIZE_ONLY_REASON)]


def test_int4_is_offered_where_size_is_an_objective_or_bound() -> None:
    for space in (
        build_space(GRAPH, VNNI, DEFAULT, objectives=[Objective(metric="size_bytes")]),
        build_space(GRAPH, VNNI, DEFAULT, constraints=[Constraint(metric="size_bytes", bound=1e6)]),
    ):
        assert choice(space, "precision:a").options == ("fp32", "int8", "int4")


def test_what_the_runtime_refuses_is_not_blamed_on_the_objectives() -> None:
    refused = [r for r in build_space(GRAPH, NANO, DEFAULT).refused if r.option == "int4"]
    assert "no DP4A" in refused[0].reason


def test_a_refusal_for_some_layers_names_them() -> None:
    graph = FakeGraph((*GRAPH.infos, layer("up", "ConvTranspose")), GRAPH.prune_groups)
    space = build_space(graph, VNNI, DEFAULT)
    refused = next(r for r in space.refused if r.option == "int8")
    assert refused.subject == "up"
    assert "ConvTranspose" in refused.reason
    assert choice(space, "precision:up").options == ("fp32",)


def test_widths_are_multiples_of_what_the_runtime_wants() -> None:
    space = build_space(GRAPH, VNNI, DEFAULT)
    ratios = choice(space, "ratio:a").options
    assert [kept_channels(64, float(r)) for r in ratios] == [64, 48, 32, 16]
    assert space.channel_multiple == {"a": 16, "b": 8}


def test_a_small_group_may_be_halved() -> None:
    assert choice(build_space(GRAPH, VNNI, DEFAULT), "ratio:b").options == (0.0, 0.5)


def test_a_group_of_one_multiple_is_refused_with_the_reason() -> None:
    graph = FakeGraph(GRAPH.infos, (group("a", 8),))
    refused = [r for r in build_space(graph, VNNI, DEFAULT).refused if r.option == "prune"]
    assert [(r.subject, r.reason) for r in refused] == [("a", "a group of 8 channels is one multiple of 8")]


def test_a_blocked_group_is_refused_with_its_own_reason() -> None:
    refused = [r for r in build_space(GRAPH, VNNI, DEFAULT).refused if (r.subject, r.option) == ("fc", "prune")]
    assert refused[0].reason == "feeds the model's output 'logits'"


def test_groups_with_the_same_reason_share_a_line() -> None:
    groups = tuple(group(f"g{i}", 16, blocked="why") for i in range(5))
    refused = [r for r in build_space(FakeGraph(GRAPH.infos, groups), VNNI, DEFAULT).refused if r.option == "prune"]
    assert [r.subject for r in refused] == ["g0, g1, g2 and 2 more"]


def test_a_unit_of_several_channels_needs_fewer_units() -> None:
    assert group_multiple(group("heads", 8, unit=64), 16) == 1
    assert group_multiple(group("pairs", 64, unit=2), 16) == 8
    assert group_multiple(group("few heads", 4, unit=18), 16) == 2


def test_calibration_is_a_choice_only_with_integers() -> None:
    assert any(c.kind == "calibrator" for c in build_space(GRAPH, VNNI, DEFAULT).choices)
    assert not any(c.kind == "calibrator" for c in build_space(GRAPH, NANO, DEFAULT).choices)


def test_healing_is_a_choice_only_with_pruning() -> None:
    space = build_space(GRAPH, VNNI, DEFAULT)
    assert choice(space, "distillation:steps").options == DEFAULT.distillation.steps
    assert choice(space, "distillation:batch_size") in space.fixed
    quantized = build_space(GRAPH, VNNI, load_template("quantize"))
    assert {c.kind for c in quantized.choices} == {"precision", "calibrator"}
    assert not any(r.option == "prune" and r.subject != "fc" for r in quantized.refused)


def test_every_assignment_is_a_valid_plan() -> None:
    space = build_space(GRAPH, VNNI, DEFAULT)
    plan = space.plan({c.name: c.options[-1] for c in space.choices})
    plan.check(layers=[x.name for x in GRAPH.infos], groups=[g.name for g in GRAPH.prune_groups], blocks=[])
    assert plan.distillation is not None
    assert plan.layer("a").weight_bits == 8


def test_nothing_to_choose_is_an_error_that_says_why() -> None:
    refusing = replace(
        VNNI,
        capabilities={
            ("*", Precision.FP32): Capability(supported=True),
            ("*", Precision.INT8): Capability(supported=False, reason="it is slow"),
        },
    )
    with pytest.raises(SpaceError, match=r"nothing to compress .* it is slow"):
        build_space(FakeGraph(GRAPH.infos, ()), refusing, SpaceTemplate(name="t", precisions=(Precision.INT8,)))


def test_a_model_without_layers_has_nothing_to_compress() -> None:
    with pytest.raises(SpaceError, match="nothing to compress"):
        build_space(FakeGraph((), ()), VNNI, DEFAULT)


@given(
    channels=st.integers(1, 2048),
    multiple=st.sampled_from([1, 4, 8, 16, 32]),
    max_options=st.integers(1, 9),
    min_kept=st.floats(0.05, 1.0),
)
def test_ratios_are_exact_ascending_and_within_the_template(
    channels: int, multiple: int, max_options: int, min_kept: float
) -> None:
    template = RatioTemplate(max_options=max_options, min_kept=min_kept)
    ratios = ratio_options(channels, multiple, template)
    widths = [kept_channels(channels, ratio) for ratio in ratios]
    assert ratios[0] == 0.0
    assert list(ratios) == sorted(set(ratios))
    assert len(ratios) <= max_options
    assert widths == sorted(set(widths), reverse=True)
    assert all(width % multiple == 0 and width >= channels * min_kept for width in widths[1:])


@pytest.mark.parametrize(("target", "offered"), [("nvidia-a100", True), ("nvidia-l4", True), ("nvidia-t4", False)])
def test_bfloat16_is_offered_where_the_runtime_computes_in_it(target: str, offered: bool) -> None:
    spec = load_target(target).runtime()
    space = build_space(GRAPH, spec, load_template("default"))
    options = {option for c in (*space.choices, *space.fixed) if c.kind == "precision" for option in c.options}
    assert ("bf16" in options) is offered
    assert any(r.option == "bf16" and "no bf16 kernel" in r.reason for r in space.refused) is not offered


def test_bfloat16_is_refused_on_this_machine_with_the_reason() -> None:
    spec = onnxruntime_spec(isa=("avx512_vnni", "amx"), clock_ghz=2.0)
    reasons = [r.reason for r in build_space(GRAPH, spec, load_template("default")).refused if r.option == "bf16"]
    assert len(reasons) == 1
    assert "no bfloat16 arithmetic" in reasons[0]
