"""Which kernels ONNX Runtime launches for a graph, and how long each takes where it stands."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from autocompress.core.errors import CandidateError
from autocompress.core.kernel import Kernel, KernelTimes
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime, OrtArtifact, SkeletonGraph
from autocompress.measure.runtimes.session import ORT_ERRORS, create_session, first_line, session_options

_KERNEL = "_kernel_time"
_MULTIPLIERS = ("Conv", "Gemm", "MatMul")
#: Attributes that change how long a kernel takes besides its shapes.
_TELLING = frozenset({"strides", "dilations", "group", "activation", "perm", "channels_last", "kernel_shape", "axis"})


def profile_kernels(runtime: OnnxRuntime, graph: SkeletonGraph, *, runs: int) -> tuple[OrtArtifact, KernelTimes]:
    """Load a graph, run it under the runtime's profiler, and switch the profiler off.

    Kernels are those left after the runtime's own fusions, layout changes and type changes.

    Args:
        runtime: its threads and spinning are taken.
        graph: batch 1 is run.
        runs: at least one; a first run that warms up is not counted.

    Returns:
        The artifact, which from now on runs undisturbed, and its kernels.

    Raises:
        CandidateError: the runtime refuses the graph, fails on it, or launches other kernels from run to run.
    """
    options = session_options(threads=runtime.threads, spinning=runtime.spinning)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.profile_file_prefix = str(Path(folder) / "kernels")
        # The profiler does not tell strides, nor weights that were packed; the model after fusions does.
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        skeleton, arrays = graph.skeleton()
        try:
            session, held = create_session(skeleton, options, arrays)
        except ORT_ERRORS as error:
            raise CandidateError("build", first_line(error)) from error
        artifact = OrtArtifact(session, held, graph.size_bytes)
        call = artifact.bound_call(artifact.sample())
        for _ in range(runs):
            call()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        model = onnx.load(str(optimized), load_external_data=False)
    # Binding the call ran it once already: that was the warm-up.
    return artifact, _kernel_times(events, runs + 1, model)


def _kernel_times(events: list[Mapping[str, Any]], runs: int, model: onnx.ModelProto) -> KernelTimes:
    found = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL)]
    count, rest = divmod(len(found), runs)
    names = [event["name"] for event in found]
    if rest or not count or names != names[:count] * runs:
        raise CandidateError("profile", f"launches other kernels from run to run: {len(found)} in {runs} runs")
    times = np.array([event["dur"] for event in found], np.float64).reshape(runs, count)
    nodes = {node.name: node for node in model.graph.node}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    kernels = tuple(
        _kernel(event["args"], nodes.get(event["name"].removesuffix(_KERNEL)), shapes) for event in found[:count]
    )
    return KernelTimes(kernels=kernels, microseconds=times[1:])


def _kernel(facts: Mapping[str, Any], node: onnx.NodeProto | None, shapes: Mapping[str, tuple[int, ...]]) -> Kernel:
    read, written = (
        tuple((kind, tuple(shape)) for tensor in facts[name] for kind, shape in tensor.items())
        for name in ("input_type_shape", "output_type_shape")
    )
    weight, kind = ((), "") if node is None else _weight_and_kind(node, shapes)
    return Kernel(op_type=facts["op_name"], inputs=read, outputs=written, weight=weight, kind=kind)


def _weight_and_kind(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], str]:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    weight: tuple[int, ...] = ()
    if any(word in node.op_type for word in _MULTIPLIERS):
        weight = next((shapes[name] for name in node.input[1:] if len(shapes.get(name, ())) > 1), ())
        if "Conv" not in node.op_type and not attributes.get("transB", 0):
            weight = weight[::-1]
    words = []
    for name in sorted(attributes.keys() & _TELLING):
        value = attributes[name]
        if name == "group":
            # The number of groups of a depthwise convolution is its width, a size like others.
            value = "depthwise" if weight and weight[1] == 1 and value > 1 else value
        words.append(f"{name}={value.decode() if isinstance(value, bytes) else value}")
    return weight, " ".join(words).replace(", ", ",")
