"""Soft thresholds against their formula, and the sparsity that is met by construction."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sparse_nets import Gated
from torch import Tensor, nn

from prunedeploy.models import by_name
from prunedeploy.sparsify.methods import METHODS, MethodSettings
from prunedeploy.sparsify.soft_threshold import SoftThresholds, start_of
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings


def dead(thresholds: SoftThresholds) -> float:
    alive = thresholds.alive()
    return 1 - sum(int(each.sum()) for each in alive) / sum(each.numel() for each in alive)


def test_weights_and_gradients_by_hand() -> None:
    layer = nn.Linear(3, 2, bias=False)
    plain = torch.tensor([[0.5, -0.2, 0.1], [-0.9, 0.3, 0.05]])
    with torch.no_grad():
        layer.weight.copy_(plain)
    thresholds = SoftThresholds([layer], start=-1.0)
    size = 1 / (1 + math.e)  # sigmoid(-1) = 0.2689
    assert torch.allclose(layer.weight, plain.sign() * (plain.abs() - size).relu())
    assert thresholds.alive()[0].tolist() == [[True, False, False], [True, True, False]]
    assert dead(thresholds) == 0.5
    layer.weight.sum().backward()
    # d/ds of the sum is minus the slope times the signs that are left: +1 - 1 + 1
    assert thresholds.parameters[0].grad is not None
    assert thresholds.parameters[0].grad.item() == pytest.approx(-size * (1 - size), rel=1e-5)
    thresholds.fold()
    assert [*layer.state_dict()] == ["weight"]
    assert torch.allclose(layer.weight, plain.sign() * (plain.abs() - size).relu())


def test_the_scale_of_a_batchnorm_takes_its_shift_along() -> None:
    module = Gated().eval()
    before = copy.deepcopy(module)
    x = torch.randn(2, 2, 8, 8)
    thresholds = SoftThresholds([module.norm], start=-50.0)
    assert torch.allclose(module(x), before(x), atol=1e-6)  # exp(-50) is nothing
    thresholds.solve(lambda: dead(thresholds), 0.5, 0.5)
    gone = ~thresholds.alive()[0]
    assert int(gone.sum()) == 3
    thresholds.fold()
    assert not module.norm.weight[gone].any()
    assert not module.norm.bias[gone].any()
    assert set(module.state_dict()) == set(before.state_dict())


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.98])
def test_one_offset_meets_the_sparsity(wanted: float) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(30, 40), nn.Linear(40, 20)]
    thresholds = SoftThresholds(layers, start=-20.0)
    with torch.no_grad():
        thresholds.parameters[1].add_(2.0)  # learned: the second layer is sparser
    reached = thresholds.solve(lambda: dead(thresholds), wanted, wanted)
    assert reached == pytest.approx(wanted, abs=0.5 / 2000 + 1e-9)
    shares = [float((~each).double().mean()) for each in thresholds.alive()]
    assert shares[1] > shares[0]


def test_thresholds_that_do_by_themselves_are_left_alone() -> None:
    layer = nn.Linear(30, 40)
    thresholds = SoftThresholds([layer], start=-2.5)  # sigmoid(-2.5) = 0.076 of 0.18
    by_itself = dead(thresholds)
    assert 0.2 < by_itself < 0.8
    assert thresholds.solve(lambda: dead(thresholds), 0.1, 0.9) == by_itself
    assert thresholds.offset.item() == 0


def test_the_start_is_where_weight_decay_alone_leads_to_the_end() -> None:
    decay, rate, momentum, steps = 1e-4, 0.1, 0.9, 4000
    s = nn.Parameter(torch.tensor(start_of(-10, decay, rate * steps, momentum)).double())
    optimizer = torch.optim.SGD([s], lr=rate, momentum=momentum, weight_decay=decay)
    for _ in range(steps):
        s.grad = torch.zeros_like(s)
        optimizer.step()
    assert s.item() == pytest.approx(-10, rel=0.02)


def noise(shape: tuple[int, ...]) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (32,), generator=generator)
    return Data(torch.rand(32, *shape, generator=generator), labels, (), ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wanted"),
    [*(("str", x) for x in (0.5, 0.8, 0.95, 0.98)), *(("str_bn", x) for x in (0.25, 0.5, 0.8))],
)
def test_the_target_is_met_within_two_tenths_of_a_point(name: str, wanted: float) -> None:
    torch.manual_seed(0)
    module = by_name("resnet20").factory()
    trainer = Trainer(module, noise((3, 32, 32)), TrainSettings(epochs=3, batch=8, lr=0.05))
    report = METHODS[name].run(trainer, MethodSettings(wanted))
    assert report.unit_sparsity == pytest.approx(wanted, abs=0.002)


def test_a_gradient_reaches_the_scale_behind_its_threshold() -> None:
    norm: nn.BatchNorm1d = nn.BatchNorm1d(4)
    thresholds = SoftThresholds([norm], start=-0.5)
    out: Tensor = norm(torch.randn(8, 4))
    out.square().sum().backward()
    original: Tensor = norm.parametrizations.weight.original  # type: ignore[union-attr,assignment]
    assert original.grad is not None
    assert original.grad.abs().min() > 0
    assert thresholds.parameters[0].grad is not None
