"""Budgets: how many of each group, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunedeploy import UserError
from prunedeploy.sparsify.budgets import BUDGETS, erk, lamp, n_of_m, overall, uniform
from prunedeploy.sparsify.units import Elements, Group, Slices, Units, blocks


def elements(**shapes: tuple[int, ...]) -> Units:
    return Units(
        tuple(
            Group(name, int(torch.tensor(shape).prod()), (Elements(name, shape),))
            for name, shape in shapes.items()
        )
    )


def counts(keep: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int(each.sum()) for name, each in keep.items()}


def test_the_best_of_all_together() -> None:
    units = elements(a=(2, 3), b=(2, 2))
    scores = {"a": torch.tensor([9.0, 1, 8, 7, 2, 6]), "b": torch.tensor([0.5, 0.1, 0.2, 0.3])}
    keep = overall(scores, units, 0.5)
    assert keep["a"].tolist() == [True, False, True, True, False, True]
    assert keep["b"].tolist() == [True, False, False, False]  # one stays of every group
    assert counts(overall(scores, units, 0.5, min_share=0.5)) == {"a": 3, "b": 2}
    assert counts(overall(scores, units, 0.1)) == {"a": 1, "b": 1}


def test_the_same_share_of_each_and_ties_by_order() -> None:
    units = elements(a=(2, 4), b=(2, 2))
    scores = {"a": torch.ones(8), "b": torch.arange(4.0)}
    keep = uniform(scores, units, 0.25)
    assert keep["a"].tolist() == [True, True, *[False] * 6]
    assert keep["b"].tolist() == [False, False, False, True]


def test_erdos_renyi_by_hand() -> None:
    units = elements(small=(2, 2), wide=(4, 4), large=(8, 16))
    scores = {group.name: torch.arange(float(group.count)) for group in units}
    # sizes in proportion to sums of shapes 4 : 8 : 24 of 37 kept: 4.1 > 4 is full, then 8.25, 24.75
    assert counts(erk(scores, units, 0.25)) == {"small": 4, "wide": 8, "large": 25}
    channel = Slices("w", (6, 3), 0, torch.arange(6))
    both = Units(
        (Group("c", 6, (channel,)), Group("d", 2, (Slices("v", (2, 9), 0, torch.arange(2)),)))
    )
    # shares 9/18 and 11/18 of 6 and 2 channels: 3 : 1.22 of 4
    assert counts(erk({"c": torch.ones(6), "d": torch.ones(2)}, both, 0.5)) == {"c": 3, "d": 1}


def test_layer_adaptive_scores_by_hand() -> None:
    units = elements(a=(2, 2), b=(2, 2))
    scores = {"a": torch.tensor([3.0, 1, 2, 0]), "b": torch.tensor([30.0, 29, -1, -2])}
    # a: 9/9, 1/14, 4/13, 0; b: 1, 841/1741 and below zero
    assert lamp(scores, units, 0.375)["a"].tolist() == [True, False, False, False]
    assert lamp(scores, units, 0.5)["a"].tolist() == [True, False, True, False]
    assert lamp(scores, units, 0.875)["b"].tolist() == [True, True, True, False]
    # by the scores as they are, the second group would have all of three but one
    assert overall(scores, units, 0.375)["b"].tolist() == [True, True, False, False]


def test_a_tenth_of_each_group_stays() -> None:
    units = elements(a=(20, 1), b=(20, 1))
    scores = {"a": torch.ones(20), "b": torch.zeros(20)}
    assert counts(BUDGETS["floor"](scores, units, 0.5)) == {"a": 18, "b": 2}
    assert counts(overall(scores, units, 0.5)) == {"a": 19, "b": 1}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.33, 0.77, 0.99, 1.0])
def test_counts_are_exact(density: float) -> None:
    units = elements(a=(3, 5), b=(7, 11, 3, 3), c=(2, 2), d=(40, 3))
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.count, generator=generator) for group in units}
    for budget in (overall, erk, lamp):
        kept = counts(budget(scores, units, density))
        assert sum(kept.values()) == max(round(density * units.count), 4)
        assert all(1 <= kept[group.name] <= group.count for group in units)


def test_two_of_four_along_the_inputs() -> None:
    weight = torch.randn(3, 10, 2, 2, generator=torch.Generator().manual_seed(0))
    units = elements(w=(3, 10, 2, 2))
    keep = n_of_m({"w": weight.abs().flatten()}, units, 0.5)["w"].reshape(weight.shape)
    for first, width in ((0, 4), (4, 4), (8, 2)):
        part, kept = weight[:, first : first + width].abs(), keep[:, first : first + width]
        assert (kept.sum(1) == 2).all()
        assert (part[kept].min() >= 0).all()
        least = part.masked_fill(~kept, 9).amin(1)
        most = part.masked_fill(kept, 0).amax(1)
        assert (least >= most).all()
    assert BUDGETS["2:4"]({"w": weight.abs().flatten()}, units, 0.5)["w"].equal(keep.flatten())


def test_what_there_is_not() -> None:
    units = elements(w=(4, 4))
    scores = {"w": torch.ones(16)}
    with pytest.raises(UserError, match="has to be in"):
        overall(scores, units, 0.0)
    with pytest.raises(UserError, match="2 of 4 weights"):
        n_of_m(scores, units, 0.25)
    grouped = blocks(nn.Sequential(nn.Linear(8, 8)), 4, 4)
    with pytest.raises(UserError, match="single weights"):
        n_of_m({"0.weight": torch.ones(4)}, grouped, 0.5)
