from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autocompress.core.errors import ModelError
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph


def run(graph: ModelGraph, *inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(graph.input_names, inputs, strict=True)}
    return [np.asarray(output) for output in session.run(None, feed)]


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    net[1].running_mean.uniform_(-1, 1)
    return net.eval()


SMALL_INPUT = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quiet_exporter() -> Iterator[None]:
    """For tests that call torch's exporters themselves: they warn of their own old age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    load_model(small_net(), (SMALL_INPUT,)).save(path)
    return path


class TestOnnxFiles:
    def test_a_saved_graph_comes_back_the_same(self, onnx_file: Path) -> None:
        graph = load_model(onnx_file)
        assert graph.digest == load_model(small_net(), (SMALL_INPUT,)).digest

    @pytest.mark.usefixtures("quiet_exporter")
    @pytest.mark.parametrize("opset", [9, 13, 17])
    def test_a_file_of_torchs_older_exporter(self, tmp_path: Path, opset: int) -> None:
        net, path = small_net(), tmp_path / "net.onnx"
        torch.onnx.export(
            net,
            (SMALL_INPUT,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
        graph = load_model(path)
        x = torch.randn(3, 1, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(run(graph, x)[0], net(x), atol=1e-5)
        assert graph.model.opset_imports[""] >= 21
        assert [layer.name for layer in graph.layers()] == ["/0/Conv", "4"]

    @pytest.mark.usefixtures("quiet_exporter")
    def test_a_file_of_torchs_newer_exporter_with_weights_beside_it(self, tmp_path: Path) -> None:
        net = small_net()
        torch.onnx.export(net, (SMALL_INPUT,), tmp_path / "net.onnx", dynamo=True, external_data=True, verbose=False)
        assert (tmp_path / "net.onnx.data").exists()
        graph = load_model(tmp_path / "net.onnx")
        with torch.no_grad():
            np.testing.assert_allclose(run(graph, SMALL_INPUT)[0], net(SMALL_INPUT), atol=1e-5)

    def test_weights_survive_their_file(self, tmp_path: Path, onnx_file: Path) -> None:
        onnx.save(
            onnx.load(onnx_file), tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
        )
        graph = load_model(tmp_path / "net.onnx")
        (tmp_path / "w.bin").unlink()
        assert graph.digest == load_model(onnx_file).digest

    @pytest.mark.parametrize(
        ("location", "message"),
        [("../w.bin", "outside its folder"), ("/etc/hostname", "outside its folder"), ("gone.bin", "no such file")],
    )
    def test_weights_from_elsewhere_are_refused(
        self, tmp_path: Path, onnx_file: Path, location: str, message: str
    ) -> None:
        proto = onnx.load(onnx_file)
        tensor = proto.graph.initializer[0]
        (tmp_path / "w.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "net.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / "inner" / "net.onnx")

    def test_weights_of_a_constant_from_elsewhere_are_refused(self, tmp_path: Path) -> None:
        tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/hostname")
        proto = helper.make_model(
            helper.make_graph(
                [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
            )
        )
        (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match="outside its folder"):
            load_model(tmp_path / "net.onnx")

    def test_a_data_file_that_ends_too_early(self, tmp_path: Path, onnx_file: Path) -> None:
        onnx.save(
            onnx.load(onnx_file), tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
        )
        (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:40])
        with pytest.raises(ModelError, match="not a readable ONNX model"):
            load_model(tmp_path / "net.onnx")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, bytes(range(256))])
    def test_a_file_that_is_no_model(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="ONNX model") as raised:
            load_model(tmp_path / "net.onnx")
        assert "\n" not in str(raised.value)

    def test_a_file_cut_short(self, tmp_path: Path, onnx_file: Path) -> None:
        (tmp_path / "net.onnx").write_bytes(onnx_file.read_bytes()[:500])
        with pytest.raises(ModelError, match="ONNX model"):
            load_model(tmp_path / "net.onnx")

    def test_a_missing_file_gets_the_nearest(self, onnx_file: Path) -> None:
        with pytest.raises(ModelError, match=r"did you mean .*small\.onnx"):
            load_model(onnx_file.with_name("smal.onnx"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "net.onnx").mkdir()
        with pytest.raises(ModelError, match="is a folder"):
            load_model(tmp_path / "net.onnx")

    def test_a_graph_that_cannot_run(self, tmp_path: Path) -> None:
        proto = helper.make_model(
            helper.make_graph(
                [helper.make_node("Conv", ["x", "w"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 5])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
        )
        onnx.save(proto, tmp_path / "net.onnx")
        with pytest.raises(ModelError, match="ONNX Runtime cannot"):
            load_model(tmp_path / "net.onnx")

    def test_nan_for_the_callers_samples(self, tmp_path: Path) -> None:
        proto = helper.make_model(
            helper.make_graph(
                [helper.make_node("Log", ["x"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
        )
        onnx.save(proto, tmp_path / "net.onnx")
        with pytest.raises(ModelError, match="gives NaN"):
            load_model(tmp_path / "net.onnx", (np.full((2, 4), -1, np.float32),))

    def test_open_sizes_are_fixed_by_the_examples(self, tmp_path: Path) -> None:
        weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
        proto = helper.make_model(
            helper.make_graph(
                [helper.make_node("Conv", ["x", "w"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [weight],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
        )
        onnx.save(proto, tmp_path / "net.onnx")
        graph = load_model(tmp_path / "net.onnx", (np.zeros((2, 3, 10, 12), np.float32),))
        assert graph.input_specs[0].shape == (None, 3, 10, 12)
        assert graph.layers()[0].out_shape == (1, 4, 8, 10)
