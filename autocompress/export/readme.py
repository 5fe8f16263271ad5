"""The bundle's README: what it is, what was measured, and how to run it."""

from __future__ import annotations

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import QUALITY_METRICS
from autocompress.core.trial import Trial
from autocompress.export.loading_check import Signature


def loader_readme(trial: Trial, signature: Signature, digest: str) -> str:
    """Markdown with a plain ONNX Runtime example for this very model."""
    feeds = "\n".join(
        f'    "{port.name}": np.zeros({port.sample_shape!r}, np.{port.dtype if port.dtype != "bool" else "bool_"}),'
        for port in signature.inputs
    )
    outputs = ", ".join(f"`{port.name}` {_shape(port.shape)}" for port in signature.outputs)
    figures = "\n".join(f"| {name.replace('_', ' ')} | {_figure(name, m)} |" for name, m in trial.measurements.items())
    latency = trial.measurements.get("latency_ms")
    threads = latency.details.get("threads") if latency is not None else None
    options = (
        f"options = ort.SessionOptions()\noptions.intra_op_num_threads = {threads}  # as {latency.provenance.value}\n"
        if latency is not None and isinstance(threads, int)
        else "options = ort.SessionOptions()\n"
    )
    return f"""# {trial.candidate.label or f"trial {trial.number}"}

Trial {trial.number} of an `autocompress` search. `plan.json` says what was done to the model, `metrics.json` holds
every measurement with its raw samples, `manifest.json` what the run was made with.

| metric | value |
| --- | --- |
{figures}

SHA-256 of `model.onnx`: `{digest}`

## Run it

    pip install onnxruntime numpy

```python
import numpy as np
import onnxruntime as ort

{options}session = ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
outputs = session.run(None, {{
{feeds}
}})
```

Feed it what the uncompressed model was fed: the preprocessing is the same. Outputs: {outputs}.
"""


def _figure(name: str, measurement: Measurement) -> str:
    quality = name.removeprefix("quick_") in QUALITY_METRICS
    scale, unit = (100.0, "%") if quality else (1.0, measurement.unit)
    text = f"{scale * measurement.value:.6g} {unit}".replace(" 1", "").replace(" %", "%")
    if measurement.interval is not None:
        low, high = scale * measurement.interval.low, scale * measurement.interval.high
        text += f" [{low:.5g}, {high:.5g}]"
    parts = [text, measurement.provenance.value]
    if measurement.provenance is Provenance.ESTIMATED:
        parts = [f"estimated {text}"]
    if name == "latency_ms":
        parts.append(f"on {measurement.target} with {measurement.runtime}")
    test = measurement.details.get("test") if quality else None
    if test is not None:
        parts.append(f"{100 * float(test):.2f}% on the test set")
    return ", ".join(parts)


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
