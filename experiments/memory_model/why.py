"""Where peak memory goes: one network, one fresh process for each thing that ONNX Runtime can leave out.

python experiments/memory_model/why.py   writes results/why.csv (a minute)
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
#: Session options and configuration entries of each row.
ROWS: dict[str, dict[str, str]] = {
    "as measured": {},
    "no packed copies of weights": {"session.disable_prepacking": "1"},
    "no memory arena": {"arena": "off"},
    "no optimization": {"optimization": "off"},
    "none of the three": {"session.disable_prepacking": "1", "arena": "off", "optimization": "off"},
}
CHILD = """
import json, sys
import numpy as np
import onnxruntime as ort
from autocompress.measure.memory import _reset_peak, peak_bytes, resident_bytes
path, options, shape = json.loads(sys.argv[1])
o = ort.SessionOptions()
o.intra_op_num_threads = 1
if options.pop("arena", None): o.enable_cpu_mem_arena = False
if options.pop("optimization", None): o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
for key, value in options.items(): o.add_session_config_entry(key, value)
x = np.zeros(shape, np.float32)
_reset_peak()
before = resident_bytes()
s = ort.InferenceSession(path, o, providers=["CPUExecutionProvider"])
loaded, resident = peak_bytes(), resident_bytes()
for _ in range(3): s.run(None, {s.get_inputs()[0].name: x})
print(json.dumps([loaded - before, resident - before, peak_bytes() - before]))
"""


def main() -> None:
    import torch

    from autocompress.compress.apply import Compressor
    from autocompress.core.plan import CompressionPlan
    from autocompress.graph.importing import load_model
    from autocompress.zoo.efficientnet import efficientnet_lite0

    torch.manual_seed(0)
    graph = load_model(efficientnet_lite0().eval(), (torch.zeros(2, 3, 32, 32),))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        Compressor(graph).finish(graph, CompressionPlan(), draft=True).save(path)
        for name, options in ROWS.items():
            request = json.dumps([str(path), options, [1, 3, 32, 32]])
            done = subprocess.run([sys.executable, "-c", CHILD, request], capture_output=True, text=True, check=True)
            loading, loaded, peak = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                {"options": name, "file": path.stat().st_size, "peak_loading": loading, "loaded": loaded, "peak": peak}
            )
            print(rows[-1])
    with (RESULTS / "why.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
