"""Forms of reductions, indices of extremes, running sums, softmax."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

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
    positive,
    product,
)

REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
AXES: dict[int, list[list[int]]] = {
    1: [[0]],
    2: [[1], [0], [-1]],
    3: [[1], [0, 2], [-2], [0, 1, 2]],
    4: [[2, 3], [1, -1], [1], [0, 2, 3]],
    5: [[2, 3, 4], [-4]],
}


@forms_of(*(f"Reduce{name}" for name in REDUCE))
def reduction(schema: Schema) -> Iterator[Form]:
    make = positive if schema.name == "ReduceLogSum" else data
    for dtype in allowed(schema):
        for rank in AXES if dtype == main(schema) else [3]:
            x = make(dtype, SHAPES[rank], schema.name)
            for axes in AXES[rank]:
                for attributes in product(schema, keepdims=[None, 0, 1]):
                    yield _reduce(schema, attributes, x, axes, dtype)
        x = make(dtype, SHAPES[3], schema.name)
        for attributes in product(schema, keepdims=[None, 0], noop_with_empty_axes=[None, 0, 1]):
            yield Form(label(attributes, dtype, "all"), attributes, (x,))
            if not has(schema, "axes"):
                empty = np.array([], np.int64)
                yield Form(label(attributes, dtype, "empty axes"), attributes, (x, empty))
    scalar = make(main(schema), (), schema.name)
    yield Form("scalar", {}, (scalar,))


def _reduce(schema: Schema, attributes: dict, x: np.ndarray, axes: list[int], dtype: str) -> Form:
    name = label(attributes, dtype, list(x.shape), axes)
    if has(schema, "axes"):
        return Form(name, {**attributes, "axes": axes}, (x,))
    return Form(name, attributes, (x, np.array(axes, np.int64)))


@forms_of("ArgMax", "ArgMin")
def extreme(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4, 5) if dtype == main(schema) else (3,):
            for axis in [None, *sorted({0, rank - 1, -1, -rank})]:
                options = product(schema, keepdims=[None, 0], select_last_index=[None, 0, 1])
                for attributes in options:
                    chosen = attributes if axis is None else {**attributes, "axis": axis}
                    x = np.round(data(dtype, SHAPES[rank], schema.name))  # with ties
                    yield Form(label(chosen, dtype, rank), chosen, (x.astype(dtype),))


@forms_of("CumSum", "CumProd")
def running(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in product(schema, exclusive=[None, 0, 1], reverse=[None, 0, 1]):
            for rank, axis, kind in [(3, 1, "int64"), (3, -1, "int32"), (1, 0, "int64")]:
                x = data(dtype, SHAPES[rank], schema.name, low=1, high=3)
                yield Form(
                    label(attributes, dtype, rank, axis), attributes, (x, np.array(axis, kind))
                )


@forms_of("Softmax", "LogSoftmax", "Hardmax")
def softmax(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3, 4, 5) if dtype == main(schema) else (3,):
            # 1 is the default before opset 13, which a vector has not
            usual = [] if rank == 1 and schema.since_version < 13 else [None]
            for axis in [*usual, *range(-rank, rank)]:
                attributes = {} if axis is None else {"axis": axis}
                x = data(dtype, SHAPES[rank], schema.name)
                yield Form(label(attributes, dtype, rank), attributes, (x,))
    large = np.array([[1000.0, 1001.0, -1000.0]], main(schema))
    yield Form("large", {}, (large,))
    if schema.name == "Hardmax":
        yield Form("ties", {}, (np.array([[1, 3, 3], [2, 2, 0]], main(schema)),))


@forms_of("LRN")
def lrn(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (3, 4, 5):
            # engines know odd sizes alone, and images
            for size in (1, 3, 4, 9) if rank == 4 and dtype == main(schema) else (2, 3):
                odd = choices(schema, alpha=[0.5], beta=[0.4], bias=[2.0])
                for more in odd if rank == 4 and size % 2 else [{}]:
                    attributes = {"size": size, **more}
                    shape = (2, 5, *SHAPES[rank][2:])
                    x = data(dtype, shape, "lrn")
                    yield Form(label(attributes, dtype, rank), attributes, (x,))
