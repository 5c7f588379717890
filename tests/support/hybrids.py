"""Networks with an operator that the sparse runtime lacks, large enough that parts pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from net import Net
from onnx import TensorProto, helper

from prunedeploy.core.records import Engine
from prunedeploy.engines import building
from prunedeploy.graph.model import save

CHANNELS, SIZE = 48, 24


def net(batch: int | str = "batch") -> Net:
    """A network under construction; its input is [batch, 48, 24, 24]."""
    return Net(CHANNELS, SIZE, 0, np.float32, batch=batch)


def convs(net: Net, source: str, count: int = 2) -> str:
    """3x3 convolutions with 90 % zeros, each with a ReLU."""
    for _ in range(count):
        name = f"conv{len(net.nodes)}"
        conv = net.conv(source, (CHANNELS, CHANNELS), name=name)
        weight = net.weights[f"{name}.weight"]
        weight[net.random.random(weight.shape) > 0.1] = 0
        source = net.node("Relu", conv)
    return source


def unknown(net: Net, source: str) -> str:
    """An operator that the sparse runtime lacks, whatever it learns: |x| or -x, as x decides."""
    total = net.node("ReduceSum", source, keepdims=0)
    condition = net.node("Greater", total, net.weight(np.array(0.0)))
    name = f"if{len(net.nodes)}"
    return net.node(
        "If",
        condition,
        then_branch=branch(f"{name}_then", "Abs", source),
        else_branch=branch(f"{name}_else", "Neg", source),
    )


def pooled(net: Net, source: str) -> str:
    """A linear layer on the mean of every channel."""
    flat = net.node("Flatten", net.node("GlobalAveragePool", source))
    return net.linear(flat, (CHANNELS, 10))


def branch(name: str, op: str, source: str) -> onnx.GraphProto:
    """A graph inside of a node that applies ``op`` to a value from around it."""
    result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    node = helper.make_node(op, [source], [f"{name}_y"], f"{name}_{op}")
    return helper.make_graph([node], name, [], [result])


def build(net: Net, folder: Path, *outputs: str, **options: object) -> Engine:
    """A hybrid engine without tuning, and the model ``net.onnx`` beside it."""
    save(net.model(*outputs), folder / "net.onnx")
    given = {"tune": "none", "threads": 1, **options}
    return building.build(folder / "net.onnx", "host", "hybrid", folder / "engine", **given)
