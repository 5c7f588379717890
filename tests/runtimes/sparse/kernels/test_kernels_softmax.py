"""Softmax and its logarithm along every axis of tensors that lie in any way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Memory, check, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import Softmax

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 17, 128), (3, 67, 1, 5), (1, 5, 66, 33)]


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = []
    for number, (shape, axis, log) in enumerate(
        itertools.product(SHAPES, range(-1, 3), (False, True))
    ):
        for kind in range(3):
            memory = Memory()
            x = memory.planar(shape) if kind != 1 else memory.rows(shape, "input")
            y = memory.planar(shape) if kind == 0 else memory.rows(shape)
            if kind == 2:
                x = permuted(memory.planar(tuple(shape[a] for a in (0, 1, 3, 2))), (0, 1, 3, 2))
            elif number % 3 == 0 and kind == 0:
                y = x
            step = Softmax("softmax", x, y, axis, log)
            data = np.random.default_rng(number).standard_normal(memory.buffers[0].size) * 8
            cases.append(memory.case(step, {0: data.astype(np.float32)}))
    return cases


@pytest.mark.parametrize("isa", supported())
def test_softmax_agrees_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


@pytest.mark.parametrize("isa", supported()[:1])
def test_masked_rows_and_extremes(isa: str) -> None:
    cases = []
    for columns in (20, 48):
        data = np.random.default_rng(0).standard_normal((12, columns)).astype(np.float32)
        data[0, 3:] = -np.inf  # masked
        data[1] = -np.inf  # all of it: NaN
        data[2, 5], data[3, 6], data[4, 7] = np.inf, np.nan, 3e38
        data[5] *= 1e4
        data[6] = -3e38
        for log, flip in itertools.product((False, True), repeat=2):
            memory = Memory()
            feed = np.ascontiguousarray(data.T) if flip else data
            x, y = memory.rows(feed.shape), memory.rows(feed.shape)
            if flip:
                x, y = permuted(x, (1, 0)), permuted(y, (1, 0))
            cases.append(memory.case(Softmax("softmax", x, y, 1, log), {0: feed}))
    check(cases, isa)
