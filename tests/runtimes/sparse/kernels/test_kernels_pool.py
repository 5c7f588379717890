"""Pools over odd maps, with borders, strides, dilation and windows that reach beyond."""

from __future__ import annotations

import itertools
from typing import Literal

import convs
import numpy as np
import pytest
from kernels import Case, Memory, check, supported

from prunedeploy.runtimes.sparse.plan.steps import Pool

KINDS: tuple[Literal["max", "average"], ...] = ("max", "average")


def _case(
    shape: tuple[int, int, int, int],
    kind: Literal["max", "average"],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int] = (1, 1),
    ceil: int = 0,
    include: bool = False,
    place: Literal["arena", "input"] = "arena",
    beside: bool = False,
) -> Case | None:
    out = []
    for axis in (0, 1):
        room = shape[2 + axis] + pads[axis] + pads[axis + 2]
        out.append((room - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1)
        # a further window, where it begins inside
        if ceil and out[axis] * strides[axis] < shape[2 + axis] + pads[axis]:
            out[axis] += 1
    if min(out) < 1:
        return None
    memory = Memory()
    x = memory.planar(shape) if place == "arena" else memory.rows(shape, "input")
    y = memory.planar((shape[0], shape[1], out[0], out[1]))
    if beside:
        x, y = convs.beside(x), convs.beside(y)
    return memory.case(Pool("pool", x, y, kind, kernel, strides, pads, dilations, include))


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    found = []
    maps = [(1, 1), (2, 2), (3, 5), (7, 7), (8, 17), (13, 16), (6, 35)]
    windows = [
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 3), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (1, 2), (0, 1, 1, 0)),
        ((2, 5), (3, 3), (1, 2, 0, 2)),
        ((1, 1), (2, 2), (0, 0, 0, 0)),
    ]
    for number, ((h, w), window, kind) in enumerate(itertools.product(maps, windows, KINDS)):
        shape = (1 + number % 3, 1 + number % 5, h, w)
        found.append(_case(shape, kind, *window))
        found.append(_case(shape, kind, *window, ceil=1, include=number % 2 == 0))
        found.append(_case(shape, kind, *window, dilations=(2, 3), include=number % 2 == 1))
        if number % 3 == 0:  # sixteen images side by side
            wide = (16, shape[1], h, w)
            more = {"ceil": number % 2, "include": number % 4 == 0, "beside": True}
            found.append(_case(wide, kind, *window, **more))
            found.append(_case(wide, kind, *window, dilations=(2, 3), **more))
    found.append(_case((1, 3, 9, 13), "average", (3, 3), (1, 1), (1, 1, 1, 1), place="input"))
    found.append(_case((1, 3, 16, 16), "max", (3, 3), (2, 2), (1, 1, 1, 1), place="input"))
    return [case for case in found if case is not None]


@pytest.mark.parametrize("isa", supported())
def test_pools_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


def test_nan_and_infinity_stay_where_they_are() -> None:
    cases = []
    for kind in KINDS:
        case = _case((1, 2, 5, 21), kind, (3, 3), (2, 2), (1, 1, 1, 1))
        assert case is not None
        data = np.ones(case.buffers[0].size, np.float32)
        data[[7, 60, 61]] = np.nan, -np.inf, np.inf
        case.feeds[0] = data
        cases.append(case)
    check(cases, supported()[0])
