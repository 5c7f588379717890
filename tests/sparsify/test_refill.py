"""Refilling by hand, and on a network with residual sums."""

from __future__ import annotations

import torch
from sparse_nets import Gated, gated_units

from prunedeploy.sparsify.refill import refill, refilled_rows


def test_rows_by_their_norm_as_many_as_the_density_says() -> None:
    weight = torch.tensor([[1.0, 1.0], [3.0, 9.0], [2.0, 2.0], [0.5, 8.0]])
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
    # norms 2, 3, 0, 0.5; half of the weights are left, and so are two channels
    assert refilled_rows(weight, mask).tolist() == [True, True, False, False]
    # half of the two that would go stay as well
    assert refilled_rows(weight, mask, extra=0.5).tolist() == [True, True, False, True]


def test_the_number_is_rounded_up_as_in_the_paper() -> None:
    weight = torch.rand(256, 10)
    mask = torch.zeros(256, 10, dtype=torch.bool)
    mask.flatten()[: round(2560 * 23.38 / 256)] = True
    assert int(refilled_rows(weight, mask).sum()) == 24
    assert int(refilled_rows(weight, torch.zeros_like(mask)).sum()) == 1  # a layer keeps one


def test_a_channel_goes_with_all_that_belongs_to_it() -> None:
    module = Gated()
    mask = torch.zeros(6, 2, 3, 3, dtype=torch.bool)
    mask[[1, 4]] = True
    masks = {"one.weight": mask, "two.weight": torch.ones(5, 6, 3, 3, dtype=torch.bool)}
    filled, keep = refill(module, gated_units(), masks)
    kept = torch.tensor([False, True, False, False, True, False])
    assert torch.equal(keep["one.weight"], kept)
    assert torch.equal(filled["one.weight"], kept[:, None, None, None].expand(6, 2, 3, 3))
    assert torch.equal(filled["norm.bias"], kept)
    assert torch.equal(filled["two.weight"], kept[None, :, None, None].expand(5, 6, 3, 3))
