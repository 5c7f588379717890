"""Tensors of any strides: a thread an element, its offsets out of the element's number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.plan.views import View

BLOCK = 256


@dataclass(frozen=True)
class Axes:
    """Axes from the slowest to the fastest: sizes, and the strides of each view along them."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]  # of each view

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.sizes)


def axes_of(views: Sequence[View], only: Sequence[int] | None = None) -> Axes:
    """The axes of views of one shape, as few as there can be, in the order of the last view.

    Args:
        views: of the same shape.
        only: the axes to take; all by default.
    """
    last = views[-1]
    chosen = range(len(last.shape)) if only is None else only
    order = sorted((a for a in chosen if last.shape[a] > 1), key=lambda a: -abs(last.strides[a]))
    if all(last.strides[axis] == 0 for axis in order):
        order = sorted(order, key=lambda axis: -abs(views[0].strides[axis]))
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in views]
    for axis in order:
        size = last.shape[axis]
        steps = [view.strides[axis] for view in views]
        if sizes and all(own[-1] == step * size for own, step in zip(strides, steps, strict=True)):
            sizes[-1] *= size
            for own, step in zip(strides, steps, strict=True):
                own[-1] = step
            continue
        sizes.append(size)
        for own, step in zip(strides, steps, strict=True):
            own.append(step)
    return Axes(tuple(sizes), tuple(map(tuple, strides)))


def offsets(entry: Entry, axes: Axes, number: str) -> list[str]:
    """For each view a register (s32) with the elements from its begin to element ``number``."""
    results = entry.registers("u32", len(axes.strides))
    for result in results:
        entry.add(f"mov.u32 {result}, 0")
    left = number
    for axis in reversed(range(len(axes.sizes))):
        index = left
        if axis:
            whole, index = entry.registers("u32", 2)
            size = axes.sizes[axis]
            entry.add(f"div.u32 {whole}, {left}, {size}")
            entry.add(f"mad.lo.s32 {index}, {whole}, {-size}, {left}")
            left = whole
        for result, strides in zip(results, axes.strides, strict=True):
            if strides[axis]:
                entry.add(f"mad.lo.s32 {result}, {index}, {strides[axis]}, {result}")
    return results
