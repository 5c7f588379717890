"""Growers of norms, pools, reductions and resizing."""

from __future__ import annotations

import numpy as np
from garden import Garden, Value
from grow_pointwise import any_rank, tame


def batch_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(garden.choose.choice([4, 2]))
    vectors = garden.numbers.standard_normal((4, source.channels))
    vectors[0][garden.subset(source.channels, 0.2)] = 0
    vectors[1][garden.subset(source.channels, 0.2)] = 0
    vectors[3] = np.abs(vectors[3]) + 0.1
    return garden.add(garden.one(op, source, *map(garden.const, vectors)), source.shape)


def instance_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    scale, bias = garden.numbers.standard_normal((2, source.channels))
    bias[garden.subset(source.channels, 0.3)] = 0
    name = garden.one(op, source, garden.const(scale), garden.const(bias), epsilon=0.1)
    return garden.add(name, source.shape)


def layer_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(garden.choose.choice([2, 3, 3, 4]))
    axis = garden.choose.choice([-1, source.axis])
    shape = source.shape[axis:] if axis > 0 else source.shape[-1:]
    vectors = garden.numbers.standard_normal((2, *shape))
    vectors[:, garden.subset(shape[0], 0.5)] = 0
    count = 2 if op == "LayerNormalization" and garden.choose.random() < 0.8 else 1
    given = [garden.const(vector) for vector in vectors[:count]]
    return garden.add(garden.one(op, source, *given, axis=axis, epsilon=0.1), source.shape)


def group_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(4, width=6)
    scale, bias = garden.numbers.standard_normal((2, 6))
    groups = garden.choose.choice([2, 3, 6])
    given = [garden.const(scale), garden.const(bias)]
    return garden.add(garden.one(op, source, *given, num_groups=groups, epsilon=0.1), source.shape)


def statistics_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(4, width=garden.choose.randint(3, 7))
    if garden.choose.random() < 0.2:
        nothing = garden.one("Mul", source, garden.const(np.array(0.0)))
        source = garden.add(nothing, source.shape)
    if op == "MeanVarianceNormalization":  # ill conditioned where a channel hardly varies
        pattern = garden.const(garden.numbers.standard_normal((1, 1, *source.shape[2:])))
        source = Value(garden.one("Add", source, pattern), source.shape)
    attributes: dict[str, object] = {"size": 3} if op == "LRN" else {}
    return garden.add(garden.one(op, source, **attributes), source.shape)


def lp_norm(garden: Garden, op: str) -> Value:
    source = garden.layered(garden.choose.choice([4, 3, 2]))
    # far from a norm of zero, where a division by it would be ill conditioned
    source = garden.add(garden.one("Concat", source, source, axis=source.axis), _twice(source))
    offset = garden.one("Add", source, garden.const(np.array(garden.choose.choice([0.0, 3.0]))))
    axis, order = garden.choose.choice([source.axis, -1, 0]), garden.choose.choice([1, 2])
    return garden.add(garden.one(op, offset, axis=axis, p=order), source.shape)


def _twice(value: Value) -> tuple[int, ...]:
    return tuple(2 * size if i == value.axis else size for i, size in enumerate(value.shape))


def softmax(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    axis = garden.choose.choice([-1, 1, len(source.shape) - 1])
    return garden.add(garden.one(op, source, axis=axis), source.shape)


def pool(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    attributes: dict[str, object] = {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}
    if op == "AveragePool":
        attributes["count_include_pad"] = garden.choose.randint(0, 1)
    return garden.add(garden.one(op, source, **attributes), source.shape)


def global_pool(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    return garden.add(garden.one(op, source), (*source.shape[:2], 1, 1))


def reduction(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    rank = len(source.shape)
    axes = garden.choose.choice([[-1], [1], [source.axis], list(range(2, rank)) or [1]])
    if op == "ReduceLogSum" and garden.choose.random() < 0.5:
        source = tame(garden, source, ("Sigmoid",))
    elif op == "ReduceLogSum":  # of channels that are zero, and of some that never are
        parts = [garden.one(step, source) for step in ("Relu", "Sigmoid")]
        name = garden.one("Concat", *parts, axis=source.axis)
        source, axes = Value(name, _twice(source)), [source.axis]
    name = garden.one(op, source, garden.ints(*axes), keepdims=1)
    shape = [1 if axis in [a % rank for a in axes] else s for axis, s in enumerate(source.shape)]
    found = garden.add(name, shape)
    if garden.choose.random() < 0.5:  # attention over space or channels
        return garden.add(garden.one("Mul", tame(garden, source), found), source.shape)
    return found


def resize(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    mode = garden.choose.choice(["nearest", "linear"])
    shape = (batch, channels, 2 * height, 2 * width)
    if op == "Resize" and garden.fixed and garden.choose.random() < 0.4:
        return garden.add(garden.one(op, source, "", "", garden.ints(*shape), mode=mode), shape)
    scales = garden.const(np.array([1, 1, 2, 2], np.float32))
    garden.net.weights[scales] = garden.net.weights[scales].astype(np.float32)
    middle = [scales] if op == "Upsample" else ["", scales]
    return garden.add(garden.one(op, source, *middle, mode=mode), shape)
