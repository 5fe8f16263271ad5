"""Schedules for the kernels of a model: known ones first, then neighbours' replayed, then MetaSchedule's search."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from autocompress.hardware.host import usable_cores
from autocompress.measure.tvm_worker.database import Kernel, ScheduleStore, Shape, digest_of, packed_trace
from autocompress.measure.tvm_worker.dot_schedules import dot_schedules, sums_dot_products
from autocompress.measure.tvm_worker.intrinsics import load_intrinsics
from autocompress.measure.tvm_worker.kernels import KernelTimer, Reading
from autocompress.measure.tvm_worker.transfer import transferred

#: Candidates that are made, built and timed together; what the search learns, it learns between batches.
_BATCH = 8
#: A replayed schedule may take this many times as long, per unit of work, as it did where it was found.
_WORTH = 2.0
#: Below these trials a learned cost model has nothing to learn from and costs more than it saves.
_LEARNING_TRIALS = 48
#: A schedule with what timing it gave.
Timed = tuple[s_tir.Schedule, Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRequest:
    """What may be spent on the kernels of one model.

    Args:
        trials: schedules to time for each kernel that has none; 0 times none.
        seconds: for all of them; None for no limit.
        transfer: whether a kernel may take over its nearest neighbour's schedule in place of being tuned.
        skip: digests of kernels that killed a worker.
        seed: of the search.
    """

    trials: int = 0
    seconds: float | None = None
    transfer: bool = True
    skip: tuple[str, ...] = ()
    seed: int = 1

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TuningRequest:
        """Read the ``tuning`` of a request."""
        return cls(**{**fields, "skip": tuple(fields.get("skip", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kernel of a model.

    Args:
        name: TVM's.
        module: unscheduled.
        digest: of it.
        calls: how often one inference runs it.
    """

    name: str
    module: tvm.IRModule
    digest: str
    calls: int


def tasks_of(module: tvm.IRModule, target: tvm.target.Target) -> list[Task]:
    """The different kernels of a fused model, those with the most work first."""
    found = [
        Task(name=str(t.task_name), module=t.dispatched[0], digest=digest_of(t.dispatched[0]), calls=int(t.weight))
        for t in ms.relax_integration.extract_tasks(module, target)
    ]
    return sorted(found, key=lambda task: -task.calls * Shape.of(task.module).work)


class Tuner:
    """Finds schedules and keeps them.

    Args:
        target: of the kernels.
        store: of schedules.
        timer: builds and times kernels; None where none can run, and then only known schedules are used.
        tell: told of each kernel as work on it begins, so that whoever waits knows what killed this process.
    """

    def __init__(
        self,
        target: tvm.target.Target,
        store: ScheduleStore,
        timer: KernelTimer | None,
        tell: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._target = target
        self._store = store
        self._timer = timer
        self._tell = tell

    def schedule(self, tasks: Collection[Task], request: TuningRequest) -> None:
        """Find a schedule for each kernel, as far as the request allows; those left have none."""
        self._schedule(tasks, request)
        self._tell({"kernel": "", "digest": ""})

    def _schedule(self, tasks: Collection[Task], request: TuningRequest) -> None:
        started = time.monotonic()
        load_intrinsics(self._target)
        for place, task in enumerate(tasks):
            if self._timer is None or task.digest in request.skip or self._enough(task, request):
                continue
            left = None if request.seconds is None else request.seconds - (time.monotonic() - started)
            if left is not None and left <= 0:
                return
            self._tell({"kernel": task.name, "digest": task.digest, "of": [place + 1, len(tasks)]})
            if not (request.transfer and self._transfer(task, request)):
                self._tune(task, request, left)

    def _enough(self, task: Task, request: TuningRequest) -> bool:
        known = self._store.find(task.module)
        if known is None:
            return request.trials == 0
        return known.trials >= request.trials if known.origin == "tuned" else request.transfer or request.trials == 0

    def _transfer(self, task: Task, request: TuningRequest) -> bool:
        """Replay the nearest kernels' schedules, keep the fastest; False where none is worth it."""
        assert self._timer is not None
        shape = Shape.of(task.module)
        listed = sums_dot_products(task.module)
        found = self._replayed(task, () if listed else self._context(task, request).space_generator.postprocs)
        readings = self._timer.read([schedule.mod for _, schedule in found]) if found else []
        timed = [(schedule, reading) for (_, schedule), reading in zip(found, readings, strict=True)]
        best = _fastest(timed)
        if best is None:
            return False
        source = found[timed.index(best)][0]
        expected = source.least_seconds * shape.work / source.shape.work
        if request.trials and best[1].least_seconds > _WORTH * expected:
            return False
        self._keep(task, best, origin="transferred", trials=len(found), source=source.digest)
        return True

    def _tune(self, task: Task, request: TuningRequest, seconds: float | None) -> None:
        """Time schedules, one batch after another, and keep the fastest."""
        ends = math.inf if seconds is None else time.monotonic() + seconds
        found, trials = self._listed(task, request, ends)
        if not found:
            found, trials = self._searched(task, request, ends)
        best = _fastest(found)
        if best is not None:
            self._keep(task, best, origin="tuned", trials=trials)

    def _listed(self, task: Task, request: TuningRequest, ends: float) -> tuple[list[Timed], int]:
        """The first schedules of a kernel that sums dot products, and how many trials that counts as."""
        assert self._timer is not None
        schedules = dot_schedules(task.module, self._target)
        found: list[Timed] = []
        while time.monotonic() < ends:
            batch = list(itertools.islice(schedules, min(_BATCH, request.trials - len(found))))
            if not batch:
                # A kernel with fewer schedules than were asked for has none that is left to time.
                return found, request.trials
            found += zip(batch, self._timer.read([schedule.mod for schedule in batch]), strict=True)
            self._tell({"kernel": task.name, "digest": task.digest, "trials": len(found)})
        return found, len(found)

    def _searched(self, task: Task, request: TuningRequest, ends: float) -> tuple[list[Timed], int]:
        """MetaSchedule's search, besides the kernel as it is and its neighbours' schedules; likewise."""
        assert self._timer is not None
        context = self._context(task, request)
        database = ms.database.MemoryDatabase()
        workload = database.commit_workload(task.module)
        learns = request.trials >= _LEARNING_TRIALS
        model = ms.cost_model.XGBModel(num_tuning_cores=usable_cores()) if learns else ms.cost_model.RandomModel()
        context.pre_tuning(request.trials, _BATCH, None, database, model)
        replayed = self._replayed(task, context.space_generator.postprocs)
        given = [s_tir.Schedule(task.module), *(schedule for _, schedule in replayed)]
        found = list(zip(given, self._timer.read([schedule.mod for schedule in given]), strict=True))
        exhausted = False
        while time.monotonic() < ends:
            candidates = context.generate_measure_candidates()
            exhausted = candidates is None
            if candidates is None:
                break
            readings = self._timer.read([candidate.sch.mod for candidate in candidates])
            for candidate, reading in zip(candidates, readings, strict=True):
                found.append((candidate.sch, reading))
                if reading.seconds:
                    trace, info = candidate.sch.trace, candidate.args_info
                    database.commit_tuning_record(
                        ms.database.TuningRecord(trace, workload, list(reading.seconds), self._target, info)
                    )
            results = [ms.runner.RunnerResult(list(r.seconds) or None, r.error or None) for r in readings]
            context.notify_runner_results(candidates, results)
            model.update(context, candidates, results)
            self._tell({"kernel": task.name, "digest": task.digest, "trials": len(found) - len(given)})
        context.post_tuning()
        return found, request.trials if exhausted else len(found) - len(given)

    def _replayed(self, task: Task, finish: Sequence[ms.Postproc]) -> list[tuple[Kernel, s_tir.Schedule]]:
        """The nearest tuned kernels of the same kind with their schedules on this one, where they apply."""
        shape = Shape.of(task.module)
        return [
            (kernel, schedule)
            for kernel in self._store.nearest(shape)
            if (schedule := transferred(task.module, kernel.schedule_trace(shape.names), finish)) is not None
        ]

    def _context(self, task: Task, request: TuningRequest) -> ms.TuneContext:
        # The usual population of 512 and 4 generations take longer than timing a handful of schedules does.
        population, generations = (128, 3) if request.trials >= _LEARNING_TRIALS else (32, 1)
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=population, init_min_unmeasured=population // 2, genetic_num_iters=generations
        )
        return ms.TuneContext(
            task.module,
            target=self._target,
            space_generator=self._space(),
            search_strategy=strategy,
            task_name=task.name,
            rand_state=request.seed,
            num_threads=usable_cores(),
        )

    def _space(self) -> ms.SpaceGenerator | str:
        """MetaSchedule's own; on processors without the dot products that it knows, which need other layouts."""
        if self._target.kind.name != "llvm":
            return "post-order-apply"
        return ms.space_generator.PostOrderApply(sch_rules="llvm", postprocs="llvm", mutator_probs="llvm")

    def _keep(self, task: Task, best: Timed, *, origin: str, trials: int, source: str = "") -> None:
        schedule, reading = best
        kernel = Kernel(
            digest=task.digest,
            shape=Shape.of(task.module),
            origin=origin,
            trials=trials,
            seconds=reading.seconds,
            source=source,
            trace=packed_trace(schedule.trace),
        )
        self._store.keep(kernel)


def _fastest(found: Sequence[Timed]) -> Timed | None:
    """Of those that ran at all."""
    return min((item for item in found if item[1].seconds), key=lambda item: item[1].least_seconds, default=None)
