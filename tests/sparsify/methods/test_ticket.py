"""Tickets of every source in every form that holds all of it."""

from __future__ import annotations

import pytest
import torch
from sparse_nets import Small, hand_coupled, stripes
from torch import nn

from prunedeploy import UserError
from prunedeploy.sparsify.methods import METHODS, MethodReport, MethodSettings
from prunedeploy.sparsify.methods._tickets import OPTIONS, SOURCES, scattered_ticket
from prunedeploy.sparsify.methods.ticket import with_blocks
from prunedeploy.sparsify.run import Run
from prunedeploy.sparsify.trainer import Trainer, TrainSettings

AFTER = {"imp": 3, "omp": 2, "obs": 2}  # trainings; the other sources have one


@pytest.fixture(autouse=True)
def coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunedeploy.sparsify.run.channels", hand_coupled)


def trainer() -> Trainer:
    return Trainer(Small(), stripes(32), TrainSettings(epochs=2, batch=16, lr=0.05))


def carried_out(name: str, **options: object) -> MethodReport:
    given = {"rounds": 2, "rewind": 0.25, "batches": 1, **options}
    return METHODS[name].run(trainer(), MethodSettings(0.7, options=given))


@pytest.mark.parametrize("source", SOURCES)
def test_a_ticket_has_the_sparsity_and_trains_from_its_early_weights(source: str) -> None:
    report = carried_out("ticket", source=source)
    assert report.unit_sparsity == pytest.approx(0.7, abs=0.0005)
    trained = AFTER.get(source, 1)
    assert report.steps == (4 if trained == 1 else 1 + 3 * trained)


def test_sources_differ() -> None:
    masks = [
        carried_out("ticket", source=source).masks["conv2.weight"] for source in sorted(SOURCES)
    ]
    for at, one in enumerate(masks):
        assert all(not torch.equal(one, other) for other in masks[at + 1 :])


@pytest.mark.parametrize("source", ["snip", "random"])
def test_a_source_before_training_leaves_the_first_weights(source: str) -> None:
    this = trainer()
    first = this.module.conv2.weight.detach().clone()
    run = Run(this, MethodSettings(0.7), {**OPTIONS, "source": source, "batches": 1})
    ticket = scattered_ticket(run)
    assert this.step == 0
    assert torch.equal(ticket.early["module"]["conv2.weight"], first)


@pytest.mark.parametrize("name", ["refill", "refill_plus", "regroup"])
@pytest.mark.parametrize("source", ["obs", "crop"])
def test_other_forms_take_every_source(name: str, source: str) -> None:
    assert 0 < carried_out(name, source=source).unit_sparsity < 1


def test_blocks_that_lose_nothing_are_filled() -> None:
    mask = torch.zeros(8, 24, 1, 1, dtype=torch.bool)
    mask[:6, :20] = True
    mask[2, 3] = False  # 19 weights in a row of 20 cells at 0.7 and 4 for the row: it pays
    mask[6, 22] = True  # outside of the block
    filled = with_blocks(nn.ModuleDict({"a": nn.Conv2d(24, 8, 1)}), {"a.weight": mask}, 0.7)
    expected = mask.clone()
    expected[2, 3] = True
    assert torch.equal(filled["a.weight"], expected)
    report = carried_out("ticket", source="random", form="lossless")
    plain = carried_out("ticket", source="random")
    assert all((report.masks[key] | ~mask).all() for key, mask in plain.masks.items())


def test_names_that_there_are_not() -> None:
    with pytest.raises(UserError, match="no source of a ticket is called 'luck'"):
        carried_out("ticket", source="luck")
    with pytest.raises(UserError, match="no form of a ticket is called 'round'"):
        carried_out("ticket", form="round")
