"""Growers of operators that repeat, sweep, scatter, quantise and recur."""

from __future__ import annotations

import numpy as np
from garden import BATCH, Garden, Value
from grow_pointwise import any_rank

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def blocks(garden: Garden, op: str) -> Value:
    if op == "DepthToSpace":
        batch, ins, height, width = (before := garden.pick(4)).shape
        channels, mode = garden.choose.choice([4, 8]), garden.choose.choice(["DCR", "CRD"])
        square = slice(0, 4) if mode == "CRD" else slice(0, None, channels // 4)
        dead = garden.subset(channels, 0.2) + list(range(channels))[square]
        bias = garden.choose.choice([0.0, 0.7])
        source = garden.net.conv(before.name, (ins, channels), 1, dead=dead, dead_bias=bias)
        name = garden.one(op, source, blocksize=2, mode=mode)
        return garden.add(name, (batch, channels // 4, 2 * height, 2 * width))
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    doubled = garden.one("Concat", source, source, axis=2)
    doubled = garden.one("Concat", doubled, doubled, axis=3)
    return garden.add(garden.one(op, doubled, blocksize=2), (batch, 4 * channels, height, width))


def expand(garden: Garden, op: str) -> Value:
    """A row of numbers for every position, or one channel for many."""
    source = garden.layered(4)
    channels, height, width = source.shape[1:]
    row = garden.numbers.standard_normal((channels, 1, 1))
    row[garden.subset(channels)] = 0
    spread = garden.one(op, garden.const(row), garden.ints(1, channels, height, width))
    one = garden.layered(4, width=1, like=source)
    wide = garden.one(op, one, garden.ints(1, channels, 1, 1))
    if garden.choose.random() < 0.5:
        batches = garden.one("Shape", source, end=1)
        target = garden.one("Concat", batches, garden.ints(channels, height, width), axis=0)
        spread = garden.one(op, garden.const(row), target)
    total = garden.one("Add", garden.one("Mul", source, spread), wide)
    return garden.add(total, source.shape)


def filled(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    batches = garden.one("Shape", source, end=1)
    target = garden.one("Concat", batches, garden.ints(*source.shape[1:]), axis=0)
    name = garden.one("Cast", garden.one(op, target), to=11)
    if garden.choose.random() < 0.5:
        return garden.add(garden.one("Mul", garden.one("Cos", name), source), source.shape)
    return garden.add(garden.one("Concat", source, name, axis=1), _wider(source, source.channels))


def _wider(value: Value, more: int) -> tuple[int, ...]:
    shape = list(value.shape)
    shape[value.axis] += more
    return tuple(shape)


def tile(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    times = [1] * len(source.shape)
    times[source.axis] = garden.choose.choice([2, 3])
    name = garden.one(op, source, garden.ints(*times))
    return garden.add(name, _wider(source, source.channels * (times[source.axis] - 1)))


def along(garden: Garden, op: str) -> Value:
    """CumSum, Trilu: the shape stays."""
    source = garden.layered(4)
    axis = garden.const(np.array(garden.choose.choice([1, 2, 3])))
    return garden.add(garden.one(op, source, *([axis] if op == "CumSum" else [])), source.shape)


def extreme(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    axis, keep = garden.choose.choice([1, 3]), garden.choose.randint(0, 1)
    name = garden.one("Cast", garden.one(op, source, axis=axis, keepdims=keep), to=11)
    if not keep:
        name = garden.one("Unsqueeze", name, garden.ints(axis))
    return garden.add(name, tuple(1 if i == axis else n for i, n in enumerate(source.shape)))


def top(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    count = min(2, source.shape[3])
    values, indices = garden.node(op, source, garden.ints(count), outputs=2, axis=3)
    name = values
    if garden.choose.random() < 0.5:
        name = garden.one("Add", values, garden.one("Cast", indices, to=11))
    return garden.add(name, (*source.shape[:3], count))


def reversed_(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    turned = garden.one("Transpose", source, perm=[2, 3, 0, 1])
    lengths = [garden.choose.randint(0, source.shape[2]) for _ in range(source.shape[3])]
    name = garden.one(op, turned, garden.ints(*lengths), time_axis=0, batch_axis=1)
    return garden.add(garden.one("Transpose", name, perm=[2, 3, 0, 1]), source.shape)


def norm_pool(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    batch, channels, height, width = source.shape
    kernel = [min(2, height), min(2, width)]  # no window fits a smaller map
    name = garden.one(op, source, kernel_shape=kernel)
    return garden.add(name, (batch, channels, height - kernel[0] + 1, width - kernel[1] + 1))


def _first(garden: Garden, source: Value) -> str:
    """The first sample alone, so that constants can be as long as the batch."""
    return garden.one("Slice", source, garden.ints(0), garden.ints(1), garden.ints(0))


def sampled(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    one, channels = _first(garden, source), source.channels
    if op == "RoiAlign":
        boxes = garden.const(np.array([[0.0, 0.0, 2.0, 2.0]]))
        name = garden.one(op, one, boxes, garden.ints(0), output_height=2, output_width=2)
    else:
        name = garden.one(op, one, garden.const(garden.numbers.uniform(-1.2, 1.2, (1, 2, 2, 2))))
    return _again(garden, name, (channels, 2, 2))


def _again(garden: Garden, name: str, shape: tuple[int, ...]) -> Value:
    """One sample as a batch."""
    return garden.add(garden.one("Concat", name, name, axis=0), (BATCH, *shape))


def picked(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    channels, height, width = source.shape[1:]
    rows = garden.choose.randint(1, 3)
    indices = garden.numbers.integers(-height, height, (1, channels, rows, width))
    name = garden.one(op, _first(garden, source), garden.const(indices), axis=2)
    return _again(garden, name, (channels, rows, width))


def scattered(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    other = garden.layered(4, width=source.channels, like=source)
    channels, height, width = source.shape[1:]
    one, more = _first(garden, source), _first(garden, other)
    if op == "ScatterND":
        one, more = (garden.one("Transpose", v, perm=[2, 0, 1, 3]) for v in (one, more))
        row = garden.one("Slice", more, garden.ints(0), garden.ints(1), garden.ints(0))
        name = garden.one(op, one, garden.const(np.array([[height - 1]])), row)
        return _again(garden, garden.one("Transpose", name, perm=[1, 2, 0, 3]), source.shape[1:])
    row = garden.one("Slice", more, garden.ints(0), garden.ints(1), garden.ints(2))
    indices = garden.numbers.integers(0, height, (1, channels, 1, width))
    name = garden.one(op, one, garden.const(indices), row, axis=2)
    return _again(garden, name, source.shape[1:])


def quantised(garden: Garden, op: str) -> Value:
    """To integers and back, with one scale or one for each channel, as activations or weights."""
    source = garden.layered(4)
    count = source.channels if garden.choose.random() < 0.5 else 1
    scale = garden.numbers.uniform(0.01, 0.1, count).astype(np.float32)
    zero = garden.numbers.integers(0, 9, count).astype(np.uint8)
    step, offset = (garden.const(a if count > 1 else a[0]) for a in (scale, zero))
    for name, array in ((step, scale), (offset, zero)):
        garden.net.weights[name] = array if count > 1 else array.reshape(())
    axis = {"axis": 1} if count > 1 else {}
    narrow = garden.one("Cast", source, to=1)
    integers = garden.one("QuantizeLinear", narrow, step, offset, **axis)
    back = garden.one("DequantizeLinear", integers, step, offset, **axis)
    return garden.add(garden.one("Cast", back, to=11), source.shape)


def recurrent(garden: Garden, op: str) -> Value:
    source = garden.layered(3)
    batch, time, channels = source.shape
    units, gates = garden.choose.randint(2, 5), GATES[op]
    both = garden.choose.random() < 0.4
    w, r = (garden.numbers.standard_normal((1 + both, gates, units, n)) for n in (channels, units))
    b = garden.numbers.standard_normal((1 + both, 2, gates, units)) * 0.3
    dead, unread = garden.subset(units), garden.subset(units, 0.3)
    w[:, -1, dead], r[:, -1, dead] = 0, 0
    r[..., unread] = 0
    b[:, :, -1, dead] = garden.choose.choice([0.0, 0.0, 0.0, 0.4])
    turned = garden.one("Transpose", source, perm=[1, 0, 2])
    given = [garden.const(array.reshape(1 + both, gates * units, -1)) for array in (w, r)]
    given.append(garden.const(b.reshape(1 + both, -1)))
    direction = "bidirectional" if both else garden.choose.choice(["forward", "reverse"])
    name = garden.one(op, turned, *given, hidden_size=units, direction=direction)
    name = garden.one("Transpose", name, perm=[2, 0, 1, 3])
    width = units * (1 + both)
    weight = garden.numbers.standard_normal((1 + both, units, 3))
    weight[:, unread] = 0
    flat = garden.one("Reshape", name, garden.ints(0, time, width))
    product = garden.one("MatMul", flat, garden.const(weight.reshape(width, 3)))
    return garden.add(product, (batch, time, 3))


GROWERS = {
    "ArgMax": extreme,
    "ArgMin": extreme,
    "ConstantOfShape": filled,
    "CumSum": along,
    "DepthToSpace": blocks,
    "DequantizeLinear": quantised,
    "Expand": expand,
    "GRU": recurrent,
    "GatherElements": picked,
    "GridSample": sampled,
    "LSTM": recurrent,
    "LpPool": norm_pool,
    "QuantizeLinear": quantised,
    "RNN": recurrent,
    "ReverseSequence": reversed_,
    "RoiAlign": sampled,
    "ScatterElements": scattered,
    "ScatterND": scattered,
    "SpaceToDepth": blocks,
    "Tile": tile,
    "TopK": top,
    "Trilu": along,
}
