"""Group normalisation as exporters write it: whole groups go, part of a group stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from net import Net
from torch import nn

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PlainGroupNorm
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model


@torch.no_grad()
def network(dead: list[int], later: list[int]) -> nn.Module:
    """Two group norms of four groups of three channels; channels without weights in each."""
    torch.manual_seed(0)
    found = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.SiLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    for layer, norm, rows in ((found[0], found[1], dead), (found[3], found[4], later)):
        layer.weight[rows] = 0
        layer.bias[rows] = 0
        norm.weight.copy_(torch.rand(12) + 0.5)
        norm.bias.copy_(torch.randn(12))
    return found.double().eval()


def run(module: nn.Module, shape: tuple[int, ...]) -> tuple[list[int], list[str]]:
    """Output channels of the two convolutions after the passes, and why others stay."""
    model = to_model(module, shape)
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    expected = Evaluator(model).run(feeds)
    reports = passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(expected, Evaluator(model).run(feeds), 1e-12).passed
    sizes = [
        value.const_value.shape[0]
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and len(value.const_value.shape) == 4
        and "borders" not in str(value.name)
    ]
    (notes,) = (r.result.notes for r in reports if r.name == "shrink-channels")
    return sizes, [note.reason for note in notes if note.status == "refused"]


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_whole_groups_go(size: tuple[int, int]) -> None:
    """The two norms lose different groups, though the exporter has them share ones and zeros."""
    sizes, _ = run(network([3, 4, 5], [0, 1, 2, 9, 10, 11]), (1, 3, *size))
    assert sizes == [9, 6]


def test_part_of_a_group_stays() -> None:
    sizes, reasons = run(network([3, 4, 5, 6, 8], [1]), (1, 3, 6, 6))
    assert sizes == [9, 12]
    assert reasons
    assert all("groups of a norm" in reason for reason in reasons)


def written_out(net: Net, x: str, groups: int, **shape: int) -> str:
    parts = net.node("Reshape", x, net.weight(np.array([0, groups, -1])))
    ones, zeros = net.weight(np.ones(groups), "ones"), net.weight(np.zeros(groups), "zeros")
    y = net.node("InstanceNormalization", parts, ones, zeros)
    return str(net.node("Reshape", y, net.node("Shape", x, **shape)))


@pytest.mark.parametrize("shape", [{}, {"start": 0}])
def test_shape_is_written_down_and_constants_unshared(shape: dict[str, int]) -> None:
    net = Net(channels=6)
    y = written_out(net, written_out(net, "input", 3, **shape), 3, **shape)
    model = net.model(y)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    (report,) = passes.run(model, (PlainGroupNorm(),), feeds)
    assert [note.count for note in report.result.notes] == [1, 1]
    assert [node.op_type for node in model.graph].count("Shape") == 0
    assert len(model.graph.initializers) == 8


def test_batch_and_channels_are_written_down_before_two_dynamic_sizes() -> None:
    """The sizes behind stay computed, and the channels of a whole group go."""
    net = Net(channels=6, size="side")
    model = net.model(net.conv(written_out(net, "input", 3), (6, 4), name="tail"))
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    expected = Evaluator(model).run(feeds)
    (report,) = passes.run(model, (PlainGroupNorm(),), feeds)
    assert [note.count for note in report.result.notes] == [1]
    back = [node for node in model.graph if node.op_type == "Reshape"][-1]
    target = back.inputs[1].producer()
    assert target.op_type == "Concat"
    assert target.inputs[0].const_value.numpy().tolist() == [0, 6]
    for side in (3, 7):
        other = {"input": np.resize(feeds["input"], (2, 6, side, side + 1))}
        assert Evaluator(model).run(other)[str(model.graph.outputs[0].name)].shape[-1] == side + 1
    assert verify.compare(expected, Evaluator(model).run(feeds), 1e-12).passed


def test_the_channels_of_a_group_norm_with_two_dynamic_sizes_go() -> None:
    net = Net(channels=3, size="side")
    w = net.random.standard_normal((6, 3, 1, 1))
    w[2:4] = 0
    x = net.node("Conv", "input", net.weight(w, "first.weight"))
    model = net.model(net.conv(written_out(net, x, 3), (6, 4), name="tail"))
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    passes.run(model, (PlainGroupNorm(), passes.ShrinkChannels()), feeds)
    assert model.graph.initializers["first.weight"].shape[0] == 4
