from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.core.errors import ModelError
from autocompress.graph.importing import load_model

FACTORIES = """
import torch
from torch import nn
import helper_beside_it

NUMBER = 3
instance = nn.Linear(4, 2)

def net():
    return nn.Linear(4, 2)

def with_inputs():
    import late_helper
    return nn.Linear(4, 2), torch.ones(1, 4)

def broken():
    raise RuntimeError("no weights here\\nsecond line")

def leaves():
    raise SystemExit("usage: …")

def text():
    return "net"
"""


class TestFactories:
    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        (tmp_path / "helper_beside_it.py").touch()
        (tmp_path / "late_helper.py").touch()
        (tmp_path / "nets.py").write_text(FACTORIES)
        return str(tmp_path / "nets.py")

    def test_a_factory_with_its_inputs(self, file: str) -> None:
        assert load_model(f"{file}:with_inputs").output_names == ("output",)

    def test_a_factory_with_inputs_of_the_caller(self, file: str) -> None:
        assert load_model(f"{file}:net", (np.ones((1, 4), np.float32),)).batch_axis_dynamic

    def test_a_module_instance_does_as_a_factory(self, file: str) -> None:
        assert load_model(f"{file}:instance", (np.ones((1, 4), np.float32),)).batch_axis_dynamic

    def test_a_dotted_module(self) -> None:
        graph = load_model("autocompress.zoo.resnet:resnet20", (torch.zeros(1, 3, 32, 32),))
        assert len(graph.layers()) == 22

    def test_a_module_in_the_working_folder(self, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(Path(file).parent)
        assert load_model("nets:with_inputs").output_names == ("output",)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nett", "did you mean 'net'"),
            ("broken", "raised RuntimeError: no weights here$"),
            ("leaves", "raised SystemExit"),
            ("text", "it returned str"),
            ("NUMBER", "not a factory"),
            ("net", "needs example inputs"),
            ("", "is written"),
        ],
    )
    def test_what_goes_wrong_is_one_line(self, file: str, name: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_model(f"{file}:{name}")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("autocompress.zoo.resnat:resnet20", r"did you mean 'autocompress\.zoo\.resnet'"),
            ("no_such_package_at_all.net:make", "There is no module 'no_such_package_at_all'"),
            ("model.pth", "holds weights, not a network"),
            ("model.h5", "Cannot tell what model"),
            ("model", "Cannot tell what model"),
        ],
    )
    def test_a_source_that_leads_nowhere(self, source: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_model(source)

    def test_a_missing_file_gets_the_nearest_name(self, file: str) -> None:
        with pytest.raises(ModelError, match=r"did you mean .*nets\.py"):
            load_model(f"{file.replace('nets', 'netz')}:net")

    def test_a_file_with_an_error_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "wrong.py").write_text("def net(:\n")
        with pytest.raises(ModelError, match="raised SyntaxError"):
            load_model(f"{tmp_path / 'wrong.py'}:net")

    def test_a_file_that_needs_what_is_not_installed(self, tmp_path: Path) -> None:
        (tmp_path / "needy.py").write_text("import not_installed_at_all\n")
        with pytest.raises(ModelError, match="not_installed_at_all"):
            load_model(f"{tmp_path / 'needy.py'}:net")
