"""Computed indices, the largest elements, sums of all before, integers; against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import Small, check, ints, refusal, single, steps
from plan_interpreter import evaluate

from prunedeploy.runtimes.sparse.plan.lower import Plan, lower


def indexed(op: str, shape: tuple[int, ...], index: Any, size: int, **attributes: Any) -> None:
    """Data of ``shape`` and indices that are an input, or computed from one."""
    net = Small()
    x = net.input(*shape)
    indices = net.input(*index, dtype=np.int64)
    y = net.node(op, x, indices, **attributes)
    feeds = {
        x: net.normal(*shape),
        indices: net.random.integers(-size, size, index),
    }
    plan = check(net.model(y), shape[0], feeds=feeds)
    assert "Take" in steps(plan)


def test_gather_by_computed_indices() -> None:
    indexed("Gather", (3, 7, 5), (2, 4), 3)
    indexed("Gather", (3, 7, 5), (2, 4), 5, axis=2)
    indexed("Gather", (3, 7, 5), (), 7, axis=1)
    indexed("GatherElements", (3, 7, 5), (3, 4, 5), 7, axis=1)
    indexed("GatherElements", (3, 7, 5), (2, 7, 3), 5, axis=-1)
    indexed("GatherND", (3, 3, 3, 5), (4, 2), 3)
    indexed("GatherND", (3, 3, 3, 5), (3, 6, 2), 3, batch_dims=1)
    indexed("GatherND", (3, 7, 5), (3, 6, 1), 7, batch_dims=1)


def test_an_index_outside_of_its_axis_alone_is_seen() -> None:
    net = Small()
    x, indices = net.input(2, 3), net.input(1, 2, dtype=np.int64)
    model = net.model(net.node("GatherND", x, indices))
    plan = lower(model, 2)
    assert isinstance(plan, Plan)
    feeds = {x: net.normal(2, 3), indices: np.array([[0, 2]])}
    assert evaluate(plan, feeds)
    feeds[indices] = np.array([[0, 3]])  # element 3 of all is there
    with pytest.raises(IndexError):
        evaluate(plan, feeds)


def test_a_table_that_is_looked_up_along_another_axis() -> None:
    net = Small()
    indices = net.input(1, 4, dtype=np.int64)
    y = net.node("Gather", net.normal(3, 6), indices, axis=1)
    check(net.model(y), 1, feeds={indices: np.array([[0, 5, -1, 2]])})


def test_scatter_at_known_places() -> None:
    net = Small()
    x, updates = net.input(4, 3, 5), net.input(4, 5)
    places = np.array([[0, 1], [3, 2], [0, 1], [-1, 0]])
    check(net.model(net.node("ScatterND", x, places, updates)), 4)
    places = np.stack([np.repeat([1, 2], 3), np.tile(np.arange(3), 2)], 1)
    y = net.node("ScatterND", np.zeros((4, 3, 5), np.float32), places, net.input(6, 5))
    check(net.model(y), 4)
    assert (
        "reductions"
        in refusal(
            net.model(net.node("ScatterND", x, places[:4], updates, reduction="add")), 4
        ).reason
    )


@pytest.mark.parametrize("largest", [0, 1])
def test_the_largest_elements(largest: int) -> None:
    for shape, axis in (((2, 9, 5), 1), ((2, 7), -1), ((3, 4, 6), 0)):
        net = Small()
        x = net.input(*shape)
        values, indices = net.node("TopK", x, ints(3), outputs=2, axis=axis, largest=largest)
        feeds = {x: np.round(net.normal(*shape) * 2)}  # with equal ones
        plan = check(net.model(values, indices), shape[0], feeds=feeds)
        assert [port.dtype for port in plan.outputs] == ["float32", "int64"]


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_where_the_largest_element_is(op: str) -> None:
    for axis, attributes in ((0, {}), (2, {"keepdims": 0}), (1, {"select_last_index": 1})):
        net = Small()
        x = net.input(2, 5, 7)
        y = net.node(op, x, axis=axis, **attributes)
        check(net.model(y), 2, feeds={x: np.round(net.normal(2, 5, 7))})


def test_cumulative_sums_and_triangles() -> None:
    for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        check(single("CumSum", (2, 5, 3), np.array(1), **attributes), 2)
    check(single("CumSum", (2, 5), np.array([-1])), 2)
    assert "2048" in refusal(single("CumSum", (1, 3000), np.array(1))).reason
    for upper, k in ((0, 0), (1, 2), (0, -1)):
        check(single("Trilu", (2, 4, 6), np.array(k), upper=upper), 2)


def test_positions_from_a_mask_of_attention() -> None:
    """As RoBERTa counts tokens that are not padding."""
    net = Small()
    tokens = net.input("batch", 6, dtype=np.int64)
    padding = net.node("Equal", tokens, ints(1))
    kept = net.node("Cast", net.node("Not", padding), to=6)
    counted = net.node("Mul", net.node("CumSum", kept, np.array(1)), kept)
    places = net.node("Add", net.node("Cast", counted, to=7), ints(1))
    y = net.node("Gather", net.normal(9, 4), places)
    feeds = {tokens: np.array([[5, 6, 7, 1, 1, 1], [5, 1, 8, 9, 2, 1]])}
    check(net.model(y, places), 2, feeds=feeds)


def test_arithmetic_of_integers() -> None:
    net = Small()
    x = net.input(3, 8)
    values, top = net.node("TopK", x, ints(5), outputs=2)
    outputs = [values, net.node("Mod", top, ints(3)), net.node("Div", top, ints(-3))]
    outputs.append(net.node("Mod", net.node("Sub", top, ints(4)), ints(3)))
    outputs.append(net.node("Div", net.node("Sub", top, ints(4)), ints(3)))
    outputs.append(net.node("Concat", top, net.node("Neg", top), axis=1))
    outputs.append(net.node("Max", net.node("Abs", net.node("Mul", top, top)), ints(9)))
    outputs.append(net.node("Where", net.node("Less", top, ints(3)), top, ints(7)))
    check(net.model(*outputs), 3)


def test_integers_that_float32_may_round_are_refused() -> None:
    net = Small()
    x = net.input(1, 4, dtype=np.int64)
    assert "round" in refusal(net.model(net.node("Add", x, ints(1)))).reason
    net = Small()
    _, top = net.node("TopK", net.input(1, 9), ints(5), outputs=2)
    large = net.node("Mul", top, ints(1 << 23))
    assert "round" in refusal(net.model(large)).reason


def moved(net: Small, way: str) -> str:
    """Integers that pass through float32 on their way out."""
    large = np.array([2**40 + 1, 1, 2])
    if way == "elements of an input":
        return net.node("Gather", net.input(4, dtype=np.int64), net.input(4, dtype=np.int64))
    if way == "known elements of an input":
        return net.node("Gather", net.input(4, 6, dtype=np.int64), ints(0, 3, 2), axis=1)
    if way == "elements of a table":
        return net.node("Gather", large, net.input(4, dtype=np.int64))
    if way == "elements one by one":
        x, index = (net.input(4, dtype=np.int64) for _ in range(2))
        return net.node("GatherElements", x, index)
    if way == "elements of all axes":
        x, index = (net.input(4, 2, dtype=np.int64) for _ in range(2))
        return net.node("GatherND", x, index)
    if way == "a constant":
        net.node("Relu", net.input(4))
        return net.node("Add", large, ints(1))
    _, top = net.node("TopK", net.input(4, 9), ints(5), outputs=2)
    return net.node("CumSum", net.node("Mul", top, ints(1 << 20)), np.array(1))


@pytest.mark.parametrize(
    "way",
    ["elements of an input", "known elements of an input", "elements of a table",
     "elements one by one", "elements of all axes", "a constant", "sums"],
)  # fmt: skip
def test_outputs_of_integers_that_float32_may_round_are_refused(way: str) -> None:
    net = Small()
    found = refusal(net.model(moved(net, way)), 4)
    assert found.operator == "output"
    assert found.reason == "float32 may round its integers"


def test_integers_that_are_only_viewed_or_small_go_out_as_they_came() -> None:
    net = Small()
    x, index = net.input(2, 6, dtype=np.int64), net.input(3, dtype=np.int64)
    small = net.node("Gather", np.array([2**24 - 1, 5, -7]), index)
    model = net.model(net.node("Transpose", x, perm=[1, 0]), small)
    check(model, 2, feeds={x: np.arange(12).reshape(2, 6) + 2**40, index: np.array([2, 0, 1])})


@pytest.mark.parametrize(("op", "second"), [("Sub", 1), ("Add", 1), ("Mul", 2), ("Neg", None)])
def test_bytes_that_may_wrap_around_are_refused(op: str, second: int | None) -> None:
    net = Small()
    x = net.input(1, 4, dtype=np.uint8)
    others = [] if second is None else [np.array([second], np.uint8)]
    model = net.model(net.node("Cast", net.node(op, x, *others), to=1))
    assert refusal(model).reason == "uint8 may wrap around"


def test_bytes_that_become_larger_integers_do_not_wrap_around() -> None:
    net = Small()
    x = net.input(2, 5, dtype=np.uint8)
    halves = net.node("Div", x, np.array([2], np.uint8))
    least = net.node("Sub", net.node("Cast", x, to=7), ints(255))
    feeds = {x: np.array([[0, 1, 2, 254, 255]] * 2, np.uint8)}
    check(net.model(halves, least), 2, feeds=feeds)


def test_integers_go_out_as_the_type_they_were_cast_to() -> None:
    net = Small()
    x = net.input(2, 9)
    values, top = net.node("TopK", x, ints(5), outputs=2)
    largest = net.node("ArgMax", x, axis=1, keepdims=0)
    small = [net.node("Cast", each, to=6) for each in (top, largest)]
    plan = check(net.model(values, largest, *small), 2)
    assert [port.dtype for port in plan.outputs] == ["float32", "int64", "int32", "int32"]


def test_values_that_are_no_numbers() -> None:
    net = Small()
    x = net.input(2, 6)
    odd = np.array([[1, np.nan, -np.inf, np.inf, 0, -1]] * 2, np.float32)
    fixed = net.node("Where", net.node("IsNaN", x), np.float32(0), x)
    outputs = [fixed, net.node("IsInf", x), net.node("IsInf", x, detect_negative=0)]
    outputs.append(net.node("Xor", net.node("IsNaN", x), net.node("Greater", x, np.float32(0))))
    check(net.model(*outputs), 2, feeds={x: odd})


def test_integers_of_every_type_go_in_and_out() -> None:
    net = Small()
    x = net.input(2, 5, dtype=np.uint8)
    real = net.node("Cast", x, to=1)
    small = net.node("Greater", real, np.float32(99))
    feeds = {x: net.random.integers(0, 256, (2, 5)).astype(np.uint8)}
    plan = check(
        net.model(net.node("Div", real, np.float32(255)), small, net.node("Cast", small, to=6)),
        2,
        feeds=feeds,
    )
    assert [port.dtype for port in plan.outputs] == ["float32", "bool", "int32"]


def test_borders_that_repeat_what_is_inside() -> None:
    for mode in ("reflect", "edge", "wrap"):
        for pads in (
            (0, 0, 1, 2, 0, 0, 3, 1),
            (0, 0, 0, 2, 0, 0, 0, 0),
            (0, 0, -1, 2, 0, 0, 1, -2),
        ):
            if mode == "reflect" or min(pads) >= 0:
                check(single("Pad", (2, 3, 5, 6), ints(*pads), mode=mode, opset=19), 2)
    steps_of = steps(
        check(single("Pad", (1, 2, 40, 8), ints(0, 0, 9, 0, 0, 0, 9, 0), mode="reflect"))
    )
    assert steps_of == {"Copy": 3}
