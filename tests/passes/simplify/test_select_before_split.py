"""Selections from a part of a split axis: moved in front of the split, or left where they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, SelectBeforeSplit, ShrinkChannels
from prunedeploy.passes.simplify import select_before_split
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

HEADS, WIDTH = 3, 4


def apply(model: ir.Model, *steps: passes.Pass) -> list[str]:
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    before = Evaluator(model).run(feeds)
    passes.run(model, steps, feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed
    return [node.op_type for node in model.graph]


def select(net: Net, stacked: str, form: str) -> list[str]:
    """The three of axis 0 of ``stacked``, in one of the ways to write it."""
    squeeze = net.weight(np.array([0]))
    if form == "gather":
        return [
            str(net.node("Gather", stacked, net.weight(np.array(i)), axis=0)) for i in (0, 1, -1)
        ]
    if form == "split":
        parts = net.node("Split", stacked, outputs=3, axis=0, num_outputs=3)
    else:
        bound = [net.weight(np.array([i])) for i in range(4)]
        parts = [net.node("Slice", stacked, bound[i], bound[i + 1], bound[0]) for i in range(3)]
    return [str(net.node("Squeeze", part, squeeze)) for part in parts]


def attention(form: str, dead: dict[int, list[int]], stack_last: bool = False) -> Net:
    """Fused queries, keys and values; ``dead`` dimensions of all heads by which of the three."""
    net = Net(size=3)
    tokens = net.node("Transpose", net.node("Reshape", "input", net.weight(np.array([0, 5, 9]))),
                      perm=[0, 2, 1])  # fmt: skip
    sizes = (HEADS, 3, WIDTH) if stack_last else (3, HEADS, WIDTH)
    weight = net.random.standard_normal((5, *sizes))
    for which, dims in dead.items():
        for dim in dims:
            weight[(slice(None), slice(None), which, dim) if stack_last else
                   (slice(None), which, slice(None), dim)] = 0  # fmt: skip
    x = net.node("MatMul", tokens, net.weight(weight.reshape(5, -1), "qkv.weight"))
    x = net.node("Reshape", x, net.weight(np.array([0, 9, *sizes])))
    x = net.node("Transpose", x, perm=[3, 0, 2, 1, 4] if stack_last else [2, 0, 3, 1, 4])
    q, k, v = select(net, str(x), form)
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    y = net.node("Transpose", y, perm=[0, 2, 1, 3])
    y = net.node("Reshape", y, net.weight(np.array([0, 9, HEADS * WIDTH])))
    out = net.weight(net.random.standard_normal((HEADS * WIDTH, 6)), "out.weight")
    net.last = net.node("MatMul", y, out)  # type: ignore[attr-defined]
    return net


@pytest.mark.parametrize("form", ["gather", "split", "slice"])
@pytest.mark.parametrize("stack_last", [False, True])
def test_queries_and_values_are_cut_for_themselves(form: str, stack_last: bool) -> None:
    net = attention(form, {0: [1], 1: [1], 2: [0, 3]}, stack_last)
    model = net.model(net.last)  # type: ignore[attr-defined]
    apply(model, SelectBeforeSplit(), ShrinkChannels())
    weights = model.graph.initializers
    # one dimension of queries and keys, two of the values, in each head
    assert weights["qkv.weight"].shape == [5, HEADS * (2 * (WIDTH - 1) + WIDTH - 2)]
    assert weights["out.weight"].shape == [HEADS * (WIDTH - 2), 6]


def test_without_it_they_are_cut_alike() -> None:
    net = attention("slice", {0: [1], 1: [1], 2: [0, 3]})
    model = net.model(net.last)  # type: ignore[attr-defined]
    apply(model, ShrinkChannels())
    assert model.graph.initializers["qkv.weight"].shape == [5, 3 * HEADS * WIDTH]


@pytest.mark.parametrize("case", ["whole", "output", "two axes", "unknown"])
def test_what_is_read_otherwise_is_left_alone(case: str) -> None:
    net = Net(channels=6, size=3)
    x = str(net.node("Reshape", "input", net.weight(np.array([0, 3, 2, 9]))))
    one = net.weight(np.array(1))
    outputs = [str(net.node("Gather", x, one, axis=1))]
    if case == "whole":
        outputs.append(str(net.node("Relu", x)))
    elif case == "output":
        outputs.append(x)
    elif case == "two axes":
        outputs.append(str(net.node("Gather", x, one, axis=2)))
    else:
        index = net.node("ArgMax", net.node("Flatten", "input"), axis=1, keepdims=0)
        index = net.node("Mod", index, net.weight(np.array(3)))
        outputs.append(str(net.node("Gather", x, index, axis=1)))
    model = net.model(*outputs)
    before = [node.op_type for node in model.graph]
    assert apply(model, SelectBeforeSplit()) == before


def test_ranges_of_a_part_are_left_where_they_are() -> None:
    net = Net(channels=6, size=3)
    x = net.node("Reshape", "input", net.weight(np.array([0, 2, 3, 9])))
    y = net.node("Gather", x, net.weight(np.array([2, 0])), axis=2)
    model = net.model(str(y))
    assert apply(model, SelectBeforeSplit()) == ["Reshape", "Gather"]


def test_a_part_of_a_part() -> None:
    net = Net(channels=12, size=3)
    x = net.node("Reshape", "input", net.weight(np.array([0, 2, 3, 2, 9])))
    y = net.node("Gather", x, net.weight(np.array([1])), axis=2)
    z = net.node("Slice", y, *[net.weight(np.array([v])) for v in (1, 2, 1)])
    operators = apply(net.model(str(z)), SelectBeforeSplit())
    assert operators == ["Gather", "Gather", "Reshape"]


def test_a_wrong_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = select_before_split._take
    monkeypatch.setattr(
        select_before_split, "_take", lambda stack, value, indices: right(stack, value, indices + 1)
    )
    net = attention("slice", {})
    with pytest.raises(PassError, match="changed the outputs"):
        apply(net.model(net.last), SelectBeforeSplit())  # type: ignore[attr-defined]
