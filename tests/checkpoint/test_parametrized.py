"""Parametrizations: folded where their tensors say what they are, never taken for nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning import BaseSparsifier
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError

ARCH = "small_net_of_the_tests:Net"


class Half(BaseSparsifier):
    """Takes every second weight away; at the top of a module, so that it can be pickled."""

    def update_mask(self, module: nn.Module, tensor_name: str, **_: object) -> None:
        mask = module.parametrizations[tensor_name][0].mask  # type: ignore[index,union-attr]
        mask.copy_(torch.arange(mask.numel()).view(mask.shape) % 2)


@pytest.fixture
def sparsifier(net: nn.Module) -> Half:
    """The network with a mask on two layers, which its state_dict does not have."""
    found = Half()
    found.prepare(net, [{"tensor_fqn": "conv2.weight"}, {"tensor_fqn": "fc.weight"}])
    found.step()
    assert 0.4 < float((net.fc.weight == 0).float().mean()) < 0.6
    assert not any("mask" in name for name in net.state_dict())
    return found


def refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_torch_ao_without_its_masks(net, sparsifier, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    for call in (lambda: load(tmp_path / "net", arch=ARCH), lambda: weights(tmp_path / "net")):
        refused(call, r"parametrizations\.weight\.original.*squash_mask.*--mask")


def test_torch_ao_with_its_sparsifier(net, sparsifier, same, tmp_path: Path) -> None:
    value = {"state_dict": net.state_dict(), "sparsifier": sparsifier.state_dict()}
    torch.save(value, tmp_path / "net")
    assert any("2 masks in the same file" in x for x in same(tmp_path / "net", net).found)


def test_torch_ao_with_a_part_of_its_masks(net, sparsifier, tmp_path: Path) -> None:
    state = sparsifier.state_dict()["state"]
    value = {"state_dict": net.state_dict(), "masks": {"fc.weight": state["fc.weight"]["mask"]}}
    torch.save(value, tmp_path / "net")
    refused(lambda: load(tmp_path / "net", arch=ARCH), r"conv2\.parametrizations\.weight\.original")


def test_torch_ao_with_a_file_of_masks(net, sparsifier, same, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    torch.save(sparsifier.state_dict(), tmp_path / "mask.pth")
    assert "2 masks in mask.pth" in same(tmp_path / "net", net, mask=tmp_path / "mask.pth").found


def test_torch_ao_squashed(net, sparsifier, same, tmp_path: Path) -> None:
    sparsifier.squash_mask()
    torch.save(net.state_dict(), tmp_path / "net")
    same(tmp_path / "net", net)


def test_torch_ao_in_a_program(net, sparsifier, same, tmp_path: Path) -> None:
    """A program has the mask that the state_dict hides."""
    torch.jit.trace(net, torch.rand(2, 3, 9, 9)).save(tmp_path / "net.pt")
    assert "2 parametrizations folded" in same(tmp_path / "net.pt", net).found


def test_masks_of_a_factory_are_not_those_of_the_file(
    net, sparsifier, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "sparsified_of_the_tests.py").write_text(
        "from small_net_of_the_tests import Net\n"
        "from torch.ao.pruning import WeightNormSparsifier\n"
        "def make():\n    net = Net()\n    s = WeightNormSparsifier()\n"
        "    s.prepare(net, [{'tensor_fqn': 'conv2.weight'}, {'tensor_fqn': 'fc.weight'}])\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(net.state_dict(), tmp_path / "net")
    refused(lambda: load(tmp_path / "net", arch="sparsified_of_the_tests:make"), "squash_mask")


# -- others ----------------------------------------------------------------------------------------

OWN = """
import torch
from torch import nn
from torch.nn.utils import parametrize
from small_net_of_the_tests import Net


class Even(nn.Module):
    def forward(self, weight):
        return (weight + weight.flip(1)) / 2


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5, 1))

    def forward(self, weight):
        return weight * self.scale


class Outer(nn.Module):
    def forward(self, one, other):
        return one @ other

    def right_inverse(self, weight):
        return weight[:, :1], weight[:1]


def make(part):
    net = Net()
    parametrize.register_parametrization(net.fc, "weight", part(), unsafe=True)
    return net


def even():
    return make(Even)


def scaled():
    return make(Scaled)


def outer():
    return make(Outer)


def spectral():
    net = Net()
    nn.utils.parametrizations.spectral_norm(net.fc)
    return net


def masked_then_even():
    net = Net()

    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.arange(40).view(5, 8).remainder(2).float())

        def forward(self, weight):
            return weight * self.mask

    parametrize.register_parametrization(net.fc, "weight", Even())
    parametrize.register_parametrization(net.fc, "weight", Mask())
    return net
"""
KINDS = ("even", "scaled", "outer", "spectral", "masked_then_even")


@pytest.fixture
def own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net) -> Callable:
    (tmp_path / "parametrized_of_the_tests.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("parametrized_of_the_tests")

    def make(kind: str) -> nn.Module:
        torch.manual_seed(3)
        made: nn.Module = getattr(module, kind)().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.uniform_(-0.5, 1)
        return made

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_is_refused(own: Callable, kind: str, tmp_path: Path) -> None:
    torch.save(own(kind).state_dict(), tmp_path / "net")
    for call in (lambda: load(tmp_path / "net", arch=ARCH), lambda: weights(tmp_path / "net")):
        refused(call, "remove_parametrizations")


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_that_has_it_computes_it(
    own: Callable, same: Callable, kind: str, tmp_path: Path
) -> None:
    """Spectral normalisation in eval mode, with the vectors of the file."""
    made = own(kind)
    torch.save(made.state_dict(), tmp_path / "net")
    loaded = same(tmp_path / "net", made, arch=f"parametrized_of_the_tests:{kind}")
    assert not parametrize.is_parametrized(loaded.module.fc)


def test_a_program_says_what_its_parametrizations_are(own: Callable, tmp_path: Path) -> None:
    """Behind a mask that is known, too."""
    made = own("masked_then_even")
    chain = made.fc.parametrizations.weight
    chain[0], chain[1] = chain[1], chain[0]
    assert any(name.endswith("weight.0.mask") for name in made.state_dict())
    torch.jit.trace(made, torch.rand(2, 3, 9, 9)).save(tmp_path / "net.pt")
    refused(lambda: load(tmp_path / "net.pt", arch=ARCH), "remove_parametrizations")


def test_orthogonal_is_refused(net, tmp_path: Path) -> None:
    orthogonal(net.fc)
    torch.save(net.state_dict(), tmp_path / "net")
    refused(lambda: load(tmp_path / "net", arch=ARCH), "remove_parametrizations")


def test_a_mask_behind_weight_normalisation(net, same, tmp_path: Path) -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", (torch.arange(40).view(5, 8) % 3 > 0).float())

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.mask

    weight_norm(net.fc)
    parametrize.register_parametrization(net.fc, "weight", Mask())
    torch.save(net.state_dict(), tmp_path / "net")
    same(tmp_path / "net", net)


def test_parameters_that_end_as_those_of_weight_normalisation(tmp_path: Path) -> None:
    """A gate and a value, say: not a size and a direction."""
    state = {
        "gate.w_g": torch.rand(4, 6),
        "gate.w_v": torch.rand(4, 6),
        "fc.weight": torch.rand(2, 2),
    }
    torch.save(state, tmp_path / "net")
    assert weights(tmp_path / "net")[0].keys() == state.keys()
