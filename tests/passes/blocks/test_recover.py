"""Blocks found again in weights: random structures, and the 33 real block lists."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from block_weights import blocks_at, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from prunedeploy.passes.blocks import Block, recover
from prunedeploy.passes.blocks.blocks import cells, dense_mask, matrix_shape

Sizes = list[tuple[int, int]]


def _merged(blocks: list[Block]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Columns to rows: what the weights can tell of ``blocks``."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for block in blocks:
        if block.size:
            columns = tuple(block.columns.tolist())
            found[columns] = tuple(sorted([*found.get(columns, ()), *block.rows.tolist()]))
    return found


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 54)), max_size=5),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_random_blocks_are_recovered(sizes: Sizes, seed: int) -> None:
    """Overlapping columns, single rows and columns, empty rows and layers."""
    blocks = blocks_at(48, 54, sizes, seed)
    found = recover(filled((48, 6, 3, 3), blocks, seed))
    assert _merged(list(found)) == _merged(blocks)
    rows = [int(row) for block in found for row in block.rows]
    assert len(rows) == len(set(rows))
    assert [b.rows[0] for b in found] == sorted(b.rows[0] for b in found)


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_groups_have_columns_of_their_own(groups: int, seed: int) -> None:
    one = filled((6, 2, 3, 3), blocks_at(6, 18, [(3, 7), (2, 4)], seed), seed)
    weight = np.concatenate([one] * groups)  # the same support in every group
    found = recover(weight, groups)
    assert len(found) == len(recover(one)) * groups
    mask = cells(found, matrix_shape(weight.shape, groups))
    np.testing.assert_array_equal(mask, dense_mask(weight, groups))


def test_a_row_that_lacks_little_goes_into_its_block() -> None:
    blocks = blocks_at(16, 54, [(8, 20), (4, 10)], 3)
    weight = filled((16, 54), blocks, 3)
    weight[blocks[0].rows[2], blocks[0].columns[5]] = 0
    assert len(recover(weight)) == 3
    assert _merged(list(recover(weight, near=0.1))) == _merged(blocks)
    assert len(recover(weight, near=0.01)) == 3  # 1 of 20 is more


def test_real_block_lists(real_data: Path) -> None:
    """Exactly, from random weights at their places; blocks of equal columns come back as one."""
    lists = json.loads(gzip.decompress((real_data / "structure_lth_blocks.json.gz").read_bytes()))
    assert len(lists) == 33
    for name, blocks in lists.items():
        wanted = [
            Block(np.array(sorted(r), np.int64), np.array(sorted(c), np.int64)) for r, c in blocks
        ]
        rows = 1 + max(int(b.rows.max()) for b in wanted if b.size)
        columns = 1 + max(int(b.columns.max()) for b in wanted if b.size)
        found = recover(filled((rows, columns), wanted, 7))
        assert _merged(list(found)) == _merged(wanted), name


def test_a_planted_bug_is_found() -> None:
    """Rows that are compared by how many columns they have, not by which."""
    blocks = blocks_at(16, 54, [(4, 20), (4, 20)], 3)
    weight = filled((16, 54), blocks, 3)
    counts = np.count_nonzero(weight, axis=1)
    alternative = {int(n): np.flatnonzero(counts == n) for n in np.unique(counts) if n}
    assert len(alternative) < len(recover(weight)) == 2


@pytest.mark.parametrize("shape", [(5, 0, 3, 3), (1, 1), (7, 3)])
def test_weights_of_zeros_have_no_blocks(shape: tuple[int, ...]) -> None:
    assert recover(np.zeros(shape, np.float32)) == ()
