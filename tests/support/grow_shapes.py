"""Generators of operators that move, take and join indices."""

from __future__ import annotations

import numpy as np
from grow_pointwise import any_rank, tame
from grow_windows import global_pool
from random_graph import BATCH, RandomGraph, Value


def flatten(net: RandomGraph, op: str) -> Value:
    source = net.layered(net.choose.choice([3, 4]))
    return net.add(net.one(op, source), (BATCH, int(np.prod(source.shape[1:]))))


def reshape(net: RandomGraph, op: str) -> Value:
    """Flattened, split and merged again (heads, shuffles), or tokens out of a map."""
    source = net.layered(4, width=net.choose.choice([4, 6]))
    batch, channels, height, width = source.shape
    form = net.choose.randrange(3)
    if form == 0:
        name = net.one(op, source, net.ints(0, -1))
        return net.add(name, (batch, channels * height * width))
    if form == 1:
        name = net.one(op, source, net.ints(0, channels, -1))
        name = net.one("Transpose", name, perm=[0, 2, 1])
        return net.add(name, (batch, height * width, channels))
    split = net.one(op, source, net.ints(0, 2, channels // 2, height, width))
    if net.choose.random() < 0.6:
        split = net.one("Transpose", split, perm=[0, 2, 1, 3, 4])
    return net.add(net.one(op, split, net.ints(0, channels, height, width)), source.shape)


def squeeze(net: RandomGraph, op: str) -> Value:
    pooled = global_pool(net, "GlobalAveragePool")
    flat = net.one("Squeeze", pooled, net.ints(2, net.axis(pooled, -1)))
    if op == "Squeeze":
        return net.add(flat, pooled.shape[:2])
    return net.add(net.one("Unsqueeze", flat, net.ints(2, 3)), pooled.shape)


def transpose(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    batch, channels, height, width = source.shape
    turned = net.one(op, source, perm=[0, 2, 3, 1])
    turned = net.one("Relu", turned)
    if net.choose.random() < 0.5:
        return net.add(net.one(op, turned, perm=[0, 3, 1, 2]), source.shape)
    name = net.one("Reshape", turned, net.ints(0, height * width, channels))
    return net.add(name, (batch, height * width, channels))


def concat(net: RandomGraph, op: str) -> Value:
    first = any_rank(net)
    parts = [first]
    for _ in range(net.choose.randint(1, 2)):
        same = [v for v in net.values if _fits(v, first)]
        parts.append(net.choose.choice([net.layered(like=net.choose.choice(same)), first]))
    shape = list(first.shape)
    shape[first.axis] = sum(part.channels for part in parts)
    return net.add(net.one(op, *parts, axis=first.axis), tuple(shape))


def _fits(value: Value, first: Value) -> bool:
    """Equal but for the channels."""
    one, other = list(value.shape), list(first.shape)
    if len(one) != len(other):
        return False
    one[value.axis] = other[first.axis] = 0
    return one == other


def pad(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    batch, channels, height, width = source.shape
    before, after, border = (net.choose.randint(0, 2) for _ in range(3))
    pads = net.ints(0, before, border, 0, 0, after, 0, border)
    number = net.const(np.array(net.choose.choice([0.0, 0.6])))
    shape = (batch, channels + before + after, height + border, width + border)
    return net.add(net.one(op, source, pads, number), shape)


def split(net: RandomGraph, op: str) -> list[Value]:
    source = any_rank(net)
    if source.channels < 2:
        return []
    first = net.choose.randint(1, source.channels - 1)
    sizes = [first, source.channels - first]
    names = net.node(op, source, net.ints(*sizes), outputs=2, axis=source.axis)
    return [net.add(n, _resized(source, s)) for n, s in zip(names, sizes, strict=True)]


def _resized(value: Value, channels: int) -> tuple[int, ...]:
    shape = list(value.shape)
    shape[value.axis] = channels
    return tuple(shape)


def slice_(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    step = net.choose.choice([1, 1, 2, -1])
    start, end = net.choose.choice([(0, source.channels), (1, -1), (0, 3)])
    if step < 0:
        start, end = -1, -(2**31) - 1
    taken = len(range(source.channels)[slice(start, None if step < 0 else end, step)])
    if not taken:
        return source
    numbers = [net.ints(number) for number in (start, end, source.axis, step)]
    return net.add(net.one(op, source, *numbers), _resized(source, taken))


def gather(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    if net.choose.random() < 0.3:  # one channel, its axis put back
        index = net.const(np.array(net.choose.randrange(source.channels)))
        one = net.one(op, source, index, axis=source.axis)
        name = net.one("Unsqueeze", one, net.ints(source.axis))
        return net.add(name, _resized(source, 1))
    count = net.choose.randint(1, 2 * source.channels)
    lowest = 0 if net.opset < 11 else -source.channels
    indices = [net.choose.randrange(lowest, source.channels) for _ in range(count)]
    name = net.one(op, source, net.ints(*indices), axis=source.axis)
    return net.add(name, _resized(source, count))


def gather_nd(net: RandomGraph, op: str) -> Value:
    source = net.layered(net.choose.choice([3, 4]))
    indices = net.const(np.array([[0], [1], [1]]))
    return net.add(net.one(op, source, indices), (3, *source.shape[1:]))


def shape_of(net: RandomGraph, op: str) -> Value:
    """A reshape to a shape that is asked for: the batch, or all of it."""
    source = net.layered(4)
    batch, channels, height, width = source.shape
    asked = net.one(op, source)
    if net.choose.random() < 0.4:  # divided by the number of channels
        count = net.one("Cast", net.one("Gather", asked, net.ints(1)), to=11)
        return net.add(net.one("Div", source, count), source.shape)
    if net.choose.random() < 0.5:
        doubled = net.one("Mul", tame(net, source), net.const(np.array(2.0)))
        return net.add(net.one("Reshape", doubled, asked), source.shape)
    count = net.one("Gather", asked, net.ints(0))
    target = net.one("Concat", count, net.ints(channels * height * width), axis=0)
    return net.add(net.one("Reshape", source, target), (batch, channels * height * width))
