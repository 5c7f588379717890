"""Models of a few hundred bytes that would make terabytes, or never end: refused beforehand."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.core.budget import OverBudgetError
from prunedeploy.graph import preparation
from prunedeploy.passes.simplify.fold_constants import FoldConstants
from prunedeploy.reference.evaluate import Evaluator, evaluate_node

ONES = np.ones((2, 2), np.float32)
PIXELS = np.ones((1, 1, 2, 2), np.float32)
SIDE = np.array([1 << 17, 1 << 17], np.int64)
KERNEL = np.ones((1, 1, 3, 3), np.float32)


def model(nodes: list, weights: dict[str, object]) -> ir.Model:
    """``nodes`` that make c of the weights, whose largest element is added to the input."""
    nodes = [
        *nodes,
        helper.make_node("ReduceMax", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    return preparation.from_proto(helper.make_model(graph, opset_imports=[opset])).model


def node(operator: str, *inputs: str, **attributes: object):
    return helper.make_node(operator, list(inputs), ["c"], **attributes)


BOMBS = {
    "ConstantOfShape": (node("ConstantOfShape", "s"), {"s": SIDE}),
    "Expand": (node("Expand", "a", "s"), {"a": np.float32(1), "s": SIDE}),
    "Expand of the input": (node("Expand", "x", "s"), {"s": np.array([1 << 30, 1, 1])}),
    "Tile": (node("Tile", "a", "s"), {"a": ONES, "s": SIDE}),
    "Range": (
        node("Range", "a", "b", "d"),
        dict(zip("abd", np.float32([0, 1e11, 1]), strict=True)),
    ),
    "Resize": (node("Resize", "a", "", "s"), {"a": PIXELS, "s": np.float32([1, 1, 1e5, 1e5])}),
    "Pad": (node("Pad", "a", "s"), {"a": ONES, "s": np.array([0, 0, *SIDE])}),
    "OneHot": (
        node("OneHot", "a", "d", "v"),
        {"a": np.arange(999), "d": np.int64(1 << 28), "v": np.float32([0, 1])},
    ),
    "an outer product": (
        node("Mul", "a", "b"),
        {"a": np.ones((1 << 16, 1), np.float32), "b": np.ones((1, 1 << 16), np.float32)},
    ),
    "MaxPool": (node("MaxPool", "a", kernel_shape=[3, 3], pads=[1 << 17] * 4), {"a": PIXELS}),
    "ConvTranspose": (
        node("ConvTranspose", "a", "k", strides=[1 << 16] * 2),
        {"a": KERNEL, "k": KERNEL},
    ),
    "HannWindow": (node("HannWindow", "s"), {"s": np.int64(1 << 34)}),
}


def refused(program: ir.Model) -> str:
    feeds = {"x": np.ones((2, 4), np.float32)}
    tracemalloc.start()
    try:
        with pytest.raises(OverBudgetError) as caught:
            Evaluator(program).run(feeds)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("what", BOMBS)
def test_results_that_are_foreseen(what: str) -> None:
    made, weights = BOMBS[what]
    program = model([made], weights)
    assert what.split()[0] in refused(program) or what.startswith("an ")
    FoldConstants()(program)  # takes none of it either
    refused(program)


def test_a_chain_that_doubles() -> None:
    """Shape inference would write out a list of 2^40 sizes, too."""
    names = ["a", *(f"v{at}" for at in range(38)), "c"]
    nodes = [
        helper.make_node("Concat", [one, one], [other], axis=0)
        for one, other in itertools.pairwise(names)
    ]
    program = model(nodes, {"a": np.ones(4, np.float32)})
    FoldConstants()(program)
    assert "Concat" in refused(program)


def loop(body_node: str, trips: int) -> ir.Model:
    info = helper.make_tensor_value_info
    grows = {"axis": 0} if body_node == "Concat" else {}
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node(body_node, ["s", "s"], ["t"], **grows),
        ],
        "body",
        [info("i", 7, []), info("going", 9, []), info("s", 1, None)],
        [info("on", 9, []), info("t", 1, None)],
    )
    weights = {"t0": np.int64(trips), "a": np.ones(4, np.float32)}
    return model([node("Loop", "t0", "", "a", body=body)], weights)


def test_a_loop_without_end() -> None:
    begin = time.process_time()
    assert "a loop" in refused(loop("Add", 1 << 62))
    assert time.process_time() - begin < 60


def test_a_loop_that_doubles() -> None:
    assert "Concat" in refused(loop("Concat", 60))


def test_a_loop_that_ends_runs() -> None:
    feeds = {"x": np.zeros((1, 4), np.float32)}
    assert Evaluator(loop("Add", 10)).run(feeds)["y"].max() == 1024


def test_what_is_let_go_counts_no_more() -> None:
    """Forty times 2^22 elements one after the other: never two of them at a time."""
    nodes, last = [], "x"
    for at in range(40):
        nodes += [
            helper.make_node("Expand", [last, "s"], [f"e{at}"]),
            helper.make_node("ReduceMax", [f"e{at}"], [f"m{at}"], axes=[0, 1], keepdims=1),
        ]
        last = f"m{at}"
    nodes.append(node("Identity", last))
    program = model(nodes, {"s": np.array([1 << 20, 1, 4])})
    Evaluator(program).run({"x": np.ones((1, 4), np.float32)})


def test_views_that_repeat_numbers_take_time_though_no_memory() -> None:
    repeated = np.broadcast_to(np.float32(1), (1 << 17, 1 << 17))
    node = ir.from_proto(helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0))
    with pytest.raises(OverBudgetError, match="17,179,869,184 elements"):
        evaluate_node(node, {"": 17}, [repeated])
    (most,) = evaluate_node(node, {"": 17}, [np.broadcast_to(np.float32(1), (1 << 9, 1 << 9))])
    assert most == 1
