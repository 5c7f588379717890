"""Forms of convolutions, pools and matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from forms.base import (
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    has,
    label,
    main,
    product,
    random,
)

AUTO = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]


def _size(rank: int) -> tuple[int, ...]:
    return {1: (9,), 2: (9, 7), 3: (5, 6, 7)}[rank]


def _some(rank: int) -> int | None:
    """How many ways to say the rest: all of them in 2-D."""
    return None if rank == 2 else 1


def _per_axis(rank: int, *values: int) -> list[int]:
    return [values[i % len(values)] for i in range(rank)]


def _geometry(schema: Schema, rank: int, dtype: str) -> Iterator[dict[str, Any]]:
    """Strides, pads and so on in turn and together; a few alone in types other than the main."""
    ones = _per_axis(rank, 2, 1, 3)
    pads = _per_axis(2 * rank, 1, 0, 2)
    yield {}
    yield {"pads": pads, "strides": ones}
    yield {"auto_pad": "SAME_UPPER", "strides": ones}
    if dtype != main(schema):
        return
    yield {"strides": ones}
    yield {"pads": _per_axis(2 * rank, 1)}
    if has(schema, "dilations"):
        yield {"dilations": _per_axis(rank, 2, 1)}
        yield {"dilations": _per_axis(rank, 2, 1), "pads": pads, "strides": ones}
    if has(schema, "ceil_mode"):
        for ceil in (0, 1):
            yield {"ceil_mode": ceil, "strides": _per_axis(rank, 2)}
            yield {"ceil_mode": ceil, "strides": _per_axis(rank, 3), "pads": _per_axis(2 * rank, 1)}
            yield {"ceil_mode": ceil, "strides": ones, "pads": pads}
            yield {"ceil_mode": ceil, "strides": _per_axis(rank, 2), "auto_pad": "SAME_UPPER"}
    for auto in AUTO:
        yield {"auto_pad": auto}
        if auto != "SAME_UPPER":
            yield {"auto_pad": auto, "strides": ones}
        if has(schema, "dilations"):
            yield {"auto_pad": auto, "dilations": _per_axis(rank, 2)}


@forms_of("MaxPool", "AveragePool", "LpPool")
def pool(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3) if dtype == main(schema) else (2,):
            x = data(dtype, (2, 3, *_size(rank)), schema.name)
            kernel = {"kernel_shape": _per_axis(rank, 3, 2)}
            for geometry in _geometry(schema, rank, dtype):
                for more in choices(schema, count_include_pad=[0, 1], p=[1, 3]):
                    attributes = {**kernel, **geometry, **more}
                    yield Form(label(attributes, dtype), attributes, (x,))
                if len(schema.outputs) > 1:
                    attributes = {**kernel, **geometry}
                    yield Form(label(attributes, dtype, "indices"), attributes, (x,), 2)
            for order in (0, 1) if has(schema, "storage_order") else ():
                attributes = {**kernel, "storage_order": order, "strides": _per_axis(rank, 2)}
                yield Form(label(attributes, dtype), attributes, (x,))
                yield Form(label(attributes, dtype, "indices"), attributes, (x,), 2)
    if main(schema).startswith("float"):
        low = -np.abs(data(main(schema), (1, 2, 5, 5), "below zero")) - 1
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        yield Form("below zero", attributes, (low,))


@forms_of("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3):
            for attributes in choices(schema, p=[1, 2, 3]):
                x = data(dtype, (2, 3, *_size(rank)), schema.name)
                yield Form(label(attributes, dtype, rank), attributes, (x,))


@forms_of("Conv")
def conv(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3) if dtype == main(schema) else (2,):
            kernel = _per_axis(rank, 3, 2)
            for geometry in _geometry(schema, rank, dtype):
                for more in list(choices(schema, group=[2], kernel_shape=[kernel]))[: _some(rank)]:
                    attributes = {**geometry, **more}
                    x = data(dtype, (2, 4, *_size(rank)), "conv")
                    w = data(dtype, (6, 4 // more.get("group", 1), *kernel), "filters")
                    what = label(attributes, dtype, rank)
                    yield Form(what, attributes, (x, w))
                    yield Form(f"{what} bias", attributes, (x, w, data(dtype, (6,), "bias")))
    x, w = data(main(schema), (2, 4, 5, 5), "conv"), data(main(schema), (8, 1, 3, 3), "depthwise")
    yield Form("depthwise", {"group": 4}, (x, w))


@forms_of("ConvTranspose")
def conv_transpose(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (1, 2, 3) if dtype == main(schema) else (2,):
            kernel, twos = _per_axis(rank, 3, 2), _per_axis(rank, 2)
            x, w = data(dtype, (2, 4, *_size(rank)), "deconv"), data(dtype, (4, 3, *kernel), "f")
            whole = [2 * n for n in _size(rank)]
            geometries: list[dict[str, Any]] = [
                *_geometry(schema, rank, dtype),
                {"strides": twos, "output_padding": _per_axis(rank, 1, 0)},
                {"strides": twos, "output_shape": whole},
                {"strides": twos, "output_shape": [n + 1 for n in whole]},
                {"strides": twos, "output_shape": whole, "auto_pad": "SAME_UPPER"},
                {"strides": twos, "output_shape": whole, "auto_pad": "SAME_LOWER"},
            ]
            for geometry in geometries:
                for more in list(choices(schema, group=[2], kernel_shape=[kernel]))[: _some(rank)]:
                    attributes = {**geometry, **more}
                    what = label(attributes, dtype, rank)
                    yield Form(what, attributes, (x, w))
                    rows = 3 * more.get("group", 1)
                    yield Form(f"{what} bias", attributes, (x, w, data(dtype, (rows,), "bias")))


@forms_of("DeformConv")
def deform_conv(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for more in product(
            schema,
            group=[None, 2],
            offset_group=[None, 2],
            strides=[None, [2, 1]],
            pads=[None, [1, 0, 1, 2]],
            dilations=[None, [1, 2]],
            kernel_shape=[None, [2, 2]],
        ):
            if sum(v is not None for v in more.values()) > 2:
                continue
            strides, pads = more.get("strides", [1, 1]), more.get("pads", [0] * 4)
            dilations, parts = more.get("dilations", [1, 1]), more.get("offset_group", 1)
            out = [
                (n + pads[i] + pads[2 + i] - dilations[i] - 1) // strides[i] + 1
                for i, n in enumerate((5, 6))
            ]
            x = data(dtype, (2, 4, 5, 6), "deform")
            w = data(dtype, (6, 4 // more.get("group", 1), 2, 2), "filters")
            offset = data(dtype, (2, parts * 8, *out), "offset")
            mask = np.abs(data(dtype, (2, parts * 4, *out), "mask"))
            bias = data(dtype, (6,), "bias")
            for extra in ((), (bias,), (bias, mask), (None, mask)):
                what = label(more, dtype, [e is not None for e in extra])
                yield Form(what, more, (x, w, offset, *extra))


@forms_of("Gemm")
def gemm(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        whole = dtype.startswith("float")
        for attributes in product(schema, transA=[None, 0, 1], transB=[None, 1]):
            scales = choices(schema, alpha=[0.5 if whole else 2.0], beta=[0.3 if whole else 3.0])
            for more in scales:
                a = data(dtype, (5, 3) if attributes.get("transA") else (3, 5), "a")
                b = data(dtype, (4, 5) if attributes.get("transB") else (5, 4), "b")
                chosen = {**attributes, **more}
                shapes: list[tuple[int, ...]] = [(3, 4), (4,), (3, 1), (), (1,)]
                for shape in shapes if not attributes else shapes[:1]:
                    what = label(chosen, dtype, shape)
                    yield Form(what, chosen, (a, b, data(dtype, shape, "c")))
                if schema.since_version >= 11:
                    yield Form(label(chosen, dtype, "no c"), chosen, (a, b))


@forms_of("MatMul")
def matmul(schema: Schema) -> Iterator[Form]:
    shapes = [((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 1, 3, 5), (4, 5, 2)), ((5,), (5,))]
    shapes += [((5,), (2, 5, 3)), ((2, 3, 5), (5,)), ((1, 2, 2, 3, 2), (2, 1, 1, 2, 5))]
    for dtype in allowed(schema):
        for one, other in shapes:
            inputs = data(dtype, one, "left"), data(dtype, other, "right")
            yield Form(f"{dtype} {one} {other}", {}, inputs)


@forms_of("Einsum")
def einsum(schema: Schema) -> Iterator[Form]:
    cases: list[tuple[str, list[tuple[int, ...]]]] = [
        ("ij,jk->ik", [(3, 5), (5, 4)]),
        ("ij,jk", [(3, 5), (5, 4)]),
        ("bij,bkj->bik", [(2, 3, 5), (2, 4, 5)]),
        ("bhid,bhjd->bhij", [(2, 2, 3, 5), (2, 2, 4, 5)]),
        ("ij->ji", [(3, 5)]),
        ("ij->", [(3, 5)]),
        ("ii->i", [(3, 3)]),
        ("...ij,...jk->...ik", [(2, 3, 5), (2, 5, 4)]),
        ("i,i->", [(5,), (5,)]),
        ("i, j -> i j", [(5,), (3,)]),
        ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 2)]),
    ]
    for dtype in allowed(schema):
        for equation, shapes in cases:
            inputs = tuple(data(dtype, s, "einsum", i) for i, s in enumerate(shapes))
            yield Form(f"{dtype} {equation}", {"equation": equation}, inputs)


@forms_of("Det")
def det(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape in ((3, 3), (2, 4, 4), (2, 3, 1, 1)):
            yield Form(f"{dtype} {shape}", {}, (data(dtype, shape, "det"),))


@forms_of("MaxUnpool")
def max_unpool(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (1, 2, 2, 2), "unpool")
        index = np.array([[[[5, 7], [13, 15]], [[16, 19], [24, 31]]]], np.int64)
        attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        yield Form(f"{dtype}", attributes, (x, index))
        yield Form(f"{dtype} pads", {**attributes, "pads": [0, 0, 0, 0]}, (x, index))
        one = np.array([[[[0, 2], [6, 8]], [[9, 11], [15, 17]]]], np.int64)
        yield Form(f"{dtype} no strides", {"kernel_shape": [2, 2]}, (x, one))
        shape = np.array([1, 2, 5, 5], np.int64)
        wide = np.array([[[[6, 8], [16, 18]], [[31, 33], [41, 43]]]], np.int64)
        yield Form(f"{dtype} shape", attributes, (x, wide, shape))


@forms_of("MaxRoiPool")
def max_roi_pool(schema: Schema) -> Iterator[Form]:
    rois = np.array([[0, 0, 0, 4, 4], [1, 2, 1, 6, 6], [0, 3, 3, 3, 3], [1, 0, 2, 5, 4]])
    for dtype in allowed(schema):
        for more in choices(schema, spatial_scale=[0.5]):
            attributes = {"pooled_shape": [2, 3], **more}
            x = data(dtype, (2, 3, 7, 8), "rois")
            yield Form(label(attributes, dtype), attributes, (x, rois.astype(dtype)))


@forms_of("Col2Im")
def col2im(schema: Schema) -> Iterator[Form]:
    image, block = np.array([5, 6], np.int64), np.array([2, 3], np.int64)
    for dtype in allowed(schema):
        for attributes in choices(
            schema, strides=[[2, 1]], pads=[[1, 0, 1, 0]], dilations=[[2, 1]]
        ):
            strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
            dilations = attributes.get("dilations", [1, 1])
            count = 1
            for i in range(2):
                span = dilations[i] * (block[i] - 1) + 1
                count *= (image[i] + pads[i] + pads[2 + i] - span) // strides[i] + 1
            x = data(dtype, (2, 3 * 6, int(count)), "columns")
            yield Form(label(attributes, dtype), attributes, (x, image, block))
    x = data("float32", (1, 2 * 8, 8), "columns")
    cube, two = np.array([3, 3, 3], np.int64), np.array([2, 2, 2], np.int64)
    yield Form("3-D", {}, (x, cube, two))


@forms_of("GridSample")
def grid_sample(schema: Schema) -> Iterator[Form]:
    old = schema.since_version < 20
    modes = ["bilinear", "nearest", "bicubic"] if old else ["linear", "nearest", "cubic"]
    for dtype in allowed(schema):
        kind = dtype if dtype.startswith("float") else "float32"
        for attributes in product(
            schema,
            mode=[None, *modes],
            padding_mode=[None, "zeros", "border", "reflection"],
            align_corners=[None, 1],
        ):
            if not dtype.startswith("float") and attributes.get("mode") != "nearest":
                continue
            x = data(dtype, (2, 3, 4, 5), "image")
            grid = random("grid").uniform(-1.6, 1.6, (2, 3, 2, 2)).astype(kind)
            yield Form(label(attributes, dtype), attributes, (x, grid))
            if not old and "ubic" not in attributes.get("mode", ""):
                x = data(dtype, (2, 3, 4, 5, 3), "volume")
                grid = random("grid").uniform(-1.6, 1.6, (2, 3, 2, 2, 3)).astype(kind)
                yield Form(label(attributes, dtype, "3-D"), attributes, (x, grid))


@forms_of("AffineGrid")
def affine_grid(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in choices(schema, align_corners=[0, 1]):
            for rank, size in ((2, [2, 3, 4, 5]), (3, [2, 3, 4, 5, 3]), (2, [2, 1, 1, 4])):
                theta = data(dtype, (2, rank, rank + 1), "theta")
                inputs = theta, np.array(size, np.int64)
                yield Form(label(attributes, dtype, size), attributes, inputs)


@forms_of("RoiAlign")
def roi_align(schema: Schema) -> Iterator[Form]:
    rois = np.array([[0.3, 0.2, 4.1, 4.6], [2.2, 1.7, 6.4, 6.1], [1, 1, 1.5, 9], [-1, 0, 3, 2]])
    images = np.array([0, 1, 1, 0], np.int64)
    for dtype in allowed(schema):
        for more in choices(
            schema,
            mode=["avg", "max"],
            sampling_ratio=[1, 2, 3],
            spatial_scale=[0.5],
            coordinate_transformation_mode=["half_pixel", "output_half_pixel"],
            output_height=[1],
        ):
            attributes = {"output_height": 2, "output_width": 3, **more}
            x = data(dtype, (2, 3, 7, 8), "align")
            yield Form(label(attributes, dtype), attributes, (x, rois.astype(dtype), images))
    x = data(main(schema), (2, 3, 7, 8), "align")
    yield Form("one by one", {}, (x, rois.astype(main(schema)), images))
    attributes = {"mode": "max", "sampling_ratio": 1, "output_height": 2, "output_width": 2}
    yield Form("max of one point", attributes, (x, rois.astype(main(schema)), images))
