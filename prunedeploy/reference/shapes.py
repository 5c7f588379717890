"""Operators that change shapes and order, or make arrays of a given shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference import table
from prunedeploy.reference.strings import stored
from prunedeploy.reference.table import Numbers, has, integer, integers, listed, same, text, within


def _identity(_: ir.Node, x: Any) -> Any:
    return x


def _reshape(node: ir.Node, x: Numbers, shape: Numbers) -> Numbers:
    """0 takes a length over unless ``allowzero`` (from opset 14 on); -1 takes what is left."""
    target = listed(shape)
    if not integer(node, "allowzero", 0):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(target)):
            raise ValueError(f"the shape {target} takes over an axis that is not there")
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    elif 0 in target and -1 in target:
        raise ValueError(f"-1 beside 0 in the shape {target}")
    if -1 in target and not x.size:
        rest = math.prod(n for n in target if n != -1)
        target = [(0 if n == -1 and rest else n) for n in target]
    return x.reshape(target)


def _flatten(node: ir.Node, x: Numbers) -> Numbers:
    axis = integer(node, "axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} of {x.ndim} axes")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(x: Numbers, axes: list[int] | None) -> Numbers:
    """Remove the given axes, or all of length one; a longer axis is an error of the model."""
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple({within(axis, x.ndim) for axis in axes}))


def _squeeze_attribute(node: ir.Node, x: Numbers) -> Numbers:
    return _squeeze(x, integers(node, "axes") if has(node, "axes") else None)


def _squeeze_input(_: ir.Node, x: Numbers, axes: Numbers | None = None) -> Numbers:
    return _squeeze(x, None if axes is None else listed(axes))


def _unsqueeze(x: Numbers, axes: list[int]) -> Numbers:
    rank = x.ndim + len(axes)
    return np.expand_dims(x, tuple(within(axis, rank) for axis in axes))


def _unsqueeze_attribute(node: ir.Node, x: Numbers) -> Numbers:
    return _unsqueeze(x, integers(node, "axes"))


def _unsqueeze_input(_: ir.Node, x: Numbers, axes: Numbers) -> Numbers:
    return _unsqueeze(x, listed(axes))


def _transpose(node: ir.Node, x: Numbers) -> Numbers:
    return x.transpose(integers(node, "perm") if has(node, "perm") else None)


def _expand(_: ir.Node, x: Numbers, shape: Numbers) -> Numbers:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(listed(shape))))


def _tile(_: ir.Node, x: Numbers, repeats: Numbers) -> Numbers:
    if repeats.size != x.ndim:
        raise ValueError(f"{repeats.size} repeats for {x.ndim} axes")
    return np.tile(x, listed(repeats))


def _concat(node: ir.Node, *inputs: Numbers) -> Numbers:
    return np.concatenate(inputs, within(integer(node, "axis", 0), inputs[0].ndim))


def _parts(x: Numbers, axis: int, sizes: list[int]) -> tuple[Numbers, ...]:
    if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"parts of {sizes} out of {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _split_attribute(node: ir.Node, x: Numbers) -> tuple[Numbers, ...]:
    sizes = integers(node, "split") if has(node, "split") else None
    return _split(node, x, sizes)


def _split_input(node: ir.Node, x: Numbers, split: Numbers | None = None) -> tuple[Numbers, ...]:
    return _split(node, x, None if split is None else listed(split))


def _split(node: ir.Node, x: Numbers, sizes: list[int] | None) -> tuple[Numbers, ...]:
    """Equal parts where no sizes are given: before opset 18 there is no other way."""
    axis, count = within(integer(node, "axis", 0), x.ndim), len(node.outputs)
    if sizes is None:
        if x.shape[axis] % count:
            raise ValueError(f"{x.shape[axis]} does not fall into {count} equal parts")
        sizes = [x.shape[axis] // count] * count
    return _parts(x, axis, sizes)


def _split_18(node: ir.Node, x: Numbers, split: Numbers | None = None) -> tuple[Numbers, ...]:
    """Split into ``num_outputs`` parts, the last of them smaller where they cannot be equal."""
    axis, count = within(integer(node, "axis", 0), x.ndim), len(node.outputs)
    if split is not None:
        return _parts(x, axis, listed(split))
    if (asked := integer(node, "num_outputs", count)) != count:
        raise ValueError(f"num_outputs is {asked}, the node has {count}")
    each = -(-x.shape[axis] // count)
    sizes = [max(0, min(each, x.shape[axis] - i * each)) for i in range(count)]
    return _parts(x, axis, sizes)


def _depth_to_space(node: ir.Node, x: Numbers) -> Numbers:
    """``mode`` came with opset 11; before it there is the default alone."""
    n, c, h, w = x.shape
    block = integer(node, "blocksize", 1)
    if text(node, "mode", "DCR") == "DCR":
        y = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(node: ir.Node, x: Numbers) -> Numbers:
    """``mode`` came with opset 28; before it there is the default alone."""
    n, c, h, w = x.shape
    block = integer(node, "blocksize", 1)
    y = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if text(node, "mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return y.transpose(order).reshape(n, c * block**2, h // block, w // block)


def _shape(node: ir.Node, x: Any) -> Numbers:
    """``start`` and ``end`` came with opset 15."""
    end = integer(node, "end", 0) if has(node, "end") else None
    return np.array(x.shape[integer(node, "start", 0) : end], np.int64)


def _size(_: ir.Node, x: Numbers) -> Numbers:
    return np.array(x.size, np.int64)


def _constant(node: ir.Node) -> Any:
    kind, attribute = next(iter(node.attributes.items()))
    if kind == "value":
        return stored(attribute.as_tensor())
    if kind in ("value_float", "value_floats"):
        return np.array(attribute.value, np.float32)
    if kind in ("value_int", "value_ints"):
        return np.array(attribute.value, np.int64)
    if kind in ("value_string", "value_strings"):
        return np.array(attribute.value, object)
    raise ValueError(f"constants by {kind} are not known")


def _constant_of_shape(node: ir.Node, shape: Numbers) -> Numbers:
    value = np.zeros(1, np.float32)
    if has(node, "value"):
        value = node.attributes["value"].as_tensor().numpy()
    return np.full(tuple(listed(shape)), value.reshape(-1)[0], value.dtype)


def _eye_like(node: ir.Node, x: Numbers) -> Any:
    kind = x.dtype
    if has(node, "dtype"):
        kind = ir.DataType(integer(node, "dtype", 1)).numpy()
    return np.eye(x.shape[0], x.shape[1], integer(node, "k", 0)).astype(kind)


def _trilu(node: ir.Node, x: Numbers, k: Numbers | None = None) -> Numbers:
    diagonal = 0 if k is None else int(k.reshape(()))
    column, row = np.arange(x.shape[-1]), np.arange(x.shape[-2])[:, None]
    upper = integer(node, "upper", 1)
    kept = column - row >= diagonal if upper else column - row <= diagonal
    return np.where(kept, x, np.zeros((), x.dtype))


def _range(_: ir.Node, start: Numbers, limit: Numbers, delta: Numbers) -> Any:
    """start + i delta, before ``limit``."""
    first, last, step = (np.asarray(x).reshape(()) for x in (start, limit, delta))
    wide = np.float64 if first.dtype.kind != "i" else object
    count = (last.astype(wide) - first.astype(wide)) / step.astype(wide)
    steps = np.arange(max(0, math.ceil(count))).astype(first.dtype)
    return (first + steps * step).astype(first.dtype)


def _center_crop_pad(node: ir.Node, x: Numbers, shape: Numbers) -> Numbers:
    axes = integers(node, "axes") if has(node, "axes") else list(range(x.ndim))
    for axis, target in zip(axes, listed(shape), strict=True):
        along = within(axis, x.ndim)
        size = x.shape[along]
        if size > target:
            first = (size - target) // 2
            x = x.take(range(first, first + target), along)
        elif size < target:
            before = (target - size) // 2
            widths = [(0, 0)] * x.ndim
            widths[along] = (before, target - size - before)
            x = np.pad(x, widths)
    return x


def cropped_pad(x: Numbers, pads: list[int], axes: list[int], mode: str, value: Any) -> Numbers:
    """Padded, and cut where a number of ``pads`` (all begins, then all ends) is negative."""
    begins, ends = [0] * x.ndim, [0] * x.ndim
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} pads for {len(axes)} axes")
    for i, axis in enumerate(axes):
        along = within(axis, x.ndim)
        begins[along], ends[along] = pads[i], pads[len(axes) + i]
    cut = [(max(0, -b), n - max(0, -e)) for b, e, n in zip(begins, ends, x.shape, strict=True)]
    if any(start > stop for start, stop in cut):
        raise ValueError(f"pads {pads} cut off more than there is")
    kept = x[tuple(slice(start, stop) for start, stop in cut)]
    width = [(max(0, b), max(0, e)) for b, e in zip(begins, ends, strict=True)]
    if mode == "constant":
        sized = list(zip(width, kept.shape, strict=True))
        padded = np.full([sum(w) + n for w, n in sized], value, x.dtype)
        padded[tuple(slice(b, b + n) for (b, _), n in sized)] = kept
        return padded
    if mode not in ("edge", "reflect", "wrap"):
        raise ValueError(f"mode {mode!r} is not known")
    return np.pad(kept, width, mode=mode)  # type: ignore[call-overload,no-any-return]


def _pad_attributes(node: ir.Node, x: Numbers) -> Numbers:
    value, pads = table.number(node, "value", 0.0), integers(node, "pads")
    return cropped_pad(x, pads, list(range(x.ndim)), text(node, "mode", "constant"), value)


def _pad(
    node: ir.Node, x: Numbers, pads: Numbers, value: Any = None, axes: Numbers | None = None
) -> Numbers:
    """``axes`` came with opset 18, mode wrap with 19."""
    chosen = list(range(x.ndim)) if axes is None else listed(axes)
    if value is None or not value.size:
        fill: Any = "" if x.dtype == object else 0
    else:
        fill = value.reshape(-1)[0]
    return cropped_pad(x, listed(pads), chosen, text(node, "mode", "constant"), fill)


def _dropout(node: ir.Node, x: Numbers) -> tuple[Any, ...]:
    """Dropout before opset 12: drops nothing; ONNX does not define its mask."""
    mask = node.outputs[1] if table.wanted(node, 1) else None
    if mask is not None and (mask.uses() or mask.is_graph_output()):
        raise ValueError("its mask is read, which is not defined where nothing is dropped")
    return (x, None)


def _dropout_12(
    node: ir.Node, x: Numbers, ratio: Any = None, training: Any = None
) -> tuple[Any, ...]:
    share = 0.5 if ratio is None else float(ratio.reshape(()))
    if training is None or not training.reshape(()) or share == 0:
        return x, np.ones(x.shape, bool)
    random = np.random.default_rng(integer(node, "seed", 0) if has(node, "seed") else None)
    mask = random.random(x.shape) >= share
    return (x * mask / (1 - share)).astype(x.dtype), mask


MOVING = (13, 21, 23, 24, 25)  # versions that brought types alone to operators that move elements

TABLE: table.Table = {
    "CenterCropPad": same(_center_crop_pad, 18),
    "Concat": same(_concat, 4, 11, 13),
    "Constant": same(_constant, 1, 9, 11, 12, 13, 19, 21, 23, 24, 25),
    "ConstantOfShape": same(_constant_of_shape, 9, 20, 21, 23, 24, 25),
    "DepthToSpace": same(_depth_to_space, 1, 11, 13, 28),
    "Dropout": same(_dropout, 7, 10) | same(_dropout_12, 12, 13, 22),
    "Expand": same(_expand, 8, 13),
    "EyeLike": same(_eye_like, 9, 22),
    "Flatten": same(_flatten, 1, 9, 11, *MOVING),
    "Identity": same(_identity, 1, 13, 14, 16, 19, 21, 23, 24, 25),
    "Pad": same(_pad_attributes, 2) | same(_pad, 11, 13, 18, 19, 21, 23, 24, 25),
    "Range": same(_range, 11, 27),
    "Reshape": same(_reshape, 5, 13, 14, 19, 21, 23, 24, 25),
    "Shape": same(_shape, 1, 13, 15, 19, 21, 23, 24, 25),
    "Size": same(_size, 1, 13, 19, 21, 23, 24, 25),
    "SpaceToDepth": same(_space_to_depth, 1, 13, 28),
    "Split": same(_split_attribute, 2, 11) | same(_split_input, 13) | same(_split_18, 18),
    "Squeeze": same(_squeeze_attribute, 1, 11) | same(_squeeze_input, *MOVING),
    "Tile": same(_tile, 6, 13),
    "Transpose": same(_transpose, 1, *MOVING),
    "Trilu": same(_trilu, 14),
    "Unsqueeze": same(_unsqueeze_attribute, 1, 11) | same(_unsqueeze_input, *MOVING),
}
