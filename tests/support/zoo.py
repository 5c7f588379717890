"""Exactness over the reference networks: make channels dead, shrink, compare with what is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import regimes
import torch

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.models import Recipe
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

REGIMES = ("clean", "beta", "columns", "independent")


@dataclass(frozen=True)
class Row:
    """One network in one regime. ``attainable`` is -1 where it was not derived by hand."""

    name: str
    regime: str
    dtype: str
    before: int
    after: int
    attainable: int
    difference: verify.Difference


def check(
    recipe: Recipe, regime: str, dtype: torch.dtype, size: int = 0, fraction: float = 0.3
) -> Row:
    """Shrink the network with random weights and ``fraction`` of its channels dead.

    ``size`` is the height and width of the input; 0 stands for 64 at most, and for the recipe's
    own where the network pools to a fixed size (VGG), which needs a multiple of it.
    """
    module = recipe.factory().eval()
    channels, height, _ = recipe.input_shape
    side = size or (height if recipe.name.startswith("vgg") else min(64, height))
    attainable = regimes.apply(module, recipe.name, regime, fraction, seed=1, side=side)
    module.to(dtype)
    shape = (1, channels, side, side)
    model = to_model(module, shape)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=5)
    expected = Evaluator(model).run(feeds)
    before = parameters(model)
    # the count by hand is of channels cut, wherever branches would be faster computed narrow
    steps = [each for each in passes.DEFAULT if each.name != "scatter-branches"]
    passes.run(model, steps, feeds)
    difference = verify.compare(expected, Evaluator(model).run(feeds))
    name = str(dtype).removeprefix("torch.")
    return Row(recipe.name, regime, name, before, parameters(model), attainable, difference)


def parameters(model: models.ir.Model) -> int:
    """Elements of all floating point initializers but scalars (the bounds of a Clip).

    A BatchNormalization that stands alone counts two vectors, scale and shift, not four.
    """
    statistics = {
        value
        for node in model.graph
        if node.op_type == "BatchNormalization"
        for value in node.inputs[3:5]
    }
    values = [v for v in model.graph.initializers.values() if v not in statistics]
    tensors = [v.const_value for v in values if v.const_value is not None]
    return sum(
        math.prod(t.shape.numpy()) for t in tensors if t.dtype.is_floating_point() and len(t.shape)
    )
