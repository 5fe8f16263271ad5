"""A schedule tuned for other sizes, replayed: tiles become the divisors of the new sizes nearest to the old tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms


def transferred(context: ms.TuneContext, module: tvm.IRModule, trace: s_tir.Trace) -> s_tir.Schedule | None:
    """The schedule of a trace on a kernel of the same kind, or None where it does not apply.

    Args:
        context: of the kernel; its postprocessors finish the schedule.
        module: the unscheduled kernel.
        trace: of the other one's schedule.
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
        fits = all(postprocessor.apply(schedule) for postprocessor in context.space_generator.postprocs)
    except Exception:  # TVM raises its own kinds where an instruction does not fit
        return None
    return schedule if fits else None


def nearest_tiles(extent: int, factors: Sequence[int], largest_inner: int) -> list[int]:
    """Factors of ``extent``, each but the first as near as its divisors allow to what it was, the innermost first.

    Args:
        extent: their product.
        factors: of another extent.
        largest_inner: bound of the innermost.
    """
    rest, found = extent, []
    for place, factor in enumerate(reversed(factors[1:])):
        bound = largest_inner if place == 0 and largest_inner > 0 else rest
        divisors = [d for d in range(1, rest + 1) if rest % d == 0 and d <= bound]
        best = min(divisors, key=lambda d: abs(math.log(d / factor)))
        found.append(best)
        rest //= best
    return [rest, *reversed(found)]
