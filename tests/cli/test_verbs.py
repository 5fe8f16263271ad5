"""The verbs end to end, on a small network from a user's own file."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.cli.app import run
from autocompress.core.plan import CompressionPlan
from autocompress.cost.price_list import FEWEST_PLANS, PricedRun, model_key
from autocompress.evaluate.pricing import compressor_for, drafted, keep_prices
from autocompress.hardware.host import host_facts
from autocompress.hardware.profiles import read_profile
from autocompress.loading import load_graph, load_place
from autocompress.measure.cache import CACHE_VARIABLE
from autocompress.measure.runtimes.kernel_profile import profile_kernels
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

NETS = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval(), torch.zeros(2, 3, 12, 12)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``nets.py``, unlabelled data and a plan; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(96, 3, 12, 12)).astype(np.float32))
    (tmp_path / "prune.json").write_text(json.dumps({"prune": {"*": 0.5}, "importance": "l1"}))
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_targets_lists_the_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    names = {target["name"] for target in _json(capsys, "targets")}
    assert {"local", "jetson-nano", "raspberry-pi-4b", "raspberry-pi-5", "x86-avx2", "x86-avx512-vnni"} <= names


def test_a_target_says_what_it_refuses_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    runtimes = _json(capsys, "targets", "jetson-nano")["runtimes"]
    refused = [
        c for r in runtimes.values() for c in r["capabilities"] if c["precision"] == "int8" and not c["supported"]
    ]
    assert refused
    assert all(c["reason"] for c in refused)
    assert run(["targets", "jetson-nano"]) == 0
    assert "refused" in capsys.readouterr().out


def test_an_unknown_target_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "jetson-nanno"]) == 2
    assert "did you mean 'jetson-nano'" in capsys.readouterr().err


def test_targets_shows_the_validated_error_or_that_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    found = {target["name"]: target["validation"] for target in _json(capsys, "targets")}
    assert {v["runtime"] for v in found["raspberry-pi-4b"]} == {"ncnn", "tflite", "armnn"}
    assert found["x86-avx2"] == []
    assert run(["targets", "x86-avx2"]) == 0
    assert "not validated" in capsys.readouterr().out


def test_validate_prints_estimates_and_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "target,runtime,threads,model,precision,batch,input_px,latency_ms\n"
        "raspberry-pi-4b,ncnn-cpu,4,resnet18,fp32,1,224,80\n"
        "raspberry-pi-4b,ncnn-cpu,4,nobody-knows,fp32,1,224,80\n"
    )
    found = _json(capsys, "targets", "validate", str(rows))
    assert [row["estimate_ms"] is None for row in found["rows"]] == [False, True]
    assert found["groups"][0]["n"] == 1
    assert run(["targets", "validate", str(rows)]) == 0
    assert "1 of 2 rows have no estimate" in capsys.readouterr().out


def test_new_makes_a_profile_of_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = Path(_json(capsys, "targets", "new", "my-board", "--out", str(tmp_path))["profile"])
    assert path.read_text().startswith("name: my-board")


def test_new_makes_a_profile_of_an_attached_device(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ssh_server: Any
) -> None:
    found = _json(capsys, "targets", "new", "my-board", "--device", ssh_server.url, "--out", str(tmp_path))
    profile = read_profile(Path(found["profile"]))
    here = host_facts()
    assert (profile.facts["cpu"].value, profile.facts["cores"].value) == (here.cpu, here.cores)
    assert profile.facts["onnxruntime.fp32.peak_gops"].source.startswith("measured on it with ONNX Runtime ")
    assert "this machine" not in profile.title


@pytest.mark.parametrize(("name", "out"), [("My Board", "."), ("my-board", "nowhere"), ("jetson-nano", ".")])
def test_new_refuses_before_it_asks_a_device(capsys: pytest.CaptureFixture[str], name: str, out: str) -> None:
    assert run(["targets", "new", name, "--device", "ssh://nobody@nowhere.invalid", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "nowhere.invalid" not in error and len(error.strip().splitlines()) == 1


def test_doctor_refuses_what_is_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--device", "board"]) == 2
    assert "Unknown device 'board'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["validate"], ["new"], ["jetson-nano", "more"]])
def test_targets_says_what_argument_is_missing_or_too_many(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(["targets", *arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_doctor_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    checks = _json(capsys, "doctor")
    assert checks
    assert all({"check", "ok", "found", "advice"} <= check.keys() for check in checks)


def test_analyze_shows_layers_and_groups(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "analyze", "nets.py:net")
    assert [layer["op_type"] for layer in found["layers"]] == ["Conv", "Conv", "Gemm"]
    assert any(group["channels"] == 16 for group in found["groups"])


def test_compress_reports_what_was_kept_and_measure_compares(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "none.json").write_text("{}")
    assert run(["compress", "nets.py:net", "--plan", "none.json", "--out", "a.onnx"]) == 0
    assert run(["compress", "nets.py:net", "--plan", "prune.json", "--out", "b.onnx", "--report", "r.json"]) == 0
    report = json.loads((place / "r.json").read_text())
    assert {"layers", "kept", "size_bytes"} <= report.keys()
    assert report["size_bytes"] == (place / "b.onnx").stat().st_size < (place / "a.onnx").stat().st_size
    rows = _json(capsys, "measure", "a.onnx", "b.onnx", "--target", "local")
    assert len(rows) == 2
    assert all(row["provenance"] == "measured" and "ratio" in row and "fingerprint" in row for row in rows)


def test_measure_stays_on_the_cores_it_is_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "none.json").write_text("{}")
    assert run(["compress", "nets.py:net", "--plan", "none.json", "--out", "a.onnx"]) == 0
    capsys.readouterr()
    core = str(min(os.sched_getaffinity(0)))
    (row,) = _json(capsys, "measure", "a.onnx", "--affinity", core, "--no-cache")
    assert row["details"]["affinity"] == [int(core)]
    for text, error in (("8000", "Cores 8000 cannot be used"), ("x", "Cores are written like 0, 2-3 or 0,2-3")):
        assert run(["measure", "a.onnx", "--affinity", text]) == 2
        assert error in capsys.readouterr().err
    assert run(["measure", "a.onnx", "--affinity", core, "--threads", "2"]) == 2
    assert "2 threads do not fit on 1 core of --affinity" in capsys.readouterr().err


def test_compress_reports_factors_and_what_stayed_whole(place: Path) -> None:
    int8 = {"weight_bits": 8, "activation_bits": 8}
    layers = {"*": {**int8, "rank": {"ratio": 0.25}}, "0": {**int8, "rank": {"ratio": 1.0}}}
    (place / "thin.json").write_text(json.dumps({"layers": layers}))
    arguments = ["compress", "nets.py:net", "--plan", "thin.json", "--data", "npz:data.npz", "--out", "a.onnx"]
    assert run([*arguments, "--report", "r.json"]) == 0
    report = json.loads((place / "r.json").read_text())
    assert set(report["low_rank"]["3"]["factors"]) == {"3.0", "3.1", "3.2"}
    assert report["low_rank"]["0"]["whole_because"].startswith("its factors would take")
    assert report["layers"]["3"]["weight_bits"] == 8
    assert report["layers"]["3"]["weight_shape"] == [16, 16, 3, 3]


@pytest.mark.parametrize("importance", ["fisher", "bn_scale", "activation_mean", "apoz", "geometric_median", "mixed"])
def test_compress_takes_every_importance(importance: str, place: Path) -> None:
    plan = {"prune": {"*": 0.5}, "importance": importance, "aggregation": "max"}
    (place / "prune.json").write_text(json.dumps(plan))
    arguments = ["compress", "nets.py:net", "--plan", "prune.json", "--data", "npz:data.npz"]
    assert run([*arguments, "--out", "a.onnx", "--report", "r.json"]) == 0
    kept = json.loads((place / "r.json").read_text())["kept"]
    assert len(kept["0.weight"]["0"]) == 8


def test_a_lottery_ticket_starts_from_early_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "early.py").write_text(NETS.replace("manual_seed(0)", "manual_seed(1)"))
    (place / "prune.json").write_text(json.dumps({"prune": {"*": 0.5}, "importance": "lottery"}))
    arguments = ["compress", "nets.py:net", "--plan", "prune.json", "--out"]
    assert run([*arguments, "trained.onnx"]) == 0
    assert run([*arguments, "early.onnx", "--rewind-to", "early.py:net"]) == 0
    assert (place / "trained.onnx").read_bytes() != (place / "early.onnx").read_bytes()
    (place / "prune.json").write_text(json.dumps({"prune": {"*": 0.5}}))
    assert run([*arguments, "early.onnx", "--rewind-to", "early.py:net"]) == 2
    assert "Only importance 'lottery' rewinds" in capsys.readouterr().err


def test_compress_makes_a_searchs_artifacts_again(place: Path) -> None:
    search = ["search", "--model", "nets.py:net", "--data", "npz:data.npz", "--target", "x86-avx2", "--seed", "7"]
    assert run([*search, "--trials", "4", "--out", "again"]) == 0
    fronts = sorted((place / "again" / "front").iterdir())
    assert fronts
    for front in fronts:
        again = ["compress", "nets.py:net", "--plan", str(front / "plan.json"), "--data", "npz:data.npz", "--seed", "7"]
        assert run([*again, "--target", "x86-avx2", "--out", "again.onnx"]) == 0
        assert (place / "again.onnx").read_bytes() == (front / "model.onnx").read_bytes()


def test_compress_refuses_what_its_target_cannot_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "int8.json").write_text(json.dumps({"layers": {"*": {"weight_bits": 8, "activation_bits": 8}}}))
    arguments = ["compress", "nets.py:net", "--plan", "int8.json", "--data", "npz:data.npz", "--out", "x.onnx"]
    assert run([*arguments, "--target", "jetson-nano"]) == 2
    assert "refuses int8" in capsys.readouterr().err
    assert not (place / "x.onnx").exists()


def test_a_report_that_cannot_be_written_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compress", "nets.py:net", "--plan", "prune.json", "--out", "x.onnx"]
    assert run([*arguments, "--report", str(place)]) == 2
    assert "cannot be written: Is a directory" in capsys.readouterr().err


def test_prices_are_measured_only_on_this_machine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "nets.py:net", "--plan", "prune.json", "--target", "jetson-nano"]
    assert run([*arguments, "--measure", "5s"]) == 2
    assert "give --target local" in capsys.readouterr().err


def test_predict_names_a_kernel_whose_price_is_borrowed(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(place / "cache"))
    graph, spec = load_graph("nets.py:net"), load_place("local").spec
    runtime = OnnxRuntime(threads=spec.threads)
    kernels = profile_kernels(runtime, drafted(compressor_for(graph, spec), CompressionPlan()), runs=1)[1].kernels
    # The list knows this network's last layer in another type only.
    keys = tuple(k.key.replace("float", "double") if k.op_type == "Gemm" else k.key for k in kernels)
    times = (9.0,) * len(keys)
    priced = PricedRun(model=model_key(graph), kernels=keys, microseconds=times, ms=6e-3 * len(keys), spread=0.01)
    keep_prices(runtime, [priced] * FEWEST_PLANS, {priced.model: priced.ms})
    (place / "none.json").write_text("{}")
    found = _json(capsys, "predict", "nets.py:net", "--plan", "none.json", "--target", "local")
    assert any("nothing like 'Gemm float" in note for note in found["notes"])


def test_predict_is_an_estimate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "predict", "nets.py:net", "--plan", "prune.json", "--target", "jetson-nano")
    assert "estimated" in json.dumps(found)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["analyze", "nets.py:nett"], "net"),
        (["analyze", "missing.onnx"], "missing.onnx"),
        (["compress", "nets.py:net", "--plan", "wrong.json", "--out", "x.onnx"], "3"),
        (["search", "--model", "nets.py:net", "--data", "npz:none.npz", "--out", "r"], "none.npz"),
        (["search", "--sampler", "tpee", "--out", "r"], "tpe"),
        (["report", "nowhere"], "nowhere"),
        (["export", "nowhere", "--pick", "best", "--out", "o"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], named: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "wrong.json").write_text(json.dumps({"layers": {"33": {"weight_bits": 8, "activation_bits": 32}}}))
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


@pytest.mark.slow
def test_a_search_on_the_users_own_model_resumes_and_exports(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--model", "nets.py:net", "--data", "npz:data.npz", "--target", "jetson-nano", "--out", "run"]
    assert run([*command, "--trials", "3"]) == 0
    assert "int8" in capsys.readouterr().out, "the refusal of int8 is said"
    assert run([*command, "--trials", "5"]) == 0
    with (place / "run" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [str(i) for i in range(5)]
    assert "fidelity" in rows[0]
    assert "estimated_latency_ms" in rows[0]
    assert "latency_ms" not in rows[0]
    assert run(["report", "run"]) == 0
    assert run(["export", "run", "--pick", "best", "--out", "deploy"]) == 0
    assert (place / "deploy" / "model.onnx").is_file()


def test_predict_prices_factors_and_says_that_zeros_save_no_time(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"rank": {"ratio": 0.25}, "sparsity": {"ratio": 0.9, "storage": "sparse"}}
    (place / "thin.json").write_text(json.dumps({"layers": {"*": wanted}}))
    found = _json(capsys, "predict", "nets.py:net", "--plan", "thin.json", "--target", "jetson-nano")
    assert {"3.0", "3.1", "3.2"} <= {row["name"] for row in found["layers"]}
    assert "zeros save no time" in found["notes"][0]
    assert run(["compress", "nets.py:net", "--plan", "thin.json", "--out", "thin.onnx"]) == 0
    assert found["estimated_size_bytes"] == pytest.approx((place / "thin.onnx").stat().st_size, rel=0.01)
