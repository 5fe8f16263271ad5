from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autocompress.core.errors import ModelError
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph


def run(graph: ModelGraph, *inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(graph.input_names, inputs, strict=True)}
    return [np.asarray(output) for output in session.run(None, feed)]


def op_types(graph: ModelGraph) -> list[str]:
    return [node.op_type for node in graph.model.graph]


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    net[1].running_mean.uniform_(-1, 1)
    return net.eval()


SMALL_INPUT = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class TestArchives:
    def test_a_dynamic_program(self, tmp_path: Path) -> None:
        net = small_net()
        batch = torch.export.Dim("b", min=1)
        program = torch.export.export(net, (SMALL_INPUT,), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "net.pt2")
        graph = load_model(tmp_path / "net.pt2")
        x = torch.randn(3, 1, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(run(graph, x)[0], net(x), atol=1e-5)
        assert "BatchNormalization" in op_types(graph)
        assert {"0.weight", "1.weight", "4.weight"} <= set(graph.initializers)

    def test_a_static_program_keeps_its_batch(self, tmp_path: Path) -> None:
        torch.export.save(torch.export.export(small_net(), (SMALL_INPUT,)), tmp_path / "net.pt2")
        graph = load_model(tmp_path / "net.pt2")
        assert not graph.batch_axis_dynamic
        assert graph.macs() == 6 * 6 * 4 * 9 + 144 * 3

    @pytest.mark.parametrize("content", [b"", b"not a zip at all"])
    def test_a_broken_archive(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "net.pt2").write_bytes(content)
        with pytest.raises(ModelError, match=r"is not a \.pt2 archive"):
            load_model(tmp_path / "net.pt2")

    def test_a_zip_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(ModelError, match="cannot be loaded as an exported program"):
            load_model(tmp_path / "net.pt2")

    def test_a_pickled_object_is_never_loaded(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "sprung",)

        torch.export.save(torch.export.export(small_net(), (SMALL_INPUT,)), tmp_path / "net.pt2")
        with zipfile.ZipFile(tmp_path / "net.pt2") as whole, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
            inputs = [name for name in whole.namelist() if "sample_inputs" in name]
            for name in whole.namelist():
                bad.writestr(name, pickle.dumps(Trap()) if name in inputs else whole.read(name))
        assert inputs
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(tmp_path / "bad.pt2")
        assert not (tmp_path / "sprung").exists()

    def test_a_compiled_library_is_never_loaded(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr("net/data/aotinductor/model/net.so", b"")
        with pytest.raises(ModelError, match="holds code"):
            load_model(tmp_path / "net.pt2")
