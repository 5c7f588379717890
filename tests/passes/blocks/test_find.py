"""Blocks made out of scattered masks: by the rules, by the seed, and what they cost."""

from __future__ import annotations

import time

import numpy as np
import pytest
from block_weights import blocks_at, filled, scattered

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.passes.blocks import Rule, find, partition, recover, regroup

pytest.importorskip("mtkahypar", reason="the extra regroup is not installed")


def _hidden(seed: int = 0) -> Array:
    """Four blocks of 24 rows, some zeros in them and some non-zeros around them."""
    blocks = blocks_at(96, 200, [(24, 60)] * 4, seed)
    weight = scattered(filled((96, 200), blocks, seed), 0.02, seed)
    holes = np.random.default_rng(seed).random(weight.shape) < 0.1
    return np.where(holes, 0, weight).astype(np.float32)


@pytest.mark.parametrize("mode", ["paper", "clean", "as_coded"])
def test_hidden_blocks_are_found(mode: find.Mode) -> None:
    weight = _hidden()
    found = regroup(weight, Rule(mode, t1=4, t2=8, b1=10, b2=8))
    assert found.found
    assert [block.rows.size for block in found.blocks] == [24] * 4
    inside = np.count_nonzero(np.where(found.mask, weight, 0))
    assert found.dropped == np.count_nonzero(weight) - inside
    assert found.filled == found.mask.sum() - inside
    share = np.linalg.norm(weight[~found.mask]) / np.linalg.norm(weight)
    assert found.dropped_norm == pytest.approx(share, rel=1e-5)
    assert f"{found.dropped} of" in found.note
    # what is trained on has exactly these blocks
    again = recover(np.where(found.mask, 1, 0).astype(np.float32))
    assert {tuple(b.rows) for b in again} == {tuple(b.rows) for b in found.blocks}


def test_the_same_seed_gives_the_same_blocks() -> None:
    rng = np.random.default_rng(3)
    weight = np.where(rng.random((64, 150)) < 0.2, 1, 0).astype(np.float32)
    parts = [partition.partition(weight != 0, 4, seed) for seed in (5, 5, 6)]
    for first, second in zip(parts[0], parts[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not all(np.array_equal(a, b) for a, b in zip(parts[0], parts[2], strict=True))


def test_the_rule_as_coded_takes_more_columns() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((32, 400)) < rng.uniform(0, 0.6, 400)
    rule = Rule("clean")
    clean, coded = find._clean(mask, rule), find._as_coded(mask, rule)
    assert clean is not None
    assert coded is not None
    assert 1.1 < coded.size / clean.size < 3
    outside = mask.sum(1) - mask[:, clean].sum(1)
    assert (clean.size > 1.5 * outside).all()
    fewer = clean[:-1]  # and no fewer would do
    assert not (fewer.size > 1.5 * (mask.sum(1) - mask[:, fewer].sum(1))).all()


@pytest.mark.parametrize(("fallback", "count"), [("keep", 0), ("dense", 1)])
def test_no_block_is_said(fallback: find.Fallback, count: int) -> None:
    weight = _hidden()[:12]  # too few rows
    found = regroup(weight, Rule("clean", fallback=fallback))
    assert not found.found
    assert "finds no block" in found.note
    assert len(found.blocks) == count
    assert found.dropped == 0
    assert found.mask.all() if count else np.array_equal(found.mask, weight != 0)


def test_refusals() -> None:
    with pytest.raises(UserError, match="finds no block"):
        regroup(_hidden()[:12], Rule("paper", fallback="refuse"))
    with pytest.raises(UserError, match="one group"):
        regroup(np.ones((4, 1, 3, 3), np.float32), Rule("paper"), groups=4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["paper", "clean"])
def test_a_large_layer_takes_less_than_ten_seconds(mode: find.Mode) -> None:
    """Random non-zeros are the hardest to partition."""
    weight = (np.random.default_rng(0).random((512, 4608)) < 0.1).astype(np.float32)
    start = time.process_time()
    regroup(weight, Rule(mode))
    assert time.process_time() - start < 10
