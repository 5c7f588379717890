"""Forms of operators that change shapes and order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from forms.base import (
    SHAPES,
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    has,
    label,
    main,
    opset,
    product,
)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@forms_of("Identity")
def identity(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (0, 3, 5):
            yield Form(f"{dtype} {rank}", {}, (data(dtype, SHAPES[rank], "identity"),))


@forms_of("Reshape")
def reshape(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 3, 5), "reshape")
        for target in [ints(5, 6), ints(0, -1), ints(-1), ints(2, 1, 0, 3), ints(1, 2, 15, 1)]:
            yield Form(f"{dtype} {target.tolist()}", {}, (x, target))
    yield Form("to a scalar", {}, (data("float32", (1, 1), "one"), np.zeros(0, np.int64)))
    empty = np.zeros((0, 3), np.float32)
    if has(schema, "allowzero"):
        for attributes in ({"allowzero": 0}, {"allowzero": 1}):
            yield Form(label(attributes, "empty"), attributes, (empty, ints(0, 3)))
        yield Form("allowzero=1 moved", {"allowzero": 1}, (empty, ints(3, 0)))
    yield Form("empty", {}, (empty, ints(0, -1)))


@forms_of("Flatten")
def flatten(schema: Schema) -> Iterator[Form]:
    negative = [-1, -2] if schema.since_version >= 11 else []
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4, 5) if dtype == main(schema) else (3,):
            for axis in [None, *sorted({0, 1, rank}), *(a for a in negative if -a <= rank)]:
                attributes = {} if axis is None else {"axis": axis}
                x = data(dtype, SHAPES[rank], "flatten")
                yield Form(label(attributes, dtype, rank), attributes, (x,))


def _with_axes(schema: Schema, x: np.ndarray, axes: list[int] | None, name: str) -> Form:
    what = f"{name} {list(x.shape)} {axes}"
    if axes is None:
        return Form(what, {}, (x,))
    return (
        Form(what, {"axes": axes}, (x,))
        if has(schema, "axes")
        else Form(what, {}, (x, ints(*axes)))
    )


@forms_of("Squeeze")
def squeeze(schema: Schema) -> Iterator[Form]:
    axes: list[list[int] | None] = [None, [1], [1, 3]]
    axes += [[-1], [-3, 1]] if schema.since_version >= 11 else []
    for dtype in allowed(schema):
        for each in axes:
            yield _with_axes(schema, data(dtype, (2, 1, 3, 1), "squeeze"), each, dtype)


@forms_of("Unsqueeze")
def unsqueeze(schema: Schema) -> Iterator[Form]:
    axes = [[0], [1], [0, 2], [3]] + ([[-1], [-1, 0], [2, 0]] if opset(schema) >= 11 else [])
    for dtype in allowed(schema):
        for each in axes:
            yield _with_axes(schema, data(dtype, (2, 3), "unsqueeze")[:, :, None], each, dtype)


@forms_of("Transpose")
def transpose(schema: Schema) -> Iterator[Form]:
    orders: dict[int, list[list[int] | None]] = {
        1: [None, [0]],
        2: [None, [1, 0]],
        3: [None, [1, 2, 0]],
        4: [None, [0, 2, 3, 1]],
        5: [None, [4, 0, 3, 1, 2]],
    }
    for dtype in allowed(schema):
        for rank, each in orders.items():
            for perm in each:
                attributes = {} if perm is None else {"perm": perm}
                x = data(dtype, SHAPES[rank], "transpose")
                yield Form(label(attributes, dtype, rank), attributes, (x,))


@forms_of("Expand")
def expand(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape, target in [
            ((3, 1), (2, 1, 5)),
            ((3, 1), (3, 4)),
            ((), (2, 3)),
            ((2, 3), (1,)),
            ((1, 3, 1), (2, 3, 5)),
        ]:
            yield Form(f"{dtype} {shape} {target}", {}, (data(dtype, shape, "e"), ints(*target)))


@forms_of("Tile")
def tile(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape, repeats in [
            ((3,), (2,)),
            ((2, 3), (1, 3)),
            ((2, 3, 5), (2, 1, 2)),
            ((2,), (0,)),
        ]:
            yield Form(f"{dtype} {repeats}", {}, (data(dtype, shape, "tile"), ints(*repeats)))


@forms_of("Concat")
def concat(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4, 5):
            negative = [-1, -rank] if schema.since_version >= 11 else []
            for axis in {0, rank - 1, *negative}:
                shape = list(SHAPES[rank])
                inputs = []
                for i in range(3):
                    shape[axis] = i + 1
                    inputs.append(data(dtype, shape, "concat", i))
                attributes = {"axis": axis}
                yield Form(label(attributes, dtype, rank), attributes, tuple(inputs))
    yield Form("one", {"axis": 0}, (data("float32", (2, 3), "one"),))


@forms_of("Split")
def split(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 6, 5), "split")
        for axis, sizes in [(1, [2, 4]), (1, [1, 2, 3]), (2, [5]), (None, [1, 1]), (1, [0, 6])]:
            where = {} if axis is None else {"axis": axis}
            what = label(where, dtype, sizes)
            if has(schema, "split"):
                yield Form(what, {**where, "split": sizes}, (x,), len(sizes))
            else:
                yield Form(what, where, (x, ints(*sizes)), len(sizes))
        for axis, parts in [(1, 3), (-2, 2), (None, 2), (2, 3)]:
            if axis == 2 and schema.since_version < 18:
                continue  # uneven parts
            if axis is not None and axis < 0 and schema.since_version < 11:
                continue
            where = {} if axis is None else {"axis": axis}
            more = {"num_outputs": parts} if has(schema, "num_outputs") else {}
            yield Form(label(where, dtype, "equal", parts), {**where, **more}, (x,), parts)


@forms_of("DepthToSpace", "SpaceToDepth")
def depth_to_space(schema: Schema) -> Iterator[Form]:
    shape = (2, 8, 3, 5) if schema.name == "DepthToSpace" else (2, 3, 4, 6)
    for dtype in allowed(schema):
        for attributes in product(schema, blocksize=[2], mode=[None, "DCR", "CRD"]):
            yield Form(label(attributes, dtype), attributes, (data(dtype, shape, "blocks"),))


@forms_of("Shape", "Size")
def shape(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (0, 1, 4) if dtype == main(schema) else (4,):
            for attributes in choices(schema, start=[1, -1, -9, 2], end=[2, -1, 9]):
                x = data(dtype, SHAPES[rank], "shape")
                yield Form(label(attributes, dtype, rank), attributes, (x,))
    if has(schema, "start"):
        for attributes in (
            {"start": 1, "end": 3},
            {"start": -3, "end": -1},
            {"start": 3, "end": 1},
        ):
            yield Form(label(attributes), attributes, (data("float32", SHAPES[5], "shape"),))


@forms_of("Constant")
def constant(schema: Schema) -> Iterator[Form]:
    for dtype in ("float32", "float64", "float16", "int64", "int32", "uint8", "bool"):
        tensor = numpy_helper.from_array(data(dtype, (2, 3), "constant"))
        yield Form(f"value {dtype}", {"value": tensor})
    singles: dict[str, Any] = {"value_float": 1.5, "value_int": -3, "value_string": "word"}
    lists: dict[str, Any] = {"value_floats": [0.1, 2.0], "value_ints": [1, -2]}
    for name, value in {**singles, **lists, "value_strings": ["a", "b"]}.items():
        if has(schema, name):
            yield Form(name, {name: value})


@forms_of("ConstantOfShape")
def constant_of_shape(schema: Schema) -> Iterator[Form]:
    for target in (ints(2, 3), ints(), ints(0, 2)):
        yield Form(f"default {target.tolist()}", {}, (target,))
        for dtype in ("float32", "float64", "float16", "int64", "int32", "uint8", "bool"):
            value = numpy_helper.from_array(np.array([3]).astype(dtype))
            yield Form(f"{dtype} {target.tolist()}", {"value": value}, (target,))


@forms_of("EyeLike")
def eye_like(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        kinds = [None, TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL]
        for attributes in product(schema, dtype=kinds, k=[None, 1, -2, 9]):
            yield Form(label(attributes, dtype), attributes, (data(dtype, (3, 5), "eye"),))


@forms_of("Trilu")
def trilu(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in product(schema, upper=[None, 0, 1]):
            for shape in ((4, 4), (2, 5, 3)) if dtype == main(schema) else ((3, 5),):
                x = data(dtype, shape, "trilu")
                yield Form(label(attributes, dtype, shape), attributes, (x,))
                for k in (-1, 0, 2, 9, -9):
                    yield Form(label(attributes, dtype, shape, k), attributes, (x, np.array(k)))


@forms_of("Range")
def range_(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        whole = [(0, 5, 1), (2, 9, 3), (9, 2, -3), (3, 3, 1), (5, 2, 1)]
        real = [(0.5, 3.1, 0.4), (1.0, -1.0, -0.25), (0.0, 1.0, 0.1)]
        for bounds in whole + (real if dtype.startswith("float") else []):
            inputs = tuple(np.array(b).astype(dtype) for b in bounds)
            yield Form(f"{dtype} {bounds}", {}, inputs)
    for attributes in choices(schema, stash_type=[1]):
        inputs = tuple(np.array(b, np.float32) for b in (1, 4, 0.5))
        yield Form(label(attributes, "stash"), attributes, inputs)


@forms_of("CenterCropPad")
def center_crop_pad(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape, target, axes in [
            ((5, 7), (3, 4), None),
            ((5, 7), (8, 10), None),
            ((5, 4), (3, 7), None),
            ((2, 5, 4), (3, 7), [1, 2]),
            ((2, 5, 4), (2,), [-2]),
        ]:
            attributes = {} if axes is None else {"axes": axes}
            x = data(dtype, shape, "crop")
            yield Form(label(attributes, dtype, target), attributes, (x, ints(*target)))


@forms_of("Pad")
def pad(schema: Schema) -> Iterator[Form]:
    modes = ["constant", "reflect", "edge"] + (["wrap"] if schema.since_version >= 19 else [])
    widths = [[0, 1, 2, 0], [1, 0, 0, 3], [0, -1, 2, 0], [-1, 0, 0, -2]]
    for dtype in allowed(schema):
        x = data(dtype, (4, 5), "pad")
        for mode in [None, *modes]:
            for pads in widths:
                attributes = {} if mode is None else {"mode": mode}
                if has(schema, "pads"):
                    for value in choices(schema, value=[1.5]):
                        chosen = {**attributes, "pads": pads, **value}
                        yield Form(label(chosen, dtype), chosen, (x,))
                    continue
                yield Form(label(attributes, dtype, pads), attributes, (x, ints(*pads)))
        if not has(schema, "pads"):
            value = np.array(1).astype(dtype)
            yield Form(f"{dtype} value", {}, (x, ints(1, 0, 0, 2), value))
        if len(schema.inputs) > 3:
            for axes in ([1], [-1], [1, 0]):
                pads = ints(*[1, 2] * len(axes))
                yield Form(f"{dtype} {axes}", {}, (x, pads, None, ints(*axes)))
    for rank in (1, 3, 4, 5):
        pads = [i % 3 for i in range(2 * rank)]
        x = data(main(schema), SHAPES[rank], "pad")
        more = {"pads": pads} if has(schema, "pads") else {}
        yield Form(f"rank {rank}", more, (x,) if more else (x, ints(*pads)))


@forms_of("Dropout")
def dropout(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 3, 5), "dropout")
        for attributes in choices(schema, ratio=[0.0, 0.9], seed=[3]):
            yield Form(label(attributes, dtype), attributes, (x,))
        if len(schema.inputs) == 1:
            continue
        share = np.array(0.4).astype(dtype)
        yield Form(f"{dtype} ratio", {}, (x, share), 2)
        for training in (False, True):
            none = np.array(0.0).astype(dtype)
            yield Form(f"{dtype} training {training}", {}, (x, none, np.array(training)), 2)
        yield Form(f"{dtype} not training", {}, (x, share, np.array(False)), 2)
        yield Form(f"{dtype} no ratio", {}, (x, None, np.array(False)), 2)
