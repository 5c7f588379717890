"""Minimal filtering both ways: a correlation, with little rounding, wherever tiles lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from convs import ACTIVATIONS, Layer
from kernels import Case, check, portable_ones_slow, supported
from lowered import Small

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.build import limit_rounding
from prunedeploy.runtimes.sparse.kernels import winograd_2d as winograd2d
from prunedeploy.runtimes.sparse.kernels.winograd_1d import inputs, results
from prunedeploy.runtimes.sparse.kernels.winograd_2d import OUTPUTS, POINTS
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

SAME = (1, 1, 1, 1)
PADS = (SAME, (0, 0, 0, 0), (2, 2, 2, 2), (1, 0, 0, 2))


def _filtered(data: Array, weight: Array, outputs: int) -> Array:
    """[channels, m + r - 1, m + r - 1] by [channels, r, r] in the precision of ``data``."""
    kind, count = data.dtype, weight.shape[-1]
    before = inputs(outputs, count, POINTS[outputs, count]).astype(kind)
    after = results(outputs, count, POINTS[outputs, count]).astype(kind)
    by = winograd2d.transformed(weight[None], outputs)[:, 0].astype(kind)
    sums = np.zeros(data.shape[1:], kind)
    for pixels, each in zip(data, by.T, strict=True):
        sums += each.reshape(sums.shape) * (before @ pixels @ before.T)
    found: Array = after @ sums @ after.T
    return found


def _direct(data: Array, weight: Array, outputs: int) -> Array:
    sums = np.zeros((outputs, outputs), data.dtype)
    for pixels, each in zip(data, weight, strict=True):
        for row, column in np.ndindex(each.shape):
            sums += pixels[row : row + outputs, column : column + outputs] * each[row, column]
    return sums


@pytest.mark.parametrize(("outputs", "taps"), POINTS)
def test_the_transforms_are_a_correlation(outputs: int, taps: int) -> None:
    rng, size = np.random.default_rng(outputs), outputs + taps - 1
    for _ in range(20):
        data = rng.standard_normal((3, size, size))
        weight = rng.standard_normal((3, taps, taps))
        wanted = _direct(data, weight, outputs)
        np.testing.assert_allclose(_filtered(data, weight, outputs), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("outputs", "taps", "times"), [(2, 3, 1.0), (4, 3, 3.0), (2, 4, 1.5), (3, 4, 2.5)]
)
def test_rounding_stays_near_that_of_the_direct_sum(outputs: int, taps: int, times: float) -> None:
    """Over 64 channels, as a layer sums them."""
    rng, size = np.random.default_rng(outputs), outputs + taps - 1
    direct, filtered = [], []
    for _ in range(60):
        data = np.abs(rng.standard_normal((64, size, size))).astype(np.float32)
        weight = rng.standard_normal((64, taps, taps)).astype(np.float32)
        wanted = _direct(data.astype(float), weight.astype(float), outputs)
        direct.append(np.abs(_direct(data, weight, outputs) - wanted).mean())
        filtered.append(np.abs(_filtered(data, weight, outputs) - wanted).mean())
    assert np.mean(filtered) <= times * np.mean(direct)


# window, stride, and for which tiles it is known
WINDOWS = (
    ((3, 3), (1, 1), (2, 4)),
    ((7, 7), (2, 2), (2, 3)),
    ((5, 5), (2, 2), (2, 4)),
    ((4, 3), (1, 1), (2, 3)),
    ((5, 6), (2, 2), (2, 4)),
)


def _cases() -> list[Case]:
    """Maps of up to 20 pixels, every way to store, batches from 1 to 5 and 16 side by side."""
    rng, cases = np.random.default_rng(5), []
    for number in range(60):
        kernel, strides, known = WINDOWS[number % len(WINDOWS)]
        outputs = known[number // 5 % len(known)]
        least = (outputs - 1) * strides[0] + max(kernel)
        height, width = (int(x) for x in rng.integers(least, 21 * strides[0], 2))
        beside = number % 7 == 5
        channels, rows = (int(x) for x in rng.integers(1, 68, 2))
        layer = Layer(
            (16 if beside else int(rng.integers(1, 6)), channels, height, width),
            rows,
            kernel,
            strides,
            PADS[number % 4],
            density=(0.0, 0.5, 1.0, 1.0, 1.0, 1.0)[number % 6],
            residual=("", "own", "in place")[number % 3],
            activation=ACTIVATIONS[number % len(ACTIVATIONS)],
            beside=beside,
            empty=7 if number % 2 else 0,
        )
        lanes = int(rng.choice([16, 32, 48]))
        block = min(int(rng.integers(1, 15)), 448 // lanes)
        groups = int(rng.integers(1, 4))
        schedule = Schedule("winograd2d", outputs, lanes // 8, channels, groups, rows=block)
        case = layer.case(schedule, seed=number)
        # activations see the error of sums of so many terms
        case.tolerance = 1e-5 * np.sqrt(channels * kernel[0] * kernel[1])
        cases.append(case)
    return cases


@pytest.mark.parametrize("isa", portable_ones_slow())
def test_every_tile_is_computed_and_nothing_else_is_written(isa: str) -> None:
    check(_cases(), isa)


@pytest.mark.parametrize("outputs", [2, 4])
def test_every_size_of_a_map(outputs: int) -> None:
    """1x1 beyond what a tile covers to 17x17, one channel and a vector's worth of tiles."""
    cases = []
    for size in range(outputs, 18):
        layer = Layer((2, 3, size, 19 - size + outputs), 5, (3, 3), pads=SAME, density=1.0)
        case = layer.case(Schedule("winograd2d", outputs, 2, 3, rows=4), seed=size)
        case.tolerance = 2e-5
        cases.append(case)
    check(cases, supported()[0])


@pytest.mark.parametrize("which", ["points", "order", "bias"])
def test_a_broken_twin_is_seen(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of other points than the input's; rows of a block in another order; no bias."""
    layer = Layer((1, 5, 8, 16), 6, (3, 3), pads=SAME, density=1.0)
    case = layer.case(Schedule("winograd2d", 4, 2, 5, rows=3))
    case.tolerance = 5e-5
    check([case], supported()[0])
    twins: dict[str, Callable[[], None]] = {
        "points": lambda: monkeypatch.setitem(POINTS, (4, 3), (0.0, 0.625, -0.625, 1.5, -1.25)),
        "order": lambda: monkeypatch.setattr(
            "prunedeploy.runtimes.sparse.codegen.winograd_2d.blocks",
            lambda step, schedule: np.ascontiguousarray(
                winograd2d.blocks(step, schedule)[..., ::-1]
            ),
        ),
        "bias": lambda: setattr(
            case, "step", dataclasses.replace(case.step, bias=np.zeros(6, np.float32))
        ),
    }
    wanted = case.step
    twins[which]()
    if which == "bias":
        assert not np.array_equal(wanted.bias, case.step.bias)  # type: ignore[union-attr]
        monkeypatch.setattr("kernels.run_step", _of(wanted))
    with pytest.raises(AssertionError):
        check([case], supported()[0])


def _of(wanted: object) -> Callable[..., object]:
    from kernels import run_step

    return lambda step, *rest: run_step(wanted, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "layer",
    [
        Layer((1, 4, 9, 9), 4, (5, 5), density=1.0),
        Layer((1, 4, 9, 9), 4, (1, 3), density=1.0),
        Layer((1, 4, 9, 9), 4, (3, 3), (2, 2), density=1.0),  # two taps a phase
        Layer((1, 4, 19, 19), 4, (7, 7), (3, 3), density=1.0),
        Layer((1, 4, 19, 19), 4, (7, 7), (2, 1), density=1.0),
        Layer((1, 4, 9, 9), 4, (3, 3), groups=2, density=1.0),
        Layer((1, 4, 9, 9), 4, (3, 3), dilations=(2, 1), density=1.0),
        Layer((1, 4, 3, 9), 4, (3, 3), density=1.0),  # one row of pixels
        Layer((3, 4, 9, 9), 4, (3, 3), density=1.0, beside=True),  # three images a pixel
    ],
    ids=["taps", "narrow", "stride", "three", "uneven", "groups", "dilation", "height", "beside"],
)
def test_what_it_is_not_for(layer: Layer) -> None:
    assert not any(winograd2d.suits(layer.step, outputs) for outputs in OUTPUTS)
    dense = choose.candidates(layer.step, "avx512", 2)
    assert all(schedule.kernel != "winograd2d" for schedule in dense)


def test_dense_layers_alone_have_such_candidates() -> None:
    layer = Layer((1, 32, 16, 16), 32, (3, 3), pads=SAME, density=1.0)
    for isa, unit in (("avx512", 16), ("avx2", 8), ("neon", 8)):
        schedules = [w for w in choose.candidates(layer.step, isa, 2) if w.kernel == "winograd2d"]
        assert {schedule.tile_rows for schedule in schedules} == {2, 4}
        assert all(schedule.tile_width_x8 * 8 % unit == 0 for schedule in schedules)
        assert {
            winograd2d.geometry(layer.step, w).tiles for w in schedules if w.tile_width_x8 * 8 == 16
        } == {
            1,
            4,
        }
    sparse = dataclasses.replace(layer, density=0.1)
    assert all(w.kernel != "winograd2d" for w in choose.candidates(sparse.step, "avx512", 2))


def test_it_is_the_models_first_choice_where_it_saves_most() -> None:
    layer = Layer((1, 64, 32, 32), 64, (3, 3), pads=SAME, density=1.0)
    schedule = choose.schedule(layer.step, "avx512", 1)
    assert (schedule.kernel, schedule.tile_rows) == ("winograd2d", 4)
    assert winograd2d.describe(schedule).startswith("winograd2d ")


def _long_sums(rows: int) -> Case:
    layer = Layer((2, 512, 16, 16), rows, (3, 3), pads=SAME, density=1.0, empty=0)
    case = layer.case(Schedule("winograd2d", 4, 2, 512, rows=rows))
    return dataclasses.replace(case, tolerance=1.6e-6)


@pytest.mark.parametrize("isa", supported())
def test_long_sums_are_made_of_short_ones(isa: str) -> None:
    """With one and with two sums a row in registers; not so, 512 terms are off by far more."""
    if isa == "scalar":
        pytest.skip("it has no vectors of tiles")
    cases = [_long_sums(3), _long_sums(13)]
    check(cases, isa)
    for case in cases:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check([case], isa, "-DPD_CHUNK=512")


def test_weights_are_stored_as_the_kernel_reads_them() -> None:
    step = Layer((1, 3, 8, 8), 5, (3, 3), pads=SAME, density=1.0).step
    found = winograd2d.blocks(step, Schedule("winograd2d", 2, 2, 3, rows=4))
    points = winograd2d.transformed(step.weight, 2)
    assert found.shape == (2, 16, 3, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 7, 2], points[7, :4, 2], rtol=1e-6)
    np.testing.assert_allclose(found[1, 7, 2], [points[7, 4, 2], 0, 0, 0], rtol=1e-6)


def test_phases_of_a_window() -> None:
    """The tap (2 a + p, 2 b + q) is the tap (a, b) of phase (p, q); there are zeros behind 7."""
    step = Layer((1, 3, 32, 32), 4, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0, empty=0).step
    found = winograd2d.apart(step)
    assert found.shape == (4, 12, 4, 4)
    assert found[2, 1 * 4 + 1 * 2 + 0, 2, 3] == step.weight[2, 1, 5, 6]
    assert not found[:, 1 * 4 + 1 * 2 + 0, 3].any()
    assert np.count_nonzero(found) == np.count_nonzero(step.weight)


def test_careful_builds_keep_two_by_two() -> None:
    net = Small()
    model = net.model(net.conv(net.input("n", 64, 32, 32), 64, 64, 3, pads=[1, 1, 1, 1]))
    plan = lower(model, 1, {})
    assert isinstance(plan, Plan)
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    usual = choose.schedule(step, "avx512", 2)
    assert (usual.kernel, usual.tile_rows) == ("winograd2d", 4)
    schedule = limit_rounding(plan, {step.name: usual}, "avx512", 2)[step.name]
    assert (schedule.kernel, schedule.tile_rows) == ("winograd2d", 2)


def test_a_little_careful_builds_keep_three_by_three() -> None:
    """Where a window has them: a stem's F(3x3) rounds less than its F(4), more than its F(2)."""
    net = Small()
    stem = net.conv(net.input("n", 3, 224, 224), 3, 64, 7, pads=[3, 3, 3, 3], strides=[2, 2])
    plan = lower(net.model(stem), 1, {})
    assert isinstance(plan, Plan)
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    rough = next(w for w in choose.ranked(step, "avx512", 2) if w.tile_rows == 4)
    assert rough.kernel == "winograd"
    tuned = {step.name: rough}
    schedules = [limit_rounding(plan, tuned, "avx512", 2, level)[step.name] for level in (1, 2)]
    assert [schedule.tile_rows for schedule in schedules] == [3, 2]
    assert limit_rounding(plan, {step.name: schedules[0]}, "avx512", 2, 1) == {
        step.name: schedules[0]
    }
