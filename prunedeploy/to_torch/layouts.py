"""Operators that move, select or measure: they read known integers beside their tensors.

The same table form as ``operators.py``; the functions get their inputs as they come, ``Known`` or
tensors. ``ON_KNOWN`` is the arithmetic on shapes, where every input is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from prunedeploy.reference.torch_kernels import pad
from prunedeploy.to_torch import values
from prunedeploy.to_torch.operators import Operator
from prunedeploy.to_torch.values import CannotExpress, Known, Value, axes_of, ints, known, tensor

LINEAR = ("half_pixel", "pytorch_half_pixel", "align_corners")


def _listed(node: ir.Node, inputs: tuple[Value, ...], name: str, at: int) -> list[Any] | None:
    """Integers that old opsets have as an attribute and new ones as an input."""
    if name in node.attributes:
        return list(node.attributes.get_ints(name, []))
    return ints(inputs[at]) if len(inputs) > at and inputs[at] is not None else None


def _reshape(node: ir.Node, x: Any, *rest: Value) -> Any:
    target = _listed(node, (x, *rest), "shape", 1) or []
    if isinstance(x, Known) and all(isinstance(n, int) and n for n in target):
        return known(x.array.reshape(target))
    x = tensor(x)
    if not node.attributes.get_int("allowzero", False):
        target = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(target)]
    return x.reshape(target)


def _flatten(node: ir.Node, x: Tensor) -> Tensor:
    axis = node.attributes.get_int("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.reshape(-1, 1)
    rows = 1
    for size in x.shape[:axis]:
        rows = rows * size
    return x.reshape(rows, -1)


def _squeeze(node: ir.Node, x: Any, *rest: Value) -> Any:
    axes = _listed(node, (x, *rest), "axes", 1)
    if isinstance(x, Known):
        return known(x.array.squeeze(None if axes is None else tuple(axes)))
    return x.squeeze() if axes is None else x.squeeze(axes_of(axes, x.dim()))


def _unsqueeze(node: ir.Node, x: Any, *rest: Value) -> Any:
    axes = _listed(node, (x, *rest), "axes", 1) or []
    if isinstance(x, Known):
        return known(np.expand_dims(x.array, tuple(axes)))
    for axis in sorted(axes_of(axes, x.dim() + len(axes))):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: ir.Node, x: Tensor) -> Tensor:
    return x.permute(list(node.attributes.get_ints("perm", list(reversed(range(x.dim()))))))


def _concat(node: ir.Node, *inputs: Any) -> Any:
    axis = node.attributes.get_int("axis", 0)
    if all(isinstance(x, Known) for x in inputs):
        return known(np.concatenate([x.array for x in inputs], axis))
    return torch.cat([tensor(x) for x in inputs], axis)  # type: ignore[misc]


def _split(node: ir.Node, x: Any, *rest: Value) -> tuple[Any, ...]:
    axis = node.attributes.get_int("axis", 0)
    sizes = _listed(node, (x, *rest), "split", 1)
    if isinstance(x, Known):
        each = -(-x.array.shape[axis] // len(node.outputs))
        ends = np.cumsum(sizes or [each] * len(node.outputs))[:-1]
        return tuple(map(known, np.split(x.array, ends, axis)))
    if sizes is None:
        count = len(node.outputs)
        return torch.split(x, -(-int(x.shape[axis]) // count), axis)
    return torch.split(x, sizes, axis)


def _slice(node: ir.Node, x: Any, *rest: Value) -> Any:
    inputs = (x, *rest)
    starts, ends = (_listed(node, inputs, k, i) for i, k in ((1, "starts"), (2, "ends")))
    axes, steps = _listed(node, inputs, "axes", 3), _listed(node, inputs, "steps", 4)
    starts, ends = starts or [], ends or []
    rank = x.array.ndim if isinstance(x, Known) else x.dim()
    axes = axes_of(range(len(starts)) if axes is None else axes, rank)
    steps = steps or [1] * len(starts)
    if isinstance(x, Known):
        where = [slice(None)] * rank
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            where[axis] = slice(start, None if step < 0 and end < -(2**31) else end, step)
        return known(x.array[tuple(where)])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _slice_axis(x, start, end, axis, step)
    return x


def _slice_axis(x: Tensor, start: Any, end: Any, axis: int, step: int) -> Tensor:
    where: list[slice] = [slice(None)] * x.dim()
    if step > 0:
        whole = isinstance(end, int) and end >= 2**31 - 1
        where[axis] = slice(start, None if whole else end, step)
        return x[tuple(where)]
    positions = list(range(int(x.shape[axis])))[slice(start, None if end < -(2**31) else end, step)]
    return x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))


def _gather(node: ir.Node, x: Any, indices: Any) -> Any:
    axis = node.attributes.get_int("axis", 0)
    if isinstance(x, Known) and isinstance(indices, Known):
        return known(np.take(x.array, indices.array.astype(np.int64), axis))
    source, at = tensor(x), tensor(indices)
    assert source is not None
    assert at is not None
    axis %= source.dim()
    if isinstance(indices, Known) and not indices.array.ndim:
        return source.select(axis, int(indices.array))
    size = source.shape[axis]
    negative = not isinstance(indices, Known) or bool((indices.array < 0).any())
    at = torch.where(at < 0, at + size, at) if negative else at
    shape = (*source.shape[:axis], *at.shape, *source.shape[axis + 1 :])
    return source.index_select(axis, at.reshape(-1)).reshape(shape)


def _expand(_: ir.Node, x: Any, shape: Value) -> Tensor:
    source, target = tensor(x), ints(shape)
    assert source is not None
    extra = len(target) - source.dim()
    for i, size in enumerate(source.shape):  # a size of one in the target keeps the source's
        if extra + i >= 0 and isinstance(target[extra + i], int) and target[extra + i] == 1:
            target[extra + i] = size
    leading = list(source.shape[:-extra]) if extra < 0 else []
    return source.expand([*leading, *target])


def _tile(_: ir.Node, x: Tensor, repeats: Value) -> Tensor:
    return x.repeat(ints(repeats))


def _pad(node: ir.Node, x: Tensor, *rest: Value) -> Tensor:
    inputs = (x, *rest)
    given = _listed(node, inputs, "pads", 1) or []
    axes = ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else range(x.dim())
    value = values.numbers(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    fill = value[0] if value else node.attributes.get_float("value", 0.0)
    mode = node.attributes.get_string("mode", "constant")
    full = [0] * (2 * x.dim())
    for i, axis in enumerate(axes_of(axes, x.dim())):
        full[axis], full[axis + x.dim()] = given[i], given[i + len(given) // 2]
    if mode == "constant":
        return pad(x, full, fill)
    inner = full[2 : x.dim()] + full[x.dim() + 2 :]
    if mode not in ("reflect", "edge") or any(full[:2]) or any(full[x.dim() : x.dim() + 2]):
        raise CannotExpress(f"padding of mode {mode} on these axes")
    half = len(inner) // 2
    pairs = [p for i in reversed(range(half)) for p in (inner[i], inner[i + half])]
    return F.pad(x, pairs, mode={"edge": "replicate"}.get(mode, mode))


def _shape(node: ir.Node, x: Any) -> Known:
    sizes = list(x.array.shape if isinstance(x, Known) else x.shape)
    return known(sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", 99)])


def _constant_of_shape(node: ir.Node, shape: Value) -> Any:
    attribute = node.attributes.get("value")
    filling = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    sizes = ints(shape)
    if filling.dtype.kind in "iub" and all(isinstance(n, int) for n in sizes):
        return known(np.full(sizes, filling.reshape(-1)[0]))
    return torch.full(sizes, filling.reshape(-1)[0].item(), dtype=torch.from_numpy(filling).dtype)


def _range(_: ir.Node, *bounds: Value) -> Any:
    start, limit, step = (ints(b)[0] for b in bounds)
    return torch.arange(start, limit, step)


def _reduction(
    function: Callable[..., Tensor],
    alone: Callable[[Tensor], Tensor] = lambda x: x,
    on_known: Callable[..., Any] | None = None,
) -> Operator:
    """``alone`` is what becomes of a number that is reduced by itself, over no axis."""

    def run(node: ir.Node, x: Any, *rest: Value) -> Any:
        axes = _listed(node, (x, *rest), "axes", 1)
        keep = bool(node.attributes.get_int("keepdims", True))
        none = not axes and node.attributes.get_int("noop_with_empty_axes", False)
        if isinstance(x, Known) and on_known is not None and not none:
            over = axes_of(axes or range(x.array.ndim), x.array.ndim)
            return known(on_known(x.array, axis=tuple(over), keepdims=keep))
        x = tensor(x)
        return alone(x) if none else function(x, axes_of(axes or range(x.dim()), x.dim()), keep)

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _resize(node: ir.Node, x: Tensor, *rest: Value) -> Tensor:
    """Nearest and linear of maps, as torch has them too; every other form is refused."""
    text = node.attributes.get_string
    mode = text("mode", "nearest")
    where = text("coordinate_transformation_mode", "half_pixel")
    sizes = ints(rest[2]) if len(rest) > 2 and rest[2] is not None else None
    if sizes is None:
        factors = values.numbers(rest[1] if len(rest) > 1 else None)
        if any(f != int(f) for f in factors):
            raise CannotExpress("scales that are no whole numbers")
        sizes = [n * int(f) for n, f in zip(x.shape, factors, strict=True)]
    if "axes" in node.attributes or text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise CannotExpress("resizing of chosen axes")
    if any(isinstance(n, int) and n != x.shape[i] for i, n in enumerate(sizes[:2])):
        raise CannotExpress("resizing of samples or channels")
    target, rounding = sizes[2:], text("nearest_mode", "round_prefer_floor")
    if mode == "nearest":
        plain = where == "asymmetric" and rounding == "floor"
        whole = all(
            isinstance(new, int) and isinstance(old, int) and new % old == 0
            for new, old in zip(target, x.shape[2:], strict=True)
        )
        if not plain and not (whole and where == "half_pixel" and rounding.startswith("round")):
            raise CannotExpress(f"nearest, {rounding}, with coordinates {where}")
        return F.interpolate(x, size=target, mode="nearest")
    linear = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.dim())
    corners = where == "align_corners"
    if mode != "linear" or linear is None or where not in LINEAR:
        raise CannotExpress(f"mode {mode} with coordinates {where}")
    return F.interpolate(x, size=target, mode=linear, align_corners=corners)


LAYOUTS: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep), torch.abs),
    "ReduceL2": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(), torch.abs),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product, on_known=np.prod),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep), on_known=np.sum),
    "ReduceSumSquare": _reduction(
        lambda x, axes, keep: (x * x).sum(axes, keepdim=keep), torch.square
    ),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

# Those that know what to do with a first input that is known; the others get a tensor.
TAKES_KNOWN = (
    *("Concat", "ConstantOfShape", "Expand", "Gather", "Range", "Reshape", "Shape", "Slice"),
    *("Split", "Squeeze", "Unsqueeze"),
    *(name for name in LAYOUTS if name.startswith("Reduce")),
)

ON_KNOWN: dict[str, Callable[..., Any]] = {
    "Add": lambda x, y: x + y,
    "Cast": lambda x: x,
    "Div": lambda x, y: x // y,
    "Identity": lambda x: x,
    "Mul": lambda x, y: x * y,
    "Sub": lambda x, y: x - y,
}
