"""Masks among the weights, as pruning tools register them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError

Masks = dict[str, Tensor]
State = dict[str, Tensor]
ARCH = "small_net_of_the_tests:Net"


@pytest.fixture
def masks(net: nn.Module) -> Masks:
    random = torch.Generator().manual_seed(2)
    return {
        name.removesuffix(".weight"): (torch.rand(weight.shape, generator=random) < 0.5).float()
        for name, weight in net.named_parameters()
        if weight.dim() > 1
    }


def apply(net: nn.Module, masks: Masks) -> nn.Module:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(f"{name}.weight").mul_(mask)
    return net


def nncf(masks: Masks, *more: str) -> State:
    """``BinaryMask``; regularisation keeps logits and random numbers beside it."""
    state = {f"{name}.pre_ops.0.op._binary_mask": mask for name, mask in masks.items()}
    for what in more:
        state |= {f"{name}.pre_ops.0.op.{what}": torch.randn(m.shape) for name, m in masks.items()}
    return state


def movement(masks: Masks) -> State:
    state = {f"{n}.pre_ops.0.op.weight_ctx._binary_mask": mask for n, mask in masks.items()}
    state |= {
        f"{n}.pre_ops.0.op._weight_importance": torch.randn(m.shape) for n, m in masks.items()
    }
    return state | {"fc.pre_ops.0.op.bias_ctx._binary_mask": torch.ones(5)}


def apex(masks: Masks, pruned: bool) -> State:
    state = {f"{name}.__weight_mma_mask": mask.bool() for name, mask in masks.items()}
    values = {f"{name}.__weight_mma_pruned_p": torch.rand(m.shape) for name, m in masks.items()}
    return state | values if pruned else state


BUFFERS: dict[str, Callable[[Masks], State]] = {
    "SynFlow": lambda m: {f"{name}.weight_mask": mask for name, mask in m.items()},
    "layers": lambda m: {f"{name}.mask": mask for name, mask in m.items()},
    "integers": lambda m: {f"{name}.weight_mask": mask.int() for name, mask in m.items()},
    "pruning_mask": lambda m: {f"{name}.pruning_mask": mask for name, mask in m.items()},
    "binary_mask": lambda m: {f"{name}.weight_binary_mask": mask for name, mask in m.items()},
    "mask_weight": lambda m: {f"{name}.mask_weight": mask for name, mask in m.items()},
    "of the root": lambda m: {f"mask_{name}_weight": mask for name, mask in m.items()},
    "a parameter list": lambda m: {f"masks.{name}": mask for name, mask in m.items()},
    "apex": lambda m: apex(m, False),
    "apex, masks computed anew": lambda m: apex(m, True),
    "NNCF": nncf,
    "NNCF, by regularisation": lambda m: nncf(m, "_mask", "uniform"),
    "NNCF, movement": movement,
}


@pytest.mark.parametrize("what", BUFFERS)
@pytest.mark.parametrize("prefix", ["", "module.", "nncf_module."])
def test_buffers_of_tools(net, masks, same, what: str, prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": x for name, x in (net.state_dict() | BUFFERS[what](masks)).items()}
    torch.save(state, tmp_path / "net")
    found = same(tmp_path / "net", apply(net, masks)).found
    assert any("masks beside their weights" in line for line in found)


def test_filters_of_nncf_take_their_biases_along(net, same, tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1])
    name = "conv1.pre_ops.0.op._binary_filter_pruning_mask"
    torch.save(net.state_dict() | {name: mask}, tmp_path / "net")
    with torch.no_grad():
        net.conv1.weight.mul_(mask[:, None, None, None])
        net.conv1.bias.mul_(mask)
    same(tmp_path / "net", net)


def test_wrappers_of_nni_2(net, masks, same, tmp_path: Path) -> None:
    state = {}
    for name, tensor in net.state_dict().items():
        layer, _, last = name.rpartition(".")
        state[f"{layer}.module.{last}" if layer in masks else name] = tensor
    state |= {f"{name}.weight_mask": mask for name, mask in masks.items()}
    state |= {"conv1.bias_mask": torch.ones(6), "fc.bias_mask": torch.ones(5)}
    torch.save(state, tmp_path / "net")
    same(tmp_path / "net", apply(net, masks))


def test_wrappers_of_nni_3(net, masks, same, tmp_path: Path) -> None:
    """The layer's own weight is a copy of some earlier time."""
    state = net.state_dict()
    for name, mask in masks.items():
        state[f"{name}._nni_wrapper.weight"] = state[f"{name}.weight"]
        state[f"{name}._nni_wrapper.weight_mask"] = mask
        state[f"{name}._nni_wrapper.weight_mvp_score"] = torch.randn(mask.shape)
        state[f"{name}.weight"] = torch.randn(mask.shape)
    torch.save(state, tmp_path / "net")
    assert "3 masks (NNI)" in same(tmp_path / "net", apply(net, masks)).found


def test_torch_prune_multiplies_by_whatever_its_mask_is(net, same, tmp_path: Path) -> None:
    soft = torch.linspace(-1, 2, 40).view(5, 8)
    nn.utils.prune.custom_from_mask(net.fc, "weight", soft)
    torch.save(net.state_dict(), tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert (
        "1 masks (torch.nn.utils.prune), 1 of them not only 0 and 1: multiplied as they are"
        in found
    )


REFUSED: dict[str, tuple[Callable[[nn.Module], State], str]] = {
    "weight_orig without its mask": (
        lambda net: {"fc.weight_orig": net.fc.weight, "fc.weight": None},
        r"fc\.weight_orig has no fc\.weight_mask.*prune\.remove",
    ),
    "weight_orig with its mask, and another weight": (
        lambda net: {"fc.weight_orig": torch.rand(5, 8), "fc.weight_mask": torch.ones(5, 8)},
        "which make another weight",
    ),
    "soft": (
        lambda net: {"fc.weight_mask": torch.full((5, 8), 0.25)},
        r"fc\.weight_mask is no mask of fc\.weight: it holds 0\.25",
    ),
    "scores": (
        lambda net: {"fc.weight_mask_scores": torch.linspace(-1, 1, 40).view(5, 8)},
        "not only 0 and 1",
    ),
    "logits of NNCF without the mask": (
        lambda net: {"fc.pre_ops.0.op._mask": torch.linspace(-1, 1, 40).view(5, 8)},
        "not only 0 and 1",
    ),
    "no name of a mask": (
        lambda net: {"fc.active": (torch.arange(40).view(5, 8) % 3 > 0).float()},
        r"fc\.active holds zeros and ones that go with fc\.weight",
    ),
    "channels of a convolution with a bias": (
        lambda net: {"conv1.mask": torch.tensor([1.0, 0, 1, 1, 1, 1])},
        "whose bias is not zero",
    ),
    "channels of BatchNorm": (
        lambda net: {"bn1.mask": torch.tensor([1.0, 0, 1, 1, 1, 1])},
        "whose bias is not zero",
    ),
    "another shape": (lambda net: {"fc.weight_mask": torch.ones(5, 7)}, "shapes"),
    "what is taken away": (
        lambda net: {"fc.pruned_mask": (torch.arange(40).view(5, 8) % 3 > 0).float()},
        "ones of a mask are to mark what stays",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_certain_is_refused(net, what: str, tmp_path: Path) -> None:
    make, says = REFUSED[what]
    state = {name: x for name, x in (net.state_dict() | make(net)).items() if x is not None}
    torch.save(state, tmp_path / "net.pt")
    for call in (
        lambda: load(tmp_path / "net.pt", arch=ARCH),
        lambda: weights(tmp_path / "net.pt"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_inputs_or_outputs_of_a_square_layer(tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1]).view(1, 4, 1, 1)
    torch.save({"conv.weight": torch.rand(4, 4, 3, 3), "conv.mask": mask}, tmp_path / "net")
    with pytest.raises(UserError, match=r"conv\.mask may be one of the inputs or of the outputs"):
        weights(tmp_path / "net")


OWN = """
import torch
from torch import nn
from small_net_of_the_tests import Net


class Soft(Net):
    '''Computes with buffers of its own, of whatever values.'''

    def __init__(self):
        super().__init__()
        self.fc.register_buffer("weight_mask", torch.ones(5, 8))
        self.fc.register_buffer("active", torch.ones(5, 8))
        self.bn1.register_buffer("mask", torch.ones(6))
        self.fc.scale_orig = nn.Parameter(torch.ones(5, 8))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)) * self.bn1.mask.view(1, -1, 1, 1))
        x = torch.relu(self.bn2(self.conv2(x))).mean((2, 3))
        weight = self.fc.weight * self.fc.weight_mask * self.fc.active + self.fc.scale_orig
        return nn.functional.linear(x, weight, self.fc.bias)


class Binary(Net):
    '''Masks the outputs of the layer, its bias included.'''

    def __init__(self):
        super().__init__()
        self.conv1.register_buffer("mask", torch.ones(6))
        self.register_buffer("conv2_weight_mask", torch.ones(8, 6, 3, 3))

    def forward(self, x):
        x = self.conv1(x) * self.conv1.mask.view(1, -1, 1, 1)
        weight = self.conv2.weight * self.conv2_weight_mask
        x = nn.functional.conv2d(torch.relu(self.bn1(x)), weight, stride=2)
        return self.fc(torch.relu(self.bn2(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("name", ["Soft", "Binary"])
def test_a_network_that_has_a_place_for_them_computes_with_them(
    net, same, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_masks_of_the_tests.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(1)
    own = getattr(importlib.import_module("own_masks_of_the_tests"), name)().eval()
    own.load_state_dict(net.state_dict(), strict=False)
    binary = {"conv1.mask", "conv2_weight_mask", "fc.active", "bn1.mask"}
    for key, buffer in own.named_buffers():
        if "mask" in key or "active" in key:
            values = torch.rand(buffer.shape)
            buffer.copy_((values > 0.4).float() if key in binary else values)
    if name == "Soft":
        own.bn1.mask[0] = 0.0
    torch.save(own.state_dict(), tmp_path / "net")
    same(tmp_path / "net", own, arch=f"own_masks_of_the_tests:{name}")


TRANSPOSED = """
from torch import nn


def make():
    return nn.Sequential(nn.ConvTranspose2d(4, 4, 3, bias=False))
"""


def test_filters_of_a_transposed_convolution(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "transposed_of_the_tests.py").write_text(TRANSPOSED)
    monkeypatch.syspath_prepend(tmp_path)
    state = {"0.weight": torch.rand(4, 4, 3, 3), "0.weight_mask": torch.tensor([1, 0, 1, 1])}
    torch.save(state, tmp_path / "net")
    with pytest.raises(UserError, match="transposed convolution"):
        load(tmp_path / "net", arch="transposed_of_the_tests:make")
    torch.save({"0.weight": state["0.weight"]}, tmp_path / "net")
    torch.save({"0": state["0.weight_mask"]}, tmp_path / "mask")
    with pytest.raises(UserError, match="transposed convolution"):
        load(tmp_path / "net", arch="transposed_of_the_tests:make", mask=tmp_path / "mask")
