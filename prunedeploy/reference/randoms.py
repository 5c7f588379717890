"""Random numbers: of the distribution that is asked for, with a seed the same every time.

ONNX does not say which numbers a seed stands for: no runtime draws the same ones as another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Kernel, Numbers, Table, has, integer, integers, number, same


def generator(node: ir.Node) -> np.random.Generator:
    """Fresh numbers without ``seed``."""
    if not has(node, "seed"):
        return np.random.default_rng()
    bits = np.array(node.attributes["seed"].value, np.float32).view(np.uint32)
    return np.random.default_rng(int(bits))


def _kind(node: ir.Node, usual: Any) -> Any:
    return ir.DataType(integer(node, "dtype", 1)).numpy() if has(node, "dtype") else usual


def _normal(node: ir.Node, shape: tuple[int, ...], kind: Any) -> Numbers:
    mean, scale = number(node, "mean", 0.0), number(node, "scale", 1.0)
    return generator(node).normal(mean, scale, shape).astype(kind)


def _uniform(node: ir.Node, shape: tuple[int, ...], kind: Any) -> Numbers:
    low, high = number(node, "low", 0.0), number(node, "high", 1.0)
    return generator(node).uniform(low, high, shape).astype(kind)


def _shaped(draw: Any) -> Kernel:
    return lambda node: draw(node, tuple(integers(node, "shape")), _kind(node, np.float32))


def _like(draw: Any) -> Kernel:
    return lambda node, x: draw(node, x.shape, _kind(node, x.dtype))


def _bernoulli(node: ir.Node, x: Numbers) -> Numbers:
    return (generator(node).random(x.shape) < x).astype(_kind(node, x.dtype))


def _multinomial(node: ir.Node, x: Numbers) -> Numbers:
    """Classes by their unnormalised log-probabilities."""
    share = np.exp(x - x.max(1, keepdims=True)).astype(np.float64)
    share /= share.sum(1, keepdims=True)
    random, count = generator(node), integer(node, "sample_size", 1)
    rows = [random.choice(x.shape[1], count, p=row) for row in share]
    return np.array(rows).reshape(len(x), count).astype(_kind(node, np.int32))


TABLE: Table = {
    "Bernoulli": same(_bernoulli, 15, 22),
    "Multinomial": same(_multinomial, 7, 22),
    "RandomNormal": same(_shaped(_normal), 1, 22),
    "RandomNormalLike": same(_like(_normal), 1, 22),
    "RandomUniform": same(_shaped(_uniform), 1, 22),
    "RandomUniformLike": same(_like(_uniform), 1, 22),
}
OPERATORS = frozenset(TABLE)
