"""Kernels of convolutions in the PTX machine, against float64 and bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_layers import TARGET, Layer, check, emitted, feeds_of, kinds, summed_in_order
from ptx.kernels import run_kernels

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu import depthwise, generated, looped, schedule, streamed
from prunedeploy.runtimes.sparse.gpu.generated import Schedule
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.targets.gpu import GPUS

LAYERS = {
    "one by one": Layer((1, 12, 7, 7), 20),
    "one pixel more than a warp": Layer((1, 5, 3, 11), 9),
    "batch of 2": Layer((2, 12, 5, 3), 17, activation="Relu"),
    "three by three": Layer((1, 6, 7, 5), 11, (3, 3), pads=(1, 1, 1, 1)),
    "batch of 5": Layer((5, 3, 5, 4), 6, (3, 3), pads=(1, 1, 1, 1), residual=True),
    "stride 2": Layer((3, 4, 9, 7), 8, (3, 3), (2, 2), (1, 1, 1, 1), activation="Relu"),
    "stride 2 without a window": Layer((2, 6, 7, 9), 10, (1, 1), (2, 2)),
    "other strides on each axis": Layer((1, 4, 10, 11), 5, (2, 3), (3, 2), (0, 1, 1, 0)),
    "seven by seven": Layer((1, 3, 15, 13), 8, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0),
    "dilated": Layer((1, 4, 9, 9), 6, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    "a row of pixels": Layer((1, 5, 1, 40), 7, (1, 5), pads=(0, 2, 0, 2)),
    "a window as large as the plane": Layer((4, 6, 5, 5), 7, (5, 5)),
    "groups": Layer((2, 12, 5, 5), 18, (3, 3), pads=(1, 1, 1, 1), groups=3, residual=False),
    "two channels a group": Layer((1, 16, 4, 4), 16, (1, 1), groups=8, activation="HardSwish"),
    "no weight at all": Layer((1, 4, 5, 5), 6, (3, 3), pads=(1, 1, 1, 1), density=0.0),
    "one row": Layer((1, 30, 6, 6), 1, density=0.5, empty=0),
    "a residual and bounds": Layer((4, 8, 3, 3), 16, residual=True, activation="Relu"),
    "sigmoid": Layer((1, 4, 3, 3), 5, activation="Sigmoid"),
}
SCHEDULES = (Schedule(8, 32), Schedule(64, 64), Schedule(8, 32, 2), Schedule(16, 32, 8))


def _whole(cut: Schedule):  # type: ignore[no-untyped-def]
    return lambda step, name, _: generated.emit(step, name, cut)


@pytest.mark.parametrize("cut", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_generated(name: str, cut: Schedule) -> None:
    check(LAYERS[name].plan(), _whole(cut))


@pytest.mark.parametrize("name", LAYERS)
def test_looped(name: str) -> None:
    check(LAYERS[name].plan(), looped.emit)


@pytest.mark.parametrize("name", LAYERS)
def test_as_scheduled(name: str) -> None:
    check(LAYERS[name].plan())


@pytest.mark.parametrize(
    "layer",
    [
        Layer((1, 9, 8, 7), 9, (3, 3), pads=(1, 1, 1, 1), groups=9, density=1.0),
        Layer((2, 6, 7, 5), 6, (3, 3), (2, 2), (1, 1, 1, 1), groups=6, activation="Relu"),
        Layer((1, 4, 6, 6), 12, (5, 5), pads=(2, 2, 2, 2), groups=4, density=0.7),
        Layer((3, 5, 4, 9), 5, (3, 1), (1, 2), (1, 0, 1, 0), groups=5),
    ],
)
def test_depthwise(layer: Layer) -> None:
    kernels = check(layer.plan())
    assert kinds(kernels).count("depthwise") == 1


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("empty", [0, 2])
def test_streamed(batch: int, empty: int) -> None:
    layer = Layer((batch, 150, 1, 1), 13, density=0.4, empty=empty, activation="Relu")
    plan = layer.plan()
    assert all(streamed.fits(step) for step in plan.steps if isinstance(step, Conv))
    assert "streamed" in kinds(check(plan))
    check(Layer((batch, 70, 1, 1), 9, density=1.0, residual=True).plan(), streamed.emit)


@pytest.mark.parametrize("name", ["batch of 2", "stride 2", "dilated", "groups", "seven by seven"])
def test_generated_is_bit_for_bit_what_the_order_of_sums_gives(name: str) -> None:
    """With sums of one order there is one right answer in float32."""
    plan = LAYERS[name].plan()
    feeds = feeds_of(plan)
    (x,) = feeds.values()
    found = run_kernels(plan, *emitted(plan, _whole(Schedule(8, 32))), feeds)
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    expected = summed_in_order(step, x)
    if step.activation.op == "relu":
        expected = np.where(expected < 0, np.float32(0), expected)
    (result,) = found.values()
    assert np.array_equal(result.view(np.uint32), expected.view(np.uint32))


def test_nan_and_infinity_go_through() -> None:
    layer = Layer((1, 8, 5, 5), 12, density=0.9, empty=0, activation="Relu")
    plan = layer.plan()
    feeds = feeds_of(plan)
    (x,) = feeds.values()
    x[0, 3, 2, 2], x[0, 1, 0, 0], x[0, 1, 4, 4] = np.nan, np.inf, -np.inf
    (result,) = run_kernels(plan, *emitted(plan), feeds).values()
    (step,) = (step for step in plan.steps if isinstance(step, Conv))
    reads = step.weight[:, 3, 0, 0] != 0
    assert np.array_equal(np.isnan(result[0, :, 2, 2]), reads)
    assert not np.isnan(result[0, :, 1, 1]).any()
    weight = step.weight[:, 1, 0, 0]
    assert (result[0, weight > 0, 0, 0] == np.inf).all()
    assert (result[0, weight > 0, 4, 4] == 0).all()
    assert (result[0, weight < 0, 0, 0] == 0).all()


def test_a_long_program_is_cut_at_its_limit() -> None:
    (step,) = _convs(Layer((1, 512, 4, 8), 64, density=0.5, empty=0))
    kernel = generated.emit(step, "k", Schedule(64, 32))
    assert kernel.grid[1] > 4
    assert kernel.cost.longest < 4400


def test_rows_are_balanced_by_their_non_zeros() -> None:
    (step,) = _convs(Layer((1, 64, 7, 7), 64, density=0.2, empty=0))
    weight = step.weight.copy()
    weight[:8] = 1
    ranges = generated.programs(replace(step, weight=weight), Schedule(16, 32))
    assert [each.stop for each in ranges][-1] == 64
    assert len(ranges[0]) < min(map(len, ranges[1:]))


def _convs(layer: Layer) -> list[Conv]:
    return [step for step in layer.plan().steps if isinstance(step, Conv)]


def _chosen(layer: Layer, target: str = "rtx2080ti") -> Kernel:
    from prunedeploy import targets

    (step,) = _convs(layer)
    machine = targets.by_name(target)
    return schedule.emit(step, "k", Constants(), GPUS[target], machine)


def test_the_kernel_follows_the_layer() -> None:
    assert _chosen(Layer((1, 64, 56, 56), 64)).kind == "generated"
    assert _chosen(Layer((1, 256, 7, 7), 512, density=0.1)).kind == "split"
    assert _chosen(Layer((1, 256, 14, 14), 256, density=1.0, empty=0)).kind == "looped"
    assert _chosen(Layer((1, 512, 1, 1), 100)).kind == "streamed"
    assert depthwise.fits(_convs(Layer((1, 8, 5, 5), 8, (3, 3), groups=8))[0])
    assert TARGET.name in GPUS
