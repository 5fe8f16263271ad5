"""The wheel holds everything: a search runs from it, in another folder, without the checkout."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 540

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment's ``bin`` with the wheel in it; its dependencies are those of the running interpreter."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True, timeout=SECONDS)
    packages = next((venv / "lib").glob("python*")) / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        venv / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return venv / "bin"


def _run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_data_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "autocompress/_data/hardware_profiles/jetson-nano.yaml",
        "autocompress/_data/search_spaces/default.yaml",
        "autocompress/zoo/demo/resnet20.safetensors",
        "autocompress/zoo/demo/fashion_mnist_subset.npz",
        "autocompress/zoo/demo/LICENSE.fashion-mnist",
        "autocompress/core/plan.schema.json",
        "autocompress/report/style.css",
        "autocompress/py.typed",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "runs/")) or "__pycache__" in name for name in names)


def test_the_package_is_the_installed_one(installed: Path, tmp_path: Path) -> None:
    done = _run([installed / "python", "-c", "import autocompress; print(autocompress.__file__)"], tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent)


def test_targets_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert "jetson-nano" in _run([installed / "autocompress", "targets"], tmp_path).stdout


def test_a_search_runs_and_exports(installed: Path, tmp_path: Path) -> None:
    command = [installed / "autocompress", "search", "--target", "local", "--trials", "4", "--out", "run"]
    shown = _run(command, tmp_path).stdout
    assert "report.html" in shown
    assert (tmp_path / "run" / "report.html").is_file()
    with (tmp_path / "run" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 4
    assert {"complete"} <= {row["state"] for row in rows}
    _run([installed / "autocompress", "export", "run", "--pick", "fastest", "--out", "exported"], tmp_path)
    assert (tmp_path / "exported" / "model.onnx").is_file()
