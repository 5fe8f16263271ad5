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
    return _run_in(tmp_path)


@pytest.fixture(scope="module")
def for_a_board(tmp_path_factory: pytest.TempPathFactory, trial_factory: Callable[..., Trial]) -> Path:
    """What is exported of that trial for a Raspberry Pi 4."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        export_tvm(_run_in(folder), trial_factory(7, label="fp32"), folder / "out", target="raspberry-pi-4b")
    return folder / "out"


def _run_in(folder: Path) -> Path:
    front = folder / "run" / "front" / "7"
    front.mkdir(parents=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    bias = numpy_helper.from_array(np.full(3, 0.5, np.float32), "b")
    graph = helper.make_graph([helper.make_node("Add", ["x", "b"], ["y"])], "g", [x], [y], [bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, front / "model.onnx")
    (front / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(front / "model.onnx"), "trial": 7}))
    (folder / "run" / "run.yaml").write_text(yaml.safe_dump({"model": "demo", "target": "local"}))
    (folder / "run" / "manifest.json").write_text(json.dumps({"seed": 3, "target": "local"}))
    return folder / "run"


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


def test_the_manifest_tells_what_every_file_is(for_a_board: Path) -> None:
    manifest = json.loads((for_a_board / "manifest.json").read_text())
    assert manifest["run"]["seed"] == 3
    assert manifest["model_sha256"] == artifact_sha256(for_a_board.parent / "run" / "front" / "7" / "model.onnx")
    assert "cortex-a72" in manifest["target"] and "aarch64-linux-gnu" in manifest["target"]
    assert manifest["tvm"].startswith("0.")
    assert [kernel["origin"] for kernel in manifest["kernels"]] == ["untuned"]
    assert set(manifest["files"]) >= {"schedules.jsonl"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((for_a_board / name).read_bytes()).hexdigest() == digest


@needs_linker
def test_the_library_is_of_the_board(for_a_board: Path) -> None:
    assert machine_of((for_a_board / "model.so").read_bytes()) == AARCH64


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


class Board:
    """A 64-bit Arm without TVM: qemu and the C library of Debian's cross compiler."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "run_kernel"
        spec: Any = importlib.util.find_spec("tvm_ffi")
        source, headers = Path(__file__).parent / "run_kernel.c", Path(spec.origin).parent / "include"
        subprocess.run(["aarch64-linux-gnu-gcc", f"-I{headers}", str(source), "-o", str(self._program)], check=True)

    def run(self, library: Path, kernel: str, *arrays: np.ndarray) -> np.ndarray:
        """What a kernel of a library writes into the last array."""
        tensors = [
            f"{'iuf'.index(a.dtype.kind)}:{8 * a.itemsize}:{'x'.join(map(str, a.shape))}:{self._folder / str(index)}"
            for index, a in enumerate(arrays)
        ]
        for index, array in enumerate(arrays):
            array.tofile(self._folder / str(index))
        command = ["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu", str(self._program), str(library)]
        done = subprocess.run([*command, kernel, *tensors], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return np.fromfile(self._folder / str(len(arrays) - 1), arrays[-1].dtype).reshape(arrays[-1].shape)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    if shutil.which("qemu-aarch64") is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("qemu-user or gcc-aarch64-linux-gnu is not installed")
    (tmp_path / "board").mkdir()
    return Board(tmp_path / "board")


def kernel_of(library: Path, name: str) -> str:
    """The one kernel of a library whose name begins like this."""
    (found,) = set(re.findall(rb"\0(__tvm_ffi_" + name.encode() + rb"\w*)\0", library.read_bytes()))
    return str(found.decode())


def test_a_boards_kernel_computes_what_it_should(for_a_board: Path, board: Board) -> None:
    library = for_a_board / "model.so"
    x, b = np.float32([[1, 2, 3]]), np.full(3, 0.5, np.float32)
    np.testing.assert_array_equal(board.run(library, kernel_of(library, "add"), x, b, np.zeros_like(x)), x + 0.5)


def test_a_boards_integer_kernel_is_made_of_dot_products(
    run_dir: Path, trial: Trial, tmp_path: Path, board: Board
) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, (6, 5, 3, 3)).astype(np.int8)
    codes = rng.integers(-128, 128, (1, 5, 9, 8)).astype(np.int8)
    model = run_dir / "front" / "7" / "model.onnx"
    onnx.save(_quantized_conv(weights, codes.shape), model)
    (model.parent / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(model), "trial": 7}))
    export_tvm(run_dir, trial, tmp_path / "out", target="raspberry-pi-5")
    library = tmp_path / "out" / "model.so"
    listing = subprocess.run(["aarch64-linux-gnu-objdump", "-d", str(library)], capture_output=True, text=True)
    assert re.search(r"\tsdot\tv", listing.stdout)
    # Channels filled up to groups of four, and outputs to registers of four sums.
    filled = np.zeros((8, 3, 3, 8), np.int8)
    filled[:6, :, :, :5] = weights.transpose(0, 2, 3, 1)
    packed = filled.reshape(2, 4, 3, 3, 2, 4).transpose(0, 2, 3, 4, 1, 5).copy()
    scales = np.full((1, 1, 1, 6), 0.5, np.float32)
    data, out = codes.transpose(0, 2, 3, 1).copy(), np.zeros((1, 7, 6, 6), np.float32)
    found = board.run(library, kernel_of(library, "fused_conv2d"), data, packed, scales, out)
    windows = np.lib.stride_tricks.sliding_window_view(codes.astype(int), (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(found, 0.5 * np.einsum("nchwyx,ocyx->nhwo", windows, weights.astype(int)))


def _quantized_conv(weights: np.ndarray, shape: tuple[int, ...]) -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv -> y, scales of 1 and 0.5."""
    constants = {
        "w": weights,
        "ws": np.full(len(weights), 0.5, np.float32),
        "wz": np.zeros(len(weights), np.int8),
        "xs": np.float32(1),
        "xz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_profile_that_names_no_processor_is_refused(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"does not say what TVM compiles for: name another --target"):
        export_tvm(run_dir, trial, tmp_path / "out", target="coral-edgetpu")
