"""Pools, Resize, normalisations and reductions, against ONNX Runtime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from lowered import Small, check, ints, refusal, single, steps

POOLS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "overlapping": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "asymmetric": {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [0, 1, 2, 0]},
    "rounded up": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "rounded up, padded": {
        "kernel_shape": [3, 3],
        "strides": [3, 3],
        "pads": [1, 1, 1, 1],
        "ceil_mode": 1,
    },
    "same": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
    "dilated": {"kernel_shape": [2, 2], "dilations": [2, 3]},
    "whole": {"kernel_shape": [7, 6]},
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool(op: str, name: str) -> None:
    attributes = POOLS[name]
    check(single(op, (2, 3, 7, 6), **attributes), 2)
    if op == "AveragePool":
        check(single(op, (1, 3, 7, 6), count_include_pad=1, **attributes))


def test_pools_over_sequences() -> None:
    check(single("MaxPool", (2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 0]), 2)
    check(single("AveragePool", (2, 3, 9), kernel_shape=[4], strides=[2], ceil_mode=1), 2)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op: str) -> None:
    for shape in ((2, 3, 5, 4), (1, 17, 3)):
        assert steps(check(single(op, shape), shape[0])) == {"Reduce": 1}


def test_indices_of_a_pool_are_refused() -> None:
    found = refusal(single("MaxPool", (1, 2, 4, 4), kernel_shape=[2, 2], outputs=2))
    assert (found.operator, found.reason) == ("MaxPool", "its output 1 is read")


TRANSFORMS = ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [(8, 10), (7, 3), (1, 1), (4, 5), (13, 2)])
def test_resize(transform: str, size: tuple[int, int]) -> None:
    x, sizes = (2, 3, 4, 5), ints(2, 3, *size)
    attributes = {"coordinate_transformation_mode": transform}
    for rounding in ROUNDINGS:
        net = single("Resize", x, None, None, sizes, nearest_mode=rounding, **attributes)
        check(net, 2)
    check(single("Resize", x, None, None, sizes, mode="linear", **attributes), 2)


@pytest.mark.parametrize(
    ("mode", "transform"), itertools.product(("nearest", "linear"), TRANSFORMS)
)
def test_resize_by_scales(mode: str, transform: str) -> None:
    for scales in ([1, 1, 2, 2], [1, 1, 1.5, 0.6], [1, 1, 0.5, 3]):
        array = np.array(scales, np.float32)
        attributes = {"mode": mode, "coordinate_transformation_mode": transform}
        check(single("Resize", (1, 2, 6, 5), None, array, **attributes))


def test_resize_of_older_versions() -> None:
    scales = np.float32([1, 1, 2, 3])
    check(single("Upsample", (1, 2, 3, 4), scales, opset=9))
    check(single("Upsample", (1, 2, 3, 4), scales, opset=9, mode="linear"))
    check(single("Resize", (1, 2, 3, 4), scales, opset=10))
    check(single("Resize", (1, 2, 3), None, np.float32([1, 1, 2])))
    check(single("Resize", (1, 2, 3, 4), None, None, ints(6, 8), axes=[2, 3]), 1)


def test_what_resize_does_not_know_is_refused() -> None:
    scales = np.float32([1, 1, 2, 2])
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    model = single("Resize", (1, 2, 3, 4), np.float32([0] * 4 + [1] * 4), scales, **crop)
    assert "tf_crop_and_resize" in refusal(model).reason
    volume = single("Upsample", (1, 2, 3, 4, 5), np.float32([1, 1, 2, 2, 2]), opset=9)
    assert "3 spatial axes" in refusal(volume).reason


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op: str) -> None:
    for axis in (0, 1, 2, -1):
        check(single(op, (2, 5, 3), axis=axis), 2)
        check(single(op, (2, 5, 3), axis=axis, opset=11), 2)
    check(single(op, (2, 5, 3)), 2)


def test_layer_normalization() -> None:
    random = np.random.default_rng(0)
    for axis, shape in ((-1, (4,)), (1, (3, 4)), (2, (4,))):
        scale, bias = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
        check(single("LayerNormalization", (2, 3, 4), scale, bias, axis=axis, epsilon=1e-3), 2)
        check(single("LayerNormalization", (2, 3, 4), scale, axis=axis), 2)


def test_instance_and_group_normalization() -> None:
    random = np.random.default_rng(0)
    scale, bias = (random.standard_normal(6).astype(np.float32) for _ in range(2))
    for shape in ((2, 6, 4, 5), (2, 6, 7)):
        check(single("InstanceNormalization", shape, scale, bias), 2)
        check(single("GroupNormalization", shape, scale, bias, num_groups=3, opset=21), 2)


def test_lp_normalization() -> None:
    for p in (1, 2):
        check(single("LpNormalization", (2, 3, 4), axis=1, p=p), 2)
    feeds = {"in0": np.zeros((1, 3), np.float32)}
    check(single("LpNormalization", (1, 3)), feeds=feeds)


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions(kind: str) -> None:
    op = f"Reduce{kind}"
    for axes, keep in (([1], 1), ([0, -1], 0), ([2, 3], 1), ([1, 2, 3], 0)):
        check(single(op, (2, 3, 4, 5), ints(*axes), keepdims=keep), 2)
    check(single(op, (2, 3, 4)), 2)
    check(single(op, (2, 3, 4), axes=[1], opset=11), 2)
    check(single("ReduceSum", (2, 3, 4), noop_with_empty_axes=1), 2)


# -- norms written out -----------------------------------------------------------------------------


def layer_norm(net: Small, x: str, form: int = 0) -> str:
    d = net.node("Sub", x, net.node("ReduceMean", x, ints(-1)))
    square = net.node("Pow", d, np.float32(2)) if form else net.node("Mul", d, d)
    inner = net.node("Add", net.node("ReduceMean", square, ints(-1)), np.float32(1e-5))
    root = net.node("Sqrt", inner)
    if form == 2:
        return net.node("Mul", d, net.node("Reciprocal", root))
    return net.node("Div", d, root)


def rms_norm(net: Small, x: str, form: int = 0) -> str:
    square = net.node("Pow", x, np.float32(2)) if form else net.node("Mul", x, x)
    inner = net.node("Add", net.node("ReduceMean", square, ints(-1)), np.float32(1e-6))
    if form == 1:
        return net.node("Mul", x, net.node("Div", np.float32(1), net.node("Sqrt", inner)))
    if form == 2:
        return net.node("Mul", x, net.node("Pow", inner, np.float32(-0.5)))
    return net.node("Mul", x, net.node("Reciprocal", net.node("Sqrt", inner)))


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
@pytest.mark.parametrize("opset", [14, 20])
def test_norms_written_out_are_one_step(norm: Any, form: int, opset: int) -> None:
    net = Small(18 if opset == 14 else opset)
    if opset == 14:  # no LayerNormalization to fuse it into, axes as attributes
        net.node = _with_axes(net)  # type: ignore[method-assign]
        net.opset = 14
    x = net.input(2, 3, 8)
    y = net.node("Mul", norm(net, x, form), net.normal(8))
    plan = check(net.model(net.node("Add", y, net.normal(8))), 2)
    assert steps(plan) == {"Norm": 1}


def _with_axes(net: Small) -> Any:
    plain = net.node

    def node(op: str, *inputs: Any, **attributes: Any) -> Any:
        if op == "ReduceMean":
            return plain(op, inputs[0], axes=inputs[1].tolist(), **attributes)
        return plain(op, *inputs, **attributes)

    return node


def test_what_only_looks_like_a_norm_is_computed_as_it_is() -> None:
    net = Small(14)
    x = net.input(2, 8, 8)
    mean = net.node("ReduceMean", net.node("Mul", x, x), axes=[1])  # the other axis, not kept
    root = net.node("Sqrt", net.node("Add", mean, np.float32(1e-6)))
    plan = check(net.model(net.node("Div", net.node("Neg", x), root)), 2)
    assert "Norm" not in steps(plan)
    net = Small(14)
    x, z = net.input(2, 3, 8), net.input(2, 3, 8)
    mean = net.node("ReduceMean", net.node("Mul", z, z), axes=[2])
    root = net.node("Sqrt", net.node("Add", mean, np.float32(1e-6)))
    assert "Norm" not in steps(check(net.model(net.node("Div", x, root)), 2))


def test_a_group_norm_written_out_flattens_nothing() -> None:
    net = Small()
    x = net.conv(net.input(2, 3, 5, 5), 3, 8)
    flat = net.node("Reshape", x, ints(2, 4, -1))
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    y = net.node("Reshape", net.node("InstanceNormalization", flat, ones, zeros), ints(2, 8, 5, 5))
    y = net.node("Add", net.node("Mul", y, net.normal(8, 1, 1)), net.normal(8, 1, 1))
    plan = check(net.model(net.conv(y, 8, 3)), 2)
    assert steps(plan) == {"Copy": 2, "Conv": 2, "Norm": 1}
