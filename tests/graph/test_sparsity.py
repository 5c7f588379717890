"""The counts over one weight, each pattern made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prunedeploy.graph import sparsity
from prunedeploy.graph.sparsity import TINY, measure

Weight = NDArray[np.float32]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def dense(rng: np.random.Generator, *shape: int) -> Weight:
    return rng.uniform(0.5, 1.0, shape).astype(np.float32)


def test_dense_weight(rng: np.random.Generator) -> None:
    found = measure(dense(rng, 8, 16, 9))
    assert (found.weights, found.nonzero, found.density) == (8 * 16 * 9, 8 * 16 * 9, 1.0)
    assert (found.dead_outputs, found.dead_inputs) == (0, 0)
    assert found.two_four == 0.0
    assert (found.blocks, found.block_share, found.largest_block) == (1, 1.0, (8, 144))


def test_dead_rows_and_columns(rng: np.random.Generator) -> None:
    weight = dense(rng, 8, 16, 9)
    weight[2:5] = 0
    weight[:, [0, 7]] = 0
    weight[0, 3] = 0  # one row only: the column lives
    found = measure(weight)
    assert (found.outputs, found.dead_outputs) == (8, 3)
    assert (found.inputs, found.dead_inputs) == (16, 2)
    assert found.largest_block == (4, 14 * 9)


def test_grouped_columns_belong_to_their_group(rng: np.random.Generator) -> None:
    weight = dense(rng, 8, 4, 1)  # 2 groups of 4 outputs and 4 inputs
    weight[:4, 1] = 0
    weight[5, 2] = 0
    found = measure(weight, groups=2)
    assert (found.inputs, found.dead_inputs) == (8, 1)
    assert measure(weight, groups=1).dead_inputs == 0


def test_depthwise_channel_is_dead_on_both_sides(rng: np.random.Generator) -> None:
    weight = dense(rng, 8, 1, 9)
    weight[6] = 0
    found = measure(weight, groups=8)
    assert (found.dead_outputs, found.inputs, found.dead_inputs) == (1, 8, 1)
    assert found.two_four is None
    assert found.blocks == 0


@pytest.mark.parametrize("inputs", [8, 10])  # 10: the last group is filled up with zeros
def test_two_four_share(rng: np.random.Generator, inputs: int) -> None:
    weight = dense(rng, 4, inputs, 3)
    weight[:, 0::2] = 0
    assert measure(weight).two_four == 1.0
    weight[0, 0, 0] = 1.0  # a third non-zero in one of the groups
    groups = 4 * 3 * -(-inputs // 4)
    assert measure(weight).two_four == pytest.approx(1 - 1 / groups)


def test_two_four_is_aligned_along_the_input_channels(rng: np.random.Generator) -> None:
    weight = np.zeros((1, 8, 1), np.float32)
    weight[0, [2, 3, 4, 5]] = 1  # two in each aligned group, four in the unaligned one
    assert measure(weight).two_four == 1.0
    assert measure(np.roll(weight, 2, axis=1)).two_four == 0.5


def test_blocks_are_rows_with_one_column_set(rng: np.random.Generator) -> None:
    weight = np.zeros((9, 10, 1), np.float32)
    weight[np.ix_([0, 4, 7], [1, 2, 8])] = 1
    weight[np.ix_([1, 2], [0, 5])] = 1
    weight[3, 6] = 1  # scattered
    found = measure(weight)
    assert found.blocks == 2
    assert found.block_share == pytest.approx(13 / 14)
    assert found.largest_block == (3, 3)


def test_scattered_zeros_form_no_block(rng: np.random.Generator) -> None:
    weight = dense(rng, 64, 64, 1)
    weight[rng.random(weight.shape) < 0.5] = 0
    assert measure(weight).blocks == 0


@pytest.mark.parametrize(
    ("value", "nonzero", "tiny", "nonfinite"),
    [
        (0.0, 0, 0, 0),
        (1e-41, 0, 1, 0),
        (-1e-41, 0, 1, 0),
        (TINY, 1, 0, 0),
        (-TINY, 1, 0, 0),
        (np.nan, 1, 0, 1),
        (-np.inf, 1, 0, 1),
    ],
)
def test_what_counts_as_zero(value: float, nonzero: int, tiny: int, nonfinite: int) -> None:
    found = measure(np.full((1, 1, 1), value, np.float32))
    assert (found.nonzero, found.tiny, found.nonfinite) == (nonzero, tiny, nonfinite)


@pytest.mark.parametrize("shape", [(0, 4, 1), (4, 0, 1)])
def test_empty_weight(shape: tuple[int, ...]) -> None:
    found = measure(np.zeros(shape, np.float32))
    assert (found.weights, found.density, found.block_share) == (0, 0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.data())
def test_chunks_do_not_change_the_counts(
    groups: int, rows: int, inputs: int, taps: int, data: st.DataObject
) -> None:
    bits = data.draw(st.integers(0, 2 ** (groups * rows * inputs * taps) - 1))
    size = groups * rows * inputs * taps
    flat = np.array([bits >> i & 1 for i in range(size)], np.float32)
    weight = flat.reshape(groups * rows, inputs, taps)
    whole = measure(weight, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparsity, "_CHUNK", 1)  # one row at a time
        assert measure(weight, groups) == whole
    assert whole.nonzero == int(flat.sum())
    split = weight.reshape(groups, rows, inputs, taps)
    assert whole.dead_inputs == int((~split.any(axis=(1, 3))).sum())
