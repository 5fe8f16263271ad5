"""Small networks as graphs, with statistics as uneven as trained ones, and ONNX Runtime to compare with."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from autocompress.compress.prune import prune
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import OPSET, normalize
from autocompress.graph.quiet import quiet
from autocompress.zoo.audio import audio_tiny
from autocompress.zoo.bert import bert_tiny
from autocompress.zoo.convnext import convnext_tiny
from autocompress.zoo.densenet import densenet_tiny
from autocompress.zoo.efficientnet import efficientnet_lite_tiny, efficientnet_tiny
from autocompress.zoo.gpt import gpt_tiny
from autocompress.zoo.inception import inception_tiny
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.mobilenet_v1 import mobilenet_v1_tiny
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_tiny
from autocompress.zoo.recurrent import gru_tiny, lstm_tiny
from autocompress.zoo.resnet import BasicBlock, resnet20
from autocompress.zoo.resnext import resnext_tiny
from autocompress.zoo.senet import senet_tiny
from autocompress.zoo.shufflenet import shufflenet_tiny
from autocompress.zoo.squeezenet import squeezenet_tiny
from autocompress.zoo.unet import unet_resize_tiny, unet_tiny
from autocompress.zoo.vgg import vgg_tiny
from autocompress.zoo.vit import vit_split_tiny, vit_tiny
from autocompress.zoo.yolo import yolo_tiny

Arrays = list[NDArray[Any]]
Keep = dict[str, NDArray[np.intp]]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Inputs = Mapping[str, tuple[int, Sequence[int | str]]]


class SmallResNet18(nn.Module):
    """A ResNet-18 as torchvision lays it out, a stem of 7x7 and a max pool, with an eighth of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (8, 8, 16, 32, 64)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(before, width, 1 if before == width else 2), BasicBlock(width, width, 1))
                for before, width in itertools.pairwise(widths)
            )
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.maxpool(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def _images(side: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.zeros(2, 3, side, side),)


#: Builder of each network, and of a batch of its inputs.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "resnet20": (resnet20, _images(16)),
    "resnet18": (SmallResNet18, _images(32)),
    "mobilenet": (mobilenet_tiny, _images(16)),
    "densenet": (densenet_tiny, _images(16)),
    "senet": (senet_tiny, _images(16)),
    "vgg": (vgg_tiny, _images(16)),
    "resnext": (resnext_tiny, _images(8)),
    "mobilenet_v1": (mobilenet_v1_tiny, _images(8)),
    "mobilenet_v3": (mobilenet_v3_tiny, _images(8)),
    "efficientnet": (efficientnet_tiny, _images(8)),
    "efficientnet_lite": (efficientnet_lite_tiny, _images(8)),
    "squeezenet": (squeezenet_tiny, _images(8)),
    "inception": (inception_tiny, _images(8)),
    "unet": (unet_tiny, _images(8)),
    "unet_resize": (unet_resize_tiny, _images(8)),
    "shufflenet": (shufflenet_tiny, _images(8)),
    "yolo": (yolo_tiny, _images(16)),
    "audio": (audio_tiny, lambda: (torch.zeros(2, 1, 256),)),
    "convnext": (convnext_tiny, _images(8)),
    "vit": (vit_tiny, _images(16)),
    "vit_split": (vit_split_tiny, _images(16)),
    "bert": (bert_tiny, lambda: (torch.zeros(2, 12, dtype=torch.int64), torch.ones(2, 12, dtype=torch.int64))),
    "gpt": (gpt_tiny, lambda: (torch.zeros(2, 12, dtype=torch.int64),)),
    "lstm": (lstm_tiny, lambda: (torch.zeros(2, 6, 8),)),
    "gru": (gru_tiny, lambda: (torch.zeros(2, 6, 8),)),
}
#: Networks of which some part cannot be pruned: a normalization or a recurrent layer mixes its channels.
PARTLY_BLOCKED = ("convnext", "vit", "vit_split", "bert", "gpt", "lstm", "gru")
#: One of each family, where all of them take too long for a quick run.
FEW = ("shufflenet", "bert", "gru")


def uneven(module: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and shifts that matter."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return module.eval()


@functools.cache
def _network(name: str) -> ModelGraph:
    factory, examples = NETWORKS[name]
    torch.manual_seed(0)
    return load_model(uneven(factory()), examples())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These networks are too small for more, and busy neighbours would stall every operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> ModelGraph:
    """Every small network of the zoo, and a ResNet-18."""
    return _network(request.param)


@pytest.fixture(params=[n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def network_name(request: pytest.FixtureRequest) -> str:
    """Every network, for what takes seconds each."""
    return str(request.param)


@pytest.fixture(params=[name for name in NETWORKS if name not in PARTLY_BLOCKED])
def convolutional(request: pytest.FixtureRequest) -> ModelGraph:
    """The networks whose every channel can be pruned, but for what feeds the outputs."""
    return _network(request.param)


@pytest.fixture(scope="session")
def network_named() -> Callable[[str], ModelGraph]:
    return _network


@pytest.fixture(scope="session")
def network_by_dynamo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelGraph]:
    """A network by way of torch.export and a .pt2 file, in place of the TorchScript exporter."""

    def make(name: str) -> ModelGraph:
        factory, examples = NETWORKS[name]
        torch.manual_seed(0)
        module, inputs = uneven(factory()), examples()
        batch = torch.export.Dim("batch", min=1)
        path = tmp_path_factory.mktemp("programs") / f"{name}.pt2"
        with quiet():
            program = torch.export.export(module, inputs, dynamic_shapes=({0: batch},) * len(inputs))
        torch.export.save(program, path)
        return load_model(path)

    return make


@pytest.fixture(scope="session")
def export() -> Callable[..., ModelGraph]:
    """A module with its example inputs to a graph."""

    def make(module: nn.Module, *examples: Tensor) -> ModelGraph:
        return load_model(uneven(module), examples)

    return make


@pytest.fixture(scope="session")
def write() -> Callable[..., ModelGraph]:
    """Nodes and weights to a graph."""

    def make(
        nodes: Sequence[onnx.NodeProto],
        weights: Mapping[str, Any],
        inputs: Inputs,
        outputs: Mapping[str, int],
        *,
        opset: int = 21,
        domains: Sequence[str] = (),
    ) -> ModelGraph:
        graph = onnx.helper.make_graph(
            list(nodes),
            "net",
            [onnx.helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
            [onnx.helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
            [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
        )
        imports = [onnx.helper.make_opsetid("", opset), *(onnx.helper.make_opsetid(name, 1) for name in domains)]
        return ModelGraph(normalize(ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10))))

    return make


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[ModelGraph, Sequence[NDArray[Any]]], Arrays]:
    """A graph's outputs in ONNX Runtime, node for node as the graph says."""

    def run(graph: ModelGraph, inputs: Sequence[NDArray[Any]]) -> Arrays:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(zip(graph.input_names, inputs, strict=True)))
        return [np.asarray(output) for output in found]

    return run


@pytest.fixture(scope="session")
def noise() -> Callable[..., Arrays]:
    """Random inputs of a graph: normal floats, and integers from 0 to 2."""

    def draw(graph: ModelGraph, seed: int = 0, *, batch: int = 3) -> Arrays:
        rng = np.random.default_rng(seed)
        arrays = []
        for spec in graph.input_specs:
            shape = [batch if size is None else size for size in spec.shape]
            normal = spec.dtype.kind == "f"
            arrays.append((rng.normal(size=shape) if normal else rng.integers(0, 3, shape)).astype(spec.dtype))
        return arrays

    return draw


@pytest.fixture(scope="session")
def one_node() -> Callable[..., tuple[ModelGraph, bytes, Arrays]]:
    """A model of one node: as a graph, as its file, and the arrays of its inputs that are no initializers."""

    def make(
        op_type: str,
        *values: NDArray[Any] | None,
        fixed: bool = True,
        outputs: int = 1,
        opset: int = 21,
        **attributes: Any,
    ) -> tuple[ModelGraph, bytes, Arrays]:
        names = ["" if value is None else f"in{position}" for position, value in enumerate(values)]
        arrays = {name: np.asarray(value) for name, value in zip(names, values, strict=True) if value is not None}
        weights = {name for name in arrays if fixed and name != names[0]}
        results = [f"out{index}" for index in range(outputs)]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(op_type, names, results, name="node", **attributes)],
            "one",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in arrays.items()
                if n not in weights
            ],
            [onnx.helper.make_empty_tensor_value_info(name) for name in results],
            [onnx.numpy_helper.from_array(arrays[name], name) for name in arrays if name in weights],
        )
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        model = ir.from_proto(proto)
        content = proto.SerializeToString()
        return (
            ModelGraph(normalize(model) if opset < OPSET else model),
            content,
            [array for name, array in arrays.items() if name not in weights],
        )

    return make


@pytest.fixture(scope="session")
def agree(one_node: Callable[..., tuple[ModelGraph, bytes, Arrays]]) -> Callable[..., None]:
    """One node gives in torch what it gives in ONNX Runtime: values, shapes and types."""

    def compare(
        op_type: str, *values: NDArray[Any] | None, rtol: float = 1e-5, atol: float = 1e-6, **rest: Any
    ) -> None:
        graph, content, arrays = one_node(op_type, *values, **rest)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        wanted = session.run(None, dict(zip((i.name for i in session.get_inputs()), arrays, strict=True)))
        with torch.no_grad():
            found = graph.to_torch().eval()(*(torch.from_numpy(np.array(array)) for array in arrays))
        for ours, theirs in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            reference = np.asarray(theirs)
            assert (tuple(ours.shape), ours.numpy().dtype) == (reference.shape, reference.dtype)
            np.testing.assert_allclose(ours.numpy(), reference, rtol=rtol, atol=atol)

    return compare


def masked(graph: ModelGraph, keep: Keep) -> ModelGraph:
    """The whole graph with removed channels masked, written without any of the package's slicing.

    What makes a removed channel gives NaN, and parameters of removed channels are NaN, so that NaN shows how far the
    channel reaches; every layer with a weight takes NaN for zero, a convolution the whole channel that holds it. NaN in
    an output means that something other than a layer's weight mixed a removed channel into one that stays.
    """
    proto = onnx.load_from_string(graph.to_bytes())
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}
    lost: dict[tuple[str, int], list[int]] = {}
    for group in graph.groups():
        gone = np.delete(np.arange(group.channels), keep.get(group.name, np.arange(group.channels)))
        for member in group.members:
            lost.setdefault((member.initializer, member.axis), []).extend(member.indices[gone].ravel().tolist())
    of_layers = {name for n in proto.graph.node if n.op_type in LAYERS for name in n.input[:2]}
    for (name, axis), entries in lost.items():
        if name not in of_layers and weights[name].dtype.kind == "f":
            weights[name][(slice(None),) * axis + (entries,)] = np.nan
    nodes: list[onnx.NodeProto] = []
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "mask.zero")]
    for index, item in enumerate(proto.graph.node):
        position = next((p for p in (1, 0) if item.op_type in LAYERS and item.input[p] in weights), None)
        if position is None:
            nodes.append(item)
            continue
        source, result = item.input[1 - position], item.output[0]
        out, channels = _layer(item, position, weights[item.input[position]], lost)
        rank = len(graph.value_shape(source) or ())
        others = np.arange(2, rank) if item.op_type.startswith("Conv") else np.zeros(0, np.int64)
        nan = np.zeros(channels, np.float32)
        nan[out] = np.nan
        trailing = (weights[item.input[1]].ndim - 2) if item.op_type.startswith("Conv") else int(position == 0)
        constants += [
            numpy_helper.from_array(others, f"mask.axes{index}"),
            numpy_helper.from_array(nan.reshape(-1, *[1] * trailing), f"mask.nan{index}"),
        ]
        layer = onnx.NodeProto()
        layer.CopyFrom(item)
        layer.input[1 - position], layer.output[0] = f"mask.in{index}", f"mask.out{index}"
        nodes += [
            helper.make_node("ReduceSum", [source, f"mask.axes{index}"], [f"mask.sum{index}"], noop_with_empty_axes=1),
            helper.make_node("Equal", [f"mask.sum{index}"] * 2, [f"mask.real{index}"]),
            helper.make_node("Where", [f"mask.real{index}", source, "mask.zero"], [f"mask.in{index}"]),
            layer,
            helper.make_node("Add", [f"mask.out{index}", f"mask.nan{index}"], [result]),
        ]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*(numpy_helper.from_array(a, n) for n, a in weights.items()), *constants])
    return ModelGraph(ir.from_proto(proto))


def _layer(
    item: onnx.NodeProto, position: int, weight: NDArray[Any], lost: Mapping[tuple[str, int], list[int]]
) -> tuple[list[int], int]:
    """Output channels of a layer that are removed, and how many there are in all."""
    attributes = {a.name: helper.get_attribute_value(a) for a in item.attribute}
    name = item.input[position]
    if item.op_type == "ConvTranspose":
        groups, each = attributes.get("group", 1), weight.shape[1]
        gone = {g * each + c for g in range(groups) for c in lost.get((name, 1), [])}
        if groups == weight.shape[0] > 1:
            gone |= {g * each + c for g in lost.get((name, 0), []) for c in range(each)}
        return sorted(gone), groups * each
    first = item.op_type == "Conv" or attributes.get("transB", 0) or position == 0
    return lost.get((name, 0 if first else 1), []), weight.shape[0 if first else 1]


@pytest.fixture(scope="session")
def check(run_onnx: Callable[..., Arrays], noise: Callable[..., Arrays]) -> Callable[..., None]:
    """Pruned in ONNX Runtime equals masked in torch."""

    def compare(graph: ModelGraph, keep: Keep, seed: int = 0) -> None:
        pruned = prune(graph, keep)
        proto = onnx.load_from_string(pruned.to_bytes())
        onnx.checker.check_model(proto)
        # Strict inference complains where a shape that the graph states is not the one its operators give.
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        inputs = noise(graph, seed)
        found = run_onnx(pruned, inputs)
        with torch.no_grad():
            wanted = masked(graph, keep).to_torch().eval()(*map(torch.from_numpy, inputs))
        for ours, theirs in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            reference = theirs.numpy()
            assert ours.shape == reference.shape
            assert not np.isnan(reference).any(), "a removed channel reaches one that stays"
            np.testing.assert_array_less(np.abs(ours - reference).max(), 1e-4 * np.abs(reference).max() + 1e-12)

    return compare


@pytest.fixture(scope="session")
def random_keep() -> Callable[..., Keep]:
    """A plan that keeps any number of any units, for about ``share`` of the groups."""

    def draw(graph: ModelGraph, seed: int, share: float = 0.8) -> Keep:
        rng = np.random.default_rng(seed)
        keep = {}
        for group in graph.groups():
            if group.prunable and rng.random() < share:
                count = int(rng.integers(1, group.channels + 1))
                keep[group.name] = np.sort(rng.permutation(group.channels)[:count])
        return keep

    return draw
