"""Run by ``test_dot_schedules.py`` in a process of its own: a convolution by every schedule that is listed for it.

Prints how many there were of int8 and float32, for 1 and 2 threads, and of float32 depthwise, as JSON; null where the
processor has no such instruction.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tvm
from tvm import relax

from autocompress.core.compile_target import CompileTarget
from autocompress.measure.tvm_worker.dot_kernels import legalizers, packed
from autocompress.measure.tvm_worker.dot_products import dot_product_of, multiply_add_of
from autocompress.measure.tvm_worker.dot_schedules import dot_schedules
from autocompress.measure.tvm_worker.kernels import build_kernel
from autocompress.measure.tvm_worker.targets import tvm_target


def schedules(kind: str, threads: int, *, groups: int = 1) -> int | None:
    target = tvm_target(CompileTarget(), threads)
    product = dot_product_of(target) if kind == "int8" else multiply_add_of(target, kind)
    if product is None:
        return None
    product.define()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (1, 7, 12, 6)).astype(product.data)
    w = rng.integers(-60, 60, (20, 3, 3, 6) if groups == 1 else (6, 3, 3, 1)).astype(kind)
    builder, given = relax.BlockBuilder(), relax.Var("x", relax.TensorType(x.shape, product.data))
    with builder.function("main", [given]):
        with builder.dataflow():
            options = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_dtype": product.sums, "groups": groups}
            sums = builder.emit(relax.op.nn.conv2d(given, relax.const(w), padding=[1, 1, 0, 2], **options))
            out = builder.emit_output(builder.emit(relax.op.abs(sums)))
        builder.emit_func_output(out)
    steps = [
        relax.transform.LegalizeOps(legalizers(target)),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    with target:
        module = tvm.transform.Sequential(steps)(builder.get())
    (kernel,) = (f for _, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc))
    filled = np.pad(x.astype(int), ((0, 0), (1, 0), (1, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(filled, (3, 3), axis=(1, 2))
    expected = np.abs(np.einsum("nhwcyx,oyxc->nhwo" if groups == 1 else "nhwcyx,cyxi->nhwc", windows, w.astype(int)))
    arguments = [tvm.runtime.tensor(x), tvm.runtime.tensor(packed(w, product))]
    count = 0
    for schedule in dot_schedules(tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")}), target):
        found = tvm.runtime.empty(expected.shape, product.sums)
        build_kernel(schedule.mod, target)["main"](*arguments, found)
        np.testing.assert_array_equal(found.numpy(), expected)
        count += 1
    return count


if __name__ == "__main__":
    found = {kind: [schedules(kind, threads) for threads in (1, 2)] for kind in ("int8", "float32")}
    json.dump({**found, "depthwise": [schedules("float32", 1, groups=6)]}, sys.stdout)
