"""The verbs as functions: what the command line does, for programs.

Each takes plain values and returns plain values or the types of :mod:`autocompress.core`. Nothing heavy is imported
before a function needs it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.core.errors import PlanError, SpaceError, TargetError, UserError

if TYPE_CHECKING:
    from autocompress.core.measurement import Measurement
    from autocompress.core.plan import CompressionPlan
    from autocompress.core.request import SearchObserver, SearchOutcome, SearchRequest
    from autocompress.core.space import SearchSpace
    from autocompress.core.target import RuntimeSpec, Target
    from autocompress.evaluate.pricing import PricedLatency
    from autocompress.graph.model_graph import ModelGraph
    from autocompress.loading import Place

__all__ = [
    "analyze",
    "compress",
    "doctor",
    "export",
    "measure",
    "measure_itself",
    "new_target",
    "predict",
    "report",
    "search",
    "target",
    "target_validation",
    "targets",
    "validate_targets",
]


def search(request: SearchRequest, observer: SearchObserver | None = None) -> SearchOutcome:
    """Search compressed versions of a model for a target; see :func:`autocompress.pipeline.run_search`."""
    from autocompress.pipeline import run_search

    return run_search(request, observer)


def report(run: str | Path) -> Path:
    """Write ``report.html`` and ``trials.csv`` of a run again, also while a search is writing to it.

    Returns:
        The path of the report.

    Raises:
        RunFolderError: the folder holds no run, or none with a finished trial.
    """
    from autocompress.outcome import read_run, write_documents
    from autocompress.store.run_dir import RunFolder

    folder = RunFolder.read(run)
    write_documents(folder, read_run(folder))
    return folder.report


def export(run: str | Path, pick: str, out: str | Path) -> dict[str, Any]:
    """Copy one point of a run's front to a folder that is ready to deploy.

    Args:
        run: run folder.
        pick: as :meth:`autocompress.ParetoFront.pick` reads it.
        out: new or empty folder.

    Returns:
        What was written; see :func:`autocompress.export.bundle.export_bundle`.

    Raises:
        UserError: nothing fits ``pick``, the artifact is not the one that was measured, or ``out`` is not empty.
    """
    from autocompress.export.bundle import export_bundle
    from autocompress.outcome import read_run
    from autocompress.store.run_dir import RunFolder

    return export_bundle(run, read_run(RunFolder.read(run)).front.pick(pick), out)


def targets() -> list[Target]:
    """Every target, ``local`` first."""
    from autocompress.hardware.profiles import load_target, target_names

    return [load_target(name) for name in target_names()]


def target(name: str) -> Target:
    """One target with its facts; for ``local`` what is fast here is measured the first time.

    Raises:
        UnknownNameError: no such target.
    """
    from autocompress.loading import load_place

    return load_place(name).target


def target_validation(name: str) -> list[dict[str, Any]]:
    """How far a target's estimates were from published latencies of architectures that were not fitted.

    Returns:
        One entry a runtime, thread count and precision: ``models``, ``median_error``, ``worst_error``, ``spearman``,
        and whether estimates at the profile's thread count ``used`` it; empty where nothing was compared.
    """
    from autocompress.hardware.calibrations import calibration, calibrations
    from autocompress.hardware.profiles import load_target

    fits = [fit for fit in calibrations() if fit.target == name]
    runtimes = load_target(name).runtimes if fits else {}
    return [
        {
            "runtime": fit.runtime,
            "threads": fit.threads,
            "precision": fit.precision,
            "models": fit.models,
            "median_error": fit.median_error,
            "worst_error": fit.worst_error,
            "spearman": fit.spearman,
            "used": fit.runtime in runtimes
            and calibration(name, fit.runtime, runtimes[fit.runtime].threads, fit.precision) is fit,
        }
        for fit in fits
    ]


def validate_targets(path: str | Path) -> dict[str, Any]:
    """Compare estimates with published latencies.

    Args:
        path: CSV file with the columns :data:`autocompress.hardware.reference.COLUMNS`.

    Returns:
        ``rows`` (each with ``published_ms``, ``estimate_ms`` or None with a ``reason``, ``error``, ``estimator``) and
        ``groups`` (a target, runtime, thread count and precision: ``n``, ``median_error``, ``worst_error``,
        ``spearman``).

    Raises:
        UserError: the file cannot be read, or a row is malformed.
    """
    from autocompress.cost.row_estimates import estimate_row, scores
    from autocompress.hardware.reference import read_rows

    found = [estimate_row(row) for row in read_rows(path)]
    rows = []
    for item in found:
        row, estimate = item.row, item.estimate_ms
        rows.append(
            {
                "target": row.target,
                "runtime": row.runtime,
                "threads": row.threads,
                "model": row.model,
                "precision": row.precision,
                "published_ms": row.typical_ms,
                "estimate_ms": None if estimate is None else round(estimate, 4),
                "error": None if estimate is None else round(estimate / row.typical_ms - 1, 4),
                "estimator": item.estimator,
                "reason": item.reason,
            }
        )
    names = ("target", "runtime", "threads", "precision")
    groups: list[dict[str, Any]] = [
        {
            **dict(zip(names, group, strict=True)),
            "n": s.n,
            "median_error": round(s.median_error, 4),
            "worst_error": round(s.worst_error, 4),
            "spearman": None if s.spearman is None else round(s.spearman, 4),
        }
        for group, s in scores(found).items()
    ]
    return {"rows": rows, "groups": groups}


def new_target(name: str, *, device: str = "local", out: str | Path = ".") -> Path:
    """Make a profile file from a device: its facts, and what was measured to be fast on it.

    Args:
        name: of the new target.
        device: only ``local``, this machine.
        out: folder that gets ``<name>.yaml``.

    Raises:
        TargetError: another device.
        UserError: the name is malformed, or the file is there already or cannot be written.
    """
    from autocompress.hardware.profiles import target_names
    from autocompress.hardware.writing import write_profile
    from autocompress.loading import load_place

    if device != "local":
        raise TargetError(
            f"A profile is made from --device local only, but got {device!r}: run `autocompress targets new` there."
        )
    if name in target_names():
        raise UserError(f"There is a target {name!r} already: give the new one another name.")
    return write_profile(load_place("local").target, name, out)


def compress(
    model: Any,
    plan: CompressionPlan,
    *,
    out: str | Path,
    data: str | None = None,
    report: str | Path | None = None,
    rewind_to: Any = None,
    target: str = "local",
    runtime: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Apply one plan to a model and write the artifact.

    With a search's data, target, runtime and seed it makes that search's artifact again, byte for byte.

    Args:
        model: a model spec, or an ``nn.Module``.
        plan: what to do.
        out: path of the ``.onnx`` file.
        data: data spec; with it activations are calibrated and BatchNormalization is re-estimated or the network is
            healed as the plan says. Without it weights are only sliced and packed.
        report: where the result goes as JSON too.
        rewind_to: the model early in its training; importance ``lottery`` gives what it keeps the weights it had there.
        target: integers are of the kind that is fast there.
        runtime: one of the target's.
        seed: of healing, and of importances that sample.

    Returns:
        ``layers`` (name to what it became; ``fallback`` says why a layer in blocks is unpacked at load), ``kept``
        (initializer to axis to kept indices, names and indices as in the input file), ``skipped`` (block to its layers
        and removed initializers), ``low_rank`` (layer to its factors, or why it stayed whole), ``size_bytes``.

    Raises:
        UserError: the model, plan or data is wrong, or something cannot be written.
    """
    from autocompress.compress.apply import Compressor
    from autocompress.compress.low_rank import factor_plans
    from autocompress.compress.matmul_nbits import fallbacks
    from autocompress.compress.prune import kept_entries
    from autocompress.cost.roofline import Roofline
    from autocompress.evaluate.data import load_data
    from autocompress.graph.source_layout import kept_in_file
    from autocompress.loading import load_graph, load_place
    from autocompress.recover.staged import StagedHealing

    for path in (out, report):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise UserError(
                f"There is no folder {str(Path(path).absolute().parent)!r} to write {Path(path).name!r} to."
            )
    if rewind_to is not None and plan.importance != "lottery":
        raise PlanError(f"Only importance 'lottery' rewinds to early weights, but the plan has {plan.importance!r}.")
    bundle = None if data is None else load_data(data)
    graph = load_graph(model, bundle)
    # Which integers are fast is measured only where integers are asked for.
    asks = any(p.activation_bits == 8 for p in plan.layers.values())
    place = load_place(target, None, runtime) if asks or target != "local" or runtime else None
    spec = None if place is None else place.spec
    if place is not None and target != "local":
        Roofline(place.target, place.spec).check(graph, plan)
    compressor = Compressor(
        graph,
        dataset=None if bundle is None else bundle.train,
        activation_type="uint8" if spec is None else spec.activation_type,
        reduce_range=spec is not None and spec.reduce_range,
        seed=seed,
        early_weights=None if rewind_to is None else load_graph(rewind_to, bundle).initializers,
    )
    compressor.layer_plans(plan)
    pruned = compressor.pruned(plan)
    healed = pruned
    if bundle is not None and plan.restructures:
        healed = StagedHealing(graph, bundle.train, seed=seed, kept=compressor.kept_values).heal(pruned, plan)
    artifact = compressor.finish(healed, plan)
    artifact.save(out)
    layers = compressor.layer_plans(plan)
    ranks = compressor.ranks(plan)
    unpacked = fallbacks(pruned, factor_plans(layers, plan, pruned))
    unpacked |= {
        name: unpacked[factor] for name, item in ranks.items() for factor in item.factors if factor in unpacked
    }
    shapes = {name: list(item.weight_shape) for name, item in ranks.items()}
    shapes |= {layer.name: list(layer.weight_shape) for layer in pruned.layers()}
    skipped = [block for block in graph.blocks() if block.name in plan.skip]
    gone = {name for block in skipped for name in block.initializers}
    kept = {k: axes for k, axes in kept_entries(graph, compressor.kept(plan)).items() if k not in gone}
    if str(model).lower().endswith(".onnx"):
        kept = kept_in_file(model, kept)
    result = {
        "layers": {
            layer.name: {
                "op_type": layer.op_type,
                "weight_bits": layers[layer.name].weight_bits if layer.name in layers else 32,
                "activation_bits": layers[layer.name].activation_bits if layer.name in layers else 32,
                "weight_shape": shapes[layer.name],
                "precision": layers[layer.name].label if layer.name in layers else "fp32",
            }
            | ({"fallback": unpacked[layer.name]} if layer.name in unpacked else {})
            for layer in graph.layers()
            if layer.name in shapes
        },
        "kept": {name: {str(axis): entries for axis, entries in axes.items()} for name, axes in kept.items()},
        "skipped": {
            block.name: {"layers": list(block.layers), "removed": sorted(block.initializers)} for block in skipped
        },
        "low_rank": {name: item.to_dict() for name, item in ranks.items()},
        "size_bytes": artifact.size_bytes(),
        "plan": plan.to_dict(),
    }
    if report is not None:
        try:
            Path(report).write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"The report {str(report)!r} cannot be written: {error.strerror}.") from error
    return result


def measure(
    files: Sequence[str | Path],
    *,
    target: str = "local",
    device: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    cache: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time model files against the first one, interleaved, each in a fresh process.

    Args:
        files: the first is the reference.
        target: ``local``, or the profile of the attached device.
        device: URL of an attached device; None for this machine.
        runtime: one of the target's; None for its default.
        threads: of one inference; None for the profile's.
        cache: whether a figure of the same files on the same machine, runtime and policy may be taken from the user's
            cache; ``details["cached"]`` then tells when it was measured.
        on_message: told what is wrong with the cache.

    Returns:
        One record a file: ``path``, ``median_ms`` with its ``interval``, ``samples``, the ``ratio`` to the first file
        with its ``ratio_interval``, ``provenance``, ``runtime``, ``fingerprint`` and more; see
        :class:`autocompress.measure.fresh_process.FileTiming`.

    Raises:
        UserError: a file that cannot be loaded or run, or a target that is not attached.
    """
    from autocompress.measure.fresh_process import measure_files
    from autocompress.measure.store import MeasurementStore

    store = MeasurementStore(on_message=on_message) if cache else None
    with _measured_place(target, device, runtime, threads) as (place, count):
        fresh = None if place.device is None else lambda: place.fresh_timer(threads=count)
        timings = measure_files(list(files), threads=count, runtime=place.spec.name, fresh=fresh, store=store)
    return [timing.to_dict() for timing in timings]


def measure_itself(
    file: str | Path,
    *,
    runs: int = 10,
    seconds: float | None = None,
    target: str = "local",
    device: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time a model file against itself, again and again: how often the timer finds a difference where there is none.

    Args:
        file: of the model.
        runs: comparisons.
        seconds: longest time of each; None for the usual one.
        target: as for :func:`measure`, and so are the rest.
        device: see there.
        runtime: see there.
        threads: see there.

    Returns:
        See :func:`autocompress.measure.self_comparison.compare_with_itself`.

    Raises:
        UserError: a file that cannot be loaded or run, or a target that is not attached.
    """
    from dataclasses import replace

    from autocompress.core.measurement import CAREFUL
    from autocompress.measure.self_comparison import compare_with_itself

    if seconds is not None and not seconds > 0:
        raise UserError(f"--seconds must be more than 0, but got {seconds}.")
    policy = CAREFUL if seconds is None else replace(CAREFUL, max_seconds=seconds)
    with _measured_place(target, device, runtime, threads) as (place, count):
        fresh = None if place.device is None else lambda: place.fresh_timer(threads=count)
        return compare_with_itself(file, runs=runs, threads=count, policy=policy, fresh=fresh)


@contextlib.contextmanager
def _measured_place(
    target: str, device: str | None, runtime: str | None, threads: int | None
) -> Iterator[tuple[Place, int]]:
    """Where models can be timed, and with how many threads."""
    from autocompress.loading import load_place

    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, but got {threads}.")
    with contextlib.closing(load_place(target, device, runtime)) as place:
        if not place.measured:
            raise TargetError(
                f"No {target} is attached, so there is nothing to measure on: `predict` estimates a plan for it, "
                "--target local measures on this machine."
            )
        yield place, threads or place.spec.threads


def predict(
    model: Any,
    plan: CompressionPlan,
    *,
    target: str,
    runtime: str | None = None,
    measure_seconds: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate latency and size of a plan.

    On this machine latency comes from its price list where that covers the model: the plan's graph is built and run
    once, untimed, to learn its kernels. Otherwise it comes from the target's profile and nothing is run.

    Args:
        model: a model spec, or an ``nn.Module``.
        plan: what would be done to it.
        target: estimates are for it.
        runtime: one of the target's.
        measure_seconds: measure prices of this model for so long first, and keep them for later.
        seed: of which plans are measured.

    Returns:
        ``estimated_latency_ms`` with its interval, ``estimated_size_bytes`` as counted on the plan's graph, the
        uncompressed model's, ``estimator``, ``notes`` on what is not priced, and where the time goes by the profile.

    Raises:
        UserError: the model, plan, target or runtime is wrong, prices of a target that is not attached are asked for,
            or the time was too short to measure them.
    """
    from autocompress.compress.apply import Compressor
    from autocompress.compress.outline import file_bytes, outline
    from autocompress.core.plan import CompressionPlan
    from autocompress.cost.roofline import Roofline
    from autocompress.loading import load_graph, load_place

    place = load_place(target, None, runtime)
    graph = load_graph(model)
    roofline = Roofline(place.target, place.spec)
    # Refused by the uncompressed layers' names, as the user knows them.
    roofline.check(graph, plan)
    compressor = Compressor(graph)
    shaped, rest = outline(compressor, plan)
    notes = _unpriced(plan, place.spec.name)
    prices = _prices(place, graph, measure_seconds, seed)
    if prices is None:
        latency = roofline.estimate(shaped, rest)
        base = roofline.estimate(graph, CompressionPlan())
        if place.measured:
            notes.append("--measure 60s measures prices on this machine, which estimate far better than its profile")
    else:
        latency = prices.estimate(graph, plan)
        base = prices.estimate(graph, CompressionPlan())
        notes.append("latency is from the price list; layers below show where the profile expects it to go")
    return {
        "target": target,
        "runtime": place.spec.name,
        "provenance": latency.provenance.value,
        "estimated_latency_ms": latency.value,
        "estimated_latency_interval_ms": _ends(latency),
        "estimated_uncompressed_latency_ms": base.value,
        "estimated_latency_ratio": latency.value / base.value,
        "estimated_size_bytes": file_bytes(compressor, plan),
        "uncompressed_size_bytes": graph.size_bytes(),
        "estimator": latency.fingerprint,
        "threads": place.spec.threads,
        "notes": notes,
        "layers": [
            {
                "name": op.name,
                "op_type": op.op_type,
                "precision": op.precision.value,
                "estimated_ms": op.ms,
                "of_it_conversion_ms": op.conversion_ms,
                "bound": op.bound,
            }
            for op in roofline.estimate_layers(shaped, rest)
        ],
    }


def _prices(place: Place, graph: ModelGraph, measure_seconds: float | None, seed: int) -> PricedLatency | None:
    """Estimates from this machine's price list; None where it does not cover the model."""
    if not place.measured or place.spec.name != "onnxruntime":
        if measure_seconds is not None:
            raise TargetError(
                f"Prices are measured with ONNX Runtime on this machine, not on {place.target.name} with "
                f"{place.spec.name}: give --target local, or leave --measure out for an estimate from the profile."
            )
        return None
    import numpy as np

    from autocompress.compress.legal import legality
    from autocompress.cost.price_list import FEWEST_PLANS, model_key
    from autocompress.evaluate.pricing import PricedLatency, measure_prices, store_prices, stored_prices
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
    from autocompress.search.space_builder import build_space, load_template

    runtime = OnnxRuntime(threads=place.spec.threads)
    prices, model = stored_prices(runtime), model_key(graph)
    if measure_seconds is not None:
        space = build_space(graph, place.spec, load_template("default"), legal=legality(graph))
        rng = np.random.default_rng([seed, len(prices.runs)])
        runs, base_ms = measure_prices(graph, space, runtime, place.spec, budget_seconds=measure_seconds, rng=rng)
        prices = prices.with_runs(runs, {model: base_ms})
        store_prices(prices)
        if not prices.covers(model):
            raise UserError(
                f"In {measure_seconds:g} s {len(runs)} plans were measured, but prices need {FEWEST_PLANS}: "
                "give --measure more time; what was measured is kept."
            )
    return PricedLatency(prices, runtime, place.spec) if prices.covers(model) else None


def analyze(model: Any, *, target: str = "local", data: str | None = None) -> dict[str, Any]:
    """A model's layers and channel groups, what a target allows, and with data the sensitivities.

    Returns:
        Plain JSON values: ``layers``, ``groups``, ``blocks``, ``refused``, ``notes`` where the model was read
        in a way one should know of, and ``sensitivities`` where data is given.

    Raises:
        UserError: the model, target or data is wrong.
    """
    from autocompress.compress.legal import legality
    from autocompress.core.space import SearchSpace
    from autocompress.evaluate.data import load_data
    from autocompress.loading import load_graph, load_place
    from autocompress.search.space_builder import build_space, load_template

    place = load_place(target)
    bundle = None if data is None else load_data(data)
    graph = load_graph(model, bundle)
    template = load_template("default").model_copy(update={"size_only": "always"})
    note = None
    try:
        space = build_space(graph, place.spec, template, legal=legality(graph))
    except SpaceError as error:
        space, note = SearchSpace(choices=()), str(error)
    precisions = {c.subject: list(c.options) for c in (*space.choices, *space.fixed) if c.kind == "precision"}
    ratios = {c.subject: list(c.options) for c in (*space.choices, *space.fixed) if c.kind == "ratio"}
    result: dict[str, Any] = {
        "model": model if isinstance(model, str) else type(model).__name__,
        "target": target,
        "runtime": place.spec.name,
        "inputs": [f"{s.name} {s.dtype} {_shape(s.shape)}" for s in graph.input_specs],
        "outputs": list(graph.output_names),
        "macs": graph.macs(),
        "params": int(sum(array.size for array in graph.initializers.values())),
        "size_bytes": graph.size_bytes(),
        "log10_plans": space.log10_size,
        "layers": [
            {
                "name": layer.name,
                "op_type": layer.op_type,
                "weight_shape": list(layer.weight_shape),
                "macs": layer.macs,
                "params": layer.params,
                "group": layer.prune_group,
                "precisions": precisions.get(layer.name, ["fp32"]),
            }
            for layer in graph.layers()
        ],
        "groups": [
            {
                "name": group.name,
                "channels": group.channels,
                "members": len(group.members),
                "ratios": ratios.get(group.name, []),
                "blocked": group.blocked,
            }
            for group in graph.groups()
        ],
        "blocks": [{"name": block.name, "layers": list(block.layers)} for block in graph.blocks()],
        "refused": [{"subject": r.subject, "option": r.option, "reason": r.reason} for r in space.refused],
    }
    if graph.notes:
        result["notes"] = list(graph.notes)
    if note is not None:
        result["note"] = note
    if bundle is not None:
        result["sensitivities"] = _sensitivities(graph, space, place.spec, bundle)
    return result


def doctor() -> list[dict[str, Any]]:
    """Check this machine; one record a check with ``check``, ``ok``, ``found`` and ``advice``."""
    from autocompress.checkup import checks

    return checks()


def _sensitivities(graph: ModelGraph, space: SearchSpace, spec: RuntimeSpec, bundle: Any) -> list[dict[str, Any]]:
    """KL divergence of every single change, the most harmful option of each choice first."""
    from autocompress.compress.apply import Compressor
    from autocompress.evaluate.sensitivity import sensitivities
    from autocompress.hardware.host import usable_cores
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    compressor = Compressor(
        graph, dataset=bundle.train, activation_type=spec.activation_type, reduce_range=spec.reduce_range
    )
    runtime = OnnxRuntime(threads=usable_cores(), spinning=False)
    found: Mapping[str, Mapping[str, float]] = sensitivities(
        space.choices,
        build=lambda plan: runtime.build(compressor.finish(compressor.pruned(plan), plan, draft=True)),
        reference=runtime.build(graph),
        dataset=bundle.train,
    )
    return [
        {"choice": name, "option": option, "kl_nats": value}
        for name, options in sorted(found.items(), key=lambda item: -max(item[1].values()))
        for option, value in options.items()
        if value > 0
    ]


def _unpriced(plan: CompressionPlan, runtime: str) -> list[str]:
    """What of a plan the estimate of its latency does not see."""
    notes = []
    if plan.sparsities:
        notes.append(f"zeros save no time: {runtime} runs sparse layers with the kernels of dense ones")
    if any(layer.granularity == "block" for layer in plan.layers.values()):
        notes.append("linear layers in blocks are priced as float32 layers; MatMulNBits may be slower or faster")
    return notes


def _shape(sizes: Sequence[int | None]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in sizes) + ")"


def _ends(measurement: Measurement) -> list[float] | None:
    return None if measurement.interval is None else [measurement.interval.low, measurement.interval.high]
