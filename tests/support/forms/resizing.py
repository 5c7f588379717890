"""Forms of Resize and Upsample, and of the operators on signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from forms.base import (
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    has,
    label,
    product,
)

MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
SCALES: dict[int, list[list[float]]] = {
    1: [[2.0], [0.6]],
    2: [[1.0, 2.0], [0.55, 1.7]],
    3: [[1.0, 1.0, 2.0], [1.0, 1.0, 0.6]],
    4: [[1, 1, 2, 3], [1, 1, 0.5, 0.7], [1, 1, 1.3, 2.5]],
    5: [[1, 1, 2, 1, 2]],
}
SHAPE = {1: (7,), 2: (5, 7), 3: (2, 3, 7), 4: (1, 2, 5, 7), 5: (1, 2, 3, 2, 4)}


@forms_of("Upsample")
def upsample(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank, each in SCALES.items():
            for scales in each:
                if min(scales) < 1:
                    continue
                for attributes in choices(schema, mode=["nearest", "linear"]):
                    x = data(dtype, SHAPE[rank], "upsample")
                    what = label(attributes, dtype, scales)
                    if has(schema, "scales"):
                        floats = [float(s) for s in scales]
                        yield Form(what, {**attributes, "scales": floats}, (x,))
                    else:
                        yield Form(what, attributes, (x, np.array(scales, np.float32)))


def _coordinates(schema: Schema) -> list[str]:
    return (
        MODES
        + (["tf_half_pixel_for_nn"] if schema.since_version == 11 else [])
        + (["half_pixel_symmetric"] if schema.since_version >= 19 else [])
    )


def _interpolations(schema: Schema) -> Iterator[dict[str, Any]]:
    yield {}
    for mode in _coordinates(schema):
        base = {"coordinate_transformation_mode": mode}
        yield from ({**base, "mode": "nearest", "nearest_mode": n} for n in NEAREST)
        yield {**base, "mode": "linear"}
        yield {**base, "mode": "cubic"}
        yield {**base, "mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}


@forms_of("Resize")
def resize(schema: Schema) -> Iterator[Form]:
    if schema.since_version == 10:
        yield from _resize_10(schema)
        return
    for attributes in _interpolations(schema):
        for rank in (4,) if attributes.get("mode") == "cubic" else (1, 2, 3, 4, 5):
            if rank in (1, 3, 5) and attributes.get("nearest_mode") not in (None, NEAREST[0]):
                continue
            for scales in SCALES[rank]:
                yield _resized(schema, attributes, rank, scales, None)
            if rank in (2, 4):
                sizes = [1, 2, 9, 4][-rank:] if rank == 4 else [5, 9]
                yield _resized(schema, attributes, rank, None, sizes)
    yield from _corners(schema)
    for dtype in allowed(schema):
        for mode in ("nearest", "linear"):
            if mode == "linear" and not dtype.startswith("float"):
                continue
            x = data(dtype, SHAPE[4], "resize")
            roi = np.array([], np.float32)
            scales = np.array([1, 1, 2, 2], np.float32)
            yield Form(f"{dtype} {mode}", {"mode": mode}, (x, roi, scales))


def _resized(
    schema: Schema,
    attributes: dict[str, Any],
    rank: int,
    scales: list[float] | None,
    sizes: list[int] | None,
    roi: list[float] | None = None,
) -> Form:
    x = data("float32", SHAPE[rank], "resize")
    old = schema.since_version < 13  # both had to be there, and might be empty
    empty = np.array([], np.float32) if old else None
    first = empty if roi is None else np.array(roi, np.float32)
    second = empty if scales is None else np.array(scales, np.float32)
    inputs: tuple[Any, ...] = (x, first, second)
    if sizes is not None:
        inputs += (np.array(sizes, np.int64),)
    return Form(label(attributes, rank, scales, sizes, roi), attributes, inputs)


def _corners(schema: Schema) -> Iterator[Form]:
    """Parts of the input, some axes, shapes that stay in proportion, filters against aliasing."""
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    for mode in ("nearest", "linear"):
        for roi in ([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.7], [0, 0, -0.2, 0.4, 1, 1, 0.8, 1.3]):
            chosen = {**crop, "mode": mode, "extrapolation_value": 9.0}
            yield _resized(schema, chosen, 4, None, [1, 2, 4, 3], roi)
    if not has(schema, "axes"):
        return
    for axes, sizes in (([2, 3], [9, 4]), ([3, 2], [9, 4]), ([-1], [10])):
        for mode in ("nearest", "linear"):
            yield _resized(schema, {"axes": axes, "mode": mode}, 4, None, sizes)
            scales = [n / 5 for n in sizes]
            yield _resized(schema, {"axes": axes, "mode": mode}, 4, scales, None)
    for policy in ("stretch", "not_larger", "not_smaller"):
        chosen = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
        yield _resized(schema, chosen, 4, None, [9, 9])
        yield _resized(schema, chosen, 4, None, [3, 6])
    for mode in ("linear", "cubic"):
        for scales in ([1, 1, 0.5, 0.6], [1, 1, 0.4, 1.5]):
            for outside in (None, 1):
                chosen = {"antialias": 1, "mode": mode}
                chosen |= {} if outside is None else {"exclude_outside": outside}
                yield _resized(schema, chosen, 4, scales, None)


def _resize_10(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank, each in SCALES.items():
            for scales in each:
                for attributes in choices(schema, mode=["nearest", "linear"]):
                    if attributes.get("mode") == "linear" and not dtype.startswith("float"):
                        continue
                    x = data(dtype, SHAPE[rank], "resize")
                    what = label(attributes, dtype, scales)
                    yield Form(what, attributes, (x, np.array(scales, np.float32)))


@forms_of("DFT")
def dft(schema: Schema) -> Iterator[Form]:
    by_attribute = has(schema, "axis")
    for dtype in allowed(schema):
        for attributes in product(schema, inverse=[None, 1], onesided=[None, 1]):
            backward = attributes.get("inverse") and attributes.get("onesided")
            parts = (2,) if backward else (1,) if attributes.get("onesided") else (1, 2)
            for part in parts:
                for axis in (None, 1, 2, -2):
                    for length in (None, 4, 8):
                        x = data(dtype, (2, 6, 5, part), "dft")
                        more = {} if axis is None or not by_attribute else {"axis": axis}
                        inputs: tuple[Any, ...] = (x,)
                        count = None if length is None else np.array(length)
                        if length is not None:
                            inputs += (count,)
                        if axis is not None and not by_attribute:
                            inputs = (x, count, np.array(axis))
                        chosen = {**attributes, **more}
                        yield Form(label(chosen, dtype, part, axis, length), chosen, inputs)


@forms_of("STFT")
def stft(schema: Schema) -> Iterator[Form]:
    step, length = np.array(4), np.array(8)
    for dtype in allowed(schema):
        for attributes in product(schema, onesided=[None, 0, 1]):
            x = data(dtype, (2, 20, 1), "stft")
            window = np.hanning(8).astype(dtype)
            yield Form(label(attributes, dtype), attributes, (x, step, window, length))
            yield Form(label(attributes, dtype, "window"), attributes, (x, step, window))
            yield Form(label(attributes, dtype, "length"), attributes, (x, step, None, length))
        x = data(dtype, (2, 20, 2), "stft")
        yield Form(f"{dtype} complex", {"onesided": 0}, (x, step, window, length))


@forms_of("BlackmanWindow", "HammingWindow", "HannWindow")
def window(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for size in (1, 8, 9):
            kinds = [TensorProto.FLOAT, TensorProto.DOUBLE]
            for attributes in choices(schema, periodic=[0, 1], output_datatype=kinds):
                if size > 1 or attributes.get("periodic") != 0:
                    what = label(attributes, dtype, size)
                    yield Form(what, attributes, (np.array(size, dtype),))


@forms_of("MelWeightMatrix")
def mel(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, output_datatype=[TensorProto.FLOAT, TensorProto.DOUBLE]):
        for bands, length, low, high in ((8, 64, 0.0, 4000.0), (4, 32, 300.0, 3500.0)):
            for kind in ("int64", "int32"):
                inputs = [np.array(v, kind) for v in (bands, length, 8000)]
                inputs += [np.array(v, np.float32) for v in (low, high)]
                yield Form(label(attributes, bands, low, kind), attributes, tuple(inputs))
