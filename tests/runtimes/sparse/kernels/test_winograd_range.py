"""Winograd near the end of float32: its transforms overflow where a direct sum does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convs import ACTIVATIONS, Layer
from kernels import Case, Library, data_of, supported
from plan_interpreter import run_step, strided

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels import winograd_1d, winograd_2d
from prunedeploy.runtimes.sparse.plan import steps as plan
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

PADS = (1, 1, 1, 1)
SMALL = Layer((2, 6, 9, 13), 7, (3, 3), pads=PADS, density=1.0)
STEM = Layer((1, 3, 16, 16), 8, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0)
ONE_D = Schedule("winograd", 4, 2, 6, rows=3)
TWO_D = Schedule("winograd2d", 4, 2, 6, rows=4)
IN_PLACE = replace(SMALL, residual="in place", activation=ACTIVATIONS[1])
LAYERS = (
    (IN_PLACE, replace(ONE_D, channels=2, groups=2)),
    (STEM, replace(ONE_D, channels=3, rows=4)),
    (IN_PLACE, replace(TWO_D, groups=2)),
    (replace(SMALL, residual="own"), replace(TWO_D, tile_rows=2)),
    (STEM, replace(TWO_D, tile_rows=2, channels=12)),
)


def _with(case: Case, value: float) -> Case:
    """The case with one pixel of ``value`` in every image."""
    assert isinstance(case.step, plan.Conv)
    x = case.step.x
    array = np.random.default_rng(1).standard_normal(case.buffers[x.buffer].size).astype(np.float32)
    view = strided(x, [array] * (x.buffer + 1))
    view[:, 1, view.shape[2] // 2, view.shape[3] // 2] = np.float32(value)
    return replace(case, feeds={x.buffer: array})


def _found_and_wanted(library: Library) -> list[tuple[Array, Array]]:
    """The result of every case, and that of the interpreter in float64."""
    found, rng = [], np.random.default_rng(0)
    for number, case in enumerate(library.cases):
        arena, arrays = data_of(case, rng)
        expected = [a.astype(np.float64) for a in arrays]
        with np.errstate(all="ignore"):
            run_step(case.step, expected)
        assert library.run(number, arrays, arena, 2) == 0
        y = plan.writes(case.step)[0]
        found.append((strided(y, arrays), strided(y, expected)))
    return found


@pytest.mark.parametrize("isa", [supported()[0], "scalar"])
def test_one_large_pixel(isa: str) -> None:
    """A finite one gives what a direct sum gives; another stays within the tiles that see it."""
    layers = LAYERS if isa == supported()[0] else LAYERS[:3:2]
    values = (1.0, 1e30, 3e37, -3.3e38, np.inf, np.nan)
    cases = [(_with(layer.case(how), value), value) for layer, how in layers for value in values]
    results = _found_and_wanted(Library([case for case, _ in cases], isa))
    for (case, value), (found, exact) in zip(cases, results, strict=True):
        with np.errstate(over="ignore"):
            wanted = exact.astype(np.float32)  # too large for float32: infinite
        finite = np.isfinite(wanted)
        if np.isfinite(value):
            np.testing.assert_array_equal(found[~finite], wanted[~finite], err_msg=str(case.step))
        else:
            assert np.isnan(found[np.isnan(wanted)]).all()
            finite = np.isfinite(found)
            assert finite[..., 0, 0].all()  # its tile sees none of it
        scale = float(np.abs(exact[finite]).max())
        np.testing.assert_allclose(found[finite], exact[finite], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("value", [2.0**31, np.inf, np.nan])
def test_weights_that_leave_no_room_are_computed_directly(value: float) -> None:
    step = SMALL.step
    assert winograd_1d.suits(step, 4)
    assert winograd_2d.suits(step, 2)
    step.weight[0, 0, 0, 0] = value
    assert not winograd_1d.suits(step, 4)
    assert not winograd_2d.suits(step, 2)
