"""A schedule tuned for other sizes, replayed: tiles become the divisors of the new sizes nearest to the old tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from autocompress.measure.tvm_worker.tiles import nearest_tiles


def transferred(
    module: tvm.IRModule, trace: s_tir.Trace, postprocessors: Sequence[ms.Postproc]
) -> s_tir.Schedule | None:
    """The schedule of a trace on a kernel of the same kind, or None where it does not apply.

    Args:
        module: the unscheduled kernel.
        trace: of the other one's schedule.
        postprocessors: finish the schedule.
    """
    schedule = s_tir.Schedule(module, seed=1, error_render_level="none")

    def adapted(instruction: Any, inputs: Sequence[Any], attributes: Sequence[Any], decision: Any) -> Any:
        if decision is None or str(instruction.kind.name) != "SamplePerfectTile":
            return decision
        extent = int(schedule.get(inputs[0]).extent)
        return nearest_tiles(extent, [int(factor) for factor in decision], int(attributes[1]))

    try:
        trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=adapted)
        schedule.enter_postproc()
        fits = all(postprocessor.apply(schedule) for postprocessor in postprocessors)
    except Exception:  # TVM raises its own kinds where an instruction does not fit
        return None
    return schedule if fits else None
