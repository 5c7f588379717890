"""The kernels of convolutions for NEON, on an AArch64 that qemu plays."""

from __future__ import annotations

from dataclasses import replace

import halves
import numpy as np
import pytest
from convs import ACTIVATIONS, Layer, schedules
from emulated import MISSING, Emulated
from kernels import Case, check_with

from prunedeploy.runtimes.sparse.codegen import narrow
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
RELU, SAME = ACTIVATIONS[1], (1, 1, 1, 1)
LAYERS = (
    Layer((2, 19, 7, 7), 21, residual="own", activation=RELU),
    Layer((1, 16, 13, 15), 20, density=1.0, residual="in place"),
    Layer((3, 7, 9, 11), 13, (3, 3), pads=SAME, activation=RELU),
    Layer((1, 5, 17, 17), 9, (5, 3), (2, 2), (2, 1, 2, 1)),
    Layer((2, 6, 12, 12), 10, (3, 3), pads=SAME, density=1.0, residual="own"),
    Layer((1, 3, 21, 22), 8, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0, activation=RELU),
    Layer((16, 5, 6, 6), 7, (3, 3), pads=SAME, density=0.5, beside=True),
    Layer((5, 9, 1, 1), 12, density=0.5),
    Layer((1, 8, 6, 6), 12, (3, 3), pads=SAME, density=0.3, groups=4),
    Layer((1, 6, 9, 9), 6, (3, 3), pads=SAME, groups=6, density=0.9),
    Layer((1, 4, 8, 8), 6, (3, 3), pads=SAME, density=0.0),
)


def _cases() -> list[Case]:
    rng, cases = np.random.default_rng(3), []
    for layer in LAYERS:
        cases.append(layer.case())
        cases += [
            replace(layer.case(schedule), tolerance=2e-5)
            for schedule in schedules(layer.step, "neon", rng)
        ]
    return cases


def test_every_way_to_cut_a_layer() -> None:
    cases = _cases()
    kernels = {schedule.kernel for case in cases for schedule in case.tuned.values()}
    assert kernels == {"rows", "block", "winograd", "winograd2d"}
    check_with(Emulated(cases))


@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_every_finite_float16(sparse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "sparse_up_to", lambda *_: sparse)
    case, numbers = halves.every_float16(2)
    halves.check_every_float16(Emulated([case]), numbers)


def test_layers_on_few_pixels() -> None:
    check_with(Emulated([*halves.sweep("bfloat16")[::3], *halves.sweep("float16")[::3]]))


def test_a_broken_twin_is_seen() -> None:
    layer = Layer((1, 6, 9, 9), 8, (3, 3), pads=SAME, density=0.5)
    runner = Emulated([layer.case(Schedule("rows", 1, 2, 6))])
    check_with(runner)
    step = runner.cases[0].step
    runner.cases = [replace(runner.cases[0], step=replace(step, bias=step.bias + 0.1))]  # type: ignore
    with pytest.raises(AssertionError):
        check_with(runner)
