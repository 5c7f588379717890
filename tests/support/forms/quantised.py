"""Forms of casts and of quantised operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from forms.base import (
    DTYPES,
    Form,
    Schema,
    allowed,
    data,
    forms_of,
    has,
    label,
    positive,
    product,
)

KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
FLOAT8 = {"e4m3fn": TensorProto.FLOAT8E4M3FN, "e5m2": TensorProto.FLOAT8E5M2}


def _numbers(dtype: str) -> np.ndarray:
    """What every type can hold, cut to integers where it has to be."""
    if dtype == "uint8":
        return np.array([0, 1, 3, 100, 255], np.uint8)
    if dtype == "bool":
        return np.array([True, False, True])
    return np.array([0, 1, 2.5, 3.9, 100.7]).astype(dtype)


@forms_of("Cast")
def cast(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for name, to in KINDS.items():
            yield Form(f"{dtype} to {name}", {"to": to}, (_numbers(dtype),))
        if schema.since_version >= 9:
            yield Form(f"{dtype} to text", {"to": TensorProto.STRING}, (_numbers(dtype),))
    for dtype in ("float32", "float64", "float16"):
        x = np.array([-1.5, -2.7, 0.49, -0.0, 1e-3], dtype)
        for name in ("int64", "int32", "bool", "float16", "float64"):
            yield Form(f"negative {dtype} to {name}", {"to": KINDS[name]}, (x,))
    wide = np.array([300, -1, 70000, 5], np.int64)
    for name in ("uint8", "int32", "float16", "bool"):
        yield Form(f"out of range to {name}", {"to": KINDS[name]}, (wide,))
    if schema.since_version >= 9:
        words = np.array(["1.5", "-3", "2e3", "0"], object)
        for name in ("float32", "float64"):
            yield Form(f"text to {name}", {"to": KINDS[name]}, (words,))
        whole = np.array(["15", "-3", "0"], object)
        yield Form("text to int64", {"to": TensorProto.INT64}, (whole,))
    if has(schema, "saturate"):
        x = np.array([0.1, 1e5, -1e5, np.inf, 3.3, -0.0], np.float32)
        for name, to in FLOAT8.items():
            for attributes in product(schema, saturate=[None, 0, 1], round_mode=[None, "nearest"]):
                chosen = {"to": to, **attributes}
                yield Form(label(attributes, name), chosen, (x,))


@forms_of("CastLike")
def cast_like(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for name in DTYPES:
            like = np.zeros(1, name)
            yield Form(f"{dtype} to {name}", {}, (_numbers(dtype), like))
    for attributes in product(schema, saturate=[None, 0], round_mode=[None, "down"]):
        inputs = np.array([1.5, -2.5], np.float32), np.zeros(1, np.int32)
        yield Form(label(attributes), attributes, inputs)


def _scales(dtype: str, *shape: int) -> np.ndarray:
    return np.asarray(positive("float32", shape, "scales") / 10).astype(dtype)


@forms_of("QuantizeLinear")
def quantise(schema: Schema) -> Iterator[Form]:
    narrow = ["uint8", "int8"] + (["uint16", "int16"] if schema.since_version >= 21 else [])
    for dtype in allowed(schema):
        x = (4 * data("float32", (2, 3, 6), "quantise")).astype(dtype)
        if dtype == "int32" and 19 <= schema.since_version < 23:  # the scale has its type
            yield Form("int32 scale", {}, (x, np.array(3, np.int32)))
            continue
        kind = dtype if "float" in dtype and schema.since_version >= 19 else "float32"
        scale = _scales(kind)
        yield Form(f"{dtype} no zero", {}, (x, scale))
        for target in narrow:
            zero = np.array(3, target)
            yield Form(f"{dtype} {target}", {}, (x, scale, zero))
            if not has(schema, "axis"):
                continue
            for axis in (None, 1, -1, 2):
                size = x.shape[1 if axis is None else axis]
                zeros = np.arange(size).astype(target)
                attributes = {} if axis is None else {"axis": axis}
                inputs = x, _scales(kind, size), zeros
                yield Form(label(attributes, dtype, target), attributes, inputs)
            if has(schema, "block_size"):
                for axis, block, shape in (
                    (2, 2, (2, 3, 3)),
                    (1, 2, (2, 2, 6)),
                    (-1, 4, (2, 3, 2)),
                ):
                    attributes = {"axis": axis, "block_size": block}
                    zeros = np.ones(shape, target)
                    inputs = x, _scales(kind, *shape), zeros
                    yield Form(label(attributes, dtype, target), attributes, inputs)
        if has(schema, "output_dtype"):
            attributes = {"output_dtype": TensorProto.INT8}
            yield Form(label(attributes, dtype), attributes, (x, scale))
        if has(schema, "precision"):
            attributes = {"precision": TensorProto.FLOAT}
            yield Form(label(attributes, dtype), attributes, (x, scale))
        if has(schema, "saturate"):
            import ml_dtypes

            for attributes in product(schema, saturate=[None, 0, 1]):
                zero = np.array(0, ml_dtypes.float8_e4m3fn)
                yield Form(label(attributes, dtype, "float8"), attributes, (x, scale, zero))


@forms_of("DequantizeLinear")
def dequantise(schema: Schema) -> Iterator[Form]:
    narrow = ["uint8", "int8", "int32"] + (
        ["uint16", "int16"] if schema.since_version >= 21 else []
    )
    kinds = ["float32", "float16"] if schema.since_version >= 19 else ["float32"]
    for dtype in narrow:
        x = data("int32", (2, 3, 6), "dequantise", low=-100, high=100).astype(dtype)
        for kind in kinds:
            scale, zero = _scales(kind), np.array(3, dtype)
            yield Form(f"{dtype} {kind}", {}, (x, scale))
            if dtype != "int32":
                yield Form(f"{dtype} {kind} zero", {}, (x, scale, zero))
            if not has(schema, "axis"):
                continue
            for axis in (None, 1, -1, 0):
                size = x.shape[1 if axis is None else axis]
                attributes = {} if axis is None else {"axis": axis}
                zeros = np.zeros(size, dtype) if dtype == "int32" else np.arange(size).astype(dtype)
                inputs = x, _scales(kind, size), zeros
                yield Form(label(attributes, dtype, kind), attributes, inputs)
            if has(schema, "block_size") and dtype != "int32":
                for axis, block, shape in ((2, 2, (2, 3, 3)), (-2, 2, (2, 2, 6))):
                    attributes = {"axis": axis, "block_size": block}
                    inputs = x, _scales(kind, *shape), np.ones(shape, dtype)
                    yield Form(label(attributes, dtype, kind), attributes, inputs)
            if has(schema, "output_dtype"):
                attributes = {"output_dtype": TensorProto.FLOAT}
                yield Form(label(attributes, dtype, kind), attributes, (x, scale))


@forms_of("DynamicQuantizeLinear")
def dynamic(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shift in (0.0, 5.0, -5.0):
            x = (data(dtype, (2, 3, 5), "dynamic") + shift).astype(dtype)
            yield Form(f"{dtype} {shift}", {}, (x,), 3)


def _bytes(dtype: str, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return data("int32", shape, "bytes", dtype, low=limits.min, high=limits.max).astype(dtype)


def _weights(dtype: str, *shape: int) -> np.ndarray:
    """Signed ones have 7 bits: without VNNI, ONNX Runtime adds two products in 16 bits on x86."""
    return _bytes(dtype, *shape) // (2 if dtype == "int8" else 1)


PAIRS = [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")]


@forms_of("MatMulInteger")
def matmul_integer(schema: Schema) -> Iterator[Form]:
    for a, b in PAIRS:
        for left, right in (((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 3, 5), (2, 5, 4))):
            inputs = _bytes(a, *left), _weights(b, *right)
            zeros = np.array(3, a), np.array(2, b)
            for count in range(3):
                yield Form(f"{a} {b} {left} {count}", {}, (*inputs, *zeros[:count]))
        columns = np.arange(4).astype(b)
        yield Form(f"{a} {b} columns", {}, (_bytes(a, 3, 5), _weights(b, 5, 4), zeros[0], columns))
        rows = np.arange(3).astype(a)
        yield Form(f"{a} {b} rows", {}, (_bytes(a, 3, 5), _weights(b, 5, 4), rows, zeros[1]))


GEOMETRY = {
    "strides": [[2, 1]],
    "pads": [[1, 0, 1, 2]],
    "dilations": [[2, 1]],
    "auto_pad": ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"],
    "group": [2],
    "kernel_shape": [[3, 2]],
}


@forms_of("ConvInteger")
def conv_integer(schema: Schema) -> Iterator[Form]:
    from forms.base import choices

    for a, b in PAIRS:
        for attributes in choices(schema, **GEOMETRY):
            x = _bytes(a, 2, 4, 6, 7)
            w = _weights(b, 6, 4 // attributes.get("group", 1), 3, 2)
            yield Form(label(attributes, a, b), attributes, (x, w))
            yield Form(label(attributes, a, b, "zero"), attributes, (x, w, np.array(3, a)))
            both = np.array(3, a), np.array(2, b)
            yield Form(label(attributes, a, b, "zeros"), attributes, (x, w, *both))
        x, w = _bytes(a, 1, 2, 9), _weights(b, 3, 2, 3)
        yield Form(f"{a} {b} 1-D", {}, (x, w))


@forms_of("QLinearConv")
def qlinear_conv(schema: Schema) -> Iterator[Form]:
    from forms.base import choices

    for a, b in PAIRS:
        for attributes in choices(schema, **GEOMETRY):
            x = _bytes(a, 2, 4, 6, 7)
            w = _weights(b, 6, 4 // attributes.get("group", 1), 3, 2)
            one = np.array(0.02, np.float32)
            scales = _scales("float32", 6) / 10
            bias = data("int32", (6,), "bias", low=-99, high=99)
            end = np.array(0.5, np.float32), np.array(9, a)
            plain = x, one, np.array(3, a), w, one, np.array(0, b), *end
            yield Form(label(attributes, a, b), attributes, plain)
            yield Form(label(attributes, a, b, "bias"), attributes, (*plain, bias))
            each = x, one, np.array(3, a), w, scales, np.zeros(6, b), *end
            yield Form(label(attributes, a, b, "channels"), attributes, each)


@forms_of("QLinearMatMul")
def qlinear_matmul(schema: Schema) -> Iterator[Form]:
    kinds = ["float32", "float16"] if schema.since_version >= 21 else ["float32"]
    for kind in kinds:
        for a, b in PAIRS:
            for left, right in (((3, 5), (5, 4)), ((2, 3, 5), (2, 5, 4))):
                one, end = np.array(0.02, kind), np.array(0.4, kind)
                inputs = _bytes(a, *left), one, np.array(3, a), _weights(b, *right), one
                more = np.array(2, b), end, np.array(9, a)
                yield Form(f"{kind} {a} {b} {left}", {}, (*inputs, *more))
            columns = _bytes(a, 3, 5), one, np.array(3, a), _weights(b, 5, 4), _scales(kind, 4)
            more = np.arange(4).astype(b), np.array(0.9, kind), np.array(9, a)
            yield Form(f"{kind} {a} {b} columns", {}, (*columns, *more))
