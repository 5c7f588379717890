"""Small networks, built with the sparse runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from net import Net

from prunedeploy.core.records import Engine
from prunedeploy.engines import building
from prunedeploy.graph.model import save


def network(path: Path, seed: int = 0, batch: int | str = "batch") -> Path:
    """Two convolutions with scattered zeros, a residual sum, a pool and a linear layer."""
    net = Net(5, 9, seed, np.float32, batch=batch)
    first = net.node("Relu", net.conv(net.input, (5, 24)))
    second = net.node("Relu", net.node("Add", net.conv(first, (24, 24)), first))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", second))
    result = net.linear(pooled, (24, 10))
    random = np.random.default_rng(seed)
    for name, weight in net.weights.items():
        if weight.ndim == 4:
            net.weights[name] = weight * (random.random(weight.shape) < 0.2)
    save(net.model(result), path)
    return path


def wide_network(path: Path, seed: int = 0) -> Path:
    """Two convolutions that are enough work for several threads; takes 8x48x48."""
    net = Net(8, 48, seed, np.float32)
    first = net.node("Relu", net.conv(net.input, (8, 64)))
    second = net.node("Relu", net.conv(first, (64, 64)))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", second))
    save(net.model(net.linear(pooled, (64, 10))), path)
    return path


def feed(engine: Engine, batch: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs."""
    shape = (batch, *engine.manifest.inputs[0].shape[1:])
    random = np.random.default_rng(seed)
    return {"input": random.standard_normal(shape).astype(np.float32)}


def build(model: Path, place: Path, **options: object) -> Engine:
    """An engine without tuning."""
    return building.build(model, "host", "sparse", place, **{"tune": "none", **options})


def output(session: object, feeds: dict[str, np.ndarray], **more: object) -> np.ndarray:
    """The only output."""
    (found,) = session.run(feeds, **more).values()
    return found
