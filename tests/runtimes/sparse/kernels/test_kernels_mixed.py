"""Blocks of rows from anywhere in a layer, and rows beside them, in one stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from block_weights import blocks_at, filled, scattered
from kernels import Case, Memory, check, supported

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks import Block
from prunedeploy.runtimes.sparse.kernels import mixed
from prunedeploy.runtimes.sparse.kernels import packing as streams
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache, Work
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Activation, Conv
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule import tune
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry, is_flat

SIZES = [  # of blocks, in layers of 37 rows
    [(8, 20), (11, 25)],
    [(4, 1), (1, 30), (5, 7), (2, 3)],  # single columns, single rows
    [(37, 40)],
    [],  # an empty layer
    [(16, 18), (16, 18), (3, 4)],
]


def _case(
    weight: Array,
    size: tuple[int, int, int],
    schedule: Schedule,
    strides: int = 1,
    groups: int = 1,
    residual: bool = False,
    activation: Activation = Activation(),  # noqa: B008 - it is frozen
) -> Case:
    images, height, width = size
    outputs, _, kernel, _ = weight.shape
    pad = kernel // 2
    out = [(extent + 2 * pad - kernel) // strides + 1 for extent in (height, width)]
    memory = Memory()
    x = memory.planar((images, weight.shape[1] * groups, height, width))
    y = memory.planar((images, outputs, *out))
    step = Conv(
        "layer",
        x,
        y,
        weight,
        np.linspace(-1, 1, outputs, dtype=np.float32),
        (strides, strides),
        (pad,) * 4,
        groups=groups,
        residual=memory.planar((images, outputs, *out)) if residual else None,
        activation=activation,
    )
    assert is_flat(step) or schedule.packing != "im2col" or schedule.tile_rows == 1
    return memory.case(step, tuned={"layer": schedule})


def sweep() -> list[Case]:
    """Windows and flat tiles, one panel and several, one group of rows and several."""
    cases = []
    for number, sizes in enumerate(SIZES):
        taps = (37, 6, 3, 3) if number % 2 else (37, 48, 1, 1)
        columns = int(np.prod(taps[1:]))
        weight = filled(taps, blocks_at(37, columns, sizes, number), number)
        for rest in (0.0, 0.05):
            full = scattered(weight, rest, number) if rest else weight
            flat = taps[2] == 1
            for rows, channels, groups in ((4, 64, 1), (8, 5, 2), (6, 2, 3)):
                schedule = Schedule(
                    "mixed", 1 if flat else 2, 1 + rows % 3, channels, groups, rows=rows
                )
                cases.append(
                    _case(
                        full,
                        (1 + number % 2, 5, 7),
                        schedule,
                        strides=2 if rows == 6 else 1,
                        residual=rows == 8,
                        activation=Activation("relu" if groups == 1 else "silu"),
                    )
                )
    return cases


def _grouped() -> Case:
    """Two groups of channels: rows of both with the same columns in their own are two blocks."""
    half = filled((10, 4, 3, 3), blocks_at(10, 36, [(8, 12)], 1), 1)
    weight = np.concatenate([half, half])
    return _case(weight, (1, 6, 6), Schedule("mixed", 2, 1, 5, rows=4), groups=2)


def _remainders() -> list[Case]:
    """Rows that are in a block and have non-zeros besides, and zeros inside of blocks."""
    cases = []
    for number, taps in enumerate([(37, 6, 3, 3), (37, 48, 1, 1)]):
        columns = int(np.prod(taps[1:]))
        weight = _near(taps, blocks_at(37, columns, [(12, 20), (9, 25), (6, 18)], number), number)
        flat = taps[2] == 1
        for rows, channels, groups in ((4, 64, 1), (8, 5, 2), (6, 2, 3), (4, 64, 2)):
            schedule = Schedule(
                "mixed", 1 if flat else 2, 1 + rows % 3, channels, groups, rows=rows, fill=0.6
            )
            cases.append(
                _case(
                    weight,
                    (1, 5, 7),
                    schedule,
                    residual=rows == 8,
                    activation=Activation("silu" if rows == 6 else "relu"),
                )
            )
    for rows, tile_rows, channels, groups in (
        (4, 5, 6, 1),
        (6, 2, 2, 2),
    ):  # 5 x 7 pixels in one run
        tile_width_x8 = -(-((tile_rows - 1) * 8 + 7) // 8)
        schedule = Schedule(
            "mixed",
            tile_rows,
            tile_width_x8,
            channels,
            groups,
            rows=rows,
            packing="shared_border",
            fill=0.6,
        )
        weight = _near((37, 6, 3, 3), blocks_at(37, 54, [(12, 20), (9, 25)], rows), rows)
        cases.append(_case(weight, (2, 5, 7), schedule, residual=rows == 6))
    half = _near((10, 4, 3, 3), blocks_at(10, 36, [(8, 24)], 1), 1)
    grouped = np.concatenate([half, half, np.zeros_like(half)])  # and rows of nothing
    schedule = Schedule("mixed", 2, 1, 5, rows=4, fill=0.6)
    cases.append(_case(grouped, (1, 6, 6), schedule, groups=3))
    return cases


def _near(shape: tuple[int, ...], blocks: list[Block], seed: int) -> Array:
    """Blocks with holes, and non-zeros around them in all rows."""
    rng = np.random.default_rng(seed)
    weight = filled(shape, blocks, seed) * (rng.random(shape) < 0.9)
    there = (rng.random(shape) < 0.1) & (weight == 0)
    return np.where(there, rng.standard_normal(shape), weight).astype(np.float32)


@pytest.mark.parametrize("isa", supported())
def test_rows_go_on_after_their_block(isa: str) -> None:
    cases = _remainders() if isa == supported()[0] else _remainders()[1::4]
    for case in cases:
        step, schedule = case.step, case.tuned["layer"]
        assert isinstance(step, Conv)
        assert isinstance(schedule, Schedule)
        found = BlockCache().find(step, schedule.fill)
        assert found.cells > found.inside > 0.3 * np.count_nonzero(step.weight)
        assert mixed.pack_mixed(step, schedule, geometry(step, schedule), BlockCache()).reloads
    check(cases, isa)


@pytest.mark.parametrize("isa", supported())
def test_mixed_agrees_with_the_interpreter(isa: str) -> None:
    check([*sweep(), _grouped()] if isa == supported()[0] else [*sweep()[::4], _grouped()], isa)


def test_chunks_take_the_blocks_and_leave_the_rest() -> None:
    weight = filled((37, 48, 1, 1), blocks_at(37, 48, [(9, 20), (11, 25), (2, 30)], 3), 3)
    step = _case(weight, (1, 5, 7), Schedule("mixed", 1, 1, 48, rows=4)).step
    assert isinstance(step, Conv)
    # 9 = 4 + 4 + 1 left over, 11 = 4 + 4 + 3 filled up; two rows are too few for a block
    assert BlockCache().work(step, 4) == Work(
        columns=2 * 20 + 3 * 25, chunks=5, nonzeros=20 + 2 * 30, rows=37 - 8 - 11
    )
    assert BlockCache().share(step) == (9 * 20 + 11 * 25) / np.count_nonzero(weight)


def test_blocks_are_found_once_for_the_same_weights() -> None:
    """Of another array too, as where a model is built again; not of other weights."""
    weight = filled((12, 20, 1, 1), blocks_at(12, 20, [(4, 9)], 3), 3)
    step = _case(weight, (1, 5, 7), Schedule("mixed", 1, 1, 20, rows=4)).step
    assert isinstance(step, Conv)
    blocks = BlockCache()
    found = blocks.find(step)
    assert blocks.find(replace(step, weight=step.weight.copy())) is found
    assert blocks.find(replace(step, weight=2 * step.weight)) is not found
    assert blocks.find(step, 0.9) is not found


def test_every_non_zero_is_stored_once() -> None:
    weight = scattered(filled((37, 6, 3, 3), blocks_at(37, 54, SIZES[0], 5), 5), 0.1, 5)
    schedule = Schedule("mixed", 2, 1, 2, 2, rows=4)
    step = _case(weight, (1, 6, 6), schedule).step
    assert isinstance(step, Conv)
    found = mixed.pack_mixed(step, schedule, geometry(step, schedule), BlockCache())
    stored = np.concatenate([part.weights for group in found.parts for part in group])
    np.testing.assert_array_equal(np.sort(stored[stored != 0]), np.sort(weight[weight != 0]))
    chunks = sum(
        int((part.row_segments["flags"] & mixed.BLOCK != 0).sum())
        for group in found.parts
        for part in group
    )
    assert chunks > 3


def test_a_remainder_that_starts_anew_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: what a row has outside of its block begins with the bias again."""
    whole = mixed.pack_mixed

    def twin(*arguments: object) -> streams.PackedWeights:
        found = whole(*arguments)  # type: ignore[arg-type]
        for part in (part for group in found.parts for part in group):
            part.row_segments["flags"] |= np.uint16(streams.FIRST)
        return found

    monkeypatch.setitem(KERNELS, "mixed", replace(KERNELS["mixed"], pack=twin))
    with pytest.raises(AssertionError):
        check(_remainders()[:1], supported()[0])


@pytest.mark.parametrize("broken", ["shared", "last", "place"])
def test_a_broken_twin_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mixed.pack_mixed

    def twin(*arguments: object) -> streams.PackedWeights:
        found = whole(*arguments)  # type: ignore[arg-type]
        for part in (part for group in found.parts for part in group):
            row_segments = part.row_segments
            if broken == "shared":  # the next block reads its own offsets
                row_segments["flags"] &= ~np.uint16(streams.SHARED)
            elif broken == "last":  # the last row of a block goes on
                row_segments["flags"][4:5] &= ~np.uint16(streams.LAST)
            elif row_segments.size > 2:  # two rows change places
                row_segments["row"][1:3] = row_segments["row"][2:0:-1]
        return found

    monkeypatch.setitem(KERNELS, "mixed", replace(KERNELS["mixed"], pack=twin))
    weight = filled((37, 6, 3, 3), blocks_at(37, 54, SIZES[0], 5), 5)
    case = _case(weight, (1, 6, 6), Schedule("mixed", 2, 1, 6, rows=4))
    with pytest.raises(AssertionError):
        check([case], supported()[0])


def test_blocks_are_measured_beside_rows_where_there_are_any() -> None:
    schedule = Schedule("mixed", 2, 1, 6, rows=4)
    sparse = filled((37, 6, 3, 3), blocks_at(37, 54, [(12, 10), (8, 9)], 5), 5)
    step = _case(sparse, (1, 6, 6), schedule).step
    assert isinstance(step, Conv)
    schedules = tune._diverse(choose.ranked(step, "avx512", 1), "quick")
    assert {each.kernel for each in schedules} == {"rows", "jit", "mixed"}
    few = scattered(filled((37, 6, 3, 3), blocks_at(37, 54, [(4, 3)], 5), 5), 0.2, 5)
    step = _case(few, (1, 6, 6), schedule).step
    assert isinstance(step, Conv)
    assert BlockCache().share(step) < mixed.MIN_SHARE
    assert "mixed" not in {each.kernel for each in choose.candidates(step, "avx512", 1)}
