"""Masks: held against every optimizer, and read and written as torch's own prune does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from prunedeploy import UserError
from prunedeploy.sparsify.masks import (
    Held,
    of_zeros,
    parameter,
    weight_sparsity,
    with_masks,
    without_masks,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def some_masks(module: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    names = ("0.weight", "0.bias", "2.weight")
    parameters = dict(module.named_parameters())
    return {name: torch.rand(parameters[name].shape, generator=generator) > 0.5 for name in names}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adam, foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_moves_a_masked_weight(name: str) -> None:
    module = network()
    masks = some_masks(module)
    optimizer = OPTIMIZERS[name](module.parameters())

    def step() -> None:
        optimizer.zero_grad()
        module(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()

    step()  # a momentum to undo
    before = module[2].weight.detach().clone()
    with Held(module, masks, optimizer):
        for _ in range(3):
            step()
            assert all((parameter(module, key)[~mask] == 0).all() for key, mask in masks.items())
    assert list(module.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert (module[2].weight != before)[masks["2.weight"]].all()
    step()
    assert (parameter(module, "0.weight")[~masks["0.weight"]] != 0).any()


def test_the_form_of_torch_goes_both_ways() -> None:
    module = network()
    masks = some_masks(module)
    theirs = network()
    for key, mask in masks.items():
        layer, _, name = key.rpartition(".")
        prune.custom_from_mask(theirs.get_submodule(layer), name, mask)
    ours = with_masks(module.state_dict(), masks)
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[key], each) for key, each in theirs.state_dict().items())
    plain, found = without_masks(theirs.state_dict())
    assert {key: each.tolist() for key, each in found.items()} == {
        key: each.tolist() for key, each in masks.items()
    }
    for key in masks:
        layer, _, name = key.rpartition(".")
        prune.remove(theirs.get_submodule(layer), name)
    assert plain.keys() == theirs.state_dict().keys()
    assert all(torch.equal(plain[key], each) for key, each in theirs.state_dict().items())


def test_the_zeros_of_a_network_as_masks() -> None:
    module = network()
    with torch.no_grad():
        module[0].weight[:2] = 0
    masks = of_zeros(module)
    assert masks["0.weight"].sum(1).tolist() == [0, 0, 6, 6, 6]
    assert masks["2.weight"].all()
    assert weight_sparsity(module) == pytest.approx(12 / 45)


@pytest.mark.parametrize(
    "state",
    [
        {"w_orig": torch.ones(3)},
        {"w_mask": torch.ones(3)},
        {"w_orig": torch.ones(3), "w_mask": torch.ones(4)},
        {"w_orig": torch.ones(3), "w_mask": torch.tensor([0, 1, 0.5])},
    ],
)
def test_masks_that_are_none(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError):
        without_masks(state)


def test_masks_of_another_network() -> None:
    with pytest.raises(UserError, match="another's"):
        Held(network(), {"5.weight": torch.ones(3) > 0}).apply()
    with pytest.raises(UserError, match="fits no weight"):
        with_masks(network().state_dict(), {"0.weight": torch.ones(3) > 0})
