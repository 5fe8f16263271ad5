"""The verbs as functions: what the command line does, for programs.

Each takes plain values and returns plain values or the types of :mod:`autocompress.core`. Nothing heavy is imported
before a function needs it.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.analysis import analyze
from autocompress.core.errors import PlanError, UnknownNameError, UserError
from autocompress.measuring import measure, measure_itself
from autocompress.predicting import predict

if TYPE_CHECKING:
    from autocompress.core.plan import CompressionPlan
    from autocompress.core.request import SearchObserver, SearchOutcome, SearchRequest
    from autocompress.core.target import Target

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


def export(
    run: str | Path, pick: str, out: str | Path, *, format: str = "onnx", target: str | None = None
) -> dict[str, Any]:
    """Copy one point of a run's front to a folder that is ready to deploy.

    Args:
        run: run folder.
        pick: as :meth:`autocompress.ParetoFront.pick` reads it.
        out: new or empty folder.
        format: ``onnx``, the file that was measured; or ``tvm``, which is compiled from it.
        target: profile to compile for, with ``tvm``; what the run was for where None.

    Returns:
        What was written; see :func:`autocompress.export.bundle.export_bundle` and
        :func:`autocompress.export.tvm_bundle.export_tvm`.

    Raises:
        UserError: nothing fits ``pick``, the artifact is not the one that was measured, ``out`` is not empty, or it
            cannot be compiled.
    """
    from autocompress.export.bundle import export_bundle
    from autocompress.export.tvm_bundle import export_tvm
    from autocompress.outcome import read_run
    from autocompress.store.run_dir import RunFolder

    if format not in ("onnx", "tvm"):
        raise UnknownNameError("format", format, ("onnx", "tvm"))
    if format == "onnx" and target is not None:
        raise UserError(f"--target {target} goes with --format tvm: an ONNX file runs on every target.")
    trial = read_run(RunFolder.read(run)).front.pick(pick)
    return export_tvm(run, trial, out, target=target) if format == "tvm" else export_bundle(run, trial, out)


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
        device: ``local``, this machine, or the URL of an attached one.
        out: folder that gets ``<name>.yaml``.

    Raises:
        TargetError: the device cannot be reached, or lacks what times models.
        UserError: the name is malformed, or the file is there already or cannot be written.
    """
    from autocompress.hardware.profiles import target_names
    from autocompress.hardware.writing import check_new_profile, write_profile
    from autocompress.loading import load_place

    if name in target_names():
        raise UserError(f"There is a target {name!r} already: give the new one another name.")
    # Timing a device takes a while: what can be refused is refused before.
    check_new_profile(name, out)
    with closing(load_place("local", device)) as place:
        return write_profile(place.target, name, out)


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
    healed, notes = pruned, []
    if bundle is not None and plan.restructures and graph.untrainable is not None:
        notes.append(f"Not healed: {graph.untrainable}")
    elif bundle is not None and plan.restructures:
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
        "notes": notes,
    }
    if report is not None:
        try:
            Path(report).write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"The report {str(report)!r} cannot be written: {error.strerror}.") from error
    return result


def doctor(device: str = "local") -> list[dict[str, Any]]:
    """Check a machine; one record a check with ``check``, ``ok``, ``found``, ``advice`` and ``figures``.

    Args:
        device: ``local``, this machine, or the URL of an attached one.

    Raises:
        TargetError: the device cannot be reached.
    """
    from autocompress.checkup import checks

    return checks(device)
