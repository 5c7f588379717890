"""Blocks that lose nothing: worth their price, disjoint, and not looked for in vain."""

from __future__ import annotations

import numpy as np
import pytest
from block_weights import blocks_at, filled, scattered

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks import Block, Price, lossless, recover
from prunedeploy.passes.blocks.blocks import cells, dense_mask

PRICE = Price(0.7)


def _near(
    shape: tuple[int, ...], sizes: list[tuple[int, int]], holes: float, rest: float, seed: int
) -> tuple[Array, list[Block]]:
    """Blocks with holes, and non-zeros around them, and where the blocks are."""
    blocks = blocks_at(shape[0], int(np.prod(shape[1:])), sizes, seed)
    weight = scattered(filled(shape, blocks, seed), rest, seed)
    gone = np.random.default_rng(seed).random(shape) < holes
    return np.where(gone, 0, weight).astype(np.float32), blocks


def _cost(weight: Array, blocks: tuple[Block, ...], price: Price, groups: int = 1) -> float:
    """What the module says that it makes small."""
    mask = dense_mask(weight, groups)
    inside = cells(blocks, mask.shape)
    outside = mask & ~inside
    resumed = sum(int(outside[block.rows].any(1).sum()) for block in blocks)
    size = sum(block.size for block in blocks)
    return price.cell * size + int(outside.sum()) + price.visit * resumed


def _check(weight: Array, found: tuple[Block, ...], price: Price, groups: int = 1) -> None:
    """Disjoint rows in order, and no more to pay than without blocks."""
    rows = np.concatenate([block.rows for block in found] or [np.zeros(0, np.int64)])
    assert len(set(rows.tolist())) == rows.size
    for block in found:
        assert (np.diff(block.rows) > 0).all()
        assert (np.diff(block.columns) > 0).all()
    assert _cost(weight, found, price, groups) <= np.count_nonzero(weight)


@pytest.mark.parametrize("seed", range(4))
def test_hidden_blocks_are_found_with_their_holes(seed: int) -> None:
    weight, hidden = _near((96, 200), [(24, 60)] * 3, 0.1, 0.05, seed)
    assert not [b for b in recover(weight) if b.rows.size >= 4]  # nothing to see from equal rows
    found = lossless(weight, PRICE)
    _check(weight, found, PRICE)
    assert {tuple(b.rows) for b in found} == {tuple(b.rows) for b in hidden}
    for block, known in zip(found, sorted(hidden, key=lambda b: int(b.rows[0])), strict=True):
        shared = np.intersect1d(block.columns, known.columns).size
        assert shared >= 0.95 * known.columns.size
        assert shared >= 0.95 * block.columns.size
    assert _cost(weight, found, PRICE) < 0.9 * np.count_nonzero(weight)


@pytest.mark.parametrize("seed", range(12))
def test_blocks_are_worth_their_price(seed: int) -> None:
    """Random structures: overlapping columns, blocks of one row or column, and empty layers."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 14)), int(rng.integers(1, 50))) for _ in range(seed % 5)]
    weight, _ = _near((64, 9, 3, 3), sizes, 0.2 * rng.random(), 0.1 * rng.random(), seed)
    for price in (Price(0.5), Price(0.9, visit=2)):
        _check(weight, lossless(weight, price), price)


def test_the_check_of_the_price_can_fail() -> None:
    """A block of all rows and columns is not worth it."""
    weight, _ = _near((96, 200), [(24, 60)] * 3, 0.1, 0.05, 0)
    with pytest.raises(AssertionError):
        _check(weight, (Block(np.arange(96), np.arange(200)),), PRICE)


def test_equal_rows_are_blocks_whatever_a_cell_costs() -> None:
    weight, hidden = _near((48, 100), [(16, 30), (12, 40)], 0.0, 0.0, 1)
    for price in (Price(0.5), Price(1.0)):
        found = lossless(weight, price)
        assert [(b.rows.tolist(), b.columns.tolist()) for b in found] == [
            (b.rows.tolist(), b.columns.tolist())
            for b in sorted(hidden, key=lambda b: int(b.rows[0]))
        ]


def test_a_row_with_a_hole_joins_the_block_of_its_like() -> None:
    weight, (block, *_) = _near((48, 100), [(16, 30), (12, 40)], 0.0, 0.0, 1)
    weight[block.rows[3], block.columns[5]] = 0
    found = lossless(weight, PRICE)
    assert block.rows.tolist() in [b.rows.tolist() for b in found]


def test_groups_of_a_convolution_share_no_block() -> None:
    half, _ = _near((20, 4, 3, 3), [(16, 20)], 0.05, 0.0, 2)
    weight = np.concatenate([half, half])
    found = lossless(weight, PRICE, groups=2)
    assert len(found) == 2
    _check(weight, found, PRICE, groups=2)
    for block in found:
        assert len(set((block.rows // 20).tolist())) == 1
        assert (block.columns // 36 == block.rows[0] // 20).all()


def test_no_time_is_lost_on_random_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunedeploy.passes.blocks.remainder import PATIENCE, _Search

    looked = 0
    whole = _Search._from

    def counted(self: _Search, row: int) -> Block | None:
        nonlocal looked
        looked += 1
        return whole(self, row)

    monkeypatch.setattr(_Search, "_from", counted)
    weight = (np.random.default_rng(0).random((512, 64, 3, 3)) < 0.1).astype(np.float32)
    assert lossless(weight, Price(0.5)) == ()
    assert looked == PATIENCE


def test_empty_layers_and_layers_of_few_rows() -> None:
    assert lossless(np.zeros((8, 9), np.float32), PRICE) == ()
    assert lossless(np.eye(3, dtype=np.float32), PRICE) == ()
    assert lossless(np.zeros((0, 9), np.float32), PRICE) == ()
