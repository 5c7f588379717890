"""A sparse network for a wanted speed: planned by the cost model, built, measured, corrected."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.engines.building import build
from prunedeploy.measure.bench import bench
from prunedeploy.shrinking.pipeline import shrink
from prunedeploy.sparsify.oneshot.costs import Costs, costs_of
from prunedeploy.sparsify.oneshot.coupled import coupled
from prunedeploy.sparsify.oneshot.latency import Menu, menu
from prunedeploy.sparsify.oneshot.options import CHANNELS, LATENCY, MIXED, OneShotOptions
from prunedeploy.sparsify.oneshot.patterns import PATTERNS, chosen
from prunedeploy.sparsify.oneshot.search import searched
from prunedeploy.sparsify.oneshot.study import Progress, Study
from prunedeploy.sparsify.units import Masks

CORRECTIONS = 2  # times that a plan is made again by what was measured
ROUNDS = 60
MIX = ("scattered", "blocks")

Planned = tuple[Masks, dict[str, str]]  # masks, and the pattern of each layer


@dataclass(frozen=True)
class Plan:
    """Masks for a speed: ``masks(seconds)`` are those whose predicted time is at most that."""

    costs: Costs
    masks: Callable[[float], Planned]
    cut: bool  # whether masked channels are gone from the time

    def predicted(self, masks: Masks) -> float:
        """The predicted speed, in multiples of the dense network's in its best stock runtime."""
        return self.costs.dense / self.costs.total(masks, self.cut)


def plan(looked: Study, options: OneShotOptions, progress: Progress) -> Plan:
    """How masks are chosen for a time, by the budget and the units of ``options``.

    Raises:
        UserError: the target has no figures, its runtime cannot compute the network, or the network
            does not take a single tensor.
    """
    progress("lowering the network")
    return planned(looked, lowered(looked, options), options, progress)


def lowered(looked: Study, options: OneShotOptions) -> Costs:
    """The times of the layers on the target; of channels those of the outer layers vary as well.

    Raises:
        UserError: as ``plan``.
    """
    layers = looked.layers if options.units == CHANNELS else looked.inner
    shape = input_shape(looked)
    return costs_of(looked.dense, layers, shape, options.target, options.batch, options.threads)


def planned(looked: Study, costs: Costs, options: OneShotOptions, progress: Progress) -> Plan:
    """``plan`` with the times at hand."""
    if options.units == CHANNELS:
        return _of_channels(looked, costs, options)
    if options.chosen_budget == LATENCY:
        patterns = MIX if options.units == MIXED else (options.units,)
        return _of_menu(menu(looked, costs, patterns, progress))
    if options.units == MIXED:
        raise UserError("mixed units need the budget latency: leave --budget out")
    return _of_shares(looked, costs, options)


def input_shape(looked: Study) -> tuple[int, ...]:
    """The shape of one batch of the network under study.

    Raises:
        UserError: it takes several inputs.
    """
    first = looked.batches[0]
    if not isinstance(first, Tensor):
        raise UserError("a speed is for networks of one input: give --density or --flops")
    return (1, *first.shape[1:])


def _of_menu(options: Menu) -> Plan:
    return Plan(
        options.costs, lambda seconds: options.masks(seconds) or options.fastest(), cut=False
    )


def _of_shares(looked: Study, costs: Costs, options: OneShotOptions) -> Plan:
    pattern = PATTERNS[options.units]
    units = pattern.units(looked.dense, looked.scope)

    def masks(seconds: float) -> Planned:
        taken = searched(
            lambda share: chosen(pattern, units, looked.scores, share, options.chosen_budget),
            costs.total,
            seconds,
        )
        return taken, dict.fromkeys(taken, options.units)

    return Plan(costs, masks, cut=False)


def _of_channels(looked: Study, costs: Costs, options: OneShotOptions) -> Plan:
    every = coupled(looked, input_shape(looked), options.method)
    budget = "global" if options.chosen_budget == LATENCY else options.chosen_budget

    def masks(seconds: float) -> Planned:
        taken = searched(
            lambda share: every.masks(share, budget),
            lambda each: costs.total(each, cut=True),
            seconds,
        )
        return taken, dict.fromkeys(taken, CHANNELS)

    return Plan(costs, masks, cut=True)


def measured(
    sparse: nn.Module, shape: tuple[int, ...], options: OneShotOptions, progress: Progress
) -> float:
    """The speed of ``sparse``, shrunk and built here, in multiples of the dense one's.

    Raises:
        UserError: the network cannot be exported or built.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = torch.zeros(options.batch, *shape[1:])
        shrunk = shrink(sparse, example, folder / "sparse.onnx", align=1, progress=progress)
        engine = build(
            shrunk.model,
            options.target,
            "sparse",
            folder / "sparse.engine",
            shrunk.dense,
            progress,
            batch=options.batch,
            threads=options.threads,
        )
        result = bench(
            engine.path,
            shrunk.dense,
            batch=options.batch,
            threads=options.threads,
            rounds=ROUNDS,
            progress=progress,
        )
    return result.ratios[0].value


def is_here(options: OneShotOptions) -> bool:
    """Whether the target is this machine, so that engines can be measured."""
    return targets.why_not_here(targets.by_name(options.target)) is None
