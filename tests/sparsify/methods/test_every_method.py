"""What every method has to keep to: its sparsity, its masks, and channels that shrink removes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from sparse_nets import removed_shapes
from torch import nn

import prunedeploy
from prunedeploy import UserError
from prunedeploy.models import by_name
from prunedeploy.sparsify.methods import METHODS, MethodReport, MethodSettings
from prunedeploy.sparsify.network import network
from prunedeploy.sparsify.recipe import NetworkChoice
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings

LISTED = {
    *("dense", "omp", "imp", "ltr", "gradual", "random_u", "random_s", "snip", "snap", "grasp"),
    *("crop_u", "crop_s", "cropit_u", "cropit_s", "earlycrop_u", "earlycrop_s", "early_bird"),
    *("gate_decorators", "efficient_convnets", "slimming", "refill", "refill_plus", "regroup"),
    *("str", "str_bn", "ticket"),
}
FEW_ROUNDS = {"imp", "refill", "refill_plus", "regroup", "ticket"}
TICKETS = {"refill", "refill_plus", "regroup"}  # whose sparsity is that of the ticket
STRUCTURED = sorted(name for name, each in METHODS.items() if each.kind == "channels")
EXACT = sorted(set(STRUCTURED) - {"refill", "refill_plus"})  # see ``refill``: residual sums


def trainer(epochs: float = 1.0) -> Trainer:
    """ResNet-8 on noise, two steps an epoch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(32, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (32,), generator=generator)
    module = network(NetworkChoice("resnet8_digits"), (1, 8, 8), 10, 0)
    settings = TrainSettings(epochs=epochs, batch=16, lr=0.05)
    return Trainer(module, Data(inputs, labels, (0.5,), (0.3,)), settings)


def carried_out(name: str, sparsity: float, epochs: float = 2.0) -> tuple[nn.Module, MethodReport]:
    options = {"rounds": 2} if name in FEW_ROUNDS else {"batches": 1} if name == "gradual" else {}
    this = trainer(epochs)
    report = METHODS[name].run(this, MethodSettings(sparsity, options=options))
    return this.module, report


def test_the_methods_are_those_of_the_documentation() -> None:
    assert set(METHODS) == LISTED
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("name", sorted(LISTED - {"dense"} - TICKETS))
def test_the_sparsity_is_the_one_asked_for(name: str) -> None:
    module, report = carried_out(name, 0.7)
    total = 176 if METHODS[name].kind == "channels" else 76_608
    off = 5 if name == "efficient_convnets" else 0.51  # units: half of one in each of ten groups
    assert report.unit_sparsity == pytest.approx(0.7, abs=off / total)
    state = module.state_dict()
    assert set(state) == set(by_name("resnet8_digits").factory().state_dict())
    parameters = dict(module.named_parameters())
    for key, mask in report.masks.items():
        assert not parameters[key][~mask].any()
    zeros = sum(int((parameters[key] == 0).sum()) for key in report.masks)
    masked = sum(int((~mask).sum()) for mask in report.masks.values())
    assert masked <= zeros <= masked + 100  # a trained threshold may fall on a weight
    assert report.steps >= 4


@pytest.mark.parametrize("name", ["refill", "refill_plus", "regroup"])
def test_tickets_become_structures(name: str) -> None:
    module, report = carried_out(name, 0.7)
    parameters = dict(module.named_parameters())
    for key, mask in report.masks.items():
        assert not parameters[key][~mask].any()
    if name != "regroup":
        for mask in report.masks.values():
            if mask.dim() == 4:  # rows are whole or gone, but for columns of channels that went
                columns = mask.transpose(0, 1).flatten(1).any(1)
                rows = mask.flatten(1).any(1)
                assert torch.equal(mask[rows][:, columns], torch.ones_like(mask[rows][:, columns]))


def test_an_option_that_is_none_of_the_methods() -> None:
    for name in METHODS:
        with pytest.raises(UserError, match="the method has no option 'nonsense'"):
            METHODS[name].run(trainer(), MethodSettings(0.5, options={"nonsense": 1}))


def shrink_removes_exactly(
    module: nn.Module, masks: dict[str, torch.Tensor], shape: tuple[int, ...], folder: Path
) -> None:
    expected = removed_shapes(module, masks)
    done = prunedeploy.shrink(module.eval(), torch.rand(shape), folder / "small.onnx", align=1)
    assert done.difference.passed
    graph = onnx.load(done.model).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    assert {name: shapes.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "name",
    [
        "snap",
        "str_bn",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in EXACT
            if name not in ("snap", "str_bn")
        ),
    ],
)
def test_shrink_removes_what_a_method_masked(name: str, tmp_path: Path) -> None:
    module, report = carried_out(name, 0.5)
    alive(module)
    shrink_removes_exactly(module, report.masks, (1, 1, 8, 8), tmp_path)


def alive(module: nn.Module) -> None:
    """No channel that ReLU clips away, which shrink would remove as well; zeros stay."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.copy_(layer.bias.abs() + 0.2 * (layer.weight != 0))
