"""Gates behind BatchNorms: nothing at first, their score by hand, folded into plain weights."""

from __future__ import annotations

import copy

import pytest
import torch
from sparse_nets import Gated, gated_units
from torch import nn
from torch.nn import functional as F

from prunedeploy import UserError
from prunedeploy.sparsify.gates import Gates


def test_gates_change_nothing_and_fold() -> None:
    module = Gated().eval()
    plain = copy.deepcopy(module)
    x = torch.randn(3, 2, 8, 8)
    gates = Gates(module)
    assert torch.equal(module(x), plain(x))
    factors = torch.tensor([1.0, 0.5, 2.0, 0.0, -1.0, 1.0])
    with torch.no_grad():
        gates.factors["norm"].copy_(factors)
    gated = module(x)
    assert torch.allclose(gated, plain(x, behind=factors), atol=1e-6)
    gates.fold()
    assert set(module.state_dict()) == set(plain.state_dict())
    assert torch.allclose(module(x), gated, atol=1e-6)
    assert torch.allclose(module.norm.bias, plain.norm.bias * factors)


def test_the_score_is_added_up_over_steps() -> None:
    module = Gated().eval()
    plain = copy.deepcopy(module)
    gates = Gates(module)
    optimizer = torch.optim.SGD(gates.factors.values(), lr=0.0)
    listener = gates.listen(optimizer)
    expected = torch.zeros(6)
    for seed in range(3):
        torch.manual_seed(seed)
        x, labels = torch.randn(4, 2, 8, 8), torch.randint(4, (4,))
        optimizer.zero_grad()
        F.cross_entropy(module(x), labels).backward()
        optimizer.step()
        behind = torch.ones(6, requires_grad=True)
        loss = F.cross_entropy(plain(x, behind=behind), labels)
        expected += torch.autograd.grad(loss, behind)[0].abs()
    listener.remove()
    scores = gates.scores(gated_units())["one.weight"]
    assert torch.allclose(scores, expected, atol=1e-6)


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(UserError, match="no BatchNorm that gates could stand behind"):
        Gates(nn.Sequential(nn.Linear(3, 2)))
