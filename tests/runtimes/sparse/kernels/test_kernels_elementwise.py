"""Functions of single elements: each of them, and fused code over views of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import Case, Library, Memory, check, data_of, permuted, supported

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer.operations import OPERATIONS
from prunedeploy.runtimes.sparse.plan import steps as plan
from prunedeploy.runtimes.sparse.plan.steps import Copy, Instr, Map
from prunedeploy.runtimes.sparse.plan.views import View

NUMBERS = {"clip": (-0.75, 1.25), "leakyrelu": (0.1,), "elu": (1.5,), "hardsigmoid": (0.2, 0.5)}
EXACT = {"neg", "abs", "relu", "clip", "floor", "ceil", "round", "sign", "not", "identity"}
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 17, 4, 8), (3, 67, 1, 5), (2, 2, 9, 40)]


def _arguments() -> Array:
    """Small, large, denormal and special float32 arguments, of both signs."""
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(-100, 88, 1500))
    parts = [rng.standard_normal(1500) * scale for scale in (0.01, 1.0, 8.0, 60.0)]
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 88.8]
    ties = np.arange(-20, 21) / 2
    return np.concatenate([spread, -spread, *parts, special, ties]).astype(np.float32)


def _run(cases: list[Case], isa: str) -> list[Array]:
    library, found = Library(cases, isa), []
    for number, case in enumerate(cases):
        arena, arrays = data_of(case, np.random.default_rng(0))
        assert library.run(number, arrays, arena, 2) == 0
        found.append(arrays[case.step.y.buffer])
    return found


@pytest.mark.parametrize("isa", supported())
def test_every_function_is_within_a_few_units(isa: str) -> None:
    x = _arguments()
    cases = []
    for op in plan.UNARY:
        memory = Memory()
        view, y = memory.rows(x.shape), memory.rows(x.shape)
        code = (Instr(op, (0,), NUMBERS.get(op, ())),)
        cases.append(memory.case(Map(op, (view,), y, code), {0: x}))
    for op, found in zip(plan.UNARY, _run(cases, isa), strict=True):
        with np.errstate(all="ignore"):
            numbers = [np.float64(np.float32(number)) for number in NUMBERS.get(op, ())]
            exact = np.asarray(OPERATIONS[op](x.astype(np.float64), *numbers), np.float64)
            wanted = exact.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted), err_msg=op)
        infinite = np.isinf(wanted) | np.isinf(found)
        np.testing.assert_array_equal(found[infinite], wanted[infinite], err_msg=op)
        finite = np.isfinite(wanted)
        error = np.abs(found[finite].astype(np.float64) - exact[finite])
        # of what is rounded on the way: sums with 1 or with x, so not of the result alone
        if op in ("silu", "gelu", "gelu_tanh", "hardswish", "mish"):
            size = np.maximum(np.abs(x[finite]), 1e-37)
        elif op in ("sigmoid", "hardsigmoid", "sin", "cos"):
            size = np.ones_like(error)
        else:
            size = np.abs(wanted[finite])
        units = error / np.spacing(np.maximum(size, np.float32(1.2e-38)).astype(np.float32))
        assert units.max() <= (0 if op in EXACT else 4), (
            op,
            units.max(),
            x[finite][units.argmax()],
        )


def _binary() -> list[Case]:
    rng = np.random.default_rng(2)
    special = np.array([0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 2.5], np.float32)
    a = np.concatenate([np.repeat(special, 8), rng.standard_normal(51).round(1)])
    b = np.concatenate([np.tile(special, 8), rng.standard_normal(51).round(1)])
    cases = []
    for op in [op for op in OPERATIONS if op not in (*plan.UNARY, "where")]:
        memory = Memory()
        views = tuple(memory.rows(a.shape) for _ in range(2))
        step = Map(op, views, memory.rows(a.shape), (Instr(op, (0, 1)),))
        cases.append(memory.case(step, {0: a, 1: b}))
    memory = Memory()
    views = tuple(memory.rows(a.shape) for _ in range(3))
    step = Map("where", views, memory.rows(a.shape), (Instr("where", (0, 1, 2)),))
    cases.append(memory.case(step, {0: a}))
    for exponent in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.7):
        memory = Memory()
        x, y = memory.rows(a.shape), memory.rows(a.shape)
        step = Map("pow", (x,), y, (Instr("pow", (0, 1)),), (exponent,))
        # NumPy takes the square root of -infinity for its power 0.5, which is infinite in C
        cases.append(memory.case(step, {0: np.abs(a) if exponent == 0.5 else a}))
    return cases


CODE = (
    Instr("mul", (0, 3)),
    Instr("add", (5, 1)),
    Instr("tanh", (6,)),
    Instr("sub", (7, 2)),
    Instr("leakyrelu", (8,), (0.25,)),
    Instr("max", (9, 4)),
)


def _broadcast(memory: Memory, shape: tuple[int, ...], axes: tuple[int, ...]) -> View:
    """A planar tensor of length 1 in ``axes``, as one of ``shape``."""
    small = memory.planar(tuple(1 if a in axes else n for a, n in enumerate(shape)))
    strides = tuple(0 if a in axes else s for a, s in enumerate(small.strides))
    return View(small.buffer, shape, strides)


def _views() -> list[Case]:
    cases = []
    for shape in SHAPES:
        for kind in range(6):
            memory = Memory()
            x = memory.planar(shape)
            y = memory.rows(shape, "output") if kind == 1 else memory.planar(shape)
            others = (memory.planar(shape), memory.planar(shape))
            if kind == 2:  # one value a channel, one a pixel
                others = (_broadcast(memory, shape, (0, 2, 3)), _broadcast(memory, shape, (1,)))
            elif kind == 3:  # other orders of axes
                order = (0, 2, 3, 1)
                there = memory.planar(tuple(shape[a] for a in order))
                others = (permuted(there, (0, 3, 1, 2)), memory.rows(shape, "input"))
            elif kind == 4:
                x, y = permuted(x, (3, 1, 0, 2)), permuted(y, (3, 1, 0, 2))
                others = (permuted(others[0], (3, 1, 0, 2)), permuted(others[1], (3, 1, 0, 2)))
            elif kind == 5:  # in place
                y = x
            cases.append(memory.case(Map("map", (x, *others), y, CODE, (1.5, -0.5))))
    return cases


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = _binary() + _views()
    for case in cases:
        case.tolerance = 1e-6
    return cases


@pytest.mark.parametrize("isa", supported())
def test_code_over_views(isa: str) -> None:
    check(sweep(), isa)


def test_the_rounding_of_a_plane_is_left_alone_where_it_is_not_one() -> None:
    memory = Memory()
    whole = memory.planar((1, 5, 1, 30))
    part = View(whole.buffer, (1, 5, 1, 20), whole.strides, 0)
    rest = View(whole.buffer, (1, 5, 1, 10), whole.strides, 20)
    x = memory.planar((1, 5, 1, 20))
    step = Map("part", (x,), part, (Instr("relu", (0,)),))
    case = memory.case(step)
    assert Library([case], supported()[-1]).codes[0].choice == "flat"
    other = Copy("rest", memory.planar((1, 5, 1, 10)), rest)
    case.others = (other,)
    case.buffers = tuple(memory.buffers)
    assert Library([case], supported()[-1]).codes[0].choice == "nest"
