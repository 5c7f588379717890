"""Layer, instance, group and RMS normalisation of planar and row-major tensors."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import Case, Memory, check, supported

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.steps import Norm
from prunedeploy.runtimes.sparse.plan.views import View


def _norm(memory: Memory, x: View, y: View, axes: tuple[int, ...], varies: tuple[int, ...]) -> Case:
    rng = np.random.default_rng(x.size)
    shape = tuple(n if axis in varies else 1 for axis, n in enumerate(x.shape))
    scale: Array | None = rng.standard_normal(shape).astype(np.float32)
    bias: Array | None = rng.standard_normal(shape).astype(np.float32)
    if x.size % 3 == 0:
        bias = None
    if x.size % 5 == 0:
        scale = None
    step = Norm("norm", x, y, axes, 1e-5, scale, bias, x.size % 2 == 0)
    # the variance of a few that are nearly the same is what is left of their digits
    few = np.prod([x.shape[axis] for axis in axes]) < 8
    return memory.case(step, tolerance=1e-4 if few else 3e-6)


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = []
    for tokens, width in [(1, 1), (1, 7), (17, 67), (128, 96), (64, 33), (200, 16)]:
        for kind in range(4):  # tokens whose features are planes, or rows
            memory = Memory()
            shape = (2, tokens, width)
            x = memory.planar(shape, 2) if kind % 2 == 0 else memory.rows(shape, "input")
            y = memory.planar(shape, 2) if kind < 2 else memory.rows(shape)
            if kind == 0 and tokens == 17:
                y = x
            cases.append(_norm(memory, x, y, (-1,), (2,)))
    for shape in [(1, 3, 5, 7), (2, 67, 1, 4), (3, 2, 17, 16)]:
        for axes, varies in [((2, 3), (1,)), ((1, 2, 3), (1, 2, 3)), ((1,), (1,)), ((3,), (3,))]:
            memory = Memory()
            cases.append(_norm(memory, memory.planar(shape), memory.planar(shape), axes, varies))
    for groups, inside in [(2, 3), (4, 1), (1, 8)]:  # group normalisation: axes split by a view
        memory = Memory()
        x, y = (memory.planar((2, groups * inside, 5, 6)) for _ in range(2))
        split = []
        for view in (x, y):
            n, c, h, w = view.strides
            shape5 = (2, groups, inside, 5, 6)
            split.append(View(view.buffer, shape5, (n, c * inside, c, h, w)))
        cases.append(_norm(memory, split[0], split[1], (2, 3, 4), (1, 2)))
    return cases


@pytest.mark.parametrize("isa", supported())
def test_normalisation_agrees_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


@pytest.mark.parametrize("isa", supported()[:1])
def test_neither_a_large_mean_nor_an_outlier_in_front_spoils_the_variance(isa: str) -> None:
    cases = []
    rng = np.random.default_rng(0)
    for planar in (True, False):
        for mean, first in ((1000, None), (0, 1000.0), (5, -3e4)):
            memory = Memory()
            x = memory.planar((1, 40, 300), 2) if planar else memory.rows((1, 40, 300))
            y = memory.rows((1, 40, 300))
            data = rng.normal(mean, 1, memory.buffers[0].size).astype(np.float32)
            if first is not None:
                start = data[:48] if planar else data[::300]
                start[...] = first
            # float32 holds 1000 +- 1 to 3e-5
            step = Norm("norm", x, y, (2,), 1e-5)
            cases.append(memory.case(step, {0: data}, tolerance=2e-5 if mean else 3e-6))
    check(cases, isa)
