"""Ways to cut a layer: all that are offered can be computed, the best by the model come first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convs import Layer

from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.table import KERNELS, geometry
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.cost import cycles
from prunedeploy.runtimes.sparse.schedule.schedule import (
    EIGHT,
    MAX_OFFSET,
    inside,
    is_direct,
    is_flat,
    pixels,
    row_size,
)

SAME = (1, 1, 1, 1)
LAYERS = [
    Layer((1, 64, 56, 56), 64, density=0.1),
    Layer((1, 512, 7, 7), 96, density=0.1),
    Layer((1, 16, 28, 28), 32, strides=(2, 2), density=0.2),
    Layer((1, 32, 28, 28), 32, (3, 3), pads=SAME, density=0.1),
    Layer((8, 32, 7, 7), 32, (3, 3), pads=SAME, density=0.1),
    Layer((1, 16, 29, 30), 32, (3, 3), (2, 2), SAME, density=0.1),
    Layer((1, 3, 112, 112), 64, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0, empty=0),
    Layer((1, 8, 6, 700), 8, (3, 3), pads=SAME, density=0.1),
    Layer((1, 64, 14, 14), 64, density=1.0),
    Layer((16, 32, 7, 7), 32, (3, 3), pads=SAME, density=0.1, beside=True),
    Layer((16, 32, 14, 14), 48, strides=(2, 2), density=0.1, beside=True),
    Layer((2, 4, 2, 2), 8, groups=4, density=0.9),
    Layer((3, 1, 1, 1), 3, (3, 3), pads=SAME, density=0.9),
]
COMPILED = ("avx512", "avx2", "neon", "generic")


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_candidate_can_be_computed(layer: Layer, isa: str) -> None:
    step = layer.step
    found = list(choose.candidates(step, isa, 2))
    assert found
    assert len(set(found)) == len(found)
    for schedule in found:
        layout = geometry(step, schedule)
        # sums of one point stay in registers; no more than the smallest tile where rows alone do
        kernel = KERNELS[schedule.kernel]
        outputs = schedule.tile_rows if kernel.winograd else 1
        elements = schedule.rows * schedule.elements // outputs
        if kernel.generated:  # one vector at a time
            elements = schedule.rows * ISAS[isa].lanes
        assert (
            elements < ISAS[isa].registers * ISAS[isa].lanes
            or schedule.tile_rows * schedule.tile_width_x8 == 1
        ), schedule
        # offsets reach the last tap of a panel's last channel
        farthest = (schedule.channels - 1) * layout.channel + max(max(row) for row in layout.taps)
        assert kernel.generated or farthest // layout.unit < MAX_OFFSET, schedule
        assert all(tap % layout.unit == 0 for row in layout.taps for tap in row)
        assert layout.channel % layout.unit == 0
        assert 1 <= schedule.channels <= step.x.shape[1]
        assert 1 <= schedule.groups <= max(step.weight.shape[0], 1)
        # tiles hold the whole plane
        if layout.flat:
            assert layout.tiles * schedule.tile_width_x8 * EIGHT >= pixels(step)
            assert (layout.tiles - 1) * schedule.tile_width_x8 * EIGHT < pixels(step)
        else:
            assert layout.columns <= schedule.tile_width_x8 * EIGHT
            assert schedule.packing == "shared_border" or layout.pitch % UNIT == 0
        # in place only where planes lie as tiles need them
        assert schedule.packing != "none" or (is_direct(step) and step.x.strides[1] % UNIT == 0)
        assert schedule.packing != "copies" or not is_flat(step)


@pytest.mark.parametrize("layer", LAYERS[1:6], ids=str)
def test_streams_of_candidates_exist(layer: Layer) -> None:
    """The offsets that are promised to fit do."""
    step = layer.step
    for schedule in list(choose.candidates(step, "avx512", 2))[::5]:
        pack = KERNELS[schedule.kernel].pack
        if pack is not None:
            pack(step, schedule, geometry(step, schedule), BlockCache())


@pytest.mark.parametrize("isa", COMPILED)
def test_the_best_by_the_model_is_first(isa: str) -> None:
    for layer in LAYERS[::3]:
        step = layer.step
        schedules = choose.ranked(step, isa, 2)
        costs = [cycles(step, schedule, isa, 2) for schedule in schedules]
        assert costs == sorted(costs)
        assert min(costs) > 0
        assert choose.schedule(step, isa, 2) == schedules[0]


def test_the_kernel_follows_from_the_density() -> None:
    """Scattered zeros are computed row by row or in programs, dense layers in blocks of rows."""
    sparse = Layer((1, 64, 14, 14), 64, density=0.1)
    found = {schedule.kernel for schedule in choose.candidates(sparse.step, "avx512", 2)}
    assert found == {"rows", "jit"}
    assert {schedule.kernel for schedule in choose.candidates(sparse.step, "avx2", 2)} == {"rows"}
    dense = replace(sparse, density=1.0)
    assert "rows" not in {
        schedule.kernel for schedule in choose.candidates(dense.step, "avx512", 2)
    }
    assert choose.schedule(dense.step, "avx512").rows > 1


def test_whole_rows_of_a_sparse_layer_are_blocks() -> None:
    """As refilling leaves them; a dense layer with a few rows of nothing needs none."""
    for spilled, kernels in ((12, {"rows", "jit", "mixed"}), (60, {"block"})):
        step = Layer((1, 64, 14, 14), 64, density=1.0, empty=0).step
        step.weight[spilled:] = 0
        assert {schedule.kernel for schedule in choose.candidates(step, "avx512", 2)} == kernels


def test_twice_the_weights_cost_nearly_twice() -> None:
    layer = Layer((1, 128, 28, 28), 128, density=0.1, empty=0)
    step = layer.step
    schedule = choose.schedule(step, "avx512", 1)
    twice = replace(layer, density=0.2).step
    assert 1.6 < cycles(twice, schedule, "avx512", 1) / cycles(step, schedule, "avx512", 1) < 2.1


def test_two_threads_need_half_the_time_of_one() -> None:
    for layer in LAYERS[:6]:
        step = layer.step
        one = cycles(step, choose.schedule(step, "avx512", 1), "avx512", 1)
        two = cycles(step, choose.schedule(step, "avx512", 2), "avx512", 2)
        assert 1.6 < one / two < 2.2, layer


def test_small_images_may_lie_one_behind_the_other() -> None:
    """A copy for every tap fills vectors that rows of seven pixels do not."""
    schedules = list(choose.candidates(LAYERS[4].step, "avx512", 2))
    assert any(schedule.packing == "im2col" for schedule in schedules)
    assert not any(
        schedule.packing == "im2col" for schedule in choose.candidates(LAYERS[3].step, "avx512", 2)
    )


def test_rows_wider_than_the_registers_are_cut_into_bands() -> None:
    step = LAYERS[7].step
    assert inside(step) == 1
    assert all(
        schedule.tile_width_x8 * EIGHT < row_size(step)
        for schedule in choose.candidates(step, "avx2", 2)
    )


@pytest.mark.parametrize(("density", "empty"), [(1.0, 0), (0.6, 0), (0.9, 2)])
def test_panels_are_short_enough_for_their_sums(density: float, empty: int) -> None:
    """By the terms that a row has which is not empty; a window of one channel is always allowed."""
    layer = Layer((1, 512, 8, 8), 32, (3, 3), pads=SAME, density=density, empty=empty)
    step = layer.step
    full = step.weight[step.weight.any((1, 2, 3))]
    terms = np.count_nonzero(full) / len(full) / 512
    seen = set()
    for schedule in choose.candidates(step, "avx512", 1):
        longest = KERNELS[schedule.kernel].max_terms
        if longest:
            seen.add(schedule.kernel)
            assert schedule.channels * terms <= longest
    assert {"block", "winograd"} <= seen
