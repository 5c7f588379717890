"""The batch-innermost layout: planes in the order height, width, batch, for sixteen images.

With the batch innermost every pixel is one whole vector. Then the shifted planes of a window's taps
are aligned, images need not be as wide as vectors are, and strides take vectors, not elements.
Only the strides of views change; a plan that is not all images stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunedeploy.runtimes.sparse.plan import steps, views
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan

IMAGES = views.UNIT  # images of a batch that is laid out so: as many as the widest vector has lanes
MOVABLE = (Conv, steps.Copy, steps.Fill, steps.Map, steps.Pool, steps.Reduce, steps.Softmax)


def to_batch_innermost(plan: Plan) -> Plan:
    """``plan`` with the batch innermost, or as it is where it is not all of sixteen images."""
    if plan.batch != IMAGES or not all(isinstance(step, MOVABLE) for step in plan.steps):
        return plan
    sizes = _pixels(plan)
    if sizes is None or not any(size > 1 for size in sizes.values()):
        return plan
    if any(isinstance(step, Conv) and _makes_images(step) for step in plan.steps):
        return plan
    moved = [_step(step, plan, sizes) for step in plan.steps]
    if any(step is None for step in moved):
        return plan
    return replace(plan, steps=tuple(step for step in moved if step is not None))


def _makes_images(step: Conv) -> bool:
    """Whether it makes images of single pixels; kernels tell layouts by ``x``, which has none."""
    return step.x.shape[2:] == (1, 1) and step.y.shape[2:] != (1, 1)


def innermost_images(view: views.View) -> int:
    """The images that lie innermost in a planar view [N, C, H, W]: N, or 1 in the usual order."""
    images, _, height, width = view.shape
    if images == 1 or height * width == 1:
        return 1
    step = view.strides[3] if width > 1 else view.strides[2]
    return images if step == images and view.strides[0] == 1 else 1


def _pixels(plan: Plan) -> dict[int, int] | None:
    """The pixels of an image, by buffer of the arena; None where one holds anything but images."""
    sizes: dict[int, int] = {}
    touched: set[int] = set()
    for step in plan.steps:
        for view in (*steps.reads(step), *steps.writes(step)):
            if plan.buffers[view.buffer].space != "arena":
                continue
            touched.add(view.buffer)
            if isinstance(step, Conv | steps.Pool) and view.shape[0] != plan.batch:
                return None
            if len(view.shape) == 4 and view.shape[0] == plan.batch and views.is_planar(view, 1):
                pixels = view.shape[2] * view.shape[3]
                if sizes.setdefault(view.buffer, pixels) != pixels:
                    return None
    return sizes if touched <= sizes.keys() else None


def _step(step: steps.Step, plan: Plan, sizes: dict[int, int]) -> steps.Step | None:
    """``step`` on batch-innermost views; None where one of them cannot be such."""
    changed: dict[str, Any] = {}
    for name in ("x", "y", "residual", "outer"):
        view = getattr(step, name, None)
        if view is not None:
            changed[name] = _view(view, plan, sizes)
    if isinstance(step, steps.Map):
        inputs = tuple(_view(view, plan, sizes) for view in step.inputs)
        changed["inputs"] = inputs if None not in inputs else None
    return None if None in changed.values() else replace(step, **changed)


def _view(view: views.View, plan: Plan, sizes: dict[int, int]) -> views.View | None:
    """``view`` with the batch innermost: element n * pixels + p of a plane goes to p * N + n.

    n is the image, p the pixel. None where an axis runs over images and pixels at once.
    """
    if plan.buffers[view.buffer].space != "arena" or sizes[view.buffer] == 1:
        return view
    pixels, images = sizes[view.buffer], plan.batch
    plane = views.plane_stride(pixels * images)
    strides = []
    for size, stride in zip(view.shape, view.strides, strict=True):
        if size == 1 or stride % plane == 0:
            strides.append(stride)
        elif stride % pixels == 0:
            strides.append(stride // pixels)
        elif stride * (size - 1) < pixels:
            strides.append(stride * images)
        else:
            return None
    channel, rest = divmod(view.offset, plane)
    image, pixel = divmod(rest, pixels)
    return replace(view, strides=tuple(strides), offset=channel * plane + pixel * images + image)
