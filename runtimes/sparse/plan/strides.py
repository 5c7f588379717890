"""Layouts, which are orders of axes in memory, and the strides of views under operators."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.importer.graph import ExpandOp, Op, ReshapeOp, SliceOp, TransposeOp
from prunedeploy.runtimes.sparse.plan.views import View, plane_stride


@dataclass(frozen=True)
class Layout:
    """Axes from the slowest to the fastest; the first ``split`` of them step between planes."""

    order: tuple[int, ...]
    split: int = 0

    def strides(self, shape: Sequence[int], padded: bool = True) -> tuple[int, ...]:
        """The stride of each axis; without ``padded`` planes follow each other closely."""
        strides, step = [0] * len(shape), 1
        for position in reversed(range(len(self.order))):
            if position == self.split - 1 and padded:
                step = plane_stride(step)
            axis = self.order[position]
            strides[axis] = step
            step *= shape[axis]
        return tuple(strides)

    def size(self, shape: Sequence[int]) -> int:
        """Elements of the buffer."""
        pixels = math.prod(shape[axis] for axis in self.order[self.split :])
        planes = math.prod(shape[axis] for axis in self.order[: self.split])
        return planes * plane_stride(pixels) if self.split else pixels


def row_major(rank: int) -> Layout:
    """C order."""
    return Layout(tuple(range(rank)))


def planar(rank: int, channel: int) -> Layout:
    """The layout of ``views.planar``: axis ``channel`` steps between planes."""
    return Layout((channel, *(axis for axis in range(rank) if axis != channel)), 1)


def like(view: View) -> Layout:
    """The layout of a dense tensor that has its axes in the order of those of ``view``."""
    strides = [abs(stride) for stride in view.strides]
    order = sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis))
    order = [a for a in order if strides[a] == 0] + [a for a in order if strides[a]]
    step, split = 1, 0
    for position in reversed(range(len(order))):
        axis = order[position]
        if view.shape[axis] > 1 and strides[axis] != step:
            split = position + 1
            break
        step *= view.shape[axis]
    return Layout(tuple(order), split)


def reshaped(
    shape: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """The strides of a reshape that moves nothing, None where there are none."""
    old = [(n, stride) for n, stride in zip(shape, strides, strict=True) if n != 1]
    result: list[int] = []
    wanted = [n for n in new if n != 1]
    if 0 in shape:
        return (0,) * len(new)
    position = 0
    while position < len(wanted):
        taken, count, width, total = [old.pop(0)], 1, wanted[position], 0
        total = taken[0][0]
        while total != width:
            if total < width:
                taken.append(old.pop(0))
                total *= taken[-1][0]
            else:
                width *= wanted[position + count]
                count += 1
        for (_, outer), (n, inner) in itertools.pairwise(taken):
            if outer != inner * n:
                return None
        step, part = taken[-1][1], []
        for n in reversed(wanted[position : position + count]):
            part.append(step)
            step *= n
        result += part[::-1]
        position += count
    rest = iter(result)
    return tuple(0 if n == 1 else next(rest) for n in new)


def forward(op: Op, x: View) -> View | None:
    """The view of an operator's output, given that of its input; None where there is none."""
    shape = op.output.shape
    match op:
        case TransposeOp():
            return View(x.buffer, shape, tuple(x.strides[a] for a in op.perm), x.offset)
        case ReshapeOp():
            strides = reshaped(x.shape, x.strides, shape)
            return None if strides is None else View(x.buffer, shape, strides, x.offset)
        case SliceOp():
            start = sum(s * stride for s, stride in zip(op.starts, x.strides, strict=True))
            strides = tuple(s * stride for s, stride in zip(op.steps, x.strides, strict=True))
            return View(x.buffer, shape, strides, x.offset + start)
        case ExpandOp():
            return broadcast(x, shape)
    raise TypeError(type(op))


def backward(op: Op, y: View) -> View | None:
    """The view of an operator's input where its output is to be ``y``; None where there is none.

    Only for those that keep every element.
    """
    shape = op.inputs[0].shape
    match op:
        case TransposeOp():
            strides = [0] * len(shape)
            for axis, source in enumerate(op.perm):
                strides[source] = y.strides[axis]
            return View(y.buffer, shape, tuple(strides), y.offset)
        case ReshapeOp():
            before = reshaped(y.shape, y.strides, shape)
            return None if before is None else View(y.buffer, shape, before, y.offset)
    return None


def pull(op: Op, wanted: Layout) -> Layout | None:
    """The layout of the input that gives the output the one wanted."""
    x = op.inputs[0]
    if isinstance(op, SliceOp | ExpandOp):
        return wanted if x.rank == op.output.rank else None
    shape = op.output.shape
    strides = wanted.strides(shape, padded=False)
    view = backward(op, View(0, shape, strides))
    if view is None:
        return None
    pixels = math.prod(shape[axis] for axis in wanted.order[wanted.split :])
    strides = view.strides
    inner = [a for a, n in enumerate(x.shape) if n > 1 and strides[a] * n <= pixels]
    if wanted.split and math.prod(x.shape[axis] for axis in inner) != pixels:
        return None
    ones = [axis for axis, n in enumerate(x.shape) if n == 1]
    large = sorted((a for a in range(x.rank) if x.shape[a] > 1), key=lambda a: -strides[a])
    if not wanted.split:
        return Layout((*ones, *large))
    outer = [axis for axis in large if axis not in inner]
    if not outer:
        return None
    return Layout((*outer, *ones, *(axis for axis in large if axis in inner)), len(outer))


def broadcast(view: View, shape: Sequence[int]) -> View:
    """``view`` with the axes of ``shape``, 0 as the stride of those it repeats along."""
    front = len(shape) - len(view.shape)
    strides = [0] * front
    for n, stride, wide in zip(view.shape, view.strides, shape[front:], strict=True):
        strides.append(stride if n == wide else 0)
    return View(view.buffer, tuple(shape), tuple(strides), view.offset)


def same(one: View, other: View) -> bool:
    """Whether two views are the same elements; strides of axes of length 1 do not count."""
    return (one.buffer, one.offset, one.shape) == (other.buffer, other.offset, other.shape) and all(
        n == 1 or a == b for n, a, b in zip(one.shape, one.strides, other.strides, strict=True)
    )
