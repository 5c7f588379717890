"""Masks in forms that no two tools share: applied, or the file refused, never left out."""

from __future__ import annotations

from collections import deque, namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError

ARCH = "small_net_of_the_tests:Net"
Masks = dict[str, Tensor]
PerLayer = namedtuple("PerLayer", "conv1 conv2 fc")


def apply(net: nn.Module, masks: Masks) -> nn.Module:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return net


def channels(masks: Masks) -> Masks:
    return {name: (torch.arange(len(mask)) % 3 > 0).float() for name, mask in masks.items()}


def packed(mask: Tensor) -> Any:
    return np.packbits(mask.numpy().astype(np.uint8))


def optimizer(masks: Masks, key: str) -> dict[str, Any]:
    """The state of an optimizer whose parameters have numbers: the layers' and BatchNorms'."""
    order = ["conv1.weight", "", "", "", "conv2.weight", "", "", "fc.weight", ""]
    state = {
        at: {"step": 1, **({key: masks[name]} if name else {})} for at, name in enumerate(order)
    }
    return {"state": dict(reversed(state.items())), "param_groups": [{"params": [*range(9)]}]}


class Holder(nn.Module):
    def __init__(self, masks: Masks) -> None:
        super().__init__()
        for name, mask in masks.items():
            self.register_buffer(name.replace(".", "_"), mask)


def parameters(masks: Masks) -> nn.ParameterDict:
    return nn.ParameterDict(
        {k.replace(".", "_"): nn.Parameter(m, requires_grad=False) for k, m in masks.items()}
    )


APPLIED: dict[str, Callable[[Masks], dict[str, Any]]] = {
    "lists of numbers": lambda m: {"masks": {name: x.int().tolist() for name, x in m.items()}},
    "bytes": lambda m: {"masks": {k: bytes(x.byte().flatten().tolist()) for k, x in m.items()}},
    "a deque": lambda m: {"masks": deque(m.values())},
    "a named tuple": lambda m: {"masks": PerLayer(*m.values())},
    "an array of objects": lambda m: {"masks": np.array([*m.values(), None], dtype=object)[:-1]},
    "a module": lambda m: {"masks": Holder(m)},
    "parameters": lambda m: {"masks": parameters(m)},
    "records": lambda m: {"masks": [{"layer": name, "mask": x} for name, x in m.items()]},
    "an optimizer": lambda m: {"optimizer": optimizer(m, "mask")},
    "an optimizer's weight_mask": lambda m: {"opt": [optimizer(m, "weight_mask")]},
    "groups": lambda m: {"optimizer": {"param_groups": [{"mask": x} for x in m.values()]}},
    "bitmasks": lambda m: {"bitmasks": m},
}


@pytest.mark.parametrize("what", APPLIED)
@pytest.mark.parametrize("trust", [False, True])
def test_applied(net, masks, same, what: str, trust: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": net.state_dict(), **APPLIED[what](masks)}, tmp_path / "net")
    found = same(tmp_path / "net", apply(net, masks), trust=trust).found
    assert any("masks in the same file" in line for line in found)


REFUSED: dict[str, Callable[[Masks], dict[str, Any]]] = {
    "channels under another name": lambda m: {"alive": channels(m)},
    "filters that broadcast": lambda m: {
        "keep": {"conv1.weight": channels(m)["conv1.weight"].view(6, 1, 1, 1)}
    },
    "channels of layers": lambda m: {
        "topology": {name.removesuffix(".weight"): x for name, x in channels(m).items()}
    },
    "a list of channels": lambda m: {"supports": [*channels(m).values()]},
    "a name around that of a layer": lambda m: {"keep_conv1": channels(m)["conv1.weight"]},
    "in the state of training": lambda m: {"train_state": {"alive": m}},
    "0 and 255": lambda m: {"kept": {name: x.byte() * 255 for name, x in m.items()}},
    "bits": lambda m: {"masks": {name: packed(x) for name, x in m.items()}},
    "bits under another name": lambda m: {"packed": {name: packed(x) for name, x in m.items()}},
    "bits as bytes": lambda m: {"masks": {name: packed(x).tobytes() for name, x in m.items()}},
    "bits and shapes": lambda m: {
        "masks": {name: {"bits": packed(x), "shape": x.shape} for name, x in m.items()}
    },
    "indices": lambda m: {"masks": {name: {"indices": x.nonzero()} for name, x in m.items()}},
    "an optimizer without order": lambda m: {"optimizer": {"mask": m["conv2.weight"]}},
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("trust", [False, True])
def test_refused(net, masks, what: str, trust: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": net.state_dict(), **REFUSED[what](masks)}, tmp_path / "net")
    for call in (partial(load, arch=ARCH), weights):
        with pytest.raises(UserError, match="mask") as caught:
            call(tmp_path / "net", trust=trust)
        assert "\n" not in str(caught.value)


ENTRIES_APPLIED = ("mask_{name}", "{layer}.weight_bitmask", "{layer}.keep_mask")
ENTRIES_REFUSED = ("pruner.{name}", "{layer}.mask24", "{layer}.zero_mask", "{name}.keep")


@pytest.mark.parametrize("naming", [*ENTRIES_APPLIED, *ENTRIES_REFUSED])
def test_entries_of_the_state_dict(net, masks, same, naming: str, tmp_path: Path) -> None:
    state = net.state_dict()
    for name, mask in masks.items():
        state[naming.format(name=name, layer=name.removesuffix(".weight"))] = mask
    torch.save(state, tmp_path / "net")
    if naming in ENTRIES_APPLIED:
        same(tmp_path / "net", apply(net, masks))
        assert torch.equal(weights(tmp_path / "net")[0]["fc.weight"], net.fc.weight)
        return
    for call in (partial(load, arch=ARCH), weights):
        with pytest.raises(UserError, match="mask"):
            call(tmp_path / "net")


@pytest.mark.parametrize("masks_under", ["mask_{}", "masks.{}", "pruning.masks.{}"])
@pytest.mark.parametrize("name", [None, "model"])
def test_weights_and_masks_under_prefixes(
    net, masks, same, masks_under: str, name: str | None, tmp_path: Path
) -> None:
    """As OpenLTH has them, and whoever flattens containers; taking the weights by their prefix does
    not leave the masks behind."""
    state = {f"model.{key}": tensor for key, tensor in net.state_dict().items()}
    three = "___" if masks_under == "mask_{}" else "."
    state |= {masks_under.format(key.replace(".", three)): mask for key, mask in masks.items()}
    torch.save(state, tmp_path / "net")
    same(tmp_path / "net", apply(net, masks), weights=name)


class Hook:
    """A hook of the user's own class."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: nn.Module, _: Any) -> None:
        with torch.no_grad():
            layer.weight.mul_(self.mask)  # type: ignore[operator]


@pytest.mark.parametrize("how", ["hook", "attribute", "attribute in a state_dict"])
@pytest.mark.parametrize("trust", [False, True])
def test_hooks_and_attributes_of_tensors(
    net, masks, same, how: str, trust: bool, tmp_path: Path
) -> None:
    for name, mask in masks.items():
        if how == "hook":
            net.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(Hook(mask))
        else:
            net.get_parameter(name).mask = mask
    whole = how != "attribute in a state_dict"
    torch.save(net if whole else net.state_dict(keep_vars=True), tmp_path / "net")
    same(tmp_path / "net", apply(net, masks), trust=trust)
