"""Gradual pruning with any score, budget and schedule, of weights and of channels."""

from __future__ import annotations

import pytest
import torch

from prunedeploy import UserError
from prunedeploy.sparsify.methods import METHODS, MethodReport, MethodSettings
from prunedeploy.sparsify.network import network
from prunedeploy.sparsify.recipe import NetworkChoice
from prunedeploy.sparsify.scores import SCORES
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings

FEW = {"batches": 1, "times": 2}
PARTS = [
    *({"score": name} for name in SCORES),
    *({"budget": name} for name in ("uniform", "erk", "floor", "lamp")),
    *({"schedule": name} for name in ("linear", "iterative", "one-shot")),
]


def gradual(**options: object) -> MethodReport:
    """Half of the units of ResNet-8, in two steps an epoch on noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (32,), generator=generator)
    data = Data(torch.rand(32, 1, 8, 8, generator=generator), labels, (), ())
    module = network(NetworkChoice("resnet8_digits"), (1, 8, 8), 10, 0)
    trainer = Trainer(module, data, TrainSettings(epochs=5, batch=16, lr=0.05))
    return METHODS["gradual"].run(trainer, MethodSettings(0.5, options={**FEW, **options}))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: "-".join(part.values()))
@pytest.mark.parametrize("units", ["scattered", pytest.param("channels", marks=pytest.mark.slow)])
def test_one_part_is_another(units: str, part: dict[str, str]) -> None:
    if units == "scattered" and part.get("score") in ("filters", "gamma", "snap"):
        pytest.skip("a score of channels")
    report = gradual(units=units, **part)
    tolerance = 0.001 if units == "scattered" else 0.03  # budgets by layers round in each of ten
    assert report.unit_sparsity == pytest.approx(0.5, abs=tolerance)


def test_two_of_four() -> None:
    report = gradual(budget="2:4", schedule="one-shot")
    mask = report.masks["layer2.0.conv1.weight"]
    runs = mask.movedim(1, -1).reshape(*mask.shape[:1], 3, 3, -1, 4).sum(-1)
    assert runs.unique().tolist() == [2]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("score", "size", "no score is called 'size'"),
        ("budget", "flat", "no budget is called 'flat'"),
        ("schedule", "slow", "no schedule is called 'slow'"),
        ("units", "rows", "units are scattered or channels, not 'rows'"),
        ("end", 0.1, "begin and end have to be shares of training, in order"),
    ],
)
def test_names_that_there_are_not(option: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        gradual(**{option: value})
