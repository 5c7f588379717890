"""Masks in a file of which a prefix takes a part: applied to their own weights alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import weights
from prunedeploy.core.errors import UserError

OPTIONS = ("prefix", "weights")
Masks = dict[str, Tensor]


@pytest.fixture
def masked(masks: Masks) -> Callable[[nn.Module], nn.Module]:
    def apply(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, mask in masks.items():
                net.get_parameter(name).mul_(mask)
        return net

    return apply


def under(prefix: str, net: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in net.state_dict().items()}


def other(net: nn.Module, prefix: str = "encoder_k.") -> dict[str, Tensor]:
    """Weights of the same names and shapes, which the prefix leaves out."""
    return {name: x + 1 for name, x in under(prefix, net).items()}


OWN = (
    "mask.{}encoder_q.{}",
    "masks.{}encoder_q.{}",
    "pruner.masks.{}encoder_q.{}",
    "pruner.{}encoder_q.{}_mask",
    "{}mask.encoder_q.{}",
    "masks.{}{}",
)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("naming", OWN)
def test_masks_whose_names_have_the_prefix(
    net, masks, masked, same, naming: str, wrapper: str, option: str, tmp_path: Path
) -> None:
    """Within the state_dict, with another part that is left out beside them."""
    state = under(f"{wrapper}encoder_q.", net) | other(net, f"{wrapper}encoder_k.")
    state |= {naming.format(wrapper, name): mask for name, mask in masks.items()}
    torch.save({"state_dict": state}, tmp_path / "net")
    same(tmp_path / "net", masked(net), **{option: "encoder_q"})


def test_masks_under_the_names_of_layers(net, masks, masked, same, tmp_path: Path) -> None:
    state = under("backbone.", net)
    state |= {f"masks.backbone.{k.removesuffix('.weight')}": mask for k, mask in masks.items()}
    torch.save(state, tmp_path / "net")
    same(tmp_path / "net", masked(net), prefix="backbone")


def test_masks_beside_the_scores_of_a_pruner(net, masks, masked, same, tmp_path: Path) -> None:
    """And those of a part that is left out, which lie among its weights."""
    state = under("backbone.", net) | other(net, "teacher.backbone.")
    for name, mask in masks.items():
        state[f"pruner.scores.backbone.{name}"] = torch.rand(mask.shape)
        state[f"pruner.masks.backbone.{name}"] = mask
        state[f"teacher.backbone.{name}_mask"] = 1 - mask
    torch.save(state, tmp_path / "net")
    same(tmp_path / "net", masked(net), prefix="backbone")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("start", ["", "module.", "model."])
@pytest.mark.parametrize("form", ["container", "nested", "attribute", "entries"])
def test_masks_of_a_part_that_is_left_out(
    net, masks, same, form: str, start: str, option: str, tmp_path: Path
) -> None:
    state = under(f"{start}encoder_q.", net) | other(net, f"{start}encoder_k.")
    saved: dict[str, Any] = {"state_dict": state}
    if form == "container":
        saved["masks"] = {f"encoder_k.{name}": mask for name, mask in masks.items()}
    elif form == "nested":
        saved["masks"] = {"encoder_k": masks}
    elif form == "attribute":
        for name, mask in masks.items():
            state[f"{start}encoder_k.{name}"].mask = mask  # type: ignore[attr-defined]
    else:
        state |= {f"masks.encoder_k.{name}": mask for name, mask in masks.items()}
    torch.save(saved, tmp_path / "net")
    same(tmp_path / "net", net, **{option: "encoder_q"})


@pytest.mark.parametrize("inside", [False, True])
def test_masks_of_both_parts(net, masks, masked, same, inside: bool, tmp_path: Path) -> None:
    every = {f"encoder_q.{name}": mask for name, mask in masks.items()}
    every |= {f"encoder_k.{name}": 1 - mask for name, mask in masks.items()}
    state = under("encoder_q.", net) | other(net)
    if inside:
        state |= {f"masks.{name}": mask for name, mask in every.items()}
    torch.save({"state_dict": state, "masks": {} if inside else every}, tmp_path / "net")
    same(tmp_path / "net", masked(net), prefix="encoder_q")


def test_a_prefix_within_weights_by_the_begin_of_their_names(
    net, masks, masked, same, tmp_path: Path
) -> None:
    state = under("model.encoder_q.", net) | other(net, "model.encoder_k.")
    state["head.weight"] = torch.rand(2, 2)
    for part in ("encoder_k", "encoder_q"):
        expected = net if part == "encoder_k" else masked(net)
        for inside in (False, True):
            these = {f"model.{part}.{name}": mask for name, mask in masks.items()}
            entries = {f"masks.{name}": mask for name, mask in these.items()} if inside else {}
            saved = {"state_dict": state | entries, "masks": {} if inside else these}
            torch.save(saved, tmp_path / "net")
            same(tmp_path / "net", expected, weights="model", prefix="encoder_q")


def test_a_file_of_masks(net, masks, masked, same, tmp_path: Path) -> None:
    """Of the part that is taken, of the other alone, and of both."""
    torch.save(under("encoder_q.", net) | other(net), tmp_path / "net")
    file = tmp_path / "masks.pt"
    theirs = {f"encoder_k.{name}": 1 - mask for name, mask in masks.items()}
    torch.save(theirs, file)
    with pytest.raises(UserError, match=r"all masks in masks\.pt are of weights that are left"):
        weights(tmp_path / "net", mask=file, prefix="encoder_q")
    expected = masked(net)
    for ours in ("encoder_q.", ""):
        named = {f"{ours}{name}": mask for name, mask in masks.items()}
        torch.save(named, file)
        same(tmp_path / "net", expected, mask=file, prefix="encoder_q")
    torch.save({f"encoder_q.{name}": mask for name, mask in masks.items()} | theirs, file)
    found = same(tmp_path / "net", expected, mask=file, prefix="encoder_q").found
    assert "3 masks in masks.pt of weights that are left out" in found
