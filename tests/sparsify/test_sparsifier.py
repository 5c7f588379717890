"""The sparsifier in a plain loop: accumulation, a gradient scaler, kill and resume."""

from __future__ import annotations

import io

import pytest
import torch
from sparse_nets import Gated, gated_units
from torch import Tensor, nn

from prunedeploy import UserError
from prunedeploy.sparsify.budgets import uniform
from prunedeploy.sparsify.schedules import at_steps, cubic
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.scores.random import random
from prunedeploy.sparsify.scores.snip import snip
from prunedeploy.sparsify.sparsifier import Sparsifier
from prunedeploy.sparsify.units import weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4)
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 8, generator=generator), torch.randint(4, (16,), generator=generator)


class Loop:
    """What a user would write, and save."""

    def __init__(self) -> None:
        self.module = network()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9)
        schedule = cubic(2, 12, 2, density=0.1)
        units = weights(self.module)
        self.sparsifier = Sparsifier(self.module, units, snip, schedule, batches=[batch(99)])

    def run(self, first: int, last: int) -> None:
        self.sparsifier.attach(self.optimizer)
        for step in range(first, last):
            x, labels = batch(step)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.module(x), labels).backward()
            self.optimizer.step()

    def parts(self) -> list[object]:
        return [self.module, self.optimizer, self.sparsifier]


def test_kill_and_resume_is_bit_identical() -> None:
    whole = Loop()
    whole.run(0, 16)
    killed = Loop()
    killed.run(0, 7)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in killed.parts()], file)
    file.seek(0)
    again = Loop()
    for part, state in zip(again.parts(), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    again.run(7, 16)
    for one, other in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)
    report = again.sparsifier.finish()
    assert report.steps == 16
    assert report.unit_sparsity == pytest.approx(0.9)
    assert report.weight_sparsity == pytest.approx(720 / (320 + 800 + 80))


def test_accumulated_batches_are_one_step() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    units = weights(module)
    sparsifier = Sparsifier(module, units, magnitude, at_steps([2], [0.25]))
    sparsifier.attach(optimizer)
    for step in range(4):
        x, labels = batch(step)
        nn.functional.cross_entropy(module(x), labels).backward()
        assert (module[2].weight == 0).any() == (sparsifier.step >= 2)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert sparsifier.step == 2
    assert int((module[2].weight != 0).sum()) == 200


def test_a_step_that_the_scaler_skips_is_none() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    sparsifier = Sparsifier(module, weights(module), magnitude, at_steps([1], [0.5]))
    sparsifier.attach(optimizer)
    for step in range(3):
        x, labels = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(module(x), labels)
        scaler.scale(loss * (float("inf") if step == 0 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert sparsifier.step == step
        assert (module[2].weight == 0).any() == (step >= 1)
    assert all(p.isfinite().all() for p in module.parameters())


def test_what_is_masked_stays_masked() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seeds = iter(range(9))

    def anew(module: nn.Module, units: object, batches: object) -> dict[str, Tensor]:
        return random(module, units, seed=next(seeds))

    sparsifier = Sparsifier(module, weights(module), anew, budget=uniform)
    sparsifier.attach(optimizer)
    before = sparsifier.keep
    for density in (0.5, 0.25, 0.1):
        sparsifier.prune(density)
        assert all((now <= before[name]).all() for name, now in sparsifier.keep.items())
        assert sparsifier.keep["2.weight"].sum() == round(density * 800)
        before = sparsifier.keep


def test_a_channel_is_masked_in_all_its_parameters() -> None:
    module = Gated()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    sparsifier = Sparsifier(module, gated_units(), magnitude, at_steps([0], [0.5]))
    sparsifier.attach(optimizer)
    module(torch.randn(4, 2, 7, 7)).sum().backward()
    optimizer.step()
    gone = ~sparsifier.keep["one.weight"]
    assert gone.sum() == 3
    for tensor in (module.one.weight, module.one.bias, module.norm.weight, module.norm.bias):
        assert tensor[gone].eq(0).all()
        assert tensor[~gone].ne(0).any(0).all()
    assert module.two.weight[:, gone].eq(0).all()


def test_a_state_of_other_units() -> None:
    one, other = Loop().sparsifier, Sparsifier(Gated(), gated_units(), magnitude)
    with pytest.raises(UserError, match="another network"):
        one.load_state_dict(other.state_dict())
