"""Generators of norms, pools, reductions and resizing."""

from __future__ import annotations

import numpy as np
from grow_pointwise import any_rank, tame
from random_graph import RandomGraph, Value


def batch_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(net.choose.choice([4, 2]))
    vectors = net.numbers.standard_normal((4, source.channels))
    vectors[0][net.subset(source.channels, 0.2)] = 0
    vectors[1][net.subset(source.channels, 0.2)] = 0
    vectors[3] = np.abs(vectors[3]) + 0.1
    return net.add(net.one(op, source, *map(net.const, vectors)), source.shape)


def instance_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    scale, bias = net.numbers.standard_normal((2, source.channels))
    bias[net.subset(source.channels, 0.3)] = 0
    name = net.one(op, source, net.const(scale), net.const(bias), epsilon=0.1)
    return net.add(name, source.shape)


def layer_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(net.choose.choice([2, 3, 3, 4]))
    axis = net.choose.choice([-1, source.axis])
    shape = source.shape[axis:] if axis > 0 else source.shape[-1:]
    vectors = net.numbers.standard_normal((2, *shape))
    vectors[:, net.subset(shape[0], 0.5)] = 0
    count = 2 if op == "LayerNormalization" and net.choose.random() < 0.8 else 1
    given = [net.const(vector) for vector in vectors[:count]]
    return net.add(net.one(op, source, *given, axis=axis, epsilon=0.1), source.shape)


def group_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(4, width=6)
    scale, bias = net.numbers.standard_normal((2, 6))
    groups = net.choose.choice([2, 3, 6])
    given = [net.const(scale), net.const(bias)]
    return net.add(net.one(op, source, *given, num_groups=groups, epsilon=0.1), source.shape)


def statistics_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(4, width=net.choose.randint(3, 7))
    if net.choose.random() < 0.2:
        nothing = net.one("Mul", source, net.const(np.array(0.0)))
        source = net.add(nothing, source.shape)
    if op == "MeanVarianceNormalization":  # ill conditioned where a channel hardly varies
        pattern = net.const(net.numbers.standard_normal((1, 1, *source.shape[2:])))
        source = Value(net.one("Add", source, pattern), source.shape)
    attributes: dict[str, object] = {"size": 3} if op == "LRN" else {}
    return net.add(net.one(op, source, **attributes), source.shape)


def lp_norm(net: RandomGraph, op: str) -> Value:
    source = net.layered(net.choose.choice([4, 3, 2]))
    # far from a norm of zero, where a division by it would be ill conditioned
    source = net.add(net.one("Concat", source, source, axis=source.axis), _twice(source))
    offset = net.one("Add", source, net.const(np.array(net.choose.choice([0.0, 3.0]))))
    axis, order = net.choose.choice([source.axis, -1, 0]), net.choose.choice([1, 2])
    return net.add(net.one(op, offset, axis=net.axis(source, axis), p=order), source.shape)


def _twice(value: Value) -> tuple[int, ...]:
    return tuple(2 * size if i == value.axis else size for i, size in enumerate(value.shape))


def softmax(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    axis = net.choose.choice([-1, 1, len(source.shape) - 1])
    return net.add(net.one(op, source, axis=net.axis(source, axis)), source.shape)


def pool(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    attributes: dict[str, object] = {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}
    if op == "AveragePool":
        attributes["count_include_pad"] = net.choose.randint(0, 1)
    return net.add(net.one(op, source, **attributes), source.shape)


def global_pool(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    return net.add(net.one(op, source), (*source.shape[:2], 1, 1))


def reduction(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    rank = len(source.shape)
    axes = net.choose.choice([[-1], [1], [source.axis], list(range(2, rank)) or [1]])
    if op == "ReduceLogSum" and net.choose.random() < 0.5:
        source = tame(net, source, ("Sigmoid",))
    elif op == "ReduceLogSum":  # of channels that are zero, and of some that never are
        parts = [net.one(step, source) for step in ("Relu", "Sigmoid")]
        name = net.one("Concat", *parts, axis=source.axis)
        source, axes = Value(name, _twice(source)), [source.axis]
    axes = [net.axis(source, axis) for axis in axes]
    name = net.one(op, source, net.ints(*axes), keepdims=1)
    shape = [1 if axis in [a % rank for a in axes] else s for axis, s in enumerate(source.shape)]
    found = net.add(name, shape)
    if net.choose.random() < 0.5:  # attention over space or channels
        return net.add(net.one("Mul", tame(net, source), found), source.shape)
    return found


def resize(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    batch, channels, height, width = source.shape
    mode = net.choose.choice(["nearest", "linear"])
    shape = (batch, channels, 2 * height, 2 * width)
    if op == "Resize" and net.fixed and net.choose.random() < 0.4:
        return net.add(net.one(op, source, "", "", net.ints(*shape), mode=mode), shape)
    scales = net.const(np.array([1, 1, 2, 2], np.float32))
    net.net.weights[scales] = net.net.weights[scales].astype(np.float32)
    middle = [scales] if op == "Upsample" else ["", scales]
    return net.add(net.one(op, source, *middle, mode=mode), shape)
