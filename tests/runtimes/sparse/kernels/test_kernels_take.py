"""Elements by computed indices, and the largest ones of a row."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import Case, Library, Memory, check, check_with, data_of, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import Take, Top
from prunedeploy.runtimes.sparse.plan.strides import broadcast
from prunedeploy.runtimes.sparse.plan.views import View


def taken(shape: tuple[int, ...], axis: int, count: int, wide: bool, planar: bool) -> Case:
    """``count`` elements of ``axis``, by indices that are the same along all others or not."""
    memory, rng = Memory(), np.random.default_rng(count)
    x = memory.planar(shape) if planar else memory.rows(shape)
    out = (*shape[:axis], count, *shape[axis + 1 :])
    one = tuple(count if other == axis else 1 for other in range(len(shape)))
    index = memory.rows(out if wide else one)
    y = memory.rows(out) if planar else permuted(memory.rows(out[::-1]), range(len(out))[::-1])
    still = tuple(0 if other == axis else stride for other, stride in enumerate(x.strides))
    step = Take(
        "take", View(x.buffer, out, still), broadcast(index, out), y, shape[axis], x.strides[axis]
    )
    size = memory.buffers[index.buffer].size
    feed = rng.integers(-shape[axis], shape[axis], size).astype(np.float32)
    return memory.case(step, {index.buffer: feed}, tolerance=0)


def top(shape: tuple[int, ...], axis: int, count: int, largest: bool, later: bool) -> Case:
    """Of numbers of which many are equal, some NaN."""
    memory, rng = Memory(), np.random.default_rng(count)
    x = memory.planar(shape) if len(shape) > 1 else memory.rows(shape)
    y = memory.rows((2, *shape[:axis], count, *shape[axis + 1 :]))
    feed = np.round(rng.standard_normal(memory.buffers[x.buffer].size)).astype(np.float32)
    return memory.case(Top("top", x, y, axis, largest, later), {x.buffer: feed}, tolerance=0)


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    return [
        *(
            taken(shape, axis, count, wide, planar)
            for shape, axis, count in [((3, 7, 5), 1, 4), ((2, 5, 19), 2, 6), ((4, 33), 0, 9)]
            for wide in (False, True)
            for planar in (False, True)
        ),
        *(
            top(shape, axis, count, largest, later)
            for shape, axis, count in [((9,), 0, 4), ((3, 17), 1, 1), ((2, 8, 5), 1, 8)]
            for largest in (False, True)
            for later in (False, True)
        ),
    ]


@pytest.mark.parametrize("isa", supported())
def test_elements_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


def test_an_index_outside_of_the_axis_is_an_error() -> None:
    case = taken((3, 7, 5), 1, 4, wide=True, planar=True)
    library = Library([case], supported()[0])
    for index, error in [(6, 0), (-7, 0), (7, 4), (-8, 4), (np.nan, 4), (-np.inf, 4), (3e9, 4)]:
        case.feeds[case.step.index.buffer][5] = index
        arena, arrays = data_of(case, np.random.default_rng(0))
        assert library.run(0, arrays, arena, 2) == error, index


@pytest.mark.slow
def test_elements_for_neon() -> None:
    import emulated

    if emulated.MISSING:
        pytest.skip(emulated.MISSING)
    check_with(emulated.Emulated(sweep()))
