"""One search, start to end: wires the parts together and runs them in order."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from autocompress.compress.apply import Compressor
from autocompress.core.errors import Interrupted, RunFolderError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.objective import Constraint, Objective
from autocompress.core.pareto import constrained_front
from autocompress.core.plan import CompressionPlan
from autocompress.core.request import SearchObserver, SearchOutcome, SearchRequest, SilentObserver
from autocompress.core.trial import Trial
from autocompress.cost.roofline import Roofline
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.agreement import AgreementCheck
from autocompress.evaluate.bfloat16 import QualityRuntime
from autocompress.evaluate.evaluator import CandidateEvaluator, LatencyScorer
from autocompress.evaluate.finalists import calm_levels
from autocompress.evaluate.further_metrics import MetricScorer, metric_scorers, said_of
from autocompress.evaluate.latency import EstimatedLatency, MeasuredLatency
from autocompress.finish import Watch, busy_message, measure_again, reserve_seconds, score_on_test_set
from autocompress.hardware.host import host_fingerprint, usable_cores
from autocompress.measure.device import DeviceWatch
from autocompress.measure.latency import reference_level_ms, runtime_title
from autocompress.measure.runtimes.tvm import TvmRuntime
from autocompress.measure.store import MeasurementStore
from autocompress.outcome import outcome_of, record_of, write_documents, write_space
from autocompress.prepare import Prepared, constraints_of, prepare, usual_folder
from autocompress.recover.staged import StagedHealing
from autocompress.report.progress import hypervolume_share
from autocompress.report.tables import write_trials
from autocompress.search.estimates import estimates
from autocompress.search.hope import hope_of
from autocompress.search.proposing import proposer_of
from autocompress.search.recipes import recipes
from autocompress.search.tuner import StopReason, tune
from autocompress.sensing import sensitivities_of
from autocompress.store.front_keeper import FrontKeeper
from autocompress.store.manifest import check_same_inputs, make_manifest
from autocompress.store.optuna_store import OptunaStore
from autocompress.store.run_dir import RunFolder
from autocompress.store.run_log import LoggedObserver

#: Samples on which an artifact must say the same on the device as here.
AGREEING_SAMPLES = 4
_REFERENCE = TimingPolicy(block_ms=100.0, half_width=0.01, max_seconds=4.0, min_blocks=8)


def run_search(request: SearchRequest, observer: SearchObserver | None = None) -> SearchOutcome:
    """Search, or go on with the search that the run folder holds; everything is on disk when this returns.

    Args:
        request: what to do.
        observer: watches, and may ask to stop.

    Raises:
        UserError: something in the request is wrong; nothing that was computed is lost.
    """
    prepared = prepare(request)
    path = request.out or usual_folder(request)
    with closing(prepared.place), RunFolder.create_or_open(path, {**request.to_dict(), "out": str(path)}) as run:
        watched = LoggedObserver(observer or SilentObserver(), run.log)
        with _collector_spared():
            search = _Search(prepared, run, watched)
            with closing(search):
                return search.run()


@contextmanager
def _collector_spared() -> Iterator[None]:
    """What is loaded by now stays: with torch in memory a full collection takes over 0.1 s, again and again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Search:
    """The run in flight."""

    def __init__(self, prepared: Prepared, run: RunFolder, observer: LoggedObserver) -> None:
        self._request = request = prepared.request
        self._budget = prepared.budget
        self._place = place = prepared.place
        self._data = data = prepared.data
        self._graph = graph = prepared.graph
        self._objectives = prepared.objectives
        self._space = prepared.space
        self._run = run
        self._observer = observer
        self._before = 0.0
        self._messages: list[str] = []
        sample = data.train.batch(range(1))[0]
        self._threads = request.threads or place.spec.threads
        self._sample = sample
        self._timer = place.timer(threads=self._threads, sample=sample)
        if isinstance(self._timer, TvmRuntime):
            self._timer.on_kernel = lambda kernel: observer.on_stage(-1, kernel, "tune")
            self._timer.on_tuned = self._budget.extend
        if place.device is not None:
            place.device.watch = DeviceWatch(
                on_message=observer.on_message,
                should_stop=observer.should_stop,
                on_pause=self._away,
                attempts=None,
            )
        # Accuracy does not depend on threads; sleeping ones leave the timed session alone.
        self._runner = QualityRuntime(threads=usable_cores(), spinning=False)
        self._reference = self._runner.build(graph)
        self._quality = QualityEvaluator(self._runner, data.validation, self._reference, seed=request.seed)
        self._compressor = Compressor(
            graph,
            dataset=data.train,
            activation_type=place.spec.activation_type,
            reduce_range=place.spec.reduce_range,
            seed=request.seed,
        )

    def close(self) -> None:
        """End the processes that were started."""
        if isinstance(self._timer, TvmRuntime):
            self._timer.close()

    def run(self) -> SearchOutcome:
        """All of it; see :func:`run_search`."""
        manifest = self._open()
        quality = self._quality.score(self._reference)
        constraints = constraints_of(self._request, quality)
        latency, figure = self._latency(manifest)
        further = self._further(manifest, constraints)
        manifest["objectives"] = [o.metric for o in self._objectives]
        manifest["constraints"] = [[c.metric, c.bound] for c in constraints]
        self._run.write_json(self._run.manifest, manifest)
        word = "" if self._place.measured else "estimated_"
        self._observer.on_space(
            self._space,
            {
                quality.metric: quality.value,
                f"{word}latency_ms": figure,
                "size_bytes": self._graph.size_bytes(),
            },
        )
        self._say_where()
        for scorer in further:
            self._observer.on_message(said_of(scorer))
        with OptunaStore(
            self._run.study, objectives=self._objectives, space=self._space, constraints=constraints
        ) as store:
            self._before = sum(sum(t.stage_seconds.values()) for t in store.trials())
            if self._run.resumed and store.trials():
                self._observer.on_message(f"Going on after {len(store.trials())} trials in {self._run.path}.")
            if self._budget.seconds is not None:
                self._budget.seconds = max(0.0, self._budget.seconds - self._before)
            keeper = FrontKeeper(
                self._run, objectives=self._objectives, constraints=constraints, history=store.trials()
            )
            if self._budget.seconds is not None:
                limit = self._budget.seconds
                self._budget.reserve_seconds = lambda: reserve_seconds(limit, keeper, measured=self._place.measured)
            reason = self._tune(store, keeper, latency, further, constraints)
            self._messages.append(f"The search ended because {reason}.")
            stopped = reason is StopReason.ASKED
            if not stopped:
                stopped = not self._finish(store, keeper, float(manifest.get("reference_ms", 0.0)))
            if stopped and self._place.measured:
                self._messages.append("The front was not measured again; the same command goes on from here.")
            record = record_of(self._run, store.trials(), self._objectives, constraints)
        if not record.feasible:
            limits = " and ".join(str(c) for c in constraints)
            self._messages.append(f"No trial has {limits}; the nearest are shown.")
        write_documents(self._run, record)
        outcome = outcome_of(self._run, record, self._messages)
        self._observer.on_done(outcome)
        return outcome

    def _open(self) -> dict[str, Any]:
        """The manifest: written for a new run, checked against for one that goes on."""
        run, known = self._run, self._run.read_json(self._run.manifest)
        fresh = make_manifest(
            model_digest=self._graph.digest,
            data_digest=self._data.digest,
            seed=self._request.seed,
            host=host_fingerprint() if self._place.device is None else self._place.device.fingerprint,
            extra={
                "target": self._place.target.to_dict() if self._place.measured else self._place.target.name,
                **({"runtime": runtime_title(self._timer.describe())} if self._place.measured else {}),
            },
        )
        check_same_inputs(known, fresh)
        if known is not None:
            if self._place.measured:
                for what, several in (("host", "machines"), ("runtime", "runtimes")):
                    if known.get(what, fresh[what]) != fresh[what]:
                        raise RunFolderError(
                            f"{str(run.path)!r} was measured on {known[what]!r}, but this is {fresh[what]!r}; "
                            f"latencies of two {several} do not mix: choose another --out."
                        )
            return {**fresh, **known}
        run.baseline.parent.mkdir(parents=True, exist_ok=True)
        self._graph.save(run.baseline)
        write_space(run, self._space)
        return fresh

    def _latency(self, manifest: dict[str, Any]) -> tuple[LatencyScorer, float]:
        """How candidates get their latency, and that of the uncompressed model, milliseconds."""
        place = self._place
        if not place.measured:
            model = Roofline(place.target, place.spec)
            value = model.estimate(self._graph, CompressionPlan()).value
            return EstimatedLatency(model=model, compressor=self._compressor), value
        baseline = self._timer.build(self._graph)
        if "reference_ms" not in manifest:
            self._observer.on_stage(-1, "uncompressed model", "latency")
            timing = self._timer.time(baseline, baseline, _REFERENCE)
            manifest["reference_ms"] = reference_level_ms(timing)
            manifest["reference_samples_ms"] = list(timing.kept_reference_ms)
        value = float(manifest["reference_ms"])
        agreement = None
        if place.computes_elsewhere:
            inputs = self._data.validation.batch(range(min(AGREEING_SAMPLES, len(self._data.validation))))[0]
            agreement = AgreementCheck(self._runner.build, inputs, name=place.spec.name)
        return MeasuredLatency(
            runtime=self._timer,
            baseline=baseline,
            reference_ms=value,
            target=place.target.name,
            agreement=agreement,
        ), value

    def _further(self, manifest: dict[str, Any], constraints: Sequence[Constraint]) -> list[MetricScorer]:
        """Scorers of the metrics besides latency and size that are asked for.

        Raises:
            RunFolderError: one is measured now and was estimated in an earlier session, or the other way round.
        """
        place = self._place
        scorers = metric_scorers(
            [o.metric for o in self._objectives] + [c.metric for c in constraints],
            compressor=self._compressor,
            target=place.target,
            spec=place.spec,
            timer=self._timer if place.measured else None,
            threads=self._threads,
            sample=self._sample,
        )
        known = manifest.setdefault("provenance", {})
        for scorer in scorers:
            before = known.setdefault(scorer.metric, scorer.provenance.value)
            if before != scorer.provenance:
                raise RunFolderError(
                    f"{scorer.metric} is {before} in {str(self._run.path)!r} and would be {scorer.provenance} now; "
                    "the two do not mix: choose another --out."
                )
        return scorers

    def _say_where(self) -> None:
        place = self._place
        if place.measured:
            threads = f"{self._threads} thread{'s' * (self._threads != 1)}"
            if place.affinity is not None:
                threads += f" on cores {','.join(map(str, place.affinity))}"
            self._observer.on_message(f"Latencies are measured on {place.where} with {threads}, batch 1.")
        else:
            self._observer.on_message(
                f"No {place.target.name} is attached: latencies are ESTIMATED from its profile for {place.spec.name}."
            )
        tuning = place.tuning
        if place.measured and tuning is not None:
            found = f"up to {tuning.trials} schedules are timed for each new one" if tuning.trials else "UNTUNED"
            self._observer.on_message(f"Kernels: {found}; tuning does not count in --budget.")
        if self._graph.untrainable:
            self._observer.on_message(
                f"Candidates are not healed: {self._graph.untrainable} What is pruned keeps its weights."
            )
        self._observer.on_message(f"Run folder: {self._run.path}")

    def _tune(
        self,
        store: OptunaStore,
        keeper: FrontKeeper,
        latency: LatencyScorer,
        further: Sequence[MetricScorer],
        constraints: Sequence[Constraint],
    ) -> StopReason:
        stop = self._observer.should_stop
        reason = StopReason.ASKED if stop() else self._budget.spent(len(store.trials()))
        if reason is not None:
            return reason
        found = sensitivities_of(
            self._space.choices,
            run=self._run,
            compressor=self._compressor,
            build=self._runner.build,
            reference=self._reference,
            dataset=self._data.train,
            seed=self._request.seed,
            budget_seconds=self._budget.seconds,
            observer=self._observer,
        )

        def give_up() -> bool:
            return stop() or self._budget.overrun()

        evaluator = CandidateEvaluator(
            compressor=self._compressor,
            healing=self._healing(give_up),
            build=self._runner.build,
            quality=self._quality,
            latency=latency,
            further=further,
            objectives=self._objectives,
            constraints=constraints,
            history=store.trials(),
            hope=hope_of(self._space, store, self._objectives[0], constraints),
            keep=keeper.keep,
            on_stage=self._observer.on_stage,
            should_stop=give_up,
            clock=self._budget.elapsed,
        )
        costs = estimates(
            [objective.metric for objective in self._objectives[1:]],
            compressor=self._compressor,
            target=self._place.target,
            spec=self._place.spec,
        )
        proposer = proposer_of(
            self._request.sampler,
            space=self._space,
            graph=self._graph,
            estimates=costs,
            sensitivities=found,
            store=store,
            objectives=self._objectives,
            constraints=constraints,
            seed=self._request.seed,
            seconds_left=self._budget.left,
        )
        return tune(
            evaluator=evaluator,
            store=store,
            proposer=proposer,
            seeds=recipes(
                self._space,
                self._graph,
                found,
                store=store,
                on_message=self._observer.on_message,
                objective=self._objectives[min(1, len(self._objectives) - 1)],
                cost=next((costs[o.metric] for o in self._objectives[1:] if o.metric in costs), None),
            ),
            budget=self._budget,
            on_trial=lambda trial: self._tell(trial, store.trials(), constraints),
            should_stop=stop,
        )

    def _healing(self, should_stop: Callable[[], bool]) -> StagedHealing | None:
        """None where torch cannot run the graph."""
        if self._graph.untrainable:
            return None
        return StagedHealing(
            self._graph,
            self._data.train,
            seed=self._request.seed,
            should_stop=should_stop,
            kept=self._compressor.kept_values,
        )

    def _tell(self, trial: Trial, trials: Sequence[Trial], constraints: Sequence[Constraint]) -> None:
        front, _ = constrained_front(trials, self._objectives, constraints)
        share = hypervolume_share(trials, self._objectives, trials[0]) if _scored(trials[0], self._objectives) else 0.0
        elapsed = self._before + self._budget.elapsed()
        self._observer.on_trial(trial, front, share, elapsed, self._request.budget_seconds)
        write_trials(self._run.trials_csv, trials, front)

    def _away(self, seconds: float) -> None:
        """A device was waited for: neither a stage nor the budget is charged with it."""
        self._budget.extend(seconds)
        self._observer.on_message(f"The {seconds:.0f} s without the device count in no stage and in no --budget.")

    def _finish(self, store: OptunaStore, keeper: FrontKeeper, reference_ms: float) -> bool:
        """Score the front on the test set and time it again; whether all of it was done."""
        finalists = keeper.finalists()
        fresh = [(trial, path) for trial, path in finalists if not keeper.is_final(trial)]
        if not fresh:
            return True
        watch = Watch(on_stage=self._observer.on_stage, should_stop=self._observer.should_stop)
        test = self._data.test
        quality = None if test is None else QualityEvaluator(self._runner, test, self._reference)
        try:
            tested = score_on_test_set(fresh, quality, self._runner, watch)
            if self._place.measured:
                lanes = self._place.lanes()
                tested = measure_again(
                    tested,
                    self._run.baseline,
                    reference_ms=reference_ms,
                    target=self._place.target.name,
                    threads=self._threads,
                    sample=self._sample,
                    affinity=self._place.affinity,
                    budget_seconds=self._budget.seconds,
                    seconds_left=self._budget.whole_left(),
                    watch=watch,
                    fresh=None
                    if not self._place.has_fresh_timers
                    else lambda: self._place.fresh_timer(threads=self._threads, sample=self._sample),
                    store=MeasurementStore(on_message=self._observer.on_message) if self._request.cache else None,
                    lanes=lanes,
                    # Machines of one kind are alike, but not to the percent.
                    levels=calm_levels(store.trials()) if lanes == 1 else None,
                )
        except Interrupted:
            return False
        last = {trial.number: trial for trial, _ in (*finalists, *tested)}
        shown = keeper.finish(list(last.values()))
        if self._place.measured:
            self._messages.append(
                f"Measured again in fresh processes: {shown} of {len(last)} points stay on the front."
            )
            self._messages.extend(filter(None, [busy_message(tested)]))
        return True


def _scored(trial: Trial, objectives: Sequence[Objective]) -> bool:
    return all(o.metric in trial.measurements for o in objectives)
