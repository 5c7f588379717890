"""Blocks made out of a scattered mask, at the price of weights: the modes of Structure-LTH.

Chen et al., "Coarsening the Granularity: Towards Structurally Sparse Lottery Tickets" (ICML 2022),
algorithm 3, and their public code, which follows another rule. All modes split the rows into
groups that share columns, take a *core* of columns of each group, fill it, and drop what lies
outside of all blocks: the mask is another one, so the network has to be trained on.

- ``paper``: a column is in the core where it has at least ``t2`` non-zeros; the group has at least
  ``b1`` rows, the core ``b2`` columns. Again for the rows left, while blocks are found. The paper
  names no values; rows of a block leave the pool, as in the authors' block lists.
- ``clean``: columns by their non-zeros, as few of them as make the core of every row larger than
  ``ratio`` times what the row has outside; once. The rule that the code means.
- ``as_coded``: as the code that makes the masks of training has it: rows that come after the first
  one which fails are not counted down, and counted is column i, not the i-th of the sorted ones.
  Cores are wider than the rule says.

Nothing here runs unless asked for. What becomes of a layer without any block is for the caller to
say (``fallback``), and in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Ints, Mask, cells, dense_mask
from prunedeploy.passes.blocks.partition import partition

Mode = Literal["paper", "clean", "as_coded"]
Fallback = Literal["keep", "dense", "refuse"]
ROUNDS = 8  # of algorithm 3, at most


@dataclass(frozen=True)
class Rule:
    """How blocks are looked for.

    Args:
        mode: see above.
        t1: groups that rows are split into (``cn`` of the code).
        t2: non-zeros of a column of the core; only ``paper``.
        b1: rows of a block (``B2`` of the code, which asks for more than 16).
        b2: columns of a block; only ``paper``.
        ratio: of core to rest, of every row (``t1`` of the code); not ``paper``.
        seed: of the partitioner.
        fallback: where no block is found, "keep" the scattered mask, make the layer "dense", or
            "refuse" with an error.
    """

    mode: Mode
    t1: int = 8
    t2: int = 8
    b1: int = 17
    b2: int = 16
    ratio: float = 1.5
    seed: int = 0
    fallback: Fallback = "keep"


@dataclass(frozen=True)
class Regrouped:
    """The new mask and what it costs.

    ``dropped`` non-zeros, with the share ``dropped_norm`` of the weights' norm, lie outside of the
    blocks and go; ``filled`` zeros inside are to be trained. ``found`` is False where the fallback
    decided, which ``note`` says in words.
    """

    blocks: tuple[Block, ...]
    mask: Mask
    dropped: int
    dropped_norm: float
    filled: int
    found: bool
    note: str


def regroup(weight: Array, rule: Rule, groups: int = 1) -> Regrouped:
    """Blocks out of the non-zeros of a weight [outputs, inputs / groups, taps...].

    Raises:
        UserError: no block was found and the rule says to refuse; grouped convolutions, whose
            groups share no columns; the partitioner is missing.
    """
    if groups > 1:
        raise UserError("groups of a convolution share no columns: regroup layers with one group")
    mask = dense_mask(weight)
    blocks = tuple(_rounds(mask, rule))
    found = bool(blocks)
    if not found:
        if rule.fallback == "refuse":
            raise UserError(f"mode {rule.mode} finds no block: lower b1, or take another fallback")
        if rule.fallback == "dense":
            blocks = (Block(np.arange(mask.shape[0]), np.arange(mask.shape[1])),)
    kept = cells(blocks, mask.shape) if blocks else mask
    values = weight.reshape(mask.shape).astype(np.float64)
    lost, total = np.linalg.norm(values[~kept]), np.linalg.norm(values)
    dropped, filled = int((mask & ~kept).sum()), int((kept & ~mask).sum())
    norm = float(lost / total) if total else 0.0
    note = (
        f"{len(blocks)} blocks: {dropped} of {int(mask.sum())} non-zeros dropped, {norm:.1%} of "
        f"the norm; {filled} zeros filled"
        if found
        else f"mode {rule.mode} finds no block: "
        + ("made dense" if blocks else "the scattered mask is kept as it is")
    )
    return Regrouped(blocks, kept, dropped, norm, filled, found, note)


def _rounds(mask: Mask, rule: Rule) -> Iterator[Block]:
    """Blocks in the order in which they are found."""
    left = np.flatnonzero(mask.any(1))
    for _ in range(ROUNDS if rule.mode == "paper" else 1):
        used = np.flatnonzero(mask[left].any(0))
        taken: list[Ints] = []
        for part in partition(mask[np.ix_(left, used)], rule.t1, rule.seed):
            rows = left[part]
            if rows.size < rule.b1:
                continue
            core = CORES[rule.mode](mask[rows], rule)
            if core is not None and core.size:
                taken.append(rows)
                yield Block(rows, np.sort(core))
        if not taken:
            return
        left = np.setdiff1d(left, np.concatenate(taken))


def _paper(mask: Mask, rule: Rule) -> Ints | None:
    core = np.flatnonzero(mask.sum(0) >= rule.t2)
    return core if core.size >= rule.b2 else None


def _by_count(mask: Mask) -> Ints:
    """Columns, those with most non-zeros first."""
    return np.argsort(-mask.sum(0), kind="stable")


def _clean(mask: Mask, rule: Rule) -> Ints | None:
    order = _by_count(mask)
    outside = mask.sum(1)[:, None] - np.cumsum(mask[:, order], 1)
    fits = (np.arange(1, order.size + 1) > rule.ratio * outside).all(0)
    return order[: int(fits.argmax()) + 1] if fits.any() else None


def _as_coded(mask: Mask, rule: Rule) -> Ints | None:
    order, count = _by_count(mask), mask.sum(1).astype(np.int64)
    for index in range(order.size):
        less = count - mask[:, index]
        fails = index <= rule.ratio * less
        if not fails.any():
            return order[: index + 1]
        first = int(fails.argmax())
        count[: first + 1] = less[: first + 1]
    return None


CORES: dict[Mode, Callable[[Mask, Rule], Ints | None]] = {
    "paper": _paper,
    "clean": _clean,
    "as_coded": _as_coded,
}
