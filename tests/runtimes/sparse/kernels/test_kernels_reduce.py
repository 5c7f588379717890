"""Reductions of planar and row-major tensors over every set of axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Memory, check, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import Reduce
from prunedeploy.runtimes.sparse.plan.views import View, row_major

KINDS = ("sum", "mean", "max", "min", "prod", "l1", "l2", "sumsquare", "logsumexp")
SHAPES = [(1, 3, 7, 7), (2, 67, 1, 5), (3, 2, 17, 16), (5, 33, 4, 1)]
AXES = [(2, 3), (1,), (0,), (3,), (0, 2, 3), (1, 2), (0, 1, 2, 3)]


def _reduce(x: View, memory: Memory, kind: str, axes: tuple[int, ...], planes: bool) -> Case:
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    y = memory.planar(shape) if planes else memory.rows(shape, "output")
    return memory.case(Reduce("reduce", x, y, kind, axes))  # type: ignore[arg-type]


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = []
    for number, (shape, axes) in enumerate(itertools.product(SHAPES, AXES)):
        for kind in (KINDS[number % len(KINDS)], KINDS[(number * 2 + 3) % len(KINDS)], "mean"):
            for planes in (True, False):
                memory = Memory()
                x = memory.planar(shape) if planes else memory.rows(shape, "input")
                cases.append(_reduce(x, memory, kind, axes, not planes))
        memory = Memory()
        x = permuted(memory.planar(shape), (2, 0, 3, 1))
        cases.append(_reduce(x, memory, "l2", axes, True))
    for kind in KINDS:
        memory = Memory()
        cases.append(_reduce(memory.planar((2, 768, 1, 37), 1), memory, kind, (1,), True))
        memory = Memory()
        case = _reduce(memory.rows((2, 2500)), memory, kind, (1,), False)
        if kind == "prod":
            case.feeds[0] = np.random.default_rng(3).uniform(0.98, 1.02, 5000).astype(np.float32)
        cases.append(case)
    return cases


@pytest.mark.parametrize("isa", supported())
def test_reductions_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


def test_the_error_of_long_sums_does_not_grow() -> None:
    cases = []
    for axes, shape in (((1,), (2, 300_000)), ((0,), (100_000, 5))):
        memory = Memory()
        x = memory.rows(shape)
        y = row_major(memory.add(5), tuple(1 if a in axes else n for a, n in enumerate(shape)))
        data = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
        cases.append(memory.case(Reduce("sum", x, y, "sum", axes), {0: data}, tolerance=3e-7))
    check(cases, supported()[0])


def test_nan_and_infinity_are_seen() -> None:
    cases = []
    for kind in KINDS:
        for axes in ((1,), (0,)):
            memory = Memory()
            x = memory.rows((40, 50))
            data = np.random.default_rng(5).standard_normal((40, 50)).astype(np.float32)
            data[3, 4], data[5, 6], data[7, 8], data[9] = np.nan, np.inf, -np.inf, -np.inf
            case = _reduce(x, memory, kind, axes, False)
            case.feeds[0] = data
            cases.append(case)
    check(cases, supported()[0])
