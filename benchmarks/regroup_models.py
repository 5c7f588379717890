"""The layers and networks of the real block lists: VGG-16 and ResNet-18 on 32 x 32 pixels, as ONNX.

Weights are random at the places of the blocks that Structure-LTH's regrouping found in trained
networks, and zero elsewhere. A network is its convolutions with ReLU, pools and residual sums in
between, BatchNorm folded, and a mean over the map behind.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.passes.blocks import Block

FOLDER = Path(__file__).parents[2] / "shared" / "data"
DATA = FOLDER / "structure_lth_blocks.json.gz"
TRAINED = FOLDER / "resnet56-4bfd9763.th"
OPSET, IR = 17, 8
NEAR = 0.1  # share of the weights of blocks that are elsewhere, in models whose name says "near"
NETWORKS = {"vgg16": "VGG-16", "resnet18": "ResNet-18"}


@dataclass(frozen=True)
class Layer:
    """A convolution: its name in the block lists, what it reads, what it computes."""

    name: str
    network: str
    channels: int
    outputs: int
    size: int  # of the map that it reads
    kernel: int = 3
    stride: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the weight."""
        return self.outputs, self.channels, self.kernel, self.kernel

    @property
    def macs(self) -> int:
        """The products of one image, zeros included."""
        return math.prod(self.shape) * (self.size // self.stride) ** 2


def _vgg() -> Iterator[Layer]:
    layers = ((0, 64), (3, 64), (7, 128), (10, 128), (14, 256), (17, 256), (20, 256), (24, 512),
              (27, 512), (30, 512), (34, 512), (37, 512), (40, 512))  # fmt: skip
    sizes = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)
    channels = 3
    for (index, outputs), size in zip(layers, sizes, strict=True):
        yield Layer(str(index), "vgg16", channels, outputs, size)
        channels = outputs


def _resnet() -> Iterator[Layer]:
    yield Layer("model.conv1", "resnet18", 3, 64, 32)
    channels, size = 64, 32
    for stage, outputs in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            at = f"model.layer{stage}.{block}"
            yield Layer(f"{at}.conv1", "resnet18", channels, outputs, size, 3, stride)
            yield Layer(f"{at}.conv2", "resnet18", outputs, outputs, size // stride)
            if stride > 1:
                yield Layer(f"{at}.downsample.0", "resnet18", channels, outputs, size, 1, stride)
            channels, size = outputs, size // stride


LAYERS = (*_vgg(), *_resnet())


def block_lists() -> dict[str, list[Block]]:
    """The blocks of every layer, by name."""
    lists = json.loads(gzip.decompress(DATA.read_bytes()))
    return {
        name: [Block(np.sort(np.array(r, int)), np.sort(np.array(c, int))) for r, c in blocks if r]
        for name, blocks in lists.items()
    }


def weight(layer: Layer, blocks: list[Block], near: bool = False) -> Array:
    """Random at the blocks, zero elsewhere; the result keeps its range.

    ``near``: a tenth of them is zero, and as many others are not.
    """
    rng = np.random.default_rng(len(layer.name) + layer.outputs + layer.channels)
    matrix = np.zeros((layer.outputs, layer.channels * layer.kernel**2), np.float32)
    for block in blocks:
        scale = math.sqrt(2 / max(block.columns.size, 1))
        values = rng.standard_normal((block.rows.size, block.columns.size)) * scale
        matrix[np.ix_(block.rows, block.columns)] = np.where(values == 0, scale, values)
    if near and (matrix == 0).any():
        inside = matrix != 0
        gone = inside & (rng.random(matrix.shape) < NEAR)
        come = ~inside & (rng.random(matrix.shape) < gone.sum() / (~inside).sum())
        values = rng.choice(matrix[inside], matrix.shape)
        matrix = np.where(gone, 0, np.where(come, values, matrix)).astype(np.float32)
    return matrix.reshape(layer.shape)


class _Graph:
    """Nodes and weights of a model in the making."""

    def __init__(self, near: bool = False) -> None:
        self.near = near
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        node = helper.make_node(kind, inputs, [output], output)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    def convolution(self, layer: Layer, x: str, blocks: dict[str, list[Block]]) -> str:
        rng = np.random.default_rng(layer.outputs)
        bias = rng.uniform(-0.1, 0.1, layer.outputs).astype(np.float32)
        names = f"{layer.name}.weight", f"{layer.name}.bias"
        for name, array in zip(
            names, (weight(layer, blocks[layer.name], self.near), bias), strict=True
        ):
            self.weights.append(numpy_helper.from_array(array, name))
        pads, strides = [layer.kernel // 2] * 4, [layer.stride] * 2
        return self.node("Conv", [x, *names], layer.name, pads=pads, strides=strides)

    def write(self, path: Path, shape: list[int], output: str) -> Path:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "regroup", [given], [result], self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def write(name: str, batch: int, path: Path, size: int = 0) -> Path:
    """A model by name: of a layer, of a network, or of one without clean blocks.

    Args:
        name: a layer's name; "vgg16" or "resnet18", with "-near" if the blocks are to have holes
            and non-zeros around them; a name of ``cpu_models`` or "resnet56" with "-90" for so many
            percent of scattered zeros.
        batch: images.
        path: the file.
        size: of the result of a layer, where not that of its network.
    """
    layers = {layer.name: layer for layer in LAYERS}
    stem, _, kind = name.partition("-")
    if name in layers:
        layer = layers[name]
        return write_layer(replace(layer, size=size * layer.stride or layer.size), batch, path)
    if kind.isdigit():
        return write_scattered(stem, int(kind) / 100, batch, path)
    return write_network(stem, batch, path, kind == "near")


def write_scattered(name: str, sparsity: float, batch: int, path: Path) -> Path:
    """A network with scattered zeros: of ``cpu_models``, or the trained ResNet-56."""
    import cpu_models

    if name != "resnet56":
        shutil.copy(cpu_models.fixed(name, sparsity, batch), path)
        return path
    from prunedeploy.passes.analysis.liveness import layers_of
    from prunedeploy.shrinking.loading import load
    from prunedeploy.shrinking.request import CheckpointOptions

    program = load(TRAINED, CheckpointOptions()).program
    for value in (*program.graph.inputs, *program.graph.outputs):
        value.shape = ir.Shape((batch, *(value.shape or ())[1:]))
    layers = [layer.weight for layer in layers_of(program.graph)][1:-1]
    weights = [value.const_value.numpy() for value in layers if value.const_value is not None]
    bound = np.quantile(np.concatenate([np.abs(w).reshape(-1) for w in weights]), sparsity)
    for value, array in zip(layers, weights, strict=True):
        value.const_value = ir.tensor(np.where(np.abs(array) < bound, 0, array), name=value.name)
    cpu_models.simplify(program)
    models.save(program, path)
    return path


def write_layer(layer: Layer, batch: int, path: Path) -> Path:
    """A model of one convolution and its ReLU."""
    graph = _Graph()
    y = graph.node("Relu", [graph.convolution(layer, "x", block_lists())], "y")
    return graph.write(path, [batch, layer.channels, layer.size, layer.size], y)


def write_network(network: str, batch: int, path: Path, near: bool = False) -> Path:
    """A model of all layers of a network."""
    graph, blocks = _Graph(near), block_lists()
    layers = {layer.name: layer for layer in LAYERS if layer.network == network}
    y = (_chain if network == "vgg16" else _residual)(graph, layers, blocks)
    y = graph.node("GlobalAveragePool", [y], "y")
    return graph.write(path, [batch, 3, 32, 32], y)


def _chain(graph: _Graph, layers: dict[str, Layer], blocks: dict[str, list[Block]]) -> str:
    x, size = "x", 32
    for name, layer in layers.items():
        if layer.size < size:
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            x, size = graph.node("MaxPool", [x], f"{name}.pool", **pool), layer.size
        x = graph.node("Relu", [graph.convolution(layer, x, blocks)], f"{name}.relu")
    return x


def _residual(graph: _Graph, layers: dict[str, Layer], blocks: dict[str, list[Block]]) -> str:
    def convolution(name: str, x: str) -> str:
        return graph.convolution(layers[name], x, blocks)

    x = graph.node("Relu", [convolution("model.conv1", "x")], "stem")
    for stage in range(1, 5):
        for block in range(2):
            at = f"model.layer{stage}.{block}"
            y = graph.node("Relu", [convolution(f"{at}.conv1", x)], f"{at}.relu1")
            y = convolution(f"{at}.conv2", y)
            if f"{at}.downsample.0" in layers:
                x = convolution(f"{at}.downsample.0", x)
            total = graph.node("Add", [y, x], f"{at}.sum")
            x = graph.node("Relu", [total], f"{at}.relu2")
    return x
