"""Generators of operators that repeat, sweep, scatter, quantise and recur."""

from __future__ import annotations

import numpy as np
from grow_pointwise import any_rank
from random_graph import BATCH, RandomGraph, Value

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def blocks(net: RandomGraph, op: str) -> Value:
    if op == "DepthToSpace":
        batch, ins, height, width = (before := net.pick(4)).shape
        channels, mode = net.choose.choice([4, 8]), net.choose.choice(["DCR", "CRD"])
        square = slice(0, 4) if mode == "CRD" else slice(0, None, channels // 4)
        dead = net.subset(channels, 0.2) + list(range(channels))[square]
        bias = net.choose.choice([0.0, 0.7])
        source = net.net.conv(before.name, (ins, channels), 1, dead=dead, dead_bias=bias)
        name = net.one(op, source, blocksize=2, mode=mode)
        return net.add(name, (batch, channels // 4, 2 * height, 2 * width))
    source = net.layered(4)
    batch, channels, height, width = source.shape
    doubled = net.one("Concat", source, source, axis=2)
    doubled = net.one("Concat", doubled, doubled, axis=3)
    return net.add(net.one(op, doubled, blocksize=2), (batch, 4 * channels, height, width))


def expand(net: RandomGraph, op: str) -> Value:
    """A row of numbers for every position, or one channel for many."""
    source = net.layered(4)
    channels, height, width = source.shape[1:]
    row = net.numbers.standard_normal((channels, 1, 1))
    row[net.subset(channels)] = 0
    spread = net.one(op, net.const(row), net.ints(1, channels, height, width))
    one = net.layered(4, width=1, like=source)
    wide = net.one(op, one, net.ints(1, channels, 1, 1))
    if net.choose.random() < 0.5:
        batches = net.batches(source)
        target = net.one("Concat", batches, net.ints(channels, height, width), axis=0)
        spread = net.one(op, net.const(row), target)
    total = net.one("Add", net.one("Mul", source, spread), wide)
    return net.add(total, source.shape)


def filled(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    batches = net.batches(source)
    target = net.one("Concat", batches, net.ints(*source.shape[1:]), axis=0)
    name = net.one("Cast", net.one(op, target), to=11)
    if net.choose.random() < 0.5:
        return net.add(net.one("Mul", net.one("Cos", name), source), source.shape)
    return net.add(net.one("Concat", source, name, axis=1), _wider(source, source.channels))


def _wider(value: Value, more: int) -> tuple[int, ...]:
    shape = list(value.shape)
    shape[value.axis] += more
    return tuple(shape)


def tile(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    times = [1] * len(source.shape)
    times[source.axis] = net.choose.choice([2, 3])
    name = net.one(op, source, net.ints(*times))
    return net.add(name, _wider(source, source.channels * (times[source.axis] - 1)))


def along(net: RandomGraph, op: str) -> Value:
    """CumSum, Trilu: the shape stays."""
    source = net.layered(4)
    axis = net.const(np.array(net.choose.choice([1, 2, 3])))
    return net.add(net.one(op, source, *([axis] if op == "CumSum" else [])), source.shape)


def extreme(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    axis, keep = net.choose.choice([1, 3]), net.choose.randint(0, 1)
    name = net.one("Cast", net.one(op, source, axis=axis, keepdims=keep), to=11)
    if not keep:
        name = net.one("Unsqueeze", name, net.ints(axis))
    return net.add(name, tuple(1 if i == axis else n for i, n in enumerate(source.shape)))


def top(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    count = min(2, source.shape[3])
    values, indices = net.node(op, source, net.ints(count), outputs=2, axis=3)
    name = values
    if net.choose.random() < 0.5:
        name = net.one("Add", values, net.one("Cast", indices, to=11))
    return net.add(name, (*source.shape[:3], count))


def reversed_(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    turned = net.one("Transpose", source, perm=[2, 3, 0, 1])
    lengths = [net.choose.randint(0, source.shape[2]) for _ in range(source.shape[3])]
    name = net.one(op, turned, net.ints(*lengths), time_axis=0, batch_axis=1)
    return net.add(net.one("Transpose", name, perm=[2, 3, 0, 1]), source.shape)


def norm_pool(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    batch, channels, height, width = source.shape
    kernel = [min(2, height), min(2, width)]  # no window fits a smaller map
    name = net.one(op, source, kernel_shape=kernel)
    return net.add(name, (batch, channels, height - kernel[0] + 1, width - kernel[1] + 1))


def _first(net: RandomGraph, source: Value) -> str:
    """The first sample alone, so that constants can be as long as the batch."""
    return net.one("Slice", source, net.ints(0), net.ints(1), net.ints(0))


def sampled(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    one, channels = _first(net, source), source.channels
    if op == "RoiAlign":
        boxes = net.const(np.array([[0.0, 0.0, 2.0, 2.0]]))
        name = net.one(op, one, boxes, net.ints(0), output_height=2, output_width=2)
    else:
        name = net.one(op, one, net.const(net.numbers.uniform(-1.2, 1.2, (1, 2, 2, 2))))
    return _again(net, name, (channels, 2, 2))


def _again(net: RandomGraph, name: str, shape: tuple[int, ...]) -> Value:
    """One sample as a batch."""
    return net.add(net.one("Concat", name, name, axis=0), (BATCH, *shape))


def picked(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    channels, height, width = source.shape[1:]
    rows = net.choose.randint(1, 3)
    indices = net.numbers.integers(-height, height, (1, channels, rows, width))
    name = net.one(op, _first(net, source), net.const(indices), axis=2)
    return _again(net, name, (channels, rows, width))


def scattered(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    other = net.layered(4, width=source.channels, like=source)
    channels, height, width = source.shape[1:]
    one, more = _first(net, source), _first(net, other)
    if op == "ScatterND":
        one, more = (net.one("Transpose", v, perm=[2, 0, 1, 3]) for v in (one, more))
        row = net.one("Slice", more, net.ints(0), net.ints(1), net.ints(0))
        name = net.one(op, one, net.const(np.array([[height - 1]])), row)
        return _again(net, net.one("Transpose", name, perm=[1, 2, 0, 3]), source.shape[1:])
    row = net.one("Slice", more, net.ints(0), net.ints(1), net.ints(2))
    indices = net.numbers.integers(0, height, (1, channels, 1, width))
    name = net.one(op, one, net.const(indices), row, axis=2)
    return _again(net, name, source.shape[1:])


def quantised(net: RandomGraph, op: str) -> Value:
    """To integers and back, with one scale or one for each channel, as activations or weights."""
    source = net.layered(4)
    count = source.channels if net.choose.random() < 0.5 else 1
    scale = net.numbers.uniform(0.01, 0.1, count).astype(np.float32)
    zero = net.numbers.integers(0, 9, count).astype(np.uint8)
    step, offset = (net.const(a if count > 1 else a[0]) for a in (scale, zero))
    for name, array in ((step, scale), (offset, zero)):
        net.net.weights[name] = array if count > 1 else array.reshape(())
    axis = {"axis": 1} if count > 1 else {}
    narrow = net.one("Cast", source, to=1)
    integers = net.one("QuantizeLinear", narrow, step, offset, **axis)
    back = net.one("DequantizeLinear", integers, step, offset, **axis)
    return net.add(net.one("Cast", back, to=11), source.shape)


def recurrent(net: RandomGraph, op: str) -> Value:
    source = net.layered(3)
    batch, time, channels = source.shape
    units, gates = net.choose.randint(2, 5), GATES[op]
    both = net.choose.random() < 0.4
    w, r = (net.numbers.standard_normal((1 + both, gates, units, n)) for n in (channels, units))
    b = net.numbers.standard_normal((1 + both, 2, gates, units)) * 0.3
    dead, unread = net.subset(units), net.subset(units, 0.3)
    w[:, -1, dead], r[:, -1, dead] = 0, 0
    r[..., unread] = 0
    b[:, :, -1, dead] = net.choose.choice([0.0, 0.0, 0.0, 0.4])
    turned = net.one("Transpose", source, perm=[1, 0, 2])
    given = [net.const(array.reshape(1 + both, gates * units, -1)) for array in (w, r)]
    given.append(net.const(b.reshape(1 + both, -1)))
    direction = "bidirectional" if both else net.choose.choice(["forward", "reverse"])
    name = net.one(op, turned, *given, hidden_size=units, direction=direction)
    name = net.one("Transpose", name, perm=[2, 0, 1, 3])
    width = units * (1 + both)
    weight = net.numbers.standard_normal((1 + both, units, 3))
    weight[:, unread] = 0
    flat = net.one("Reshape", name, net.ints(0, time, width))
    product = net.one("MatMul", flat, net.const(weight.reshape(width, 3)))
    return net.add(product, (batch, time, 3))


GENERATORS = {
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
