"""Pools and Resize."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunedeploy.reference.resizing import OF_11, OF_19, Axis, nearest, taps_of
from prunedeploy.runtimes.sparse.importer.graph import PoolOp, ResizeOp, Tensor
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer
from prunedeploy.runtimes.sparse.importer.operators import layers, volumes
from prunedeploy.runtimes.sparse.importer.operators.geometry import Window, extents

Taps = tuple[tuple[int, int, float], ...]


def _pool(call: Call) -> Tensor:
    x = call.real(0)
    if x.rank not in (3, 4, 5):
        raise call.refuse(f"pools over {x.rank - 2} axes are not known")
    kind = "max" if call.node.op_type == "MaxPool" else "average"
    kernel = call.sequence("kernel_shape", [])
    space = extents(call, kernel)
    whole = tuple(kernel) == x.shape[2:] and not any(space.front + space.back)
    if whole and math.prod(space.out) == 1 and set(space.dilations) == {1}:
        return call.build.reduce(x, "max" if kind == "max" else "mean", range(2, x.rank))
    if x.rank < 5:
        return _pooled(call, x, space.window, kind)
    build = call.build
    # over the planes by themselves, then along the axis from plane to plane
    images = _pooled(call, volumes.images_of(build, x), space.window, kind)
    flat = volumes.volume_of(build, images, x.shape[0])
    along = Window(
        (space.kernel[0], 1),
        (space.strides[0], 1),
        (space.front[0], 0, space.back[0], 0),
        (space.dilations[0], 1),
        (space.out[0], math.prod(flat.shape[3:])),
    )
    y = _pooled(call, volumes.columns_of(build, flat), along, kind)
    return build.reshape(y, (*x.shape[:2], *space.out))


def _pooled(call: Call, x: Tensor, space: Window, kind: str) -> Tensor:
    op = PoolOp(
        call.build.name,
        [x],
        Tensor((*x.shape[:2], *space.out)),
        "max" if kind == "max" else "average",
        space.kernel,
        space.strides,
        space.pads,
        space.dilations,
        bool(call.integer("count_include_pad", 0)),
    )
    return call.build.add(op)


def _global(kind: str) -> Importer:
    def pool(call: Call) -> Tensor:
        return call.build.reduce(call.real(0), kind, range(2, call.x.rank))

    return pool


def resize(call: Call) -> Tensor:
    """Nearest and linear interpolation of the spatial axes; any other by weights."""
    old = call.node.op_type == "Upsample" or call.opset < 11
    x, mode = call.real(0), call.string("mode", "nearest")
    scales, shape = _scales(call, 1 if old else 2)
    transform = "asymmetric" if old else call.string("coordinate_transformation_mode", "half_pixel")
    if transform not in COORDINATES or transform == "tf_crop_and_resize":
        raise call.refuse(f"coordinate_transformation_mode {transform} is not known")
    plain = mode in ("nearest", "linear", "bilinear") and not call.integer("antialias", 0)
    if not plain or x.rank not in (3, 4) or shape[:2] != x.shape[:2]:
        if old:
            raise call.refuse(f"mode {mode} of {x.rank - 2} spatial axes is not known")
        return _weighted(call, x, shape, scales, transform)
    taps = []
    for axis in range(2, x.rank):
        each = Axis(x.shape[axis], shape[axis], np.float32(scales[axis]))
        at = COORDINATES[transform](each)
        if mode != "nearest":
            taps.append(_linear(at, each.size))
        elif old:  # the element before, or behind where the axis gets shorter
            taps.append(_picked(np.ceil(at) if each.scale < 1 else np.floor(at), each.size))
        else:
            rounding = call.string("nearest_mode", "round_prefer_floor")
            taps.append(_picked(nearest(at, rounding), each.size))
    rows: Taps = taps[0] if x.rank == 4 else ((0, 0, 0.0),)
    return call.build.add(ResizeOp(call.build.name, [x], Tensor(shape), rows, taps[-1]))


def _weighted(
    call: Call, x: Tensor, shape: tuple[int, ...], scales: list[float], transform: str
) -> Tensor:
    """Linear layers, one along each axis that changes, of the weights of its elements."""
    for axis, (size, scale) in enumerate(zip(shape, scales, strict=True)):
        if size == x.shape[axis] and scale == 1:
            continue
        each = Axis(x.shape[axis], size, np.float32(scale))
        taps = taps_of(call.node, each, COORDINATES[transform](each))
        matrix = np.zeros((size, each.size))
        rows = np.arange(size)[:, None]
        np.add.at(matrix, (rows, np.clip(taps.index, 0, each.size - 1)), taps.weight)
        x = call.build.linear(x, matrix.astype(np.float32), None, axis)
    return x


def _scales(call: Call, index: int) -> tuple[list[float], tuple[int, ...]]:
    """A factor an axis, and the shape of the result."""
    x, axes = call.x, call.sequence("axes", list(range(call.x.rank)))
    factors = call.constant(index, "scales")
    sizes = call.constant(index + 1, "sizes")
    given = call.node.attributes.get("scales")
    if call.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("it keeps the aspect ratio")
    scales, shape = [1.0] * x.rank, list(x.shape)
    if sizes is not None and sizes.size:
        for axis, size in zip(axes, sizes.reshape(-1), strict=True):
            shape[axis] = int(size)
            scales[axis] = float(np.float32(size) / np.float32(x.shape[axis]))
        return scales, tuple(shape)
    if factors is None and given is not None:
        factors = np.asarray(given.as_floats(), np.float32)
    if factors is None or not factors.size:
        raise call.refuse("it has neither scales nor sizes")
    for axis, factor in zip(axes, factors.reshape(-1), strict=True):
        length = np.float32(x.shape[axis]) * np.float32(factor)
        shape[axis], scales[axis] = math.floor(length), float(factor)
    return scales, tuple(shape)


Coordinates = NDArray[Any]
COORDINATES = OF_11 | OF_19


def _picked(at: Coordinates, size: int) -> Taps:
    picked = [min(max(int(c), 0), size - 1) for c in at]
    return tuple((index, index, 0.0) for index in picked)


def _linear(at: Coordinates, size: int) -> Taps:
    taps = []
    for coordinate in np.clip(at, 0, size - 1):
        index = int(coordinate)
        taps.append((index, min(index + 1, size - 1), float(coordinate - np.float32(index))))
    return tuple(taps)


def column_to_image(call: Call) -> Tensor:
    """Blocks added where they overlap: a transposed convolution whose weights are ones."""
    x, build = call.real(0), call.build
    image, block = call.ints(1, "", "image_shape"), call.ints(2, "", "block_shape")
    assert image is not None
    assert block is not None
    if len(image) not in (1, 2):
        raise call.refuse(f"{len(image)} spatial axes are not known")
    ones = [1] * len(image)
    strides, dilations = call.sequence("strides", ones), call.sequence("dilations", ones)
    pads = call.sequence("pads", [0] * 2 * len(image))
    space = Window.of(block, strides, pads, dilations, image)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, block, strict=True)]
    padded = [
        n + a + b for n, a, b in zip(image, pads[: len(image)], pads[len(image) :], strict=True)
    ]
    blocks = [(n - r) // s + 1 for n, r, s in zip(padded, reach, strides, strict=True)]
    channels = x.shape[1] // math.prod(block)
    eye = np.eye(math.prod(block), dtype=np.float32).reshape(-1, 1, *block)
    weight = np.tile(eye, (channels, *[1] * (eye.ndim - 1)))
    wide = build.reshape(x, (*x.shape[:2], *blocks))
    none = np.zeros(channels, np.float32)
    return layers.transposed(call, wide, weight, none, space, channels)


TABLE: dict[str, Importer] = {
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "Resize": resize,
    "Upsample": resize,
    "Col2Im": column_to_image,
}
