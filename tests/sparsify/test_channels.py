"""Channel units: counts by hand, and that shrink removes exactly the channels that are masked."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from sparse_nets import removed_shapes
from torch import nn

import prunedeploy
from prunedeploy.models import by_name
from prunedeploy.sparsify.channels import channels
from prunedeploy.sparsify.units import Keep, Units, masks_of


def randomly(units: Units, share: float = 0.5, seed: int = 0) -> Keep:
    """Half of the channels of each group, at least one."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in units:
        left = max(1, round(group.count * share))
        keep[group.name] = torch.zeros(group.count, dtype=torch.bool)
        keep[group.name][torch.randperm(group.count, generator=generator)[:left]] = True
    return keep


def mask(module: nn.Module, units: Units, keep: Keep) -> None:
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, each in masks_of(units, keep).items():
            parameters[name].mul_(each)


def shrunk_shapes(
    module: nn.Module, shape: tuple[int, ...], folder: Path
) -> dict[str, tuple[int, ...]]:
    module.eval()
    done = prunedeploy.shrink(module, torch.randn(shape), folder / "small.onnx", align=1)
    assert done.difference.passed
    return {each.name: tuple(each.dims) for each in onnx.load(done.model).graph.initializer}


def randomise(module: nn.Module) -> None:
    """Scales and shifts like those of a trained network, with no channel that a ReLU clips away."""
    torch.manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, 0.1, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


def removes_what_is_masked(module: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    randomise(module)
    units = channels(module, shape)
    keep = randomly(units)
    mask(module, units, keep)
    expected = removed_shapes(module, masks_of(units, keep))
    found = shrunk_shapes(module, shape, folder)
    assert {name: found.get(name) for name in expected} == expected


def test_option_a_streams_go_through_all_stages() -> None:
    units = channels(by_name("resnet20").factory(), (1, 3, 32, 32))
    inner = [16] * 3 + [32] * 3 + [64] * 3
    assert sorted(group.count for group in units) == sorted([16, 16, 32, *inner])
    stream = units.groups[0]
    assert (stream.name, stream.count) == ("conv1.weight", 16)
    axes = {(member.parameter, member.axis) for member in stream.members}
    assert {("layer3.2.conv2.weight", 0), ("linear.weight", 1), ("layer1.0.bn2.bias", 0)} <= axes


def test_half_of_all_channels_of_an_option_a_network_go(tmp_path: Path) -> None:
    removes_what_is_masked(by_name("resnet20").factory(), (1, 3, 32, 32), tmp_path)
