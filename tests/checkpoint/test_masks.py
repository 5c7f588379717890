"""Masks in every form: the loaded network computes what the masked one computes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from prunedeploy.checkpoint import load, weights
from prunedeploy.checkpoint.masks import pairings
from prunedeploy.core.errors import UserError


@pytest.fixture
def masks(net: nn.Module) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return {
        name: (torch.rand(weight.shape, generator=random) < 0.5).float()
        for name, weight in net.named_parameters()
        if weight.dim() > 1
    }


@pytest.fixture
def masked(net: nn.Module, masks: dict[str, torch.Tensor]) -> nn.Module:
    """The network after masking, as what it should compute."""
    import copy

    copied = copy.deepcopy(net)
    with torch.no_grad():
        for name, mask in masks.items():
            copied.get_parameter(name).mul_(mask)
    return copied


def prune_all(net: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    for name, mask in masks.items():
        prune.custom_from_mask(net.get_submodule(name.removesuffix(".weight")), "weight", mask)


def test_torch_prune(net, masks, masked, same: Callable, tmp_path: Path) -> None:
    prune_all(net, masks)
    assert "conv1.weight" not in net.state_dict()
    torch.save(net.state_dict(), tmp_path / "net")
    assert "3 masks (torch.nn.utils.prune)" in same(tmp_path / "net", masked).found


def test_torch_prune_of_biases_and_removed(net, masks, masked, same, tmp_path: Path) -> None:
    prune_all(net, masks)
    prune.remove(net.conv1, "weight")  # its weight is now behind its bias
    prune.l1_unstructured(net.fc, "bias", amount=2)
    prune.l1_unstructured(masked.fc, "bias", amount=2)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net")
    assert "3 masks (torch.nn.utils.prune)" in same(tmp_path / "net", masked).found


def test_factory_that_prunes(net, masks, masked, same, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pruning_factory.py").write_text(
        "from small_net_of_the_tests import Net\nfrom torch.nn.utils import prune\n"
        "def make():\n    net = Net()\n    prune.identity(net.conv1, 'weight')\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    prune_all(net, masks)
    torch.save(net.state_dict(), tmp_path / "net")
    same(tmp_path / "net", masked, arch="pruning_factory:make")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_masks_beside_plain_weights(net, masks, masked, same, dtype, tmp_path: Path) -> None:
    state = net.state_dict() | {f"{n}_mask": m.to(dtype) for n, m in masks.items()}
    state["fc.bias_mask"] = torch.ones(5).to(dtype)
    torch.save(state, tmp_path / "net")
    assert "4 masks beside their weights" in same(tmp_path / "net", masked).found


def test_masks_of_layers_that_broadcast(net, same, tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1]).view(6, 1, 1, 1)
    torch.save(net.state_dict() | {"conv1.mask": mask}, tmp_path / "net")
    with torch.no_grad():
        net.conv1.weight.mul_(mask)
    same(tmp_path / "net", net)


class Mask(nn.Module):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def test_parametrized_masks(net, masks, masked, same, tmp_path: Path) -> None:
    for name, mask in masks.items():
        layer = net.get_submodule(name.removesuffix(".weight"))
        parametrize.register_parametrization(layer, "weight", Mask(mask))
    torch.save(net.state_dict(), tmp_path / "net")
    assert "3 parametrizations folded" in same(tmp_path / "net", masked).found


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(net, same, norm, dim, tmp_path: Path) -> None:
    for layer in (net.conv1, net.fc):
        norm(layer, dim=dim)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.endswith(("original0", "weight_g")):
                tensor.mul_(1.5)
    torch.save(net.state_dict(), tmp_path / "net")
    same(tmp_path / "net", net)


def test_unknown_parametrization_is_refused(net, tmp_path: Path) -> None:
    nn.utils.parametrizations.spectral_norm(net.fc)
    torch.save(net.state_dict(), tmp_path / "net")
    with pytest.raises(UserError, match="remove_parametrizations"):
        load(tmp_path / "net")


def test_mask_of_another_shape_is_refused(net, tmp_path: Path) -> None:
    state = net.state_dict()
    state["fc.weight_orig"] = state.pop("fc.weight")
    state["fc.weight_mask"] = torch.ones(5, 7)
    torch.save(state, tmp_path / "net")
    with pytest.raises(UserError, match=r"\(5, 8\) and its mask \(5, 7\)"):
        load(tmp_path / "net")


# -- a file of masks -----------------------------------------------------------------------------

NAMINGS = {
    "weights": lambda name: name,
    "masks": lambda name: f"{name}_mask",
    "layers": lambda name: name.removesuffix(".weight"),
    "buffers": lambda name: name.removesuffix("weight") + "mask",
    "parallel": lambda name: f"module.{name}",
    "prefixed": lambda name: f"model.{name}_mask",
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_mask_file(net, masks, masked, same, naming, dtype, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    named = {NAMINGS[naming](name): mask.to(dtype) for name, mask in masks.items()}
    torch.save(named, tmp_path / "mask.pth")
    found = same(tmp_path / "net", masked, mask=tmp_path / "mask.pth").found
    assert "3 masks in mask.pth" in found


def test_mask_file_of_a_prefixed_checkpoint(net, masks, masked, same, tmp_path: Path) -> None:
    torch.save({f"model.{n}": t for n, t in net.state_dict().items()}, tmp_path / "net")
    torch.save({"masks": masks}, tmp_path / "mask.pth")
    same(tmp_path / "net", masked, mask=tmp_path / "mask.pth")


def test_mask_file_that_is_a_pruned_checkpoint(net, masks, masked, same, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    prune_all(net, masks)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "mask.pth")
    same(tmp_path / "net", masked, mask=tmp_path / "mask.pth")


def test_list_of_masks(net, masks, masked, same, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    listed = [mask.numpy() for mask in masks.values()]
    (tmp_path / "mask.pkl").write_bytes(pickle.dumps(listed))
    same(tmp_path / "net", masked, mask=tmp_path / "mask.pkl")
    (tmp_path / "mask.pkl").write_bytes(pickle.dumps(listed[::-1]))
    with pytest.raises(UserError, match="exactly one way"):
        load(tmp_path / "net", mask=tmp_path / "mask.pkl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: {"nothing.weight": m["fc.weight"]}, "names no weight"),
        (lambda m: {"fc.weight": m["conv1.weight"]}, "shapes"),
        (lambda m: {"fc.weight": m["fc.weight"] * 0.5}, "not only 0 and 1"),
    ],
)
def test_mask_file_that_does_not_fit(net, masks, change, says: str, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    torch.save(change(masks), tmp_path / "mask.pth")
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path / "net", mask=tmp_path / "mask.pth")
    assert "mask.pth" in str(caught.value)


def testpairings() -> None:
    a, b = torch.Size((1, 2)), torch.Size((3, 4))
    assert pairings([a, b], [a, b]) == [0, 1]
    assert pairings([b], [a, b, a]) == [1]
    assert pairings([a], [a, b, a]) is None
    assert pairings([b, a], [a, b]) is None
    assert pairings([a, a], [a, b, a]) == [0, 2]


# -- masks beside the weights in one file --------------------------------------------------------

DISTILLER = """
from collections import namedtuple
Thinning = namedtuple("Thinning", "modules parameters")
"""


def test_distiller(net, masks, masked, same, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "distiller_like.py").write_text(DISTILLER)
    monkeypatch.syspath_prepend(tmp_path)
    import distiller_like  # type: ignore[import-not-found]

    value = {
        "epoch": 1,
        "arch": "net",
        "state_dict": {f"module.{name}": t for name, t in net.state_dict().items()},
        "compression_sched": {
            "masks_dict": {f"module.{n}": masks.get(n) for n in dict(net.named_parameters())}
        },
        "thinning_recipes": [distiller_like.Thinning({"conv1": {}}, {"conv1.weight": []})],
    }
    torch.save(value, tmp_path / "net")
    found = same(tmp_path / "net", masked).found
    assert "3 masks in the same file (under 'compression_sched'.'masks_dict')" in found


@pytest.mark.parametrize("trust", [False, True])
def test_grasp(net, masks, masked, same, trust: bool, tmp_path: Path) -> None:
    by_module = {
        net.get_submodule(name.removesuffix(".weight")): mask for name, mask in masks.items()
    }
    torch.save({"net": net, "acc": 93.0, "mask": by_module}, tmp_path / "net.t7")
    loaded = same(tmp_path / "net.t7", masked, trust=trust)
    assert "3 masks in the same file (under 'mask')" in loaded.found


def test_masked_nan_is_zero(net, masks, tmp_path: Path) -> None:
    prune_all(net, masks)
    with torch.no_grad():
        net.fc.weight_orig[net.fc.weight_mask == 0] = float("nan")
    torch.save(net.state_dict(), tmp_path / "net")
    assert torch.isfinite(weights(tmp_path / "net")[0]["fc.weight"]).all()


def test_numpy_masks(net, masks, masked, same, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    arrays = {name: mask.numpy().astype(np.uint8) for name, mask in masks.items()}
    np.savez(tmp_path / "mask.npz", **arrays)
    same(tmp_path / "net", masked, mask=tmp_path / "mask.npz")
