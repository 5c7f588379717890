"""Streams: every weight once, at the right distance, in visits that say what they have to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convs import Layer, schedules

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels import block, rows
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.packing import (
    FIRST,
    LAST,
    SHARED,
    PackedWeights,
    Part,
    panels_of,
)
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Schedule, geometry

LAYERS = [
    Layer((1, 67, 5, 16), 33),
    Layer((2, 12, 6, 7), 17, (3, 3), pads=(1, 1, 1, 1), density=0.4),
    Layer((1, 9, 8, 9), 10, (3, 2), (2, 3), (1, 1, 0, 1), (2, 1), density=0.3),
    Layer((1, 12, 7, 7), 8, (3, 3), pads=(1, 1, 1, 1), groups=4, density=0.9),
    Layer((2, 9, 4, 8), 13, density=1.0),
    Layer((16, 6, 5, 5), 8, (3, 3), pads=(1, 1, 1, 1), density=0.5, beside=True),
    Layer((1, 20, 4, 8), 9, density=0.05, empty=2),
    Layer((1, 6, 4, 8), 5, density=0.0),
]


def rebuilt(step: Conv, layout: Geometry, schedule: Schedule, found: PackedWeights) -> Array:
    """The layer's weights [outputs, channels of all groups, taps], back from the packed ones."""
    outputs, width = step.weight.shape[:2]
    taps = np.array(layout.taps).reshape(-1)
    weight = np.zeros((outputs, step.x.shape[1], taps.size), np.float32)
    seen = np.zeros(weight.shape, np.int64)
    for group in found.parts:
        for part, (begin, end) in zip(group, found.panels, strict=True):
            where = {  # distance in the panel: channel and tap
                (channel - begin) * layout.channel + int(place): (channel, tap)
                for channel in range(begin, end)
                for tap, place in enumerate(taps)
            }
            assert len(where) == (end - begin) * taps.size
            for row, distance, value in entries(part, schedule.rows):
                at = (row, *where[distance * layout.unit])
                if row < outputs:
                    weight[at] += value
                    seen[at] += 1
                else:
                    assert value == 0  # a block's rows beyond the last
    assert seen.max(initial=0) <= 1
    for row in range(outputs):  # nothing of another group's channels
        first = row // (outputs // step.groups) * width
        outside = np.ones(step.x.shape[1], bool)
        outside[first : first + width] = False
        assert not weight[row, outside].any()
    return weight


def entries(part: Part, rows: int) -> list[tuple[int, int, float]]:
    """(row, offset, weight) of all that a kernel reads from a part, in its order."""
    found, offset, weight = [], 0, 0
    for row_segment in part.row_segments:
        count = int(row_segment["count"])
        for index in range(count):
            for row in range(rows):
                value = float(part.weights[weight + index * rows + row])
                distance = int(part.offsets[offset + index])
                found.append((int(row_segment["row"]) + row, distance, value))
        weight += count * rows
        if not row_segment["flags"] & SHARED:
            offset += count
    assert weight == part.weights.size
    assert offset == part.offsets.size
    return found


def expected(step: Conv) -> Array:
    """The weights with their channels in their place among all groups' channels."""
    outputs, width = step.weight.shape[:2]
    wanted = np.zeros((outputs, step.x.shape[1], step.weight[0, 0].size), np.float32)
    for row in range(outputs):
        first = row // (outputs // step.groups) * width
        wanted[row, first : first + width] = step.weight[row].reshape(width, -1)
    return wanted


def check_flags(step: Conv, schedule: Schedule, found: PackedWeights) -> None:
    """Every row begins once and ends once, in order, in one group."""
    state = np.zeros(-(-step.weight.shape[0] // schedule.rows) * schedule.rows, np.int64)
    for group in found.parts:
        for part in group:
            assert part.first == group[0].first
            for row_segment in part.row_segments:
                row, flags = int(row_segment["row"]), int(row_segment["flags"])
                assert 0 <= row - part.first < found.rows_of_group
                begins, ends = bool(flags & FIRST), bool(flags & LAST)
                assert state[row] == (0 if begins else 1), (row, flags)
                state[row] = 2 if ends else 1
    assert (state[:: schedule.rows] == 2).all()


def _packed(step: Conv, schedule: Schedule) -> PackedWeights:
    pack = KERNELS[schedule.kernel].pack
    assert pack is not None
    return pack(step, schedule, geometry(step, schedule), BlockCache())


def check_streams(step: Conv, schedule: Schedule) -> None:
    layout = geometry(step, schedule)
    found = _packed(step, schedule)
    np.testing.assert_array_equal(rebuilt(step, layout, schedule, found), expected(step))
    check_flags(step, schedule, found)
    for group in found.parts:
        for part in group:
            assert part.offsets.dtype == np.uint16
            assert part.weights.dtype == np.float32
    assert len(found.parts) == schedule.groups
    assert found.panels == panels_of(step.x.shape[1], schedule.channels)
    if KERNELS[schedule.kernel].skips_zeros:
        assert found.nonzeros == np.count_nonzero(step.weight)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_weight_is_stored_once_where_it_belongs(layer: Layer) -> None:
    rng = np.random.default_rng(1)
    found = [
        schedule
        for schedule in schedules(layer.step, "avx512", rng)
        if schedule.kernel in ("rows", "block")
    ]  # "mixed" has tests of its own
    assert found
    for schedule in found:
        check_streams(layer.step, schedule)


def test_row_segments_of_equal_length_follow_each_other() -> None:
    """In a panel rows that begin and end alike are sorted by their length, then by their number."""
    step = LAYERS[0].step
    schedule = Schedule("rows", 1, 2, 20, groups=2)
    for group in rows.pack_rows(step, schedule, geometry(step, schedule)).parts:
        for part in group:
            keys = [(int(v["flags"]), int(v["count"]), int(v["row"])) for v in part.row_segments]
            assert keys == sorted(keys)


def test_rows_without_weights_are_written_once_in_the_first_panel() -> None:
    step = LAYERS[7].step
    schedule = Schedule("rows", 1, 2, 2, groups=2)
    found = rows.pack_rows(step, schedule, geometry(step, schedule))
    assert len(found.panels) == 3
    row_segments = np.concatenate([group[0].row_segments for group in found.parts])
    assert sorted(row_segments["row"]) == list(range(5))
    assert set(row_segments["flags"]) == {FIRST | LAST}
    assert not any(part.row_segments.size for group in found.parts for part in group[1:])


def test_blocks_of_the_same_columns_share_their_offsets() -> None:
    step = Layer((1, 9, 4, 8), 12, density=1.0, empty=0).step
    schedule = Schedule("block", 1, 2, 9, rows=4)
    (((part,),)) = block.pack_block(step, schedule, geometry(step, schedule)).parts
    assert list(part.row_segments["flags"] & SHARED) == [SHARED, SHARED, 0]
    assert part.offsets.size == 9
    assert part.weights.size == 9 * 12


@pytest.mark.parametrize(
    ("channels", "size", "panels"),
    [(7, 7, ((0, 7),)), (7, 9, ((0, 7),)), (7, 3, ((0, 2), (2, 4), (4, 7))), (1, 1, ((0, 1),))],
)
def test_panels_are_even(channels: int, size: int, panels: tuple[tuple[int, int], ...]) -> None:
    assert panels_of(channels, size) == panels


def test_groups_have_about_the_same_work() -> None:
    step = Layer((1, 64, 4, 8), 64, density=0.3).step
    schedule = Schedule("rows", 1, 2, 64, groups=4)
    sizes = [
        group[0].weights.size
        for group in rows.pack_rows(step, schedule, geometry(step, schedule)).parts
    ]
    assert max(sizes) < 1.15 * min(sizes)


def test_more_groups_than_rows_leave_some_empty() -> None:
    step = Layer((1, 5, 4, 8), 2, density=0.9, empty=0).step
    for schedule in (
        Schedule("rows", 1, 2, 3, groups=4),
        Schedule("block", 1, 2, 3, groups=4, rows=4),
    ):
        check_streams(step, schedule)


@pytest.mark.parametrize("kernel", ["rows", "block", "mixed"])
def test_what_offsets_cannot_say_is_refused(kernel: Any) -> None:
    step = Layer((1, 9, 90, 90), 8, (3, 3), pads=(1, 1, 1, 1), density=1.0, empty=0).step
    schedule = Schedule(kernel, 90, 12, 9, rows=4 if kernel != "rows" else 1)
    with pytest.raises(ValueError, match="16 bits"):
        _packed(step, schedule)


def test_a_dropped_weight_is_found() -> None:
    step = LAYERS[1].step
    schedule = Schedule("rows", 2, 2, 5, groups=2)
    layout = geometry(step, schedule)
    found = rows.pack_rows(step, schedule, layout)
    found.parts[1][1].weights[2] = 0
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(rebuilt(step, layout, schedule, found), expected(step))


@pytest.mark.parametrize("flag", [FIRST, LAST])
def test_a_wrong_flag_is_found(flag: int) -> None:
    step = LAYERS[1].step
    schedule = Schedule("rows", 2, 2, 5, groups=2)
    found = rows.pack_rows(step, schedule, geometry(step, schedule))
    found.parts[0][0].row_segments["flags"][:1] ^= np.uint16(flag)
    with pytest.raises(AssertionError):
        check_flags(step, schedule, found)
