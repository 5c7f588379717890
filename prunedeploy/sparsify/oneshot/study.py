"""A network under study: what its layers read, the scores of its weights, and what pruning does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.masks import apply
from prunedeploy.sparsify.oneshot.calibrate import (
    Calibration,
    Inputs,
    calibrate,
    grouped,
    logits,
    run,
)
from prunedeploy.sparsify.oneshot.criteria import CRITERIA
from prunedeploy.sparsify.oneshot.layers import Layer, layers_of
from prunedeploy.sparsify.oneshot.parallel import side_by_side
from prunedeploy.sparsify.oneshot.refit import refit
from prunedeploy.sparsify.oneshot.statistics import match_biases, match_statistics
from prunedeploy.sparsify.units import Masks, Scope

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """A dense network and all that choosing and refitting need to know of it.

    ``scores`` are of single weights of the inner layers, by the name of the weight, of its shape.
    """

    dense: nn.Module
    batches: Sequence[Inputs]
    layers: tuple[Layer, ...]
    calibration: Calibration
    scores: dict[str, Tensor]

    @property
    def inner(self) -> tuple[Layer, ...]:
        """The layers that may lose weights."""
        return tuple(layer for layer in self.layers if layer.inner)

    @property
    def scope(self) -> Scope:
        """The same, by the names of modules."""
        names = {layer.name.rpartition(".")[0] for layer in self.inner}
        return lambda name, _: name in names

    @torch.no_grad()
    def pruned(
        self, masks: Masks, progress: Progress = lambda _: None
    ) -> tuple[nn.Module, dict[str, float]]:
        """A sparse copy, refitted and its statistics corrected, and the error of each layer."""
        sparse = deepcopy(self.dense)
        errors = refit(sparse, masks, self.calibration, progress)
        progress("correcting statistics")
        apply(sparse, masks)
        match_statistics(sparse, self.dense, self.batches)
        match_biases(sparse, self.dense, self.batches, self.calibration)
        return sparse, errors

    @torch.inference_mode()
    def agreement(self, sparse: nn.Module) -> float:
        """The share of the calibration's samples that both networks put in the same class."""
        same = total = 0
        for inputs in self.batches:
            pair = [logits(run(each, inputs)).argmax(-1) for each in (self.dense, sparse)]
            same += int((pair[0] == pair[1]).sum())
            total += pair[0].numel()
        return same / max(total, 1)


def study(
    module: nn.Module,
    batches: Sequence[Inputs],
    method: str = "obs",
    *,
    seed: int = 0,
    scope: Scope | None = None,
    every_layer: bool = False,
    progress: Progress = lambda _: None,
) -> Study:
    """Look at ``module`` on ``batches`` and score its weights.

    Args:
        module: in eval mode; it is not changed.
        batches: what the network takes.
        method: a name of ``criteria.CRITERIA``.
        seed: of the positions that are looked at.
        scope: layers that may lose weights; by default all but the first and the last.
        every_layer: calibrate the outer layers, too, whose inputs or outputs channels go through.
        progress: called with one line of text for each step.

    Raises:
        UserError: there are no inputs, or the network does not take them.
    """
    if not batches:
        raise UserError("there are no inputs to calibrate on")
    layers = layers_of(module, batches[0], scope)
    wanted = [layer.name for layer in layers if layer.inner or every_layer]
    progress("calibrating")
    calibration = calibrate(module, batches, wanted, seed=seed)
    inner = [layer for layer in layers if layer.inner]

    def scored(layer: Layer) -> Tensor:
        weight = module.get_parameter(layer.name).detach().double()
        each = CRITERIA[method](grouped(weight, layer.groups), calibration[layer.name])
        return each.reshape(weight.shape)

    every = side_by_side(scored, inner, f"scoring weights ({method})", progress)
    scores = {layer.name: each for layer, each in zip(inner, every, strict=True)}
    return Study(module, batches, layers, calibration, scores)
