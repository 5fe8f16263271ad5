"""Schedules of convolutions and products: a block of outputs stays in registers while its dot products are summed.

There are few of them, so they are listed and not searched for. A tile is ``high`` rows by ``wide`` columns of outputs,
each of ``deep`` registers of channels; each step of the sums reads ``high * wide`` groups of activations and ``deep``
registers of weights for as many dot products as the tile has registers (Goto and van de Geijn 2008).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import tvm
from tvm import s_tir

from autocompress.measure.tvm_worker.dot_kernels import STAGE
from autocompress.measure.tvm_worker.dot_products import DotProduct, dot_product_of, multiply_add_of

#: Tiles of less leave the multipliers waiting for one another's sums.
_FEWEST = 4
_LARGEST_TILE = 64
#: Bytes that are copied in one go.
_COPIED = 32
Tile = tuple[int, int, int]


def dot_schedules(module: tvm.IRModule, target: tvm.target.Target) -> Iterator[s_tir.Schedule]:
    """Schedules of an unscheduled kernel, the most promising first; none where it sums no dot products."""
    if not sums_dot_products(module):
        return
    blocks = _blocks(module)
    stages = [str(block.name_hint) for block in blocks]
    kind = next(str(b.writes[0].source.ty.dtype) for b in blocks if str(b.name_hint).startswith(STAGE))
    dot = dot_product_of(target) if kind == "int32" else multiply_add_of(target, kind)
    assert dot is not None
    for tile in _tiles(module, dot):
        try:
            yield _schedule(module, stages, dot, tile, parallel=int(target.attrs["num-cores"]) > 1)
        except s_tir.ScheduleError:
            # Something was fused that does not go with a tile.
            continue


def sums_dot_products(module: tvm.IRModule) -> bool:
    """Whether a kernel does."""
    return any(str(block.name_hint).startswith(STAGE) for block in _blocks(module))


def _blocks(module: tvm.IRModule) -> list[Any]:
    """The stages of an unscheduled kernel."""
    schedule = s_tir.Schedule(module)
    return [schedule.get(block) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]


def _tiles(module: tvm.IRModule, dot: DotProduct) -> list[Tile]:
    """Those that fill registers, by how often they have to read."""
    (sums,) = (block for block in _blocks(module) if str(block.name_hint).startswith(STAGE))
    axes = [axis for axis in sums.iter_vars if int(axis.iter_type) == 0]
    *rows, channels = (int(axis.dom.extent) for axis in axes)
    deep = _divisors(channels // dot.lanes)
    wide = _divisors(rows[-1]) if rows else [1]
    high = _divisors(rows[-2]) if len(rows) > 1 else [1]
    found = [tile for tile in itertools.product(high, wide, deep) if math.prod(tile) <= dot.most]
    enough = min(_FEWEST, max(math.prod(tile) for tile in found))
    full = [tile for tile in found if math.prod(tile) >= enough]
    return sorted(full, key=lambda tile: (1 / (tile[0] * tile[1]) + 1 / tile[2], tile[0]))


def _schedule(
    module: tvm.IRModule, stages: list[str], dot: DotProduct, tile: Tile, *, parallel: bool
) -> s_tir.Schedule:
    schedule = s_tir.Schedule(module, error_render_level="none")
    place = next(number for number, name in enumerate(stages) if name.startswith(STAGE))
    sums = schedule.get_sblock(stages[place])
    for name in (*stages[:place], *stages[place + 1 : -1]):
        stage = schedule.get_sblock(name)
        if any(schedule.get(reader).same_as(schedule.get(sums)) for reader in schedule.get_consumers(stage)):
            _copy(schedule, stage)
        else:
            schedule.compute_inline(stage)
    loops = schedule.get_loops(sums)
    spatial = len(schedule.get(sums).writes[0].region)
    *rows, channels = loops[:spatial]
    *steps, numbers = loops[spatial:]
    blocks, lanes = schedule.split(channels, [None, dot.lanes])
    outer, inner = [], []
    for loop, size in zip([*rows[-2:], blocks], tile[-len(rows[-2:]) - 1 :], strict=True):
        extent = int(schedule.get(loop).extent)
        factors = schedule.sample_perfect_tile(loop, 2, _LARGEST_TILE, decision=[extent // size, size])
        apart, together = schedule.split(loop, factors)
        outer.append(apart)
        inner.append(together)
    # Weights of a block are read again and again, so blocks of channels go before columns.
    order = [*rows[:-2], *outer[:-2], outer[-1], *outer[-2:-1]]
    schedule.reorder(*order, *steps, *inner, *((lanes, numbers) if dot.make is not None else (numbers, lanes)))
    kept = schedule.cache_write(sums, 0, "local")
    if place < len(stages) - 1:
        last = schedule.get_sblock(stages[-1])
        schedule.compute_inline(kept)
    else:
        last = kept
    schedule.reverse_compute_at(last, order[-1])
    _finish(schedule, schedule.get_loops(last)[len(order) :], dot.lanes)
    count = len(order)
    # Before the sums' start is taken from them: what is left is no reduction that TVM lets be parallel or vectors.
    if parallel:
        schedule.parallel(schedule.fuse(*order[:-1]) if count > 1 else order[0])
        count = min(count, 2)
    if dot.make is None:
        schedule.vectorize(lanes)
    start = schedule.decompose_reduction(sums, steps[0])
    _finish(schedule, schedule.get_loops(start)[count:], dot.lanes)
    if dot.make is not None:
        schedule.tensorize(lanes, dot.name)
    for loop in inner:
        schedule.unroll(loop)
    return schedule


def _finish(schedule: s_tir.Schedule, loops: list[Any], lanes: int) -> None:
    """Unroll the loops over a tile, its last axis in registers."""
    *rest, last = loops
    extent = int(schedule.get(last).extent)
    if extent > lanes and extent % lanes == 0:
        blocks, last = schedule.split(last, [None, lanes])
        rest.append(blocks)
    schedule.vectorize(last)
    for loop in rest:
        schedule.unroll(loop)


def _copy(schedule: s_tir.Schedule, stage: Any) -> None:
    """A stage before the sums: copies its last axis in registers."""
    last = schedule.get_loops(stage)[-1]
    extent = int(schedule.get(last).extent)
    if extent > _COPIED and extent % _COPIED == 0:
        _, last = schedule.split(last, [None, _COPIED])
    schedule.vectorize(last)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, min(number, _LARGEST_TILE) + 1) if number % size == 0]
