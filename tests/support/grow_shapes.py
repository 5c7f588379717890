"""Growers of operators that move, take and join indices."""

from __future__ import annotations

import numpy as np
from garden import BATCH, Garden, Value
from grow_pointwise import any_rank, tame
from grow_windows import global_pool


def flatten(garden: Garden, op: str) -> Value:
    source = garden.layered(garden.choose.choice([3, 4]))
    return garden.add(garden.one(op, source), (BATCH, int(np.prod(source.shape[1:]))))


def reshape(garden: Garden, op: str) -> Value:
    """Flattened, split and merged again (heads, shuffles), or tokens out of a map."""
    source = garden.layered(4, width=garden.choose.choice([4, 6]))
    batch, channels, height, width = source.shape
    form = garden.choose.randrange(3)
    if form == 0:
        name = garden.one(op, source, garden.ints(0, -1))
        return garden.add(name, (batch, channels * height * width))
    if form == 1:
        name = garden.one(op, source, garden.ints(0, channels, -1))
        name = garden.one("Transpose", name, perm=[0, 2, 1])
        return garden.add(name, (batch, height * width, channels))
    split = garden.one(op, source, garden.ints(0, 2, channels // 2, height, width))
    if garden.choose.random() < 0.6:
        split = garden.one("Transpose", split, perm=[0, 2, 1, 3, 4])
    return garden.add(garden.one(op, split, garden.ints(0, channels, height, width)), source.shape)


def squeeze(garden: Garden, op: str) -> Value:
    pooled = global_pool(garden, "GlobalAveragePool")
    flat = garden.one("Squeeze", pooled, garden.ints(2, -1))
    if op == "Squeeze":
        return garden.add(flat, pooled.shape[:2])
    return garden.add(garden.one("Unsqueeze", flat, garden.ints(2, 3)), pooled.shape)


def transpose(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    turned = garden.one(op, source, perm=[0, 2, 3, 1])
    turned = garden.one("Relu", turned)
    if garden.choose.random() < 0.5:
        return garden.add(garden.one(op, turned, perm=[0, 3, 1, 2]), source.shape)
    name = garden.one("Reshape", turned, garden.ints(0, height * width, channels))
    return garden.add(name, (batch, height * width, channels))


def concat(garden: Garden, op: str) -> Value:
    first = any_rank(garden)
    parts = [first]
    for _ in range(garden.choose.randint(1, 2)):
        same = [v for v in garden.values if _fits(v, first)]
        parts.append(garden.choose.choice([garden.layered(like=garden.choose.choice(same)), first]))
    shape = list(first.shape)
    shape[first.axis] = sum(part.channels for part in parts)
    return garden.add(garden.one(op, *parts, axis=first.axis), tuple(shape))


def _fits(value: Value, first: Value) -> bool:
    """Equal but for the channels."""
    one, other = list(value.shape), list(first.shape)
    if len(one) != len(other):
        return False
    one[value.axis] = other[first.axis] = 0
    return one == other


def pad(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    before, after, border = (garden.choose.randint(0, 2) for _ in range(3))
    pads = garden.ints(0, before, border, 0, 0, after, 0, border)
    number = garden.const(np.array(garden.choose.choice([0.0, 0.6])))
    shape = (batch, channels + before + after, height + border, width + border)
    return garden.add(garden.one(op, source, pads, number), shape)


def split(garden: Garden, op: str) -> list[Value]:
    source = any_rank(garden)
    if source.channels < 2:
        return []
    first = garden.choose.randint(1, source.channels - 1)
    sizes = [first, source.channels - first]
    names = garden.node(op, source, garden.ints(*sizes), outputs=2, axis=source.axis)
    return [garden.add(n, _resized(source, s)) for n, s in zip(names, sizes, strict=True)]


def _resized(value: Value, channels: int) -> tuple[int, ...]:
    shape = list(value.shape)
    shape[value.axis] = channels
    return tuple(shape)


def slice_(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    step = garden.choose.choice([1, 1, 2, -1])
    start, end = garden.choose.choice([(0, source.channels), (1, -1), (0, 3)])
    if step < 0:
        start, end = -1, -(2**31) - 1
    taken = len(range(source.channels)[slice(start, None if step < 0 else end, step)])
    if not taken:
        return source
    numbers = [garden.ints(number) for number in (start, end, source.axis, step)]
    return garden.add(garden.one(op, source, *numbers), _resized(source, taken))


def gather(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    if garden.choose.random() < 0.3:  # one channel, its axis put back
        index = garden.const(np.array(garden.choose.randrange(source.channels)))
        one = garden.one(op, source, index, axis=source.axis)
        name = garden.one("Unsqueeze", one, garden.ints(source.axis))
        return garden.add(name, _resized(source, 1))
    count = garden.choose.randint(1, 2 * source.channels)
    indices = [garden.choose.randrange(-source.channels, source.channels) for _ in range(count)]
    name = garden.one(op, source, garden.ints(*indices), axis=source.axis)
    return garden.add(name, _resized(source, count))


def gather_nd(garden: Garden, op: str) -> Value:
    source = garden.layered(garden.choose.choice([3, 4]))
    indices = garden.const(np.array([[0], [1], [1]]))
    return garden.add(garden.one(op, source, indices), (3, *source.shape[1:]))


def shape_of(garden: Garden, op: str) -> Value:
    """A reshape to a shape that is asked for: the batch, or all of it."""
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    asked = garden.one(op, source)
    if garden.choose.random() < 0.4:  # divided by the number of channels
        count = garden.one("Cast", garden.one("Gather", asked, garden.ints(1)), to=11)
        return garden.add(garden.one("Div", source, count), source.shape)
    if garden.choose.random() < 0.5:
        doubled = garden.one("Mul", tame(garden, source), garden.const(np.array(2.0)))
        return garden.add(garden.one("Reshape", doubled, asked), source.shape)
    count = garden.one("Gather", asked, garden.ints(0))
    target = garden.one("Concat", count, garden.ints(channels * height * width), axis=0)
    return garden.add(garden.one("Reshape", source, target), (batch, channels * height * width))
