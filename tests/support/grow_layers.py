"""Generators of operators with weights, and of products of computed tensors."""

from __future__ import annotations

from random_graph import RandomGraph, Value


def einsum(net: RandomGraph, op: str) -> Value:
    """Scores between tokens, or a product with a constant."""
    source = net.layered(3)
    if net.choose.random() < 0.5:
        other = net.layered(width=source.channels, like=source)
        name = net.one(op, source, other, equation="btc,bsc->bts")
        return net.add(name, (*source.shape[:2], source.shape[1]))
    weight = net.numbers.standard_normal((source.channels, 3))
    weight[:, net.subset(3)] = 0
    name = net.one(op, source, net.const(weight), equation="btc,co->bto")
    return net.add(name, (*source.shape[:2], 3))


def products(net: RandomGraph, op: str) -> Value:
    """Attention: queries times keys, normalised, times values."""
    source = net.pick(3)
    width = net.choose.randint(2, 6)
    queries, keys, values = (net.layered(width=width, like=source) for _ in range(3))
    turned = net.one("Transpose", keys, perm=[0, 2, 1])
    scores = net.one(op, queries, turned)
    if net.choose.random() < 0.7:
        scores = net.one("Softmax", scores, axis=-1)
    return net.add(net.one(op, scores, values), queries.shape)


def matmul(net: RandomGraph, op: str) -> Value:
    if net.choose.random() < 0.6:
        return products(net, op)
    return net.layered(3, width=net.choose.randint(2, 6))


def gemm(net: RandomGraph, op: str) -> Value:
    source = net.layered(2)
    if net.choose.random() < 0.5:
        other = net.layered(2)
        if other.shape[0] == source.shape[0] and net.choose.random() < 0.5:
            # a product of features, summed over the batch
            name = net.one(op, source, other, transA=1)
            return net.add(name, (source.channels, other.channels))
        other = net.layered(width=source.channels, like=source)
        return net.add(net.one(op, source, other, transB=1), source.shape[:1] * 2)
    outs = net.choose.randint(2, 5)
    weight = net.numbers.standard_normal((outs, source.channels))
    weight[net.subset(outs)] = 0
    bias = net.numbers.standard_normal(net.choose.choice([(outs,), (1, outs), (1,)]))
    alpha = net.choose.choice([1.0, 0.5])
    name = net.one(op, source, net.const(weight), net.const(bias), transB=1, alpha=alpha)
    return net.add(name, (source.shape[0], outs))


def conv(net: RandomGraph, op: str) -> Value:
    """Dilated, strided, padded unevenly, grouped and depthwise."""
    groups = net.choose.choice([1, 1, 2, 4])
    source = net.layered(4, width=net.choose.choice([4, 8]))
    each = net.choose.randint(1, 2)
    outs = groups * each if groups > 1 else net.choose.randint(2, 6)
    if net.choose.random() < 0.3:
        groups, outs = source.channels, source.channels * each
    array = net.numbers.standard_normal((outs, source.channels // groups, 3, 3)) / 3
    array[net.subset(outs)] = 0
    array[:, net.subset(array.shape[1], 0.2)] = 0
    if net.choose.random() < 0.4:  # other columns in each row, and so in each group
        array *= net.numbers.random(array.shape[:2])[..., None, None] < 0.6
    bias = net.numbers.standard_normal(outs)
    pads, attributes = net.choose.choice(
        [([1, 1, 1, 1], {}), ([2, 2, 2, 2], {"dilations": [2, 2]}), ([0, 2, 2, 0], {})]
    )
    if net.choose.random() < 0.2:
        attributes, pads = {"auto_pad": "SAME_UPPER"}, None
    given = {"pads": pads} if pads is not None else {}
    name = net.one(
        op, source, net.const(array), net.const(bias), group=groups, **given, **attributes
    )
    return net.add(name, (source.shape[0], outs, *source.shape[2:]))


def transposed_conv(net: RandomGraph, op: str) -> Value:
    source = net.layered(4, width=4)
    groups = net.choose.choice([1, 1, 2, 4])
    outs = net.choose.choice([4, 8])
    array = net.numbers.standard_normal((source.channels, outs // groups, 2, 2)) / 2
    array[:, net.subset(outs // groups)] = 0
    bias = net.const(net.numbers.standard_normal(outs))
    name = net.one(op, source, net.const(array), bias, strides=[2, 2], group=groups)
    batch, _, height, width = source.shape
    return net.add(name, (batch, outs, 2 * height, 2 * width))
