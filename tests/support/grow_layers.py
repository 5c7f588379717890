"""Growers of operators with weights, and of products of computed tensors."""

from __future__ import annotations

from garden import Garden, Value


def einsum(garden: Garden, op: str) -> Value:
    """Scores between tokens, or a product with a constant."""
    source = garden.layered(3)
    if garden.choose.random() < 0.5:
        other = garden.layered(width=source.channels, like=source)
        name = garden.one(op, source, other, equation="btc,bsc->bts")
        return garden.add(name, (*source.shape[:2], source.shape[1]))
    weight = garden.numbers.standard_normal((source.channels, 3))
    weight[:, garden.subset(3)] = 0
    name = garden.one(op, source, garden.const(weight), equation="btc,co->bto")
    return garden.add(name, (*source.shape[:2], 3))


def products(garden: Garden, op: str) -> Value:
    """Attention: queries times keys, normalised, times values."""
    source = garden.pick(3)
    width = garden.choose.randint(2, 6)
    queries, keys, values = (garden.layered(width=width, like=source) for _ in range(3))
    turned = garden.one("Transpose", keys, perm=[0, 2, 1])
    scores = garden.one(op, queries, turned)
    if garden.choose.random() < 0.7:
        scores = garden.one("Softmax", scores, axis=-1)
    return garden.add(garden.one(op, scores, values), queries.shape)


def matmul(garden: Garden, op: str) -> Value:
    if garden.choose.random() < 0.6:
        return products(garden, op)
    return garden.layered(3, width=garden.choose.randint(2, 6))


def gemm(garden: Garden, op: str) -> Value:
    source = garden.layered(2)
    if garden.choose.random() < 0.5:
        other = garden.layered(2)
        if other.shape[0] == source.shape[0] and garden.choose.random() < 0.5:
            # a product of features, summed over the batch
            name = garden.one(op, source, other, transA=1)
            return garden.add(name, (source.channels, other.channels))
        other = garden.layered(width=source.channels, like=source)
        return garden.add(garden.one(op, source, other, transB=1), source.shape[:1] * 2)
    outs = garden.choose.randint(2, 5)
    weight = garden.numbers.standard_normal((outs, source.channels))
    weight[garden.subset(outs)] = 0
    bias = garden.numbers.standard_normal(garden.choose.choice([(outs,), (1, outs), (1,)]))
    alpha = garden.choose.choice([1.0, 0.5])
    name = garden.one(op, source, garden.const(weight), garden.const(bias), transB=1, alpha=alpha)
    return garden.add(name, (source.shape[0], outs))


def conv(garden: Garden, op: str) -> Value:
    """Dilated, strided, padded unevenly, grouped and depthwise."""
    groups = garden.choose.choice([1, 1, 2, 4])
    source = garden.layered(4, width=garden.choose.choice([4, 8]))
    each = garden.choose.randint(1, 2)
    outs = groups * each if groups > 1 else garden.choose.randint(2, 6)
    if garden.choose.random() < 0.3:
        groups, outs = source.channels, source.channels * each
    array = garden.numbers.standard_normal((outs, source.channels // groups, 3, 3)) / 3
    array[garden.subset(outs)] = 0
    array[:, garden.subset(array.shape[1], 0.2)] = 0
    if garden.choose.random() < 0.4:  # other columns in each row, and so in each group
        array *= garden.numbers.random(array.shape[:2])[..., None, None] < 0.6
    bias = garden.numbers.standard_normal(outs)
    pads, attributes = garden.choose.choice(
        [([1, 1, 1, 1], {}), ([2, 2, 2, 2], {"dilations": [2, 2]}), ([0, 2, 2, 0], {})]
    )
    if garden.choose.random() < 0.2:
        attributes, pads = {"auto_pad": "SAME_UPPER"}, None
    given = {"pads": pads} if pads is not None else {}
    name = garden.one(
        op, source, garden.const(array), garden.const(bias), group=groups, **given, **attributes
    )
    return garden.add(name, (source.shape[0], outs, *source.shape[2:]))


def transposed_conv(garden: Garden, op: str) -> Value:
    source = garden.layered(4, width=4)
    groups = garden.choose.choice([1, 1, 2, 4])
    outs = garden.choose.choice([4, 8])
    array = garden.numbers.standard_normal((source.channels, outs // groups, 2, 2)) / 2
    array[:, garden.subset(outs // groups)] = 0
    bias = garden.const(garden.numbers.standard_normal(outs))
    name = garden.one(op, source, garden.const(array), bias, strides=[2, 2], group=groups)
    batch, _, height, width = source.shape
    return garden.add(name, (batch, outs, 2 * height, 2 * width))
