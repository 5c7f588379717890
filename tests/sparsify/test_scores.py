"""Every score against a direct computation of its formula, in float64."""

from __future__ import annotations

import pytest
import torch
from sparse_nets import Gated, batches, gated_units
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy import UserError
from prunedeploy.sparsify.oneshot.study import study
from prunedeploy.sparsify.scores import SCORES
from prunedeploy.sparsify.scores.gradients import frozen
from prunedeploy.sparsify.scores.grasp import grasp
from prunedeploy.sparsify.scores.obs import obs
from prunedeploy.sparsify.scores.random import random
from prunedeploy.sparsify.units import blocks, weights

WEIGHTS = ("one.weight", "two.weight", "last.weight")


def network() -> Gated:
    return Gated(smooth=True).double().eval()


def everything(name: str, layer: nn.Module) -> bool:
    return True


def direct_flow(module: Gated, temperature: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """g, and Hg as half of the derivative of g*g by double backward, of all batches at once."""
    parameters = [module.get_parameter(name) for name in WEIGHTS]
    total = sum(F.cross_entropy(module(x) / temperature, y) for x, y in batches())
    g = torch.autograd.grad(total, parameters, create_graph=True)
    squared = sum(each.square().sum() for each in g)
    return list(g), [each / 2 for each in torch.autograd.grad(squared, parameters)]


def flat(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat([scores[name] for name in WEIGHTS])


def thetas(module: Gated) -> list[Tensor]:
    return [module.get_parameter(name).detach() for name in WEIGHTS]


def joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def test_snip_of_weights() -> None:
    module = network()
    g, _ = direct_flow(module)
    expected = joined([theta * each for theta, each in zip(thetas(module), g, strict=True)]).abs()
    found = SCORES["snip"](module, weights(module, everything), batches())
    torch.testing.assert_close(flat(found), expected / expected.sum())


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_keeps_the_sign(temperature: float) -> None:
    module = network()
    _, products = direct_flow(module, temperature)
    expected = joined([a * b for a, b in zip(thetas(module), products, strict=True)])
    found = flat(grasp(module, weights(module, everything), batches(), temperature))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert (found < 0).any()
    assert (found > 0).any()


def test_grasp_removes_what_hinders_the_flow_least() -> None:
    """To first order the squared norm of g without a weight is less by twice the weight's score."""
    module = network()
    scores = grasp(module, weights(module, everything), batches(), 1.0)["two.weight"]
    before = sum(each.square().sum() for each in direct_flow(module)[0])
    small = 1e-5
    for at in (int(scores.argmax()), int(scores.argmin())):
        theta = module.two.weight.data.flatten()[at].item()
        module.two.weight.data.view(-1)[at] = theta * (1 - small)
        after = sum(each.square().sum() for each in direct_flow(module)[0])
        module.two.weight.data.view(-1)[at] = theta
        assert (before - after).item() / small == pytest.approx(2 * scores[at].item(), rel=1e-3)


def test_crop_of_weights() -> None:
    module = network()
    _, products = direct_flow(module)
    expected = joined([a * b for a, b in zip(thetas(module), products, strict=True)]).abs()
    torch.testing.assert_close(
        flat(SCORES["crop"](module, weights(module, everything), batches())), expected
    )


def losses(module: Gated, **gates: Tensor) -> list[Tensor]:
    return [F.cross_entropy(module(x, **gates), y) for x, y in batches()]


def test_snap_is_the_derivative_by_a_factor_before_batchnorm() -> None:
    module = network()
    c = torch.ones(6, dtype=torch.float64, requires_grad=True)
    total = sum(losses(module, before=c))
    expected = torch.autograd.grad(total, c)[0].abs()
    found = SCORES["snap"](module, gated_units(), batches())["one.weight"]
    torch.testing.assert_close(found, expected / total.detach())
    snip = SCORES["snip"](module, gated_units(), batches())["one.weight"]
    torch.testing.assert_close(snip, expected / expected.sum())


def test_crop_of_channels_is_the_derivative_of_the_flow_by_that_factor() -> None:
    module = network()
    c = torch.ones(6, dtype=torch.float64, requires_grad=True)
    parameters = [module.get_parameter(name) for name in WEIGHTS]
    g = torch.autograd.grad(sum(losses(module, before=c)), parameters, create_graph=True)
    squared = sum(each.square().sum() for each in g)
    expected = torch.autograd.grad(squared, c)[0].abs() / 2
    found = SCORES["crop"](module, gated_units(), batches())["one.weight"]
    torch.testing.assert_close(found, expected)


def test_taylor_is_by_batch_and_behind_batchnorm() -> None:
    module = network()
    c = torch.ones(6, dtype=torch.float64, requires_grad=True)
    parts = [torch.autograd.grad(each, c)[0].abs() for each in losses(module, behind=c)]
    found = SCORES["taylor"](module, gated_units(), batches())["one.weight"]
    torch.testing.assert_close(found, parts[0] + parts[1])


def test_grasp_of_channels_is_a_sum_over_what_they_write() -> None:
    module = network()
    parameters = [module.get_parameter(name) for name in WEIGHTS]
    total = sum(F.cross_entropy(module(x) / 200, y) for x, y in batches())
    g = torch.autograd.grad(total, parameters, create_graph=True)
    squared = sum(each.square().sum() for each in g)
    one = module.one
    by_weight, by_bias = torch.autograd.grad(squared, [one.weight, one.bias])
    expected = (one.weight * by_weight).sum((1, 2, 3)) / 2 + one.bias * by_bias / 2
    found = SCORES["grasp"](module, gated_units(), batches())["one.weight"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=0)


def test_taylor_of_weights_is_by_batch() -> None:
    module = network()
    parameters = [module.get_parameter(name) for name in WEIGHTS]
    parts = [torch.autograd.grad(each, parameters) for each in losses(module)]
    pairs = [joined([t * g for t, g in zip(thetas(module), part, strict=True)]) for part in parts]
    found = SCORES["taylor"](module, weights(module, everything), batches())
    torch.testing.assert_close(flat(found), pairs[0].abs() + pairs[1].abs())
    assert not torch.allclose(flat(found), (pairs[0] + pairs[1]).abs())  # as the sum would be


def test_obs_is_that_of_one_shot() -> None:
    """The formula itself is tested beside ``oneshot.criteria``; here are units and batches."""
    module = network()
    units = weights(module, everything)
    inputs = [x for x, _ in batches()]
    looked = study(module, inputs, "obs", scope=everything)
    found = obs(module.train(), units, batches())
    for name in WEIGHTS:
        assert torch.equal(found[name], looked.scores[name].flatten())
        assert (found[name] >= 0).all()
    assert module.norm.training


def in_blocks(values: Tensor) -> Tensor:
    """The sums of blocks of 2 rows and 20 columns of a matrix of 5 and 54."""
    return torch.stack(
        [values[top : top + 2, left : left + 20].sum() for top in (0, 2, 4) for left in (0, 20, 40)]
    )


@pytest.mark.parametrize("name", ["magnitude", "snip", "grasp", "crop"])
def test_a_block_is_scored_by_the_sum_over_it(name: str) -> None:
    module = network()
    units = blocks(module, 2, 20, lambda layer, _: layer == "two")
    g, products = direct_flow(module, 200.0 if name == "grasp" else 1.0)
    theta = module.two.weight.detach().flatten(1)
    sums = in_blocks(theta * (g if name == "snip" else products)[1].detach().flatten(1))
    expected = {
        "magnitude": in_blocks(theta.abs()) / in_blocks(torch.ones_like(theta)),
        "snip": sums.abs() / sums.abs().sum(),
        "grasp": sums,
        "crop": sums.abs(),
    }
    found = SCORES[name](module, units, batches())["two.weight"]
    torch.testing.assert_close(found, expected[name])


def test_sizes() -> None:
    module = network()
    units = gated_units()
    one, two, norm = module.one, module.two, module.norm
    rows = one.weight.abs().sum((1, 2, 3))
    assert SCORES["filters"](module, units, ())["one.weight"].tolist() == rows.tolist()
    assert SCORES["gamma"](module, units, ())["one.weight"].tolist() == norm.weight.abs().tolist()
    whole = rows + two.weight.abs().sum((0, 2, 3))
    whole = whole + one.bias.abs() + norm.weight.abs() + norm.bias.abs()
    mean = SCORES["magnitude"](module, units, ())["one.weight"]
    torch.testing.assert_close(mean, whole.detach() / (18 + 45 + 3))
    single = SCORES["magnitude"](module, weights(module), ())["two.weight"]
    assert torch.equal(single, two.weight.detach().abs().flatten())


def test_random_depends_on_the_seed_alone() -> None:
    module = network()
    one = SCORES["random"](module, gated_units(), ())["one.weight"]
    torch.manual_seed(3)
    assert torch.equal(one, SCORES["random"](module, gated_units(), ())["one.weight"])
    drawn = torch.rand(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one, drawn)
    other = random(module, gated_units(), seed=1)["one.weight"]
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_leaves_the_network_as_it_was(name: str) -> None:
    module = network().train()
    before = {key: each.clone() for key, each in module.state_dict().items()}
    module.norm.num_batches_tracked.zero_()
    before["norm.num_batches_tracked"].zero_()
    module.last.weight.grad = torch.ones_like(module.last.weight)
    SCORES[name](module, gated_units(), batches())
    assert all(torch.equal(each, before[key]) for key, each in module.state_dict().items())
    assert module.norm.training
    assert module.norm.momentum == 0.1
    assert module.last.weight.grad.eq(1).all()
    assert module.one.weight.grad is None


def test_a_network_without_training_is_ranked_with_the_statistics_of_the_batches() -> None:
    module = network()
    module.norm.reset_running_stats()
    inputs = torch.cat([x for x, _ in batches()])
    with frozen(module, batches()):
        expected = module.one(inputs).mean((0, 2, 3))
        torch.testing.assert_close(module.norm.running_mean, expected)
    assert module.norm.running_mean.eq(0).all()


@pytest.mark.parametrize("name", ["snip", "snap", "grasp", "crop", "taylor"])
def test_gradients_need_data(name: str) -> None:
    with pytest.raises(UserError, match="needs batches"):
        SCORES[name](network(), gated_units(), ())


def test_gamma_needs_batchnorm() -> None:
    with pytest.raises(UserError, match="no BatchNorm"):
        SCORES["gamma"](network(), weights(network()), ())
