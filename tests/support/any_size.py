"""Networks whose sizes are open, for engines that are built for several of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from net import Net

from prunedeploy.graph import model as models


def images(path: Path, seed: int = 0) -> Path:
    """Two convolutions with scattered zeros of images of any side, a pool and a linear layer."""
    net = Net(channels=3, size="side", seed=seed, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (3, 16)))
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, (16, 16))))
    result = net.linear(x, (16, 5))
    random = np.random.default_rng(seed)
    for name, weight in net.weights.items():
        if weight.ndim == 4:
            net.weights[name] = weight * (random.random(weight.shape) < 0.3)
    models.save(net.model(result), path)
    return path


def tokens(path: Path, seed: int = 0) -> Path:
    """An embedding of ``ids``, scaled by ``mask``, and a linear layer: two inputs of one length."""
    import onnx

    random = np.random.default_rng(seed)
    graph = onnx.parser.parse_graph(
        """net (int64[batch, length] ids, float[batch, length, 1] mask)
            => (float[batch, length, 6] output) {
            e = Gather(table, ids)
            m = Mul(e, mask)
            output = MatMul(m, weight)
        }"""
    )
    for name, shape in (("table", (20, 12)), ("weight", (12, 6))):
        array = random.standard_normal(shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path
