"""Copies between any two orders of axes, borders, and conversions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Memory, check, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import Copy
from prunedeploy.runtimes.sparse.plan.views import View

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 17, 33, 16), (3, 67, 1, 4), (5, 1, 40, 19)]


def _orders() -> list[Case]:
    cases = []
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        for planar in (True, False):
            memory = Memory()
            x = memory.planar(shape) if planar else memory.rows(shape, "input")
            order = [int(axis) for axis in rng.permutation(4)]
            x = permuted(x, order)
            for y in (memory.rows(x.shape), memory.rows(x.shape, "output"), memory.planar(x.shape)):
                cases.append(memory.case(Copy("copy", x, y)))
    return cases


def _tokens() -> list[Case]:
    """Planar to tokens and back, the transposition that encoders begin and end with."""
    cases = []
    for tokens, width in [(1, 5), (16, 16), (17, 67), (128, 96), (30, 260)]:
        memory = Memory()
        rows, planes = memory.rows((tokens, width)), memory.planar((tokens, width))
        cases += [memory.case(Copy("in", rows, planes)), memory.case(Copy("out", planes, rows))]
    memory = Memory()
    long = memory.rows((2, 9000))
    cases.append(memory.case(Copy("long", long, memory.rows((2, 9000)))))
    one = View(long.buffer, (3, 5, 70), (1, 0, 0), 4)  # broadcast
    cases.append(memory.case(Copy("broadcast", one, memory.planar((3, 5, 70)))))
    back = View(long.buffer, (3, 50), (-60, -1), 400)  # a slice with negative steps
    cases.append(memory.case(Copy("reversed", back, memory.rows((3, 50)))))
    return cases


def _borders() -> list[Case]:
    cases = []
    for n, (c, h, w) in itertools.product((1, 2), [(1, 1, 1), (3, 5, 7), (2, 4, 16)]):
        for top, left, bottom, right in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 0, 0), (2, 0, 0, 17)]:
            memory = Memory()
            x = memory.planar((n, c, h, w))
            outer = memory.planar((n, c, h + top + bottom, w + left + right))
            at = top * outer.strides[2] + left * outer.strides[3]
            y = View(outer.buffer, x.shape, outer.strides, at)
            cases.append(memory.case(Copy("pad", x, y, -1.5, outer)))
    memory = Memory()
    x, outer = memory.rows((2, 3, 4)), memory.rows((4, 5, 6))
    y = View(outer.buffer, (2, 3, 4), outer.strides, 30 + 12 + 1)
    cases.append(memory.case(Copy("box", x, y, 0.0, outer)))
    flipped = permuted(memory.rows((4, 3, 2)), (2, 1, 0))
    cases.append(memory.case(Copy("flipped", flipped, y, float("-inf"), outer)))
    return cases


def _conversions() -> list[Case]:
    cases = []
    for dtype in ("int64", "int32", "bool"):
        memory = Memory()
        x = memory.rows((3, 5, 7), "input", dtype)  # type: ignore[arg-type]
        cases.append(memory.case(Copy("to", x, memory.planar((3, 5, 7)))))
        cases.append(memory.case(Copy("to", permuted(x, (2, 0, 1)), memory.rows((7, 3, 5)))))
        back = memory.rows((3, 5, 7), "output", dtype)  # type: ignore[arg-type]
        cases.append(memory.case(Copy("from", memory.planar((3, 5, 7)), back)))
    return cases


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = _orders() + _tokens() + _borders() + _conversions()
    for case in cases:
        case.tolerance = 0
    return cases


@pytest.mark.parametrize("isa", supported())
def test_copies_are_exact(isa: str) -> None:
    check(sweep(), isa)
