"""A module sliced by a plan: the same outputs, trainable, and small again after training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_nets
from torch import nn
from torch.nn.utils import prune

import prunedeploy
from prunedeploy import SlicePlan, UserError, apply_plan
from prunedeploy.graph import model as models
from prunedeploy.graph.preparation import prepare
from prunedeploy.reference import verify
from prunedeploy.shrinking.export import to_model
from prunedeploy.to_torch import slicing

NETS = list(torch_nets.SHAPES)


def sliced(network: nn.Module, shape: tuple[int, ...], zero: float = 0.0) -> slicing.Sliced:
    model = prepare(to_model(network, shape, optimize=False))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    return slicing.slice_module(network, model, feeds, zero)


def fitted(network: nn.Module, found: slicing.Sliced) -> nn.Module:
    small = apply_plan(copy.deepcopy(network), found.plan)
    small.load_state_dict(found.state)
    return small


def widths(found: slicing.Sliced) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in found.state.items()}


@pytest.mark.parametrize("make", NETS)
def test_outputs_gradients_and_a_second_time(make: Callable[[], nn.Module]) -> None:
    network, shape = make(), torch_nets.SHAPES[make]
    found = sliced(network, shape)
    small = fitted(network, found)
    x = torch.randn(4, *shape[1:], dtype=torch.float64)
    with torch.no_grad():
        expected, outputs = network(x), small(x)
    assert (outputs - expected).abs().max() <= 1e-12 * (expected.max() - expected.min())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    small.train()
    small(x).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = sliced(small.eval(), shape)
    assert not again.plan.kept
    assert not again.plan.biases


def test_residual_keeps_one_channel_for_the_constants() -> None:
    found = sliced(torch_nets.residual(), (1, 3, 12, 12))
    shapes = widths(found)
    # three and four inner channels are dead; padding leaves one of each that is not zero
    assert shapes["one.conv1.weight"] == (6, 8, 3, 3)
    assert shapes["one.bn1.running_var"] == (6,)
    assert shapes["one.conv2.weight"] == (8, 6, 3, 3)
    assert shapes["two.conv2.weight"] == (16, 13, 3, 3)
    assert "one.conv2.bias" not in shapes
    assert len(found.plan.kept["two.conv1.weight"][0]) == 13


def test_depthwise_groups_follow() -> None:
    network = torch_nets.mobile()
    found = sliced(network, (1, 3, 9, 9))
    small = fitted(network, found)
    assert (small[3].groups, small[3].in_channels, small[0].out_channels) == (9, 9, 9)
    assert small[1].num_features == small[4].num_features == 9
    assert small[6].in_channels == 9
    # the 1x1 convolution has no bias: what it takes over goes into the mean behind it
    assert not found.plan.biases
    assert not torch.equal(found.state["7.running_mean"], network[7].running_mean)


def test_flattened_maps_and_a_new_bias() -> None:
    found = sliced(torch_nets.vgg(), (1, 3, 9, 9))
    shapes = widths(found)
    assert shapes["b.weight"] == (7, 6, 3, 3)
    assert shapes["c.weight"] == (9, 7 * 25)
    assert found.plan.biases == ("d",)
    assert shapes["d.bias"] == (4,)


def test_a_view_of_fixed_size_keeps_what_it_counts() -> None:
    shapes = widths(sliced(torch_nets.vgg(fixed=True), (1, 3, 9, 9)))
    assert shapes["b.weight"] == (10, 6, 3, 3)
    assert shapes["c.weight"] == (9, 250)
    assert shapes["a.weight"] == (6, 3, 3, 3)


def test_neurons_go_and_hard_coded_heads_stay() -> None:
    shapes = widths(sliced(torch_nets.transformer(), (1, 7, 6)))
    assert shapes["up.weight"] == (15, 8)
    assert shapes["down.weight"] == (8, 15)
    assert shapes["qkv.weight"] == (24, 8)


class Counts(nn.Module):
    """Code that insists on its number of channels, where no operator shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        assert x.shape[1] == 8, "eight channels or nothing"
        return self.b(x)


def test_code_that_does_not_follow_is_named() -> None:
    network = torch_nets.settle(Counts())
    torch_nets.kill(network.a, [0, 3])
    with pytest.raises(UserError, match=r"eight channels or nothing.*--pt"):
        sliced(network, (1, 3, 5, 5))


def test_shared_parameters_stay_shared() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    network[2].weight = network[0].weight
    torch_nets.settle(network)
    torch_nets.kill(network[2], [1])
    small = fitted(network, sliced(network, (1, 6)))
    assert small[2].weight is small[0].weight


def test_threshold_changes_outputs_and_says_so() -> None:
    network = torch_nets.vgg()
    with torch.no_grad():
        network.a.weight[5] = 1e-3
    found = sliced(network, (1, 3, 9, 9), zero=1e-2)
    assert widths(found)["a.weight"][0] < 6
    assert not found.difference.passed


def test_a_wrong_plan_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial run notices a constant that was lost."""
    monkeypatch.setattr("prunedeploy.to_torch.holders.hold", lambda *_: None)
    with pytest.raises(UserError, match="outputs change"):
        sliced(torch_nets.vgg(), (1, 3, 9, 9))


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, shrunk to ``small.pt`` through the user's factory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(torch_nets.__file__).parent))
    torch.save(torch_nets.vgg().state_dict(), "net.pt")
    result = prunedeploy.shrink(
        "net.pt", arch="torch_nets:Vgg", input_shape=(1, 3, 9, 9), state_dict="small.pt"
    )
    assert result.state_dict == Path("small.pt")
    return tmp_path / "small.pt"


def test_round_trip_through_files(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    network = torch_nets.Vgg().double()
    for form in (saved, str(saved), content, content["plan"], SlicePlan.from_dict(content)):
        small = apply_plan(torch_nets.Vgg().double(), form)
        assert small.load_state_dict(content["state_dict"])
    assert small.b.out_channels == 7
    assert small.c.in_features == 175
    x = torch.randn(3, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(small(x), torch_nets.vgg()(x), rtol=0, atol=1e-12)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    small(x).square().sum().backward()
    optimizer.step()
    torch.save(small.state_dict(), "tuned.pt")
    again = prunedeploy.shrink("tuned.pt", arch="torch_nets:Vgg", input_shape=(1, 3, 9, 9))
    assert again.difference.passed
    assert again.before.parameters == sum(p.numel() for p in small.parameters())
    with pytest.raises(UserError, match="applied to this network before"):
        apply_plan(small, saved)
    with pytest.raises(UserError, match="another network"):
        apply_plan(torch_nets.mobile(), saved)
    assert network.b.out_channels == 10


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"kept": {"weight": {"2": [0]}}}, "axis 2 of weight"),
        ({"kept": {"weight": {"0": [0, 9]}}}, "axis 0 of weight"),
        ({"kept": {"weight": {"0": [-1]}}}, "axis 0 of weight"),
        ({"kept": {"other": {"0": [0]}}}, "axis 0 of other"),
        ({"shapes": {nn.Linear: [4, 4]}}, "a name is of type type"),
        ({"biases": [7]}, "a name is of type int"),
    ],
)
def test_a_plan_that_fits_no_tensor_is_damaged(changed: dict[str, Any], reason: str) -> None:
    layer = nn.Linear(4, 4, bias=False)
    plan = {"version": 1, "shapes": {"weight": [4, 4]}, "kept": {}, "groups": {}, "biases": []}
    with pytest.raises(UserError, match=rf"the plan is damaged .*{reason}"):
        apply_plan(layer, plan | changed)
    assert layer.weight.shape == (4, 4)


def test_refusals_of_apply_plan(saved: Path, tmp_path: Path) -> None:
    network = torch_nets.Vgg().double()
    prune.l1_unstructured(network.a, "weight", 0.5)
    with pytest.raises(UserError, match=r"a\.weight_orig is reparametrized"):
        apply_plan(network, saved)
    with pytest.raises(UserError, match=r"apply the plan to its \.module"):
        apply_plan(nn.DataParallel(torch_nets.Vgg()), saved)
    wrong = torch_nets.Vgg()
    wrong.b = nn.Conv2d(8, 11, 3)
    with pytest.raises(UserError, match=r"b\.weight has shape \(11, 8, 3, 3\)"):
        apply_plan(wrong, saved)
    torch.save({"state_dict": {}}, tmp_path / "none.pt")
    with pytest.raises(UserError, match="no plan"):
        apply_plan(wrong, tmp_path / "none.pt")
    with pytest.raises(UserError, match="no plan"):
        apply_plan(wrong, None)  # type: ignore[arg-type]
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read the plan"):
        apply_plan(wrong, tmp_path / "bad.pt")


def test_frozen_parameters_stay_frozen(saved: Path) -> None:
    network = torch_nets.Vgg().double()
    network.a.requires_grad_(False)
    apply_plan(network, saved)
    assert not network.a.weight.requires_grad
    assert network.b.weight.requires_grad


def test_group_norm_and_layer_norm_attributes() -> None:
    network = nn.Sequential(nn.GroupNorm(4, 8), nn.GroupNorm(2, 8), nn.LayerNorm(8))
    plan = SlicePlan(
        {name: tuple(t.shape) for name, t in network.state_dict().items()},
        {
            **{f"0.{k}": {0: (0, 1, 4, 5)} for k in ("weight", "bias")},
            **{f"1.{k}": {0: (0, 2, 4, 6)} for k in ("weight", "bias")},
            **{f"2.{k}": {0: (0, 1, 2)} for k in ("weight", "bias")},
        },
    )
    apply_plan(network, plan)
    assert [(n.num_groups, n.num_channels) for n in network[:2]] == [(2, 4), (2, 4)]
    assert network[2].normalized_shape == (3,)


def test_an_onnx_model_has_no_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    prunedeploy.export(nn.Linear(3, 2), (1, 3), "net.onnx")
    with pytest.raises(UserError, match="needs a torch checkpoint"):
        prunedeploy.shrink("net.onnx", state_dict="small.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
