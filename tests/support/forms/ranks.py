"""Forms at ranks and group counts beyond those of an operator's own table.

A kernel that is right for images may be wrong for sequences and volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from forms.base import SHAPES, Form, Schema, data, has, label, main, more_forms_of, positive
from forms.shapes import ints

RANKS = (1, 2, 3, 4, 5)


@more_forms_of("Cast", "CastLike", "BitCast")
def cast(schema: Schema) -> Iterator[Form]:
    for rank in (0, *RANKS):
        x = data("float32", SHAPES[rank], "cast")
        attributes = {"to": TensorProto.INT32} if has(schema, "to") else {}
        yield Form(f"rank {rank}", attributes, (x,) if attributes else (x, np.zeros(1, np.int32)))


@more_forms_of("Mod", "BitShift", "SwiGLU")
def pairs(schema: Schema) -> Iterator[Form]:
    kind = {"Mod": "int32", "BitShift": "uint32", "SwiGLU": "float32"}[schema.name]
    attributes = {"direction": "LEFT"} if has(schema, "direction") else {}
    for rank in RANKS:
        x, y = positive(kind, SHAPES[rank], "x"), positive(kind, SHAPES[rank], "y")
        yield Form(f"rank {rank}", attributes, (x, y))


@more_forms_of("Compress", "Unique")
def chosen(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        x = np.round(data("float32", SHAPES[rank], "chosen"))
        for axis in (None, 0, rank - 1, -1):
            attributes = {} if axis is None else {"axis": axis}
            if schema.name == "Unique":
                yield Form(label(attributes, "rank", rank), attributes, (x,), 4)
            elif axis != -1 or schema.since_version >= 11:
                size = x.size if axis is None else x.shape[axis]
                yield Form(
                    label(attributes, "rank", rank), attributes, (x, np.arange(size) % 3 != 1)
                )


@more_forms_of("QuantizeLinear", "DequantizeLinear")
def quantised(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        x: Any = 4 * data("float32", SHAPES[rank], "quantised")
        if schema.name == "DequantizeLinear":
            x = np.abs(x).astype(np.uint8)
        yield Form(f"rank {rank}", {}, (x, np.array(0.3, np.float32), np.array(3, np.uint8)))
        for axis in {0, rank - 1, -1, -rank} if has(schema, "axis") else ():
            size = x.shape[axis]
            scale = positive("float32", (size,), "scale") / 10
            inputs = x, scale, np.arange(size, dtype=np.uint8)
            yield Form(f"rank {rank} axis {axis}", {"axis": axis}, inputs)


@more_forms_of("GatherND", "ScatterND")
def by_position(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        x = data("float32", SHAPES[rank], "by position")
        for depth in range(1, rank + 1):
            index = np.stack([np.arange(3) % n for n in x.shape[:depth]], -1)[: max(x.shape[0], 1)]
            index = np.unique(index, axis=0)
            updates = data("float32", (len(index), *x.shape[depth:]), "updates")
            inputs = (x, index) if schema.name == "GatherND" else (x, index, updates)
            yield Form(f"rank {rank} depth {depth}", {}, inputs)


@more_forms_of("MaxUnpool")
def max_unpool(schema: Schema) -> Iterator[Form]:
    for rank in (1, 2, 3):
        wide = (1, 2, *(4,) * rank)
        index = np.arange(np.prod(wide)).reshape(wide)[(..., *(slice(1, None, 2),) * rank)]
        x = data(main(schema), index.shape, "unpool")
        yield Form(f"rank {rank}", {"kernel_shape": [2] * rank, "strides": [2] * rank}, (x, index))


@more_forms_of("MeanVarianceNormalization", "LpNormalization")
def norms(schema: Schema) -> Iterator[Form]:
    for rank in RANKS[1:]:
        x = data("float32", SHAPES[rank], "norms")
        for axis in (0, rank - 1, -1, -rank):
            if has(schema, "axis"):
                yield Form(f"rank {rank} axis {axis}", {"axis": axis}, (x,))
            elif axis >= 0 and x.shape[axis] > 1:  # of one element it is 0 / 0, but for rounding
                yield Form(f"rank {rank} axes {axis}", {"axes": [axis]}, (x,))


@more_forms_of("PRelu")
def prelu(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        x = data("float32", SHAPES[rank], "prelu")
        for shape in {x.shape, x.shape[1:], x.shape[-1:], (1,) * rank}:
            yield Form(f"rank {rank} {shape}", {}, (x, data("float32", shape, "slope")))


@more_forms_of("QLinearConv", "ConvInteger")
def integer_conv(schema: Schema) -> Iterator[Form]:
    for rank in (1, 2, 3):
        x = data("uint8", (1, 3, *(6, 5, 4)[:rank]), "x", high=100)
        w = data("uint8", (6, 1, *(3, 2, 3)[:rank]), "w", high=100)
        zero = np.array(7, np.uint8)
        inputs: tuple[Any, ...] = (x, w, zero, zero)
        if schema.name == "QLinearConv":
            scales = (np.array(s, np.float32) for s in (0.1, 0.2, 3.0))
            a, b, c = scales
            inputs = (x, a, zero, w, b, zero, c, zero)
        yield Form(f"rank {rank} group 3", {"group": 3, "pads": [1] * 2 * rank}, inputs)


@more_forms_of("Conv")
def depthwise(schema: Schema) -> Iterator[Form]:
    """As many groups as channels, with two results each."""
    for rank in (1, 2, 3):
        x = data("float32", (2, 3, *(6, 5, 4)[:rank]), "x")
        w = data("float32", (6, 1, *(3, 2, 3)[:rank]), "w")
        yield Form(f"rank {rank} group 3", {"group": 3, "strides": [2] * rank}, (x, w))


@more_forms_of("ConvTranspose")
def sized(schema: Schema) -> Iterator[Form]:
    """Results from two elements less to two more than the full one, which has 11."""
    inputs = data("float32", (1, 1, 3), "x"), data("float32", (1, 1, 5), "w")
    for auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        for size in range(9, 14):
            attributes = {"strides": [3], "output_shape": [size], "auto_pad": auto}
            yield Form(label(attributes), attributes, inputs)


@more_forms_of("Slice", "Split", "SplitToSequence")
def cut(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        x = data("float32", SHAPES[rank], "cut")
        for axis in (0, rank - 1, -1, -rank):
            if axis < 0 and schema.since_version < 10 + (schema.name == "Split"):
                continue
            what, size = f"rank {rank} axis {axis}", x.shape[axis]
            if schema.name == "Slice" and has(schema, "starts"):
                yield Form(what, {"starts": [0], "ends": [-1], "axes": [axis]}, (x,))
            elif schema.name == "Slice":
                yield Form(what, {}, (x, ints(-1), ints(-size - 1), ints(axis), ints(-2)))
            elif has(schema, "split"):
                yield Form(what, {"axis": axis, "split": [1, size - 1]}, (x,), 2)
            else:
                sizes = ints(1, size - 1)
                yield Form(what, {"axis": axis}, (x, sizes), 2 if schema.name == "Split" else 1)


@more_forms_of("Squeeze", "Unsqueeze")
def ones(schema: Schema) -> Iterator[Form]:
    for rank in RANKS:
        shape = [1, *SHAPES[rank][1:]]
        x = data("float32", shape, "ones")
        for axis in (0, -rank) if schema.since_version >= 11 else (0,):
            more = {"axes": [axis]} if has(schema, "axes") else {}
            yield Form(f"rank {rank} axis {axis}", more, (x,) if more else (x, ints(axis)))


@more_forms_of("DepthToSpace", "SpaceToDepth")
def blocks(schema: Schema) -> Iterator[Form]:
    shape = (1, 18, 2, 3) if schema.name == "DepthToSpace" else (1, 2, 6, 3)
    yield Form("blocks of three", {"blocksize": 3}, (data("float32", shape, "blocks"),))


@more_forms_of("StringConcat", "StringSplit", "RegexFullMatch")
def text(schema: Schema) -> Iterator[Form]:
    x = np.array([["a b", "c"], ["d  e f", ""]], object)
    attributes = {"pattern": "[a-c]"} if has(schema, "pattern") else {}
    outputs = 2 if schema.name == "StringSplit" else 1
    for each in (x, x[:1], x[None]):
        inputs = (each, x) if schema.name == "StringConcat" else (each,)
        yield Form(f"shape {each.shape}", attributes, inputs, outputs)
