"""Three spatial axes as two: the planes of a volume become images of a batch."""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.importer.builder import Builder
from prunedeploy.runtimes.sparse.importer.graph import ConcatOp, PadOp, Tensor
from prunedeploy.runtimes.sparse.importer.operators.geometry import Extents


def planes_of(build: Builder, x: Tensor, space: Extents, groups: int) -> Tensor:
    """[N, C, D, H, W] as an image for each plane of the result, with all planes that its taps meet.

    The channels of a group are in the order tap, channel.
    """
    batch, channels, depth, height, width = x.shape
    front, back = space.front[0], space.back[0]
    if front or back:
        padded = Tensor((batch, channels, depth + front + back, height, width))
        x = build.add(PadOp(build.name, [x], padded, (0, 0, front, 0, 0), 0.0))
    count, each = space.out[0], (batch * space.out[0], groups, 1, channels // groups, height, width)
    parts = []
    for tap in range(space.kernel[0]):
        starts, steps = [0] * 5, [1] * 5
        starts[2], steps[2] = tap * space.dilations[0], space.strides[0]
        part = build.slice(x, starts, steps, (batch, channels, count, height, width))
        parts.append(build.reshape(build.transpose(part, (0, 2, 1, 3, 4)), each))
    joined = parts[0]
    if len(parts) > 1:
        whole = Tensor((*each[:2], len(parts), *each[3:]))
        joined = build.add(ConcatOp(build.name, parts, whole, 2))
    return build.reshape(joined, (each[0], channels * len(parts), height, width))


def images_of(build: Builder, x: Tensor) -> Tensor:
    """Volumes [N, C, D, H, W] as images [N * D, C, H, W]."""
    batch, channels, depth = x.shape[:3]
    moved = build.transpose(x, (0, 2, 1, 3, 4))
    return build.reshape(moved, (batch * depth, channels, *x.shape[3:]))


def volume_of(build: Builder, y: Tensor, batch: int) -> Tensor:
    """Images [N * D, C, H, W] as volumes [N, C, D, H, W]."""
    split = build.reshape(y, (batch, y.shape[0] // batch, *y.shape[1:]))
    return build.transpose(split, (0, 2, 1, 3, 4))


def columns_of(build: Builder, x: Tensor) -> Tensor:
    """[N, C, D, H, W] as images whose rows are planes."""
    return build.reshape(x, (*x.shape[:3], math.prod(x.shape[3:])))
