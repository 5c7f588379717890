"""Embeddings, constants in memory, and interpolation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Library, Memory, check, data_of, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import Fill, Lookup, Resize
from prunedeploy.runtimes.sparse.plan.views import View


def _lookups() -> list[Case]:
    cases = []
    rng = np.random.default_rng(0)
    for shape, width in [((1,), 1), ((2, 5), 7), ((1, 128), 48), ((3, 17), 33), ((40,), 16)]:
        for kind in range(4):
            table = rng.standard_normal((11, width)).astype(np.float32)
            memory = Memory()
            indices = memory.rows(shape, "input", "int32" if kind == 2 else "int64")
            if kind == 3:  # every other one
                indices = memory.rows((*shape, 2), "input", "int64")
                indices = View(indices.buffer, shape, indices.strides[:-1])
            full = (*shape, width)
            y = memory.planar(full, -1) if kind % 2 else memory.rows(full, "output")
            feed = {indices.buffer: rng.integers(-11, 11, memory.buffers[indices.buffer].size)}
            cases.append(memory.case(Lookup("lookup", indices, y, table), feed))
    memory = Memory()
    table = rng.standard_normal((5, 3, 4)).astype(np.float32)
    indices = memory.rows((2, 6), "input", "int64")
    y = permuted(memory.planar((2, 6, 4, 3), 2), (0, 1, 3, 2))
    feed = {indices.buffer: rng.integers(0, 5, 12)}
    cases.append(memory.case(Lookup("cube", indices, y, table), feed))
    return cases


def _fills() -> list[Case]:
    cases = []
    for shape in [(1, 1), (3, 17), (2, 5, 9), (67, 16)]:
        for broadcast in (False, True):
            memory = Memory()
            value = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            if broadcast:
                value = value[:1]
            cases.append(memory.case(Fill("fill", memory.planar(shape, 0), value)))
            cases.append(memory.case(Fill("fill", permuted(memory.rows(shape[::-1]),
                                          list(range(len(shape)))[::-1]), value)))  # fmt: skip
    return cases


def _taps(
    rng: np.random.Generator, size: int, out: int, linear: bool
) -> list[tuple[int, int, float]]:
    taps = []
    for place in np.sort(rng.uniform(0, size - 1, out)):
        first = int(place)
        weight = float(np.float32(place - first)) if linear and rng.random() < 0.8 else 0.0
        taps.append((first, min(first + 1, size - 1), weight))
    return taps


def _resizes() -> list[Case]:
    cases = []
    rng = np.random.default_rng(2)
    maps = [(1, 1, 1, 1, 3, 2), (2, 3, 5, 7, 10, 14), (1, 2, 16, 33, 7, 50), (3, 5, 4, 4, 8, 17)]
    for (n, c, h, w, oh, ow), linear in itertools.product(maps, (False, True)):
        memory = Memory()
        x, y = memory.planar((n, c, h, w)), memory.planar((n, c, oh, ow))
        rows, columns = _taps(rng, h, oh, linear), _taps(rng, w, ow, linear)
        cases.append(memory.case(Resize("resize", x, y, tuple(rows), tuple(columns))))
    return cases


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    exact = _lookups() + _fills()
    for case in exact:
        case.tolerance = 0
    return exact + _resizes()


@pytest.mark.parametrize("isa", supported())
def test_tables_and_interpolation_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


def test_an_index_outside_of_the_table_is_an_error() -> None:
    memory = Memory()
    indices = memory.rows((3, 7), "input", "int64")
    table = np.zeros((11, 20), np.float32)
    case = memory.case(Lookup("lookup", indices, memory.planar((3, 7, 20), -1), table))
    library = Library([case], supported()[0])
    for index, error in [(10, 0), (-11, 0), (11, 4), (-12, 4), (2**40, 4), (-(2**62), 4)]:
        numbers = np.zeros(21, np.int64)
        numbers[13] = index
        case.feeds[indices.buffer] = numbers
        arena, arrays = data_of(case, np.random.default_rng(0))
        assert library.run(0, arrays, arena, 3) == error, index
