"""Tensors in attributes, in objects, in containers that are hard to walk: found all the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from prunedeploy.checkpoint import load
from prunedeploy.checkpoint.tree import find_weights
from prunedeploy.checkpoint.walk import collect
from prunedeploy.core.errors import UserError

ARCH = "small_net_of_the_tests:Net"
Masks = dict[str, Tensor]


def apply(net: nn.Module, masks: Masks) -> nn.Module:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return net


def layers(masks: Masks) -> dict[str, Any]:
    return {name.removesuffix(".weight"): mask for name, mask in masks.items()}


# -- whole modules ---------------------------------------------------------------------------------


class Masked(nn.Conv2d):
    """A layer as lottery ticket code has it: the mask a plain attribute or a hidden buffer."""

    def __init__(self, old: nn.Conv2d, mask: Tensor, how: str) -> None:
        super().__init__(6, 8, 3, stride=2, bias=False)
        self.weight = old.weight
        self.how = how
        if how == "hidden":
            self.register_buffer("mask", mask, persistent=False)
        elif how == "in a dictionary":
            self.masks = {"weight": mask}
        else:
            setattr(self, how, mask)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "in a dictionary":
            mask = self.masks["weight"]
        else:
            mask = getattr(self, "mask" if self.how == "hidden" else self.how)
        return nn.functional.conv2d(x, self.weight * mask, stride=2)


HIDDEN = pytest.mark.parametrize(
    "how", ["hidden", "mask", "_mask", "weight_mask", "in a dictionary"]
)


@HIDDEN
def test_masks_that_a_module_hides(net, masks, same, how: str, tmp_path: Path) -> None:
    net.conv2 = Masked(net.conv2, masks["conv2.weight"], how)
    assert not any("mask" in name for name in net.state_dict())
    torch.save(net, tmp_path / "net")
    assert any("1 masks in the same file" in line for line in same(tmp_path / "net", net).found)
    assert same(tmp_path / "net", net, arch=None, trust=True).arch == "pickled module"


@HIDDEN
def test_masks_that_a_program_hides(net, masks, same, how: str, tmp_path: Path) -> None:
    """torch.export knows them by name; a trace has constants without one."""
    net.conv2 = Masked(net.conv2, masks["conv2.weight"], how)
    sample = torch.rand(2, 3, 9, 9)
    torch.export.save(torch.export.export(net, (sample,)), tmp_path / "net.pt2")
    if how == "in a dictionary":
        with pytest.raises(UserError, match="mask"):
            load(tmp_path / "net.pt2", arch=ARCH)
    else:
        same(tmp_path / "net.pt2", net)
    torch.jit.trace(net, sample).save(tmp_path / "net.pt")
    if how == "hidden":
        same(tmp_path / "net.pt", net)
    else:
        with pytest.raises(UserError, match=r"constants of the program.*looks like a mask"):
            load(tmp_path / "net.pt", arch=ARCH)


def test_masks_beside_a_trusted_module(net, masks, same, tmp_path: Path) -> None:
    """GraSP's: the module's own code knows nothing of them."""
    by_module = {net.get_submodule(name): mask for name, mask in layers(masks).items()}
    torch.save({"net": net, "mask": by_module}, tmp_path / "net.t7")
    loaded = same(tmp_path / "net.t7", apply(net, masks), arch=None, trust=True)
    assert loaded.arch == "pickled module"
    assert "3 masks in the same file (under 'mask')" in loaded.found


def test_masks_of_torch_prune_in_a_whole_module(net, masks, same, tmp_path: Path) -> None:
    expected = apply(copy.deepcopy(net), masks)
    for name, mask in masks.items():
        prune.custom_from_mask(net.get_submodule(name.removesuffix(".weight")), "weight", mask)
    torch.save(net, tmp_path / "net")
    same(tmp_path / "net", expected)
    same(tmp_path / "net", expected, arch=None, trust=True)


# -- containers that are hard to walk --------------------------------------------------------------


def test_containers_in_themselves_and_shared(net, masks, same, tmp_path: Path) -> None:
    ring: dict[str, Any] = {"masks": masks}
    ring["again"], ring["list"] = ring, [ring, [ring]]
    torch.save({"state_dict": net.state_dict(), "a": ring, "b": ring}, tmp_path / "net")
    same(tmp_path / "net", apply(net, masks))


def test_deep_and_wide_containers(net, masks, same, tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"deeper": deep}
    value = {"history": list(range(200_000)), "deep": deep, "masks": masks}
    torch.save({"state_dict": net.state_dict(), **value}, tmp_path / "net")
    same(tmp_path / "net", apply(net, masks))


def test_masks_of_a_network_before_it_was_shrunk(net, same, tmp_path: Path) -> None:
    """They made the shapes of the weights, and fit none of them any more."""
    made = {"masks": [torch.eye(11)[:, :7], None, (torch.rand(13, 5, 3, 3) > 0.5).float()]}
    torch.save({"state_dict": net.state_dict(), **made}, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert "2 masks that have the shape of no weight left out (under 'masks')" in found


class Extra(nn.Linear):
    """Its state_dict has more than tensors."""

    def get_extra_state(self) -> object:
        return {"version": 3}

    def set_extra_state(self, state: object) -> None:
        assert state == {"version": 3}


def test_a_trusted_module_with_more_than_tensors(net, sample, tmp_path: Path) -> None:
    extra = Extra(8, 5)
    extra.load_state_dict(net.fc.state_dict() | {"_extra_state": {"version": 3}})
    net.fc = extra
    torch.save(net, tmp_path / "net")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net", trust=True).module(sample), net(sample))


def test_tensors_of_an_optimizer_are_not_kept(net: nn.Module) -> None:
    """They are as large as the weights, and no masks."""
    state = {at: {"exp_avg": torch.rand(5, 8), "masks": torch.ones(5, 8)} for at in range(3)}
    tree = {"state_dict": net.state_dict(), "optimizer": {"state": state}, "other": torch.rand(3)}
    found = collect(tree, find_weights(tree))
    assert [each.path[-1] for each in found] == ["masks"] * 3 + ["other"]
