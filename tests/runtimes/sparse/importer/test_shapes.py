"""Operators that only move elements, against ONNX Runtime; what moves nothing is a view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import Small, check, ints, refusal, single, steps

SHAPE = (2, 6, 4)
MOVES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "reshape": ("Reshape", (SHAPE, ints(2, -1, 3)), {}),
    "reshape keeping": ("Reshape", (SHAPE, ints(0, 0, 2, -1)), {}),
    "flatten": ("Flatten", (SHAPE,), {"axis": 2}),
    "flatten to one row": ("Flatten", (SHAPE,), {"axis": 0}),
    "flatten from the end": ("Flatten", (SHAPE,), {"axis": -1}),
    "squeeze": ("Squeeze", ((2, 1, 3, 1),), {}),
    "squeeze one": ("Squeeze", ((2, 1, 3, 1), ints(-1)), {}),
    "unsqueeze": ("Unsqueeze", (SHAPE, ints(0, -1, 2)), {}),
    "transpose": ("Transpose", (SHAPE,), {"perm": [2, 0, 1]}),
    "transpose all": ("Transpose", (SHAPE,), {}),
    "expand": ("Expand", ((2, 1, 4), ints(3, 1, 5, 1)), {}),
    "tile": ("Tile", (SHAPE, ints(1, 3, 2)), {}),
    "slice": ("Slice", (SHAPE, ints(1, -3), ints(100, -1), ints(1, -1)), {}),
    "slice with steps": ("Slice", (SHAPE, ints(0), ints(6), ints(1), ints(3)), {}),
    "slice backwards": ("Slice", (SHAPE, ints(-1), ints(-100), ints(1), ints(-2)), {}),
    "gather": ("Gather", (SHAPE, ints(3, -1, 0, 0)), {"axis": 1}),
    "gather a grid": ("Gather", (SHAPE, ints(0, 3, 1, 4, 2, 5)), {"axis": 1}),
    "gather part of a grid": ("Gather", (SHAPE, ints(0, 3, 1, 4)), {"axis": 1}),
    "gather backwards": ("Gather", (SHAPE, ints(5, 3, 1)), {"axis": 1}),
    "gather one": ("Gather", (SHAPE, np.array(-2)), {"axis": 2}),
    "gather a matrix": ("Gather", (SHAPE, np.array([[0, 2], [5, 1]])), {"axis": 1}),
    "gather the same": ("Gather", (SHAPE, ints(2, 2, 2)), {"axis": 1}),
    "pad": ("Pad", (SHAPE, ints(0, 1, 2, 0, 3, 0), np.float32(1.5)), {}),
    "pad some": ("Pad", (SHAPE, ints(1, 2), None, ints(-1)), {}),
    "pad and cut": ("Pad", (SHAPE, ints(0, -1, 2, 0, 0, -3)), {}),
    "depth to space": ("DepthToSpace", ((2, 12, 2, 3),), {"blocksize": 2}),
    "depth to space CRD": ("DepthToSpace", ((2, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", ((2, 3, 4, 6),), {"blocksize": 2}),
    "identity": ("Identity", (SHAPE,), {}),
    "dropout": ("Dropout", (SHAPE,), {}),
    "concat with a constant": ("Concat", (SHAPE, np.ones((2, 1, 4), np.float32)), {"axis": 1}),
    "concat": ("Concat", (SHAPE, (2, 3, 4), (2, 1, 4)), {"axis": -2}),
    "concat of the batch": ("Concat", (SHAPE, (1, 6, 4)), {"axis": 0}),
}


@pytest.mark.parametrize("planes", [False, True], ids=["C order", "planes"])
@pytest.mark.parametrize("name", MOVES)
def test_move(name: str, planes: bool) -> None:
    op, inputs, attributes = MOVES[name]
    net = Small()
    names = []
    for value in inputs:
        if not isinstance(value, tuple):
            names.append(value)
            continue
        x = net.input(*value)
        if planes:  # behind a layer tensors lie as planes of their axis 1
            wide = net.node("Reshape", x, ints(*value[:2], 1, int(np.prod(value[2:]))))
            wide = net.conv(wide, value[1], value[1], 1)
            x = net.node("Reshape", wide, ints(*value))
        names.append(x)
    y = net.node(op, *names, **attributes)
    check(net.model(net.node("Neg", y)), inputs[0][0])
    check(net.model(y), inputs[0][0])


def test_split() -> None:
    check(single("Split", SHAPE, ints(1, 3, 2), axis=1, outputs=3), 2)
    check(single("Split", (2, 7, 4), axis=-2, num_outputs=3, outputs=3), 2)
    check(single("Split", SHAPE, axis=1, split=[5, 1], outputs=2, opset=11), 2)
    check(single("Split", SHAPE, axis=1, outputs=2, opset=11), 2)


def test_older_forms() -> None:
    check(single("Squeeze", (2, 1, 3), axes=[1], opset=11), 2)
    check(single("Unsqueeze", (2, 3), axes=[0, 3], opset=11), 2)
    check(single("Slice", (2, 5), starts=[1], ends=[-1], axes=[1], opset=9), 2)
    check(single("Pad", (2, 5), pads=[0, 1, 0, 2], value=0.5, opset=10), 2)


def test_shapes_are_constants() -> None:
    net = Small()
    x = net.input("batch", 3, 4, 4)
    whole = net.node("Shape", x)
    first = net.node("Gather", whole, np.array(0), axis=0)
    target = net.node("Concat", net.node("Unsqueeze", first, ints(0)), ints(-1), axis=0)
    zeros = net.node("ConstantOfShape", net.node("Slice", whole, ints(2), ints(4)))
    count = net.node("Cast", net.node("Size", zeros), to=1)
    y = net.node("Reshape", net.node("Mul", net.node("Add", x, zeros), count), target)
    assert steps(check(net.model(y), 3)) == {"Map": 1}


def test_a_fixed_batch_in_a_reshape_is_refused() -> None:
    net = Small()
    y = net.node("Reshape", net.input("batch", 3, 4), ints(1, 12))
    found = refusal(net.model(y), 2)
    assert found.operator == "Reshape"
    assert "[2, 3, 4]" in found.reason
    check(net.model(y), 1)


def test_reflection_of_more_than_there_is_is_refused() -> None:
    found = refusal(single("Pad", (2, 5), ints(0, 1, 0, 5), mode="reflect"), 2)
    assert (found.operator, found.reason) == ("Pad", "it reflects 5 of 5 elements")


def test_embeddings_are_looked_up() -> None:
    for dtype in (np.int64, np.int32):
        net = Small()
        ids = net.input(2, 5, dtype=dtype)
        y = net.node("Gather", net.normal(7, 4), ids)
        feeds = {"in0": np.array([[0, 6, -1, 3, -7], [1, 2, 2, 5, 4]], dtype)}
        assert steps(check(net.model(y), 2, feeds=feeds)) == {"Lookup": 1}


# -- views -----------------------------------------------------------------------------------------


def test_parts_of_a_concatenation_are_computed_in_place() -> None:
    net = Small()
    x = net.conv(net.input(2, 3, 5, 5), 3, 4)
    parts = [net.conv(x, 4, outs, 1) for outs in (3, 5)]
    whole = net.node("Concat", *parts, x, axis=1)
    plan = check(net.model(net.conv(whole, 12, 2)), 2)
    assert steps(plan) == {"Copy": 2, "Conv": 4}  # the input and the output alone are copied


def test_concatenations_of_concatenations_are_computed_in_place() -> None:
    net = Small()
    x = net.conv(net.input(1, 3, 5, 5), 3, 4)
    for width in (4, 6, 8):
        x = net.node("Concat", x, net.conv(x, width, 2), axis=1)
    plan = check(net.model(net.conv(x, 10, 2)))
    assert steps(plan) == {"Copy": 2, "Conv": 5}


def test_slices_of_channels_are_read_in_place() -> None:
    net = Small()
    x = net.conv(net.input(3, 3, 5, 5), 3, 8)
    left, right = net.node("Split", x, ints(3, 5), axis=1, outputs=2)
    y = net.node("Add", net.conv(left, 3, 4), net.conv(right, 5, 4))
    assert steps(check(net.model(y), 3)) == {"Copy": 2, "Conv": 3}


def test_a_channel_shuffle_behind_which_all_is_read_is_no_copy() -> None:
    net = Small()
    x = net.conv(net.input(1, 3, 4, 4), 3, 8)
    y = net.node("Reshape", x, ints(1, 2, 4, 4, 4))
    y = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3, 4]), ints(1, 8, 4, 4))
    plan = check(net.model(net.node("Neg", net.node("Reshape", y, ints(1, 4, 2, 4, 4)))))
    assert steps(plan) == {"Copy": 2, "Conv": 1}  # in and out
    plan = check(net.model(net.conv(y, 8, 3)))
    assert steps(plan)["Copy"] == 3  # a layer reads planes


def test_a_pixel_shuffle_is_one_copy() -> None:
    net = Small()
    x = net.conv(net.input(2, 3, 5, 4), 3, 8)
    plan = check(net.model(net.node("DepthToSpace", x, blocksize=2)), 2)
    assert steps(plan) == {"Copy": 2, "Conv": 1}


def test_only_copies_go_backwards() -> None:
    net = Small()
    y = net.node("Slice", net.input(2, 6, 4), ints(-1), ints(-100), ints(1), ints(-1))
    plan = check(net.model(net.node("Softmax", y, axis=1)), 2)
    assert steps(plan) == {"Copy": 1, "Softmax": 1}


def test_what_comes_out_twice_or_comes_in() -> None:
    net = Small()
    x = net.input(2, 3, 4)
    y = net.node("Exp", x)
    z = net.node("Reshape", y, ints(2, 12))
    plan = check(net.model(y, z, net.node("Identity", y)), 2)
    assert steps(plan) == {"Map": 1, "Copy": 2}
    net = Small()
    plan = check(net.model(net.node("Transpose", net.input(2, 3, 4))), 2)
    assert steps(plan) == {"Copy": 1}


def test_what_is_repeated_lies_once() -> None:
    net = Small()
    wide = net.node("Expand", net.normal(1, 1, 7), ints(64, 3, 7))
    plan = check(net.model(net.node("Add", net.input(64, 3, 7), wide)), 64)
    (constant,) = [buffer for buffer in plan.buffers if buffer.space == "constant"]
    assert constant.size == 7
