"""Kernels that transformers need in the PTX machine: products, softmax, norms, lookups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gpu_layers import check, emitted, feeds_of, kinds, lowered
from lowered import Small, ints
from plan_interpreter import evaluate
from ptx.arithmetic import fma32
from ptx.kernels import run_kernels
from ptx.parse import PtxError

from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.matmul import emit_tiles
from prunedeploy.runtimes.sparse.plan.steps import MatMul, Plan


def product(*shapes: tuple[int, ...]) -> Plan:
    net = Small()
    a, b = (net.node("Reshape", net.input(1, *shape), ints(*shape)) for shape in shapes)
    return lowered(net, 1, net.node("MatMul", a, b))


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 1), (1, 1)),
        ((5, 3), (3, 7)),
        ((33, 17), (17, 35)),
        ((2, 3, 7, 20), (2, 3, 20, 9)),
        ((2, 3, 7, 20), (20, 9)),
        ((3, 1, 9, 16), (1, 2, 16, 4)),
        ((4, 31), (2, 31, 65)),
    ],
)
@pytest.mark.parametrize("side", [0, 8, 16])
def test_products(shapes: tuple[tuple[int, ...], ...], side: int) -> None:
    """As scheduled, and with each tile."""
    plan = product(*shapes)
    if not side:
        assert "matmul" in kinds(check(plan))
        return
    feeds = feeds_of(plan)
    kernels, constants = emitted(plan)
    steps = [(i, step) for i, step in enumerate(plan.steps) if isinstance(step, MatMul)]
    chosen = {f"k{i}_0": emit_tiles(step, f"k{i}_0", side) for i, step in steps}
    assert chosen
    kernels = [chosen.get(kernel.name, kernel) for kernel in kernels]
    (found,) = run_kernels(plan, kernels, constants, feeds).values()
    (wanted,) = evaluate(plan, feeds).values()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def attention(batch: int, tokens: int, heads: int, size: int, masked: bool) -> Plan:
    net = Small()
    x, other = net.input("n", tokens, heads * size), net.input("n", tokens, heads * size)
    shape = ints(0, tokens, heads, size)
    q, k, v = (
        net.node("Transpose", net.node("Reshape", y, shape), perm=[0, 2, 1, 3])
        for y in (x, other, net.node("Add", x, other))
    )
    k = net.node("Transpose", k, perm=[0, 1, 3, 2])
    scores = net.node("Mul", net.node("MatMul", q, k), np.float32(1 / math.sqrt(size)))
    if masked:
        scores = net.node("Add", scores, net.input("n", 1, 1, tokens))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    y = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), ints(0, tokens, -1))
    return lowered(net, batch, y)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 5), (3, 33)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(batch: int, tokens: int, masked: bool) -> None:
    plan = attention(batch, tokens, 2, 7, masked)
    products = [step for step in plan.steps if isinstance(step, MatMul)]
    assert products[0].alpha != 1
    assert (products[0].bias is not None) == masked
    check(plan)


def test_a_product_is_summed_in_the_order_of_its_terms() -> None:
    plan = product((9, 21), (21, 6))
    feeds = feeds_of(plan)
    (a,), (b,) = feeds.values()
    total = np.zeros((9, 6), np.float32)
    for term in range(21):
        total = fma32(
            np.repeat(a[:, term, None], 6, axis=1), np.repeat(b[term, None], 9, axis=0), total
        )
    (found,) = run_kernels(plan, *emitted(plan), feeds).values()
    assert np.array_equal(found.view(np.uint32), total.view(np.uint32))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5), -1), ((2, 300), -1), ((2, 9, 5), 1), ((70, 3), 0), ((4, 1), 1)]
)
def test_softmax(op: str, shape: tuple[int, ...], axis: int) -> None:
    net = Small()
    check(lowered(net, shape[0], net.node(op, net.input(*shape), axis=axis)))


def test_softmax_of_what_is_masked() -> None:
    """Nothing of what is minus infinity, NaN where nothing is left or NaN is among it."""
    net = Small()
    plan = lowered(net, 3, net.node("Softmax", net.input(3, 6), axis=-1))
    feeds = feeds_of(plan)
    (x,) = feeds.values()
    x[0, 2:] = -np.inf
    x[1] = -np.inf
    x[2, 4] = np.nan
    (found,) = run_kernels(plan, *emitted(plan), feeds).values()
    assert (found[0, 2:] == 0).all()
    assert abs(found[0].sum() - 1) < 1e-6
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5, 12), -1), ((1, 1, 300), -1), ((2, 7, 3), 1), ((9, 4), -1)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_layer_normalisation(shape: tuple[int, ...], axis: int, biased: bool) -> None:
    net = Small()
    rest = shape[axis:]
    numbers = (net.normal(*rest), net.normal(*rest)) if biased else (net.normal(*rest),)
    y = net.node("LayerNormalization", net.input(*shape), *numbers, axis=axis, epsilon=1e-5)
    assert "norm" in kinds(check(lowered(net, shape[0], y)))


def test_a_mean_far_from_0_costs_no_digits() -> None:
    plan = _norm()
    feeds = feeds_of(plan)
    feeds["in0"] += np.float32(3000)
    (found,) = run_kernels(plan, *emitted(plan), feeds).values()
    (wanted,) = evaluate(plan, feeds).values()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_normalisation_of_planes() -> None:
    net = Small()
    x = net.conv(net.input("n", 3, 6, 7), 3, 5)
    y = net.node("InstanceNormalization", x, net.normal(5), net.normal(5))
    assert "norm" in kinds(check(lowered(net, 2, y)))


def test_normalisation_behind_a_layer_has_its_results_side_by_side() -> None:
    net = Small()
    x = net.node("MatMul", net.input("n", 9, 6), net.normal(6, 40))
    y = net.node("LayerNormalization", x, net.normal(40), net.normal(40))
    (kernel,) = (k for k in check(lowered(net, 3, y)) if k.kind == "norm")
    assert kernel.choice == "8 results of 32 threads"


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 1, 5)])
def test_lookups(shape: tuple[int, ...], dtype: type) -> None:
    net = Small()
    y = net.node("Gather", net.normal(5, 7), net.input(*shape, dtype=dtype))
    assert "lookup" in kinds(check(lowered(net, shape[0], net.node("Relu", y))))


def test_negative_indices_count_from_the_end() -> None:
    net = Small()
    table = net.normal(5, 3)
    plan = lowered(net, 4, net.node("Gather", table, net.input(4, dtype=np.int64)))
    (found,) = run_kernels(plan, *emitted(plan), {"in0": np.array([-1, -5, 4, 0])}).values()
    assert np.array_equal(found, table[[-1, -5, 4, 0]])


@pytest.mark.parametrize("index", [5, -6, 2**33])
def test_an_index_outside_of_the_table_is_noted(index: int) -> None:
    net = Small()
    plan = lowered(net, 4, net.node("Gather", net.normal(5, 3), net.input(4, dtype=np.int64)))
    with pytest.raises(PtxError, match="note error 4"):
        run_kernels(plan, *emitted(plan), {"in0": np.array([0, 1, index, 2])})


def test_elements_by_computed_indices() -> None:
    net = Small()
    x, index = net.input(3, 4, 5), net.input(3, 2, 5, dtype=np.int64)
    plan = lowered(net, 3, net.node("GatherElements", x, index, axis=1))
    feeds = feeds_of(plan)
    feeds[index] %= 4
    feeds[index][0, 0] = -1
    kernels = emitted(plan)
    assert "take" in kinds(kernels[0])
    (found,) = run_kernels(plan, *kernels, feeds).values()
    assert np.array_equal(found, np.take_along_axis(feeds[x], feeds[index], axis=1))
    feeds[index][2, 1, 3] = 4
    with pytest.raises(PtxError, match="note error 4"):
        run_kernels(plan, *kernels, feeds)


# -- planted faults --------------------------------------------------------------------------------


def planted(plan: Plan, kind: str, old: str, new: str, count: int = 1) -> float:
    """The difference to float64 as a share of the range, with a fault in the kernel of a kind."""
    feeds = feeds_of(plan)
    kernels, constants = emitted(plan)

    def edit(kernel: Kernel) -> Kernel:
        assert old in kernel.text
        return replace(kernel, text=kernel.text.replace(old, new, count))

    kernels = [edit(kernel) if kernel.kind == kind else kernel for kernel in kernels]
    (found,) = run_kernels(plan, kernels, constants, feeds).values()
    (wanted,) = evaluate(plan, feeds).values()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _softmax() -> Plan:
    net = Small()
    return lowered(net, 3, net.node("Softmax", net.input(3, 70), axis=-1))


def _norm() -> Plan:
    net = Small()
    y = net.node("LayerNormalization", net.input(3, 70), net.normal(70), net.normal(70))
    return lowered(net, 3, y)


def _product() -> Plan:
    return product((33, 17), (17, 35))


@pytest.mark.parametrize(
    ("make", "kind"), [(_product, "matmul"), (_softmax, "softmax"), (_norm, "norm")]
)
def test_a_missing_barrier_is_found(make: Callable[[], Plan], kind: str) -> None:
    with pytest.raises(PtxError, match=r"race in a block|uninitialised"):
        planted(make(), kind, "bar.sync 0;", "")


def test_a_product_that_forgets_its_last_terms_is_found() -> None:
    """17 terms are 16 and one more."""
    assert planted(_product(), "matmul", ", 17;", ", 16;", 100) > 1e-2


def test_an_unchecked_column_is_found() -> None:
    with pytest.raises(PtxError, match=r"outside|race|uninitialised"):
        planted(_product(), "matmul", ", 35;", ", 64;", 100)


def test_a_mean_that_is_not_taken_off_is_found() -> None:
    assert planted(_norm(), "norm", "sub.rn.f32", "add.rn.f32", 100) > 1e-2


def test_a_maximum_that_is_not_taken_off_is_found() -> None:
    """The result is the same while nothing overflows, so that something has to."""
    plan = _softmax()
    feeds = {"in0": np.full((3, 70), 200, np.float32)}
    kernels, constants = emitted(plan)
    (found,) = run_kernels(plan, kernels, constants, feeds).values()
    assert np.abs(found - 1 / 70).max() < 1e-6
    (kernel,) = kernels
    wrong = kernel.text.replace("sub.rn.f32", "max.f32")
    (found,) = run_kernels(plan, [replace(kernel, text=wrong)], constants, feeds).values()
    assert not np.isfinite(found).all() or np.abs(found - 1 / 70).max() > 1e-3
