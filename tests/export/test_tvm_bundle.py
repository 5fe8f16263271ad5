"""Folders that run with TVM alone: real compiling, for this machine and for a board."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.errors import TargetError
from autocompress.core.trial import Trial
from autocompress.export.tvm_bundle import export_tvm
from autocompress.measure.cache import CACHE_VARIABLE
from autocompress.store.front_keeper import artifact_sha256

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="TVM is not installed"),
]
needs_linker = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None, reason="gcc-aarch64-linux-gnu is not installed"
)
#: ``e_machine`` of 64-bit Arm, ELF for the Arm 64-bit Architecture.
AARCH64 = 183


@pytest.fixture
def trial(trial_factory: Callable[..., Trial]) -> Trial:
    return trial_factory(7, label="fp32")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose trial 7 is ``y = x + 0.5``; no schedules are known."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    front = tmp_path / "run" / "front" / "7"
    front.mkdir(parents=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    bias = numpy_helper.from_array(np.full(3, 0.5, np.float32), "b")
    graph = helper.make_graph([helper.make_node("Add", ["x", "b"], ["y"])], "g", [x], [y], [bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, front / "model.onnx")
    (front / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(front / "model.onnx"), "trial": 7}))
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump({"model": "demo", "target": "local"}))
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"seed": 3, "target": "local"}))
    return tmp_path / "run"


def machine_of(code: bytes) -> int:
    """``e_machine`` of an ELF file."""
    assert code[:5] == b"\x7fELF\x02"
    return int.from_bytes(code[18:20], "little")


def test_it_runs_with_tvm_alone(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = export_tvm(run_dir, trial, out)
    assert told["files"] == sorted(path.name for path in out.iterdir())
    np.savez(tmp_path / "in.npz", x=np.float32([[1, 2, 3]]))
    command = [sys.executable, "-I", str(out / "run.py"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["y"], [[1.5, 2.5, 3.5]])


def test_the_manifest_tells_what_every_file_is(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    export_tvm(run_dir, trial, tmp_path / "out", target="raspberry-pi-4b")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["run"]["seed"] == 3
    assert manifest["model_sha256"] == artifact_sha256(run_dir / "front" / "7" / "model.onnx")
    assert "cortex-a72" in manifest["target"] and "aarch64-linux-gnu" in manifest["target"]
    assert manifest["tvm"].startswith("0.")
    assert [kernel["origin"] for kernel in manifest["kernels"]] == ["untuned"]
    assert set(manifest["files"]) >= {"schedules.jsonl"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


@needs_linker
def test_the_library_is_of_the_board(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    export_tvm(run_dir, trial, tmp_path / "out", target="raspberry-pi-4b")
    assert machine_of((tmp_path / "out" / "model.so").read_bytes()) == AARCH64


def test_objects_are_of_the_board_where_nothing_links_them(
    run_dir: Path, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("tar", "gzip"):
        (tools / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tools))
    export_tvm(run_dir, trial, tmp_path / "out", target="raspberry-pi-4b")
    with tarfile.open(tmp_path / "out" / "model.tar") as archive:
        codes = [archive.extractfile(member).read() for member in archive if member.name.endswith(".o")]
    assert codes and {machine_of(code) for code in codes} == {AARCH64}
    assert "A C compiler links the code" in (tmp_path / "out" / "run.py").read_text()


@needs_linker
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-user is not installed")
def test_a_boards_kernel_computes_what_it_should(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    export_tvm(run_dir, trial, tmp_path / "out", target="raspberry-pi-4b")
    library = tmp_path / "out" / "model.so"
    (kernel,) = set(re.findall(rb"\0(__tvm_ffi_add\w*)\0", library.read_bytes()))
    spec: Any = importlib.util.find_spec("tvm_ffi")
    headers = Path(spec.origin).parent / "include"
    program = tmp_path / "run_kernel"
    source = Path(__file__).parent / "run_kernel.c"
    subprocess.run(["aarch64-linux-gnu-gcc", f"-I{headers}", str(source), "-o", str(program), "-ldl"], check=True)
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(program), str(library), kernel.decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1.5 2.5 3.5\n", 0)


def test_a_profile_that_names_no_processor_is_refused(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"does not say what TVM compiles for: name another --target"):
        export_tvm(run_dir, trial, tmp_path / "out", target="coral-edgetpu")
