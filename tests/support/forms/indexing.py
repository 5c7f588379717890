"""Forms of operators that pick, write or return indices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forms.base import (
    SHAPES,
    Form,
    Schema,
    allowed,
    data,
    forms_of,
    has,
    label,
    main,
    opset,
    product,
    random,
)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _indices(size: int, shape: tuple[int, ...], kind: str, negative: bool = True) -> np.ndarray:
    low = -size if negative else 0
    return random("indices", size, shape).integers(low, size, shape).astype(kind)


@forms_of("Gather")
def gather(schema: Schema) -> Iterator[Form]:
    negative = schema.since_version >= 11
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 5) if dtype == main(schema) else (3,):
            for axis in (None, rank - 1, -1, -rank):
                for shape in ((), (3,), (2, 2)):
                    for kind in ("int64", "int32"):
                        attributes = {} if axis is None else {"axis": axis}
                        x = data(dtype, SHAPES[rank], "gather")
                        index = _indices(x.shape[axis or 0], shape, kind, negative)
                        what = label(attributes, dtype, rank, shape, kind)
                        yield Form(what, attributes, (x, index))


@forms_of("GatherElements")
def gather_elements(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4):
            for axis in (None, rank - 1, -1):
                for kind in ("int64", "int32"):
                    attributes = {} if axis is None else {"axis": axis}
                    x = data(dtype, SHAPES[rank], "gather")
                    shape = list(x.shape)
                    shape[axis or 0] = 2
                    index = _indices(x.shape[axis or 0], tuple(shape), kind)
                    yield Form(label(attributes, dtype, rank, kind), attributes, (x, index))


@forms_of("GatherND")
def gather_nd(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 3, 4), "gather")
        for count in (1, 2, 3):
            index = np.stack([_indices(n, (3, 2), "int64") for n in x.shape[:count]], -1)
            yield Form(f"{dtype} {count}", {}, (x, index))
        if has(schema, "batch_dims"):
            for batch, count in ((0, 2), (1, 1), (1, 2), (2, 1)):
                outer = (*x.shape[:batch], 2)
                each = [_indices(n, outer, "int64") for n in x.shape[batch : batch + count]]
                attributes = {"batch_dims": batch}
                yield Form(label(attributes, dtype, count), attributes, (x, np.stack(each, -1)))


@forms_of("Scatter", "ScatterElements")
def scatter_elements(schema: Schema) -> Iterator[Form]:
    hows = [None, "none"] if has(schema, "reduction") else [None]
    hows += ["add", "mul"] if schema.since_version >= 16 else []
    hows += ["max", "min"] if schema.since_version >= 18 else []
    for dtype in allowed(schema):
        for rank in (1, 2, 3):
            for axis in (None, rank - 1, -1):
                for how in hows:
                    attributes = {} if axis is None else {"axis": axis}
                    attributes |= {} if how is None else {"reduction": how}
                    x = data(dtype, SHAPES[rank], "scatter")
                    at = (axis or 0) % rank
                    shape = tuple(2 if a == at else n - (n > 1) for a, n in enumerate(x.shape))
                    index = _indices(x.shape[at], shape, "int64", schema.since_version >= 11)
                    if how in (None, "none"):  # no place twice
                        index = np.broadcast_to(
                            np.array([0, 1]).reshape([2 if a == at else 1 for a in range(rank)]),
                            shape,
                        ).copy()
                    updates = data(dtype, shape, "updates")
                    yield Form(label(attributes, dtype, rank), attributes, (x, index, updates))


@forms_of("ScatterND")
def scatter_nd(schema: Schema) -> Iterator[Form]:
    hows = [None, "none"] if has(schema, "reduction") else [None]
    hows += ["add", "mul"] if schema.since_version >= 16 else []
    hows += ["max", "min"] if schema.since_version >= 18 else []
    for dtype in allowed(schema):
        for how in hows:
            x = data(dtype, (4, 3, 2), "scatter")
            attributes = {} if how is None else {"reduction": how}
            twice = how not in (None, "none")
            for count in (1, 2, 3):
                rows = [[0, 1, 1], [2, -1, 0], [0, 1, 1] if twice else [3, 0, 1]]
                index = np.array(rows, np.int64)[:, :count]
                updates = data(dtype, (3, *x.shape[count:]), "updates")
                yield Form(label(attributes, dtype, count), attributes, (x, index, updates))


@forms_of("TensorScatter")
def tensor_scatter(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in product(schema, mode=[None, "linear", "circular"], axis=[None, 1, -2]):
            past, update = data(dtype, (2, 5, 6, 3), "past"), data(dtype, (2, 5, 2, 3), "update")
            if attributes.get("axis") == 1:
                update = data(dtype, (2, 2, 6, 3), "update")
            yield Form(label(attributes, dtype), attributes, (past, update))
            places = ints(3, 5) if attributes.get("mode") == "circular" else ints(1, 3)
            yield Form(label(attributes, dtype, "places"), attributes, (past, update, places))


@forms_of("TopK")
def top_k(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4) if dtype == main(schema) else (3,):
            for axis in (None, 0, -1):
                for order in product(schema, largest=[None, 0], sorted=[None, 1]):
                    attributes = {**order} if axis is None else {**order, "axis": axis}
                    x = np.round(2 * data(dtype, SHAPES[rank], "top")).astype(dtype)
                    k = min(2, x.shape[-1 if axis is None else axis])
                    what = label(attributes, dtype, rank)
                    if has(schema, "k"):
                        yield Form(what, {**attributes, "k": k}, (x,), 2)
                    else:
                        yield Form(what, attributes, (x, ints(k)), 2)


@forms_of("Unique")
def unique(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in product(schema, axis=[None, 0, 1, -1], sorted=[None, 0, 1]):
            for outputs in (1, 4):
                x = np.array([[2, 1, 1], [0, 2, 2], [2, 1, 1]]).astype(dtype)
                yield Form(label(attributes, dtype, outputs), attributes, (x,), outputs)


@forms_of("OneHot")
def one_hot(schema: Schema) -> Iterator[Form]:
    low = -4 if schema.since_version >= 11 else 0
    for kind in allowed(schema):
        for dtype in ("float32", "int64", "int32", "float64", "bool"):
            for axis in (None, 0, 1, -1, -2) if kind == main(schema) else (None, 0):
                attributes = {} if axis is None else {"axis": axis}
                index = data(kind, (2, 3), "one hot", low=low, high=7)
                index = np.round(index).astype(kind)
                if low == 0:
                    index = np.abs(index)
                values = np.array([0, 1]).astype(dtype)
                depth = np.array(4, np.int64 if axis is None else np.float32)
                yield Form(label(attributes, kind, dtype), attributes, (index, depth, values))
    depth = np.array([4], np.int64)
    yield Form("depth of rank 1", {}, (ints(0, 3), depth, np.array([2.0, 5.0], np.float32)))


@forms_of("Compress")
def compress(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for axis in (None, 0, 1, -1):
            if axis is not None and axis < 0 and opset(schema) < 11:
                continue
            for chosen in ([True, False, True], [False, True]):
                attributes = {} if axis is None else {"axis": axis}
                x = data(dtype, (3, 4), "compress")
                yield Form(label(attributes, dtype, chosen), attributes, (x, np.array(chosen)))


@forms_of("NonZero")
def non_zero(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4):
            x = np.round(data(dtype, SHAPES[rank], "non zero")).astype(dtype)
            yield Form(f"{dtype} {rank}", {}, (x,))
    yield Form("nothing", {}, (np.zeros((2, 3), np.float32),))


@forms_of("Slice")
def slice_(schema: Schema) -> Iterator[Form]:
    most, least = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    plain = [([1], [3]), ([0, 1], [2, 4]), ([-3, 0], [-1, most]), ([5, 0], [9, 1]), ([2], [1])]
    stepped = [([0], [most], [2]), ([-1], [least], [-1]), ([3], [0], [-2]), ([9], [-9], [-1])]
    for dtype in allowed(schema):
        x = data(dtype, (4, 5, 3), "slice")
        for starts, ends in plain:
            for axes in (
                None,
                [1, 2][: len(starts)],
                [2, 0][: len(starts)],
                [-1, -3][: len(starts)],
            ):
                what = f"{dtype} {starts} {ends} {axes}"
                if has(schema, "starts"):
                    more = {} if axes is None else {"axes": axes}
                    yield Form(what, {"starts": starts, "ends": ends, **more}, (x,))
                    continue
                given = (x, ints(*starts), ints(*ends))
                yield Form(what, {}, given if axes is None else (*given, ints(*axes)))
        if not has(schema, "starts"):
            for starts, ends, steps in stepped:
                given = (x, ints(*starts), ints(*ends), ints(1), ints(*steps))
                yield Form(f"{dtype} {starts} {ends} {steps}", {}, given)
                given = (x, ints(*starts), ints(*ends), None, ints(*steps))
                yield Form(f"{dtype} {starts} {ends} {steps} no axes", {}, given)
    if not has(schema, "starts"):
        narrow = [np.array(v, np.int32) for v in ([1], [3], [1], [1])]
        yield Form("int32 indices", {}, (x, *narrow))


@forms_of("ReverseSequence")
def reverse_sequence(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for batch, time in [(None, None), (0, 1), (1, 0)]:
            attributes = {} if batch is None else {"batch_axis": batch, "time_axis": time}
            for rank in (2, 3, 4):
                shape = (4, 3, *SHAPES[rank][2:])
                x = data(dtype, shape, "reverse")
                count, longest = (4, 3) if batch == 0 else (3, 4)
                lengths = ints(*[1 + i % longest for i in range(count)])
                yield Form(label(attributes, dtype, rank), attributes, (x, lengths))


@forms_of("NonMaxSuppression")
def suppression(schema: Schema) -> Iterator[Form]:
    source = random("boxes")
    corner = source.uniform(0, 1, (2, 9, 2))
    boxes = np.concatenate([corner, corner + source.uniform(0.2, 0.8, (2, 9, 2))], -1)
    boxes = boxes.astype(np.float32)
    mirrored = np.concatenate([boxes[..., 2:], boxes[..., :2]], -1)
    scores = source.uniform(0, 1, (2, 3, 9)).astype(np.float32)
    one = [ints(2), np.array([0.3], np.float32), np.array([0.4], np.float32)]
    for attributes in product(schema, center_point_box=[None, 0, 1]):
        for count in range(4):
            yield Form(label(attributes, count), attributes, (boxes, scores, *one[:count]))
        yield Form(label(attributes, "mirrored"), attributes, (mirrored, scores, *one))
        yield Form(
            label(attributes, "no overlap"), attributes, (boxes, scores, one[0], None, one[2])
        )
        scalars = [v.reshape(()) for v in one]
        yield Form(label(attributes, "scalars"), attributes, (boxes, scores, *scalars))
