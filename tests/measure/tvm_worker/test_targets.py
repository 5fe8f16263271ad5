"""What this TVM compiles for, as profiles name it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import TargetError
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target, target_names
from autocompress.measure.runtimes.tvm import TvmRuntime

CROSS = (
    CompileTarget(triple="aarch64-linux-gnu", mcpu="cortex-a72"),
    CompileTarget(triple="armv7l-linux-gnueabihf", mcpu="cortex-a7", features=("+neon",)),
    CompileTarget(triple="riscv64-linux-gnu", features=("+m", "+a", "+f", "+d", "+c")),
)


@pytest.mark.parametrize("target", CROSS, ids=str)
def test_a_model_compiles_for_another_processor(
    tvm_runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], target: CompileTarget
) -> None:
    made = TvmRuntime(target=target, worker=tvm_runtime.worker)
    told = made.build(conv_graph()).told
    assert target.triple in told["target"]
    assert target.mcpu in told["target"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (CompileTarget(kind="vulkan"), "was built without vulkan"),
        (CompileTarget(triple="m68k-linux-gnu"), "no backend 'm68k'"),
        (CompileTarget(triple="aarch64-linux-gnu", mcpu="cortex-z9"), "no processor 'cortex-z9'"),
    ],
    ids=str,
)
def test_a_target_that_tvm_was_not_built_for_is_one_line(
    tvm_runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], target: CompileTarget, reason: str
) -> None:
    made = TvmRuntime(target=target, worker=tvm_runtime.worker)
    with pytest.raises(TargetError, match=reason) as caught:
        made.build(conv_graph())
    assert "\n" not in str(caught.value)


def test_every_profile_that_names_a_processor_names_one_that_tvm_knows(tvm_runtime: TvmRuntime) -> None:
    named = {
        spec.compile_target
        for name in target_names()
        for spec in load_target(name).runtimes.values()
        if spec.compile_target is not None
    }
    assert len(named) > 10
    for target in named:
        tvm_runtime.worker.ask("check", {"target": target.to_dict()})
