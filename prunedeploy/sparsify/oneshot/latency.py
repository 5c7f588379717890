"""Budgets from latency: what each layer keeps, and in which pattern, for the least error in a time.

Every layer has options, a density in a pattern, each with the error that is left after the refit
and the time that the target's cost model predicts. ``allocation`` takes one for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunedeploy.sparsify.oneshot.allocation import allocate
from prunedeploy.sparsify.oneshot.costs import Costs
from prunedeploy.sparsify.oneshot.layers import Layer
from prunedeploy.sparsify.oneshot.parallel import side_by_side
from prunedeploy.sparsify.oneshot.patterns import PATTERNS, chosen
from prunedeploy.sparsify.oneshot.refit import refitted
from prunedeploy.sparsify.oneshot.study import Progress, Study
from prunedeploy.sparsify.units import Masks

STEP, SPARSEST = 0.8, 0.015  # from one density to the next, and the smallest


@dataclass(frozen=True)
class Option:
    """A layer's mask, what the layer's outputs lose by it, and its predicted seconds."""

    pattern: str
    density: float
    mask: Tensor
    error: float
    seconds: float


@dataclass(frozen=True)
class Menu:
    """The options of every layer, and the masks for a time out of them."""

    layers: tuple[Layer, ...]
    options: tuple[tuple[Option, ...], ...]
    costs: Costs

    def masks(self, seconds: float) -> tuple[Masks, dict[str, str]] | None:
        """Masks and patterns of the least error within ``seconds`` a run; None where none are."""
        picked = allocate(
            [[option.error for option in each] for each in self.options],
            [[option.seconds for option in each] for each in self.options],
            seconds - self.costs.fixed,
        )
        return None if picked is None else self._taken(picked)

    def fastest(self) -> tuple[Masks, dict[str, str]]:
        """The masks of the least time."""
        return self._taken(
            [min(range(len(each)), key=lambda at: each[at].seconds) for each in self.options]
        )

    def _taken(self, picked: Sequence[int]) -> tuple[Masks, dict[str, str]]:
        taken = [each[at] for each, at in zip(self.options, picked, strict=True)]
        pairs = list(zip(self.layers, taken, strict=True))
        masks = {layer.name: option.mask for layer, option in pairs}
        return masks, {layer.name: option.pattern for layer, option in pairs}


def densities() -> list[float]:
    """The densities of the options, the full one first."""
    return [STEP**n for n in range(math.floor(math.log(SPARSEST, STEP)) + 1)]


def menu(looked: Study, costs: Costs, patterns: Sequence[str], progress: Progress) -> Menu:
    """The options of every inner layer, in ``patterns``; slower ones of more error are left out."""

    def options(layer: Layer) -> tuple[Option, ...]:
        pruned = [
            option
            for pattern in patterns
            for density in ([PATTERNS[pattern].fixed] if PATTERNS[pattern].fixed else densities())
            if (option := _option(looked, costs, layer, pattern, density)) is not None
        ]
        return _useful([_full(costs, layer), *pruned])

    every = side_by_side(options, looked.inner, "errors and times of layers", progress)
    return Menu(looked.inner, tuple(every), costs)


def _full(costs: Costs, layer: Layer) -> Option:
    mask = torch.ones(layer.shape, dtype=torch.bool)
    return Option("dense", 1.0, mask, 0.0, costs.seconds(layer.name, mask))


def _option(
    looked: Study, costs: Costs, layer: Layer, pattern: str, density: float
) -> Option | None:
    if density == 1.0:
        return None
    kind, module = PATTERNS[pattern], layer.name.rpartition(".")[0]
    units = kind.units(looked.dense, lambda name, _: name == module)
    mask = chosen(kind, units, looked.scores, density, "uniform")[layer.name]
    weight = looked.dense.get_parameter(layer.name)
    _, error = refitted(weight, mask, looked.calibration[layer.name], layer.groups)
    return Option(pattern, density, mask, error, costs.seconds(layer.name, mask))


def _useful(options: Sequence[Option]) -> tuple[Option, ...]:
    """Those that no other beats in both error and time, the fastest first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda each: (each.seconds, each.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return tuple(kept)
