"""Minimal filtering: the transforms are those of a correlation, and lose little to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from convs import Layer
from kernels import check, supported
from lowered import Small

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.engines import building, verified_build
from prunedeploy.graph.model import save
from prunedeploy.measure.bench import bench
from prunedeploy.runtimes.sparse.build import limit_rounding
from prunedeploy.runtimes.sparse.kernels import winograd_1d as winograd
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry

SIZES = [(outputs, taps) for outputs in winograd.OUTPUTS for taps in range(1, 5)]


def _filtered(data: Array, taps: Array, outputs: int) -> Array:
    """``outputs`` numbers by the transforms, in the precision of what is given."""
    kind, size = data.dtype, len(taps)
    products = winograd.filters(outputs, size).astype(kind) @ taps
    products = products * (winograd.inputs(outputs, size).astype(kind) @ data)
    return winograd.results(outputs, size).astype(kind) @ products


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_the_transforms_are_a_correlation(outputs: int, taps: int) -> None:
    rng = np.random.default_rng(outputs * 10 + taps)
    for _ in range(20):
        data, weight = rng.standard_normal(outputs + taps - 1), rng.standard_normal(taps)
        wanted = [data[row : row + taps] @ weight for row in range(outputs)]
        np.testing.assert_allclose(_filtered(data, weight, outputs), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_rounding_stays_near_that_of_the_direct_sum(outputs: int, taps: int) -> None:
    """Over 64 channels, as a layer sums them; twice the error of the direct sum at the most."""
    rng = np.random.default_rng(outputs * 10 + taps)
    size, channels = outputs + taps - 1, 64
    direct, filtered = [], []
    for _ in range(100):
        data = np.abs(rng.standard_normal((channels, size))).astype(np.float32)
        weight = rng.standard_normal((channels, taps)).astype(np.float32)
        wanted = np.array(
            [np.vdot(data[:, k : k + taps].astype(float), weight) for k in range(outputs)]
        )
        plain, sums = np.zeros(outputs, np.float32), np.zeros(size, np.float32)
        for row, by in zip(data, weight, strict=True):
            for tap in range(taps):
                plain += row[tap : tap + outputs] * by[tap]
            kernel = (winograd.filters(outputs, taps) @ by).astype(np.float32)
            sums += kernel * (winograd.inputs(outputs, taps).astype(np.float32) @ row)
        found = winograd.results(outputs, taps).astype(np.float32) @ sums
        direct.append(np.abs(plain - wanted).mean())
        filtered.append(np.abs(found - wanted).mean())
    assert np.mean(filtered) <= 2 * np.mean(direct) + 1e-7


def test_products_and_points() -> None:
    """A 7x7 window of stride 2 has phases of four and of three rows."""
    step = Layer((1, 3, 32, 32), 8, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0).step
    assert [winograd.products(step, outputs) for outputs in (2, 4)] == [9, 13]
    assert [winograd.segments(step, outputs) for outputs in (2, 4)] == [5, 7]
    assert winograd.suits(step, 2)
    assert winograd.suits(step, 4)


@pytest.mark.parametrize(
    "layer",
    [
        Layer((1, 4, 9, 9), 4, (5, 5), density=1.0),  # a phase of five taps
        Layer((1, 4, 9, 9), 4, (3, 3), groups=2, density=1.0),
        Layer((1, 4, 9, 9), 4, (3, 3), dilations=(2, 1), density=1.0),
        Layer((1, 4, 3, 9), 4, (3, 3), density=1.0),  # one row of pixels
        Layer((1, 4, 9, 9), 4, (1, 3), density=1.0),  # nothing to save
    ],
    ids=["taps", "groups", "dilation", "height", "products"],
)
def test_what_it_is_not_for(layer: Layer) -> None:
    assert not any(winograd.suits(layer.step, outputs) for outputs in winograd.OUTPUTS)


def test_matrices_follow_the_phases_of_a_tile() -> None:
    layer = Layer((1, 3, 16, 16), 8, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0)
    schedule = Schedule("winograd", 4, 2, 3, rows=4)
    layout = geometry(layer.step, schedule)
    found = winograd.transforms(schedule, layout)
    assert found.size == sum(phase.rows**2 for phase in layout.phases)


def test_a_wrong_point_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: transforms of the weights for one point, of the input for another."""
    layer = Layer((1, 5, 8, 16), 6, (3, 3), pads=(1, 1, 1, 1), density=1.0)
    case = layer.case(Schedule("winograd", 4, 2, 5, rows=3))
    check([case], supported()[0])
    right = winograd.filters

    def wrong(outputs: int, taps: int) -> Array:
        found = right(outputs, taps).copy()
        found[1] *= 1.01
        return found

    monkeypatch.setattr(winograd, "filters", wrong)
    with pytest.raises(AssertionError):
        check([case], supported()[0])


def _stem() -> ir.Model:
    net = Small()
    return net.model(net.conv(net.input("n", 3, 112, 112), 3, 64, 7, strides=[2, 1]))


def test_careful_builds_keep_two_rows() -> None:
    plan = lower(_stem(), 1, {})
    assert isinstance(plan, Plan)
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    usual = choose.schedule(step, "avx512", 2)
    assert (usual.kernel, usual.tile_rows) == ("winograd", 4)
    for tuned in ({}, {step.name: usual}):
        schedule = limit_rounding(plan, tuned, "avx512", 2)[step.name]
        assert schedule.kernel != "winograd" or schedule.tile_rows == 2
    other = Schedule("rows", 1, 2, 3)
    assert limit_rounding(plan, {step.name: other}, "avx512", 2) == {step.name: other}


def test_an_engine_near_its_tolerance_is_built_with_less_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    save(_stem(), path)
    told: list[str] = []
    building.build(path, "host", "sparse", tmp_path / "a.engine", progress=told.append, tune="none")
    assert not any("less rounding" in text for text in told)
    monkeypatch.setattr(verified_build, "REBUILD_SHARE", 0.0)
    engine = building.build(
        path, "host", "sparse", tmp_path / "b.engine", progress=told.append, tune="none"
    )
    assert any("less rounding" in text for text in told)
    assert engine.manifest.difference is not None
    assert engine.manifest.difference.passed


@pytest.mark.parametrize(
    ("distances", "built"), [((5e-6,), 0), ((9e-6, 5e-6), 1), ((9e-6, 9e-6, 5e-6), 2)]
)
def test_builds_are_as_careful_as_they_have_to_be(
    distances: tuple[float, ...], built: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows at once: four, then three, then two; no more builds than it takes."""
    net = Small()
    stem = net.conv(net.input("n", 3, 224, 224), 3, 64, 7, pads=[3, 3, 3, 3], strides=[2, 2])
    save(net.model(stem), tmp_path / "net.onnx")
    waiting, told, difference = list(distances), list[str](), verified_build._difference
    monkeypatch.setattr(
        verified_build, "_difference", lambda *a: replace(difference(*a), max_rel=waiting.pop(0))
    )
    engine = building.build(
        *(tmp_path / "net.onnx", "host", "sparse", tmp_path / "net.engine", None, told.append),
        tune="none",
    )
    assert not waiting
    assert sum("less rounding" in text for text in told) == built
    assert engine.manifest.difference is not None
    assert engine.manifest.difference.max_rel == 5e-6


def test_careful_builds_have_short_sums() -> None:
    """Of direct products, at the second level alone."""
    net = Small()
    layer = net.conv(net.input("n", 512, 14, 14), 512, 64, 1)
    plan = lower(net.model(layer), 1, {})
    assert isinstance(plan, Plan)
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    schedules = choose.ranked(step, "avx512", 2)
    long = next(
        schedule for schedule in schedules if schedule.kernel == "block" and schedule.channels > 256
    )
    little, more = (limit_rounding(plan, {step.name: long}, "avx512", 2, level) for level in (1, 2))
    assert little == {step.name: long}
    assert more[step.name].channels <= 256


@pytest.mark.slow
def test_an_engine_is_held_within_what_its_user_says(tmp_path: Path) -> None:
    path, net = tmp_path / "net.onnx", Small()
    save(net.model(net.conv(net.input("n", 64, 32, 32), 64, 64, 3, pads=[1, 1, 1, 1])), path)

    def build(name: str, within: float | None) -> tuple[float, bool]:
        told: list[str] = []
        engine = building.build(
            *(path, "host", "sparse", tmp_path / name, None, told.append),
            tune="none",
            within=within,
        )
        assert engine.manifest.difference is not None
        return engine.manifest.difference.max_rel, any("less rounding" in text for text in told)

    assert not build("usual.engine", None)[1]
    usual, again = build("wide.engine", 1e-5)
    assert not again
    held, again = build("held.engine", 0.9 * usual)
    assert again
    assert held <= 0.9 * usual
    bench([tmp_path / "held.engine"], baseline=path, rounds=1)  # ONNX Runtime rounds as well
    with pytest.raises(UserError, match=r"rounds more than 1e-12 of the range: .* is off by"):
        build("none.engine", 1e-12)
    assert not (tmp_path / "none.engine").exists()
    for wrong in (0.0, -1e-6, 1e-4, float("nan")):
        with pytest.raises(UserError, match="cannot be held within"):
            build("wrong.engine", wrong)
