"""``analyze``: a model's layers and groups, what a target allows, what each change would hurt."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autocompress.core.errors import MissingExtraError, SpaceError

if TYPE_CHECKING:
    from autocompress.core.protocols import Dataset
    from autocompress.core.space import SearchSpace
    from autocompress.core.target import RuntimeSpec
    from autocompress.evaluate.data import DataBundle
    from autocompress.graph.model_graph import ModelGraph


def analyze(
    model: Any, *, target: str = "local", runtime: str | None = None, data: str | None = None
) -> dict[str, Any]:
    """A model's layers and channel groups, what a target allows, and with data the sensitivities.

    Returns:
        Plain JSON values: ``layers``, ``groups``, ``blocks``, ``refused``, ``notes`` where the model was read
        in a way one should know of, ``kernels`` where the runtime compiles (what each layer of the model with 8-bit
        weights and activations computes in, and why it is not integers), and ``sensitivities`` where data is given.

    Raises:
        UserError: the model, target or data is wrong.
    """
    from autocompress.compress.legal import legality
    from autocompress.core.space import SearchSpace
    from autocompress.evaluate.data import load_data
    from autocompress.loading import load_graph, load_place
    from autocompress.search.space_builder import build_space, load_template

    place = load_place(target, None, runtime)
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
    if place.spec.compile_target is not None:
        try:
            result["kernels"] = _compiled_kernels(graph, place.spec, bundle)
        except MissingExtraError as error:
            note = f"{note} {error}" if note else str(error)
    if note is not None:
        result["note"] = note
    if bundle is not None:
        result["sensitivities"] = _sensitivities(graph, space, place.spec, bundle)
    return result


def _compiled_kernels(graph: ModelGraph, spec: RuntimeSpec, bundle: DataBundle | None) -> list[dict[str, Any]]:
    """What TVM makes of the layers once all that may be are in 8 bits; ranges do not matter for it."""
    from autocompress.compress.apply import Compressor
    from autocompress.compress.legal import legality
    from autocompress.core.plan import CompressionPlan, LayerPlan
    from autocompress.core.target import Precision
    from autocompress.evaluate.datasets import ArrayDataset
    from autocompress.measure.runtimes.tensors import TensorSpec, random_sample
    from autocompress.measure.runtimes.tvm import HOST, TvmRuntime

    if bundle is None:
        specs = [TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in graph.input_specs]
        dataset: Dataset = ArrayDataset(list(random_sample(specs, batch=4)))
    else:
        dataset = bundle.train
    compressor = Compressor(
        graph, dataset=dataset, activation_type=spec.activation_type, reduce_range=spec.reduce_range
    )
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    names = {layer.node: layer.name for layer in graph.layers()}
    # A layer that may not be in 8 bits reaches TVM in floats.
    illegal = {name: reasons[Precision.INT8] or "" for name, reasons in legality(graph).items()}
    with contextlib.closing(TvmRuntime(target=spec.compile_target or HOST)) as runtime:
        found = runtime.explain(compressor.finish(graph, plan, draft=True))
    return [
        {
            "layer": names.get(item["node"], item["node"]),
            "op_type": item["op_type"],
            "kernel": item["kernel"],
            "reason": item["reason"] or illegal.get(names.get(item["node"], ""), ""),
        }
        for item in found
    ]


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


def _shape(sizes: Sequence[int | None]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in sizes) + ")"
