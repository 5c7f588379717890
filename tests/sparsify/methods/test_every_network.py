"""Every structured method on every network of the package: shrink removes what it masked.

The networks have their published layers at a quarter or an eighth of the published widths, and see
images of at most 32 x 32, so that a method trains for two steps in no time. Each is exported once;
the passes by which ``shrink`` cuts then get the weights of one method after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxscript import optimizer
from sparse_nets import removed_shapes
from torch import Tensor, nn

from prunedeploy import UserError, passes
from prunedeploy.graph.preparation import prepare
from prunedeploy.models import RECIPES, Recipe, by_name
from prunedeploy.shrinking.expected import run
from prunedeploy.shrinking.export import to_model
from prunedeploy.sparsify.budgets import overall
from prunedeploy.sparsify.channels import channels
from prunedeploy.sparsify.masks import apply
from prunedeploy.sparsify.methods import METHODS, MethodSettings
from prunedeploy.sparsify.scores import SCORES
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings
from prunedeploy.sparsify.units import LAYERS, Masks, Units, masks_of

SIDE = 32
POOLED = 49  # positions that the first linear layer of a published VGG reads
SETTINGS = TrainSettings(epochs=2, batch=4, lr=0.01)  # of one step each
OPTIONS: dict[str, dict[str, Any]] = {
    "snap": {"batches": 1},
    "crop_s": {"batches": 1},
    "cropit_s": {"batches": 1},
    "earlycrop_s": {"batches": 1},
    "gate_decorators": {"rounds": 1},
}
# Refill masks rows in residual sums too, which stay (see ``prunedeploy.sparsify.refill``).
EXACT = sorted(
    name
    for name, each in METHODS.items()
    if each.kind == "channels" and name not in ("refill", "refill_plus")
)
BY_SCALE = {"early_bird", "slimming", "gate_decorators", "str_bn"}  # of BatchNorm


def narrow(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """The shapes of the network at a quarter of its widths, an eighth where it begins wide."""
    layout = recipe.layout()
    stem = next(iter(layout.values()))[0]
    by = 4 if stem < 32 else 8

    def size(each: int) -> int:
        return each if each < 2 * by or each % by else each // by

    shapes = {name: tuple(map(size, shape[:2])) + shape[2:] for name, shape in layout.items()}
    if recipe.name.startswith("vgg") and "classifier.0.weight" in shapes:
        features, read = shapes["classifier.0.weight"]
        shapes["classifier.0.weight"] = features, read // POOLED
    return shapes


def network(recipe: Recipe) -> nn.Module:
    """Narrow, with weights by chance and scales and shifts like those of a trained network."""
    module = recipe.build(narrow(recipe))
    generator = torch.Generator().manual_seed(1)
    state = {name: drawn(name, each, generator) for name, each in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module.train().requires_grad_(True)


def drawn(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if not like.is_floating_point():
        return torch.ones(like.shape, dtype=like.dtype)
    if like.dim() > 1:
        fan = like[0].numel()
        return torch.randn(like.shape, generator=generator) * (2 / fan) ** 0.5
    low = 0.1 if name.endswith("bias") else 0.5
    return low + torch.rand(like.shape, generator=generator) * low


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A network, its channels, and its export, found once."""

    recipe: Recipe
    state: dict[str, Tensor]
    sample: tuple[int, ...]
    units: Units
    program: ir.Model

    def module(self) -> nn.Module:
        module = self.recipe.build(narrow(self.recipe))
        state = {name: each.clone() for name, each in self.state.items()}
        module.load_state_dict(state, assign=True)
        return module.train().requires_grad_(True)

    @property
    def depthwise(self) -> bool:
        layers = (each for each in self.module().modules() if isinstance(each, nn.Conv2d))
        return any(1 < each.groups == each.in_channels for each in layers)

    def trainer(self) -> Trainer:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(4, *self.sample, generator=generator)
        return Trainer(self.module(), Data(inputs, torch.arange(4), (), ()), SETTINGS)

    def cut(self, module: nn.Module) -> ir.Model:
        """What the passes of ``shrink`` make of the export with the weights of ``module``."""
        program = self.program.clone()
        state = {key: each.detach().numpy() for key, each in module.state_dict().items()}
        for name, value in program.graph.initializers.items():
            if name in state:
                value.const_value = ir.tensor(np.array(state[name]), name=name)
        optimizer.optimize_ir(program)  # as the exporter does; it folds BatchNorms, so not before
        for step in (*passes.before_cuts(), passes.ShrinkChannels(align=1)):
            step(program)
        return program


def prepared(name: str) -> Prepared:
    recipe = by_name(name)
    sample = (recipe.input_shape[0], *(min(SIDE, side) for side in recipe.input_shape[1:]))
    module = network(recipe)
    state = {key: each.detach().clone() for key, each in module.state_dict().items()}
    units = channels(module, (1, *sample))
    program = prepare(to_model(module.eval(), (1, *sample), optimize=False))
    return Prepared(recipe, state, sample, units, program)


def alive(module: nn.Module) -> None:
    """No channel that ReLU clips away, which shrink would remove as well; zeros stay.

    Behind a BatchNorm the shift decides; without one a row whose weights are all negative would be
    clipped, as its inputs are not.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LAYERS):
                rows = layer.weight.flatten(1)
                largest = rows.abs().argmax(1, keepdim=True)
                rows.scatter_(1, largest, rows.gather(1, largest).abs())
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.copy_(layer.bias.abs() + 0.2 * (layer.weight != 0))


def removes_exactly(case: Prepared, module: nn.Module, masks: Masks, more: bool = False) -> None:
    """``more``: of the channels that are not masked some may go as well.

    So it is around depthwise layers: STR-BN counts a channel once all its BatchNorms have let it
    go, where one of those that follow each other is enough for shrink, and in networks as narrow as
    these shrink proves some dead by the range of what they read.
    """
    module.eval()
    alive(module)
    program = case.cut(module)
    wanted = removed_shapes(module, masks)
    shapes = shapes_of(program, wanted)
    if more:
        assert all(
            left is None or np.less_equal(left, wanted[k]).all() for k, left in shapes.items()
        )
    else:
        assert shapes == wanted
    inputs = torch.rand(2, *case.sample, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = module(inputs).numpy()
    (found,) = run(program, {program.graph.inputs[0].name or "": inputs.numpy()}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def shapes_of(program: ir.Model, names: Mapping[str, object]) -> dict[str, tuple[int, ...] | None]:
    held = program.graph.initializers
    return {
        name: tuple(map(int, held[name].shape or ())) if name in held else None  # type: ignore[call-overload]
        for name in names
    }


def follow_methods(case: Prepared) -> None:
    """All structured methods, half of the channels."""
    scaled = any(isinstance(each, nn.BatchNorm2d) for each in case.module().modules())
    scaled &= "classifier.0.weight" not in {group.name for group in case.units}  # VGG's has none
    for name in EXACT:
        trainer = case.trainer()
        settings = MethodSettings(0.5, options=OPTIONS.get(name, {}))
        try:
            report = METHODS[name].run(trainer, settings)
        except UserError as refused:
            if name not in BY_SCALE or scaled or "no BatchNorm" not in str(refused):
                raise
            continue
        assert report.masks, name
        removes_exactly(case, trainer.module, report.masks, case.depthwise)


def follow_scores(case: Prepared) -> None:
    """The scores by which no structured method ranks."""
    for name in ("magnitude", "snip", "grasp", "taylor"):
        module = case.module()
        batch = torch.rand(2, *case.sample), torch.tensor([0, 1])
        removes_exactly(case, module, masked_by(name, module, case, batch), case.depthwise)


def masked_by(name: str, module: nn.Module, case: Prepared, batch: tuple[Tensor, Tensor]) -> Masks:
    keep = overall(SCORES[name](module, case.units, [batch]), case.units, 0.5)
    masks = masks_of(case.units, keep)
    apply(module, masks)
    return masks


@pytest.mark.slow
@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_shrink_removes_what_every_method_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = prepared(name)
    monkeypatch.setattr("prunedeploy.sparsify.run.channels", lambda *_: case.units)
    follow_methods(case)
    follow_scores(case)


@pytest.mark.slow
def test_a_channel_that_is_masked_by_name_alone_is_noticed() -> None:
    """The broken twin: one channel more is said to be masked than is."""
    case = prepared("resnet8_digits")
    module = case.module()
    keep = {group.name: torch.ones(group.count, dtype=torch.bool) for group in case.units}
    keep["conv1.weight"][:2] = False
    apply(module, masks_of(case.units, keep))
    removes_exactly(case, module, masks_of(case.units, keep))
    keep["conv1.weight"][2] = False
    with pytest.raises(AssertionError):
        removes_exactly(case, module, masks_of(case.units, keep))
