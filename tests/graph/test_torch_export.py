from __future__ import annotations

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
from autocompress.zoo.resnet import resnet20


class TwoInTwoOut(nn.Module):
    """An image and a vector in; logits and a score out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.image = nn.Linear(8, 4)
        self.vector = nn.Linear(6, 4)
        self.score = nn.Linear(4, 2)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.drop(torch.relu(self.bn(self.conv(image)))).mean((2, 3))
        logits = self.image(pooled) + self.vector(vector)
        return logits, self.score(logits).view(logits.shape[0], -1)


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


class TestModules:
    def test_outputs_are_those_of_the_module(self) -> None:
        torch.manual_seed(0)
        net = resnet20(in_channels=1).eval()
        x = torch.randn(5, 1, 28, 28)
        with torch.no_grad():
            np.testing.assert_allclose(run(load_model(net, (x[:1],)), x)[0], net(x), atol=1e-4)

    def test_every_parameter_is_an_initializer_of_its_name(self) -> None:
        net = resnet20(in_channels=1)
        graph = load_model(net, (torch.zeros(1, 1, 28, 28),))
        assert {name for name, _ in net.named_parameters()} <= set(graph.initializers)

    def test_batch_normalization_is_kept(self) -> None:
        assert op_types(load_model(small_net(), (SMALL_INPUT,))).count("BatchNormalization") == 1

    def test_several_inputs_and_outputs_keep_their_order(self) -> None:
        torch.manual_seed(0)
        net = TwoInTwoOut().eval()
        image, vector = torch.randn(3, 3, 8, 8), torch.randn(3, 6)
        graph = load_model(net, (image, vector))
        with torch.no_grad():
            expected = net(image, vector)
        for actual, wanted in zip(run(graph, image, vector), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, atol=1e-5)

    def test_dropout_is_gone(self) -> None:
        graph = load_model(TwoInTwoOut(), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 6)))
        assert "Dropout" not in op_types(graph)

    def test_the_batch_axis_is_open(self) -> None:
        graph = load_model(TwoInTwoOut(), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 6)))
        assert [spec.shape for spec in graph.input_specs] == [(None, 3, 8, 8), (None, 6)]
        assert graph.batch_axis_dynamic

    def test_arrays_are_example_inputs_too(self) -> None:
        assert load_model(small_net(), (np.zeros((1, 1, 8, 8), np.float32),)).batch_axis_dynamic

    def test_a_module_for_one_batch_size_keeps_it(self) -> None:
        class Fixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(x.reshape(1, 8))

        graph = load_model(Fixed(), (torch.ones(1, 8),))
        assert graph.input_specs[0].shape == (1, 8)
        assert not graph.batch_axis_dynamic

    def test_the_module_stays_in_the_mode_it_was_in(self) -> None:
        net = small_net().train()
        net[1].eval()
        load_model(net, (SMALL_INPUT,))
        assert [part.training for part in net] == [True, False, True, True, True]

    def test_later_training_leaves_the_graph_alone(self) -> None:
        net = small_net()
        graph = load_model(net, (SMALL_INPUT,))
        before = graph.initializers["4.weight"].copy()
        with torch.no_grad():
            net[4].weight.add_(1)
        np.testing.assert_array_equal(graph.initializers["4.weight"], before)

    def test_equal_parameters_stay_apart(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].load_state_dict(net[0].state_dict())
        graph = load_model(net, (torch.ones(1, 4),))
        assert [layer.name for layer in graph.layers()] == ["0", "1"]

    def test_one_output_returned_twice_has_two_names(self) -> None:
        class Twice(nn.Linear):
            def forward(self, x: Tensor) -> Any:
                y = super().forward(x)
                return y, y

        graph = load_model(Twice(4, 2), (torch.ones(1, 4),))
        assert graph.output_names == ("output0", "output1")
        np.testing.assert_array_equal(*run(graph, torch.ones(3, 4)))

    def test_a_weight_keeps_its_name_through_a_transpose(self) -> None:
        graph = load_model(nn.Linear(8, 6), (torch.ones(2, 5, 8),))
        assert [(layer.name, layer.op_type, layer.weight_shape) for layer in graph.layers()] == [
            ("weight", "MatMul", (8, 6))
        ]

    def test_no_folder_of_the_exporting_machine_is_kept(self) -> None:
        assert str(Path(__file__).parent).encode() not in load_model(small_net(), (SMALL_INPUT,)).to_bytes()

    def test_an_operator_only_the_second_exporter_knows(self) -> None:
        torch.manual_seed(0)
        net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        x = torch.randn(2, 5, 8)
        graph = load_model(net, (x,))
        assert {name for name, p in net.named_parameters() if p.ndim > 1} <= set(graph.initializers)
        assert graph.batch_axis_dynamic


class TestBadModules:
    def test_example_inputs_are_asked_for(self) -> None:
        with pytest.raises(ModelError, match="needs example inputs"):
            load_model(small_net())

    def test_inputs_that_do_not_fit(self) -> None:
        with pytest.raises(ModelError, match=r"fails on inputs of shape \(2, 5\)"):
            load_model(nn.Linear(4, 2), (torch.ones(2, 5),))

    def test_an_empty_example(self) -> None:
        with pytest.raises(ModelError, match="is empty"):
            load_model(nn.Linear(4, 2), (torch.ones(0, 4),))

    def test_nan_weights_are_named(self) -> None:
        net = nn.Linear(4, 2)
        nn.init.constant_(net.bias, float("nan"))
        with pytest.raises(ModelError, match="Weight 'bias' of Linear holds NaN"):
            load_model(net, (torch.ones(1, 4),))

    def test_nan_outputs(self) -> None:
        class Root(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return torch.sqrt(-torch.abs(super().forward(x)) - 1)

        with pytest.raises(ModelError, match="gives NaN"):
            load_model(Root(4, 2), (torch.ones(1, 4),))

    def test_float64(self) -> None:
        with pytest.raises(ModelError, match="is float64"):
            load_model(nn.Linear(4, 2).double(), (torch.ones(1, 4, dtype=torch.float64),))

    def test_an_operator_that_onnx_lacks_is_named_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        class Svd(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.linalg.svdvals(x)

        with pytest.raises(ModelError, match="svd") as raised:
            load_model(Svd(), (torch.randn(2, 3, 3),))
        assert "\n" not in str(raised.value)
        assert capfd.readouterr() == ("", "")

    def test_control_flow_that_depends_on_the_data(self) -> None:
        class Flow(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x if x.sum() > 0 else -x)

        with pytest.raises(ModelError, match="control flow"):
            load_model(Flow(4, 2), (torch.ones(1, 4),))

    def test_randomness(self) -> None:
        class Noisy(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + torch.rand(2)

        with pytest.raises(ModelError, match="change from run to run"):
            load_model(Noisy(4, 2), (torch.ones(1, 4),))

    def test_something_else(self) -> None:
        with pytest.raises(ModelError, match=r"must be an nn\.Module or a path, but got dict"):
            load_model({}, (SMALL_INPUT,))  # type: ignore[arg-type]
