"""Forms of operators that treat each element by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from forms.base import (
    SHAPES,
    Array,
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    label,
    main,
    positive,
    product,
)

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 100.0, -100.0, 1e-30]
ATTRIBUTES: dict[str, dict[str, list[Any]]] = {
    "Celu": {"alpha": [0.3, 2.0]},
    "Elu": {"alpha": [0.3, 2.0]},
    "Gelu": {"approximate": ["none", "tanh"]},
    "HardSigmoid": {"alpha": [0.7], "beta": [0.1]},
    "IsInf": {"detect_negative": [0], "detect_positive": [0]},
    "LeakyRelu": {"alpha": [0.3, 1.5]},
    "Selu": {"alpha": [0.7], "gamma": [1.9]},
    "Shrink": {"bias": [0.3, 1.0], "lambd": [0.2, 1.5]},
    "Swish": {"alpha": [0.5, -1.3]},
    "ThresholdedRelu": {"alpha": [0.0, 0.4]},
}
UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu"),
    *("Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf"),
    *("IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan"),
    *("Tanh", "ThresholdedRelu"),
)


def special(dtype: str) -> Array:
    with np.errstate(over="ignore"):
        return np.array(SPECIAL).astype(dtype)


@forms_of(*UNARY)
def unary(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, **ATTRIBUTES.get(schema.name, {})):
        for dtype in allowed(schema):
            x = data(dtype, SHAPES[3], schema.name)
            yield Form(label(attributes, dtype), attributes, (x,))
    for rank in (0, 1, 2, 4, 5):
        yield Form(f"rank {rank}", {}, (data(main(schema), SHAPES[rank], schema.name),))
    for dtype in allowed(schema):
        if dtype.startswith("float"):
            yield Form(f"special values {dtype}", {}, (special(dtype),))
    yield Form("no elements", {}, (data(main(schema), (0, 3), schema.name),))


BINARY = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Or", "Sub", "Xor"),
)
BROADCASTS = [
    ((2, 3, 5), (2, 3, 5)),
    ((2, 3, 5), (5,)),
    ((2, 3, 5), (3, 1)),
    ((3, 1), (2, 1, 5)),
    ((), (3, 5)),
    ((3, 5), ()),
    ((2, 1, 3, 1, 5), (3, 1, 2, 1)),
    ((0, 3), (1, 3)),
]


def _second(schema: Schema, dtype: str, shape: tuple[int, ...]) -> Array:
    """Never zero where it divides: in integers that ends a process."""
    if schema.name not in ("Div", "Mod"):
        return data(dtype, shape, schema.name, "second")
    y = positive(dtype, shape, schema.name)
    sign = np.where(data("bool", shape, "sign"), -1, 1) if not dtype.startswith("u") else 1
    return (y * sign).astype(dtype)


@forms_of(*BINARY)
def binary(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for one, other in BROADCASTS if dtype == main(schema) else BROADCASTS[:2]:
            inputs = data(dtype, one, schema.name), _second(schema, dtype, other)
            yield Form(f"{dtype} {one} {other}", {}, inputs)
        if dtype.startswith("float"):
            x = special(dtype)
            yield Form(f"special values {dtype}", {}, (x[:, None], x))
    if "tensor(string)" in {str(t) for t in schema.inputs[0].types}:
        words = np.array(["a", "", "ä", "b"], object)
        yield Form("string", {}, (words[:, None], words))


@forms_of("Mod")
def mod(schema: Schema) -> Iterator[Form]:
    for attributes in product(schema, fmod=[None, 0, 1]):
        floats = attributes.get("fmod") == 1 or schema.since_version >= 28
        for dtype in allowed(schema):
            if floats or not dtype.startswith("float"):
                x = data(dtype, (2, 3, 5), "mod", low=-20, high=20)
                inputs = x, _second(schema, dtype, (3, 5))
                yield Form(label(attributes, dtype), attributes, inputs)


@forms_of("BitShift")
def bit_shift(schema: Schema) -> Iterator[Form]:
    names = {str(t) for t in schema.inputs[0].types}
    for dtype in ("uint8", "uint16", "uint32", "uint64", "int32", "int64"):
        if f"tensor({dtype})" not in names:
            continue
        for direction in ("LEFT", "RIGHT"):
            x = data(dtype, (3, 5), "shift", high=100)
            by = data(dtype, (5,), "by", low=0, high=1)
            yield Form(f"{dtype} {direction}", {"direction": direction}, (x, by))


@forms_of("Pow")
def power(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for exponent in allowed(schema, 1) if schema.inputs[1].type_str != "T" else [dtype]:
            x, y = positive(dtype, (2, 3, 5), "base"), data(exponent, (3, 1), "exponent", low=0)
            yield Form(f"{dtype} {exponent}", {}, (x, np.abs(y) if exponent[0] == "i" else y))
        if dtype.startswith("float"):
            x = data(dtype, (3, 5), "negative base")
            yield Form(f"{dtype} squared", {}, (x, np.array(2).astype(dtype)))


@forms_of("Max", "Mean", "Min", "Sum")
def variadic(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for count in (1, 2, 3):
            inputs = tuple(data(dtype, (2, 3, 5), schema.name, i) for i in range(count))
            yield Form(f"{dtype} {count} inputs", {}, inputs)
        if dtype.startswith("float"):
            x = special(dtype)
            yield Form(f"special values {dtype}", {}, (x, x[::-1].copy()))
    if schema.since_version >= 8:
        shapes = ((2, 1, 5), (3, 1), ())
        dtype = main(schema)
        inputs = tuple(data(dtype, s, schema.name, i) for i, s in enumerate(shapes))
        yield Form("broadcast", {}, inputs)


@forms_of("Where")
def where(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema, 1):
        for shapes in [((2, 3, 5),) * 3, ((3, 1), (2, 1, 5), ()), ((), (3, 5), (5,))]:
            condition = data("bool", shapes[0], "where")
            x, y = data(dtype, shapes[1], "x"), data(dtype, shapes[2], "y")
            yield Form(f"{dtype} {shapes[1]}", {}, (condition, x, y))


@forms_of("PRelu")
def prelu(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape in [(3, 5, 7), (2, 3, 5, 7), (3, 1, 1), (1,), ()]:
            inputs = data(dtype, SHAPES[4], "prelu"), data(dtype, shape, "slope")
            yield Form(f"{dtype} {shape}", {}, inputs)


@forms_of("Clip")
def clip(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 3, 5), "clip")
        if len(schema.inputs) == 1:
            for attributes in product(schema, min=[None, -0.5], max=[None, 0.7]):
                yield Form(label(attributes, dtype), attributes, (x,))
            continue
        low, high = np.array(1).astype(dtype), np.array(3).astype(dtype)
        for bounds in [(), (low,), (None, high), (low, high), (high, low)]:
            given = [None if b is None else float(b) for b in bounds]
            if bounds == (high, low) and schema.since_version < 13:
                continue  # which bound wins is said from version 13 on
            yield Form(f"{dtype} {given}", {}, (x, *bounds))
    if main(schema).startswith("float"):
        yield Form("special values", {}, (special(main(schema)),))


@forms_of("BitCast")
def bit_cast(schema: Schema) -> Iterator[Form]:
    pairs = [("float32", TensorProto.INT32), ("int64", TensorProto.DOUBLE)]
    pairs += [("uint8", TensorProto.INT8), ("float16", TensorProto.UINT16)]
    pairs += [("int32", TensorProto.FLOAT), ("float64", TensorProto.UINT64)]
    pairs += [("bool", TensorProto.UINT8)]
    for dtype, to in pairs:
        yield Form(f"{dtype} {to}", {"to": to}, (data(dtype, (2, 3, 5), "bits"),))


@forms_of("SwiGLU")
def swiglu(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, alpha=[0.5, -1.3]):
        for dtype in allowed(schema):
            inputs = data(dtype, (2, 3, 5), "gate"), data(dtype, (2, 3, 5), "value")
            yield Form(label(attributes, dtype), attributes, inputs)
