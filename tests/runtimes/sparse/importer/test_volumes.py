"""Convolutions and pools over three axes, and operators that become convolutions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lowered import Small, check, ints, refusal, single

VOLUME = (2, 4, 5, 6, 7)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_over_three_axes(groups: int) -> None:
    for kernel, attributes in (
        ((3, 3, 3), {"pads": [1] * 6}),
        ((2, 1, 3), {"strides": [2, 1, 2], "pads": [0, 1, 0, 2, 0, 1]}),
        ((1, 3, 1), {}),
        ((2, 2, 2), {"dilations": [3, 2, 1]}),
        ((3, 2, 2), {"auto_pad": "SAME_UPPER"}),
    ):
        net = Small()
        weight = net.normal(8, 4 // groups, *kernel)
        y = net.node("Conv", net.input(*VOLUME), weight, net.normal(8), group=groups, **attributes)
        check(net.model(net.node("Relu", y)), 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_whose_planes_do_not_overlap(groups: int) -> None:
    for kernel, strides in (((2, 2, 2), [2, 2, 2]), ((1, 3, 3), [1, 2, 1]), ((3, 1, 1), [3, 1, 1])):
        net = Small()
        weight = net.normal(4, 3, *kernel)
        bias = net.normal(3 * groups)
        y = net.node(
            "ConvTranspose", net.input(*VOLUME), weight, bias, strides=strides, group=groups
        )
        check(net.model(y), 2)
    wide = single("ConvTranspose", VOLUME, np.ones((4, 3, 3, 3, 3), np.float32))
    assert "overlap" in refusal(wide, 2).reason


def test_pools_over_three_axes() -> None:
    forms = (
        {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]},
        {"kernel_shape": [3, 2, 3], "strides": [1, 2, 2], "pads": [1, 0, 1, 1, 1, 1]},
        {"kernel_shape": [2, 3, 2], "strides": [2, 2, 3], "ceil_mode": 1},
        {"kernel_shape": [5, 6, 7]},
    )
    for attributes in forms:
        check(single("MaxPool", VOLUME, **attributes), 2)
        for count in (0, 1):
            check(single("AveragePool", VOLUME, count_include_pad=count, **attributes), 2)


def test_resizes_by_weights() -> None:
    forms = itertools.product(("half_pixel", "align_corners", "asymmetric"), (0, 1))
    for transform, outside in forms:
        attributes = {"coordinate_transformation_mode": transform, "exclude_outside": outside}
        for sizes in (ints(2, 3, 8, 11), ints(2, 3, 3, 4)):
            x = (2, 3, 5, 6)
            check(single("Resize", x, None, None, sizes, mode="cubic", **attributes), 2)
    for mode in ("linear", "cubic"):
        scales = np.float32([1, 1, 0.5, 0.7])
        check(single("Resize", (2, 3, 8, 10), None, scales, mode=mode, antialias=1), 2)
    for mode in ("nearest", "linear"):
        check(single("Resize", VOLUME, None, np.float32([1, 1, 2, 2, 2]), mode=mode), 2)
    check(single("Resize", (2, 3, 4, 5), None, np.float32([1, 2, 1, 1])), 2)


def test_blocks_are_added_where_they_overlap() -> None:
    for image, block, attributes in (
        ((5, 6), (3, 2), {}),
        ((7, 8), (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((6, 6), (2, 2), {"strides": [2, 2]}),
        ((9, 7), (2, 3), {"dilations": [2, 1], "pads": [0, 1, 1, 0]}),
    ):
        front = np.array(attributes.get("pads", [0] * 4)).reshape(2, 2).sum(0)
        steps = attributes.get("strides", [1, 1])
        pace = attributes.get("dilations", [1, 1])
        blocks = [
            int(n + f - d * (k - 1) - 1) // s + 1
            for n, f, d, k, s in zip(image, front, pace, block, steps, strict=True)
        ]
        x = (2, 3 * block[0] * block[1], blocks[0] * blocks[1])
        check(single("Col2Im", x, ints(*image), ints(*block), **attributes), 2)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_images_read_at_a_grid(padding: str) -> None:
    for mode, corners in itertools.product(("linear", "nearest"), (0, 1)):
        net = Small()
        x, grid = net.input(2, 3, 5, 7), net.input(2, 4, 6, 2)
        options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        y = net.node("GridSample", x, grid, **options)
        feeds = {x: net.normal(2, 3, 5, 7), grid: net.normal(2, 4, 6, 2)}
        check(net.model(y), 2, feeds=feeds)
    cubic = single("GridSample", (2, 3, 5, 7), (2, 4, 6, 2), mode="cubic")
    assert "cubic" in refusal(cubic, 2).reason
