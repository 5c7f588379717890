"""Units: sums and masks of weights, slices and blocks."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.sparsify.units import (
    Blocks,
    Elements,
    Group,
    Slices,
    Units,
    blocks,
    masks_of,
    weights,
)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 5)
    )


def test_the_first_and_the_last_layer_are_left_alone() -> None:
    assert [group.name for group in weights(network())] == ["2.weight"]
    everything = weights(network(), scope=lambda name, layer: True)
    assert [group.count for group in everything] == [216, 432, 120]


def test_a_unit_of_slices_sums_and_masks_all_its_indices() -> None:
    flattened = Slices("w", (2, 6), 1, torch.tensor([0, 0, 1, 1, -1, 2]))
    values = torch.arange(12.0).reshape(2, 6)
    assert flattened.gather(values, 3).tolist() == [0 + 1 + 6 + 7, 2 + 3 + 8 + 9, 5 + 11]
    mask = flattened.expand(torch.tensor([True, False, False]))
    assert mask.tolist() == [[True, True, False, False, True, False]] * 2


def test_blocks_cover_the_border() -> None:
    member = Blocks("w", (5, 7), 2, 4)
    assert member.grid == (3, 2)
    sums = member.gather(torch.ones(5, 7), 6)
    assert sums.tolist() == [8, 6, 8, 6, 4, 3]
    keep = torch.tensor([True, False, False, True, True, True])
    mask = member.expand(keep)
    assert mask.shape == (5, 7)
    assert mask.sum() == sums[keep].sum()
    assert [group.count for group in blocks(network(), 4, 16)] == [2 * 5]


def test_groups_that_meet_in_a_parameter_both_mask_it() -> None:
    rows = Group("rows", 2, (Slices("w", (2, 3), 0, torch.arange(2)),))
    single = Group("single", 6, (Elements("w", (2, 3)),))
    keep = {"rows": torch.tensor([True, False]), "single": torch.tensor([0, 1, 1, 1, 1, 1]) > 0}
    masks = masks_of(Units((rows, single)), keep)
    assert masks["w"].tolist() == [[False, True, True], [False, False, False]]
    assert rows.gather({"w": torch.ones(2, 3)}).tolist() == [3, 3]
