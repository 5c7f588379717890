"""Sparse in one shot: from a dense network and a thousand inputs, without labels or training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.core.log import logged
from prunedeploy.shrinking.inference_copy import inference_copy
from prunedeploy.sparsify.oneshot import layers as layer_shares
from prunedeploy.sparsify.oneshot import speed
from prunedeploy.sparsify.oneshot.calibrate import Inputs, joined
from prunedeploy.sparsify.oneshot.coupled import coupled
from prunedeploy.sparsify.oneshot.distill import distill, finetune
from prunedeploy.sparsify.oneshot.options import CHANNELS, MIXED, OneShotOptions
from prunedeploy.sparsify.oneshot.patterns import PATTERNS, chosen
from prunedeploy.sparsify.oneshot.result import LayerResult, OneShot, Speed
from prunedeploy.sparsify.oneshot.search import searched
from prunedeploy.sparsify.oneshot.study import Progress, Study, study
from prunedeploy.sparsify.units import Masks

TOLERANCE = 0.05  # how far a measured speed may be from the wanted one before it is corrected


def one_shot(
    module: nn.Module,
    batches: Sequence[Inputs],
    options: OneShotOptions,
    *,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> OneShot:
    """Make a sparse copy of ``module``, which needs nothing but a few hundred of its inputs.

    One pass gives what every layer reads; weights are chosen by their scores; those that stay take
    over by exact least squares; BatchNorm's statistics, and biases where there is no BatchNorm,
    move by what pruning moved.

    Args:
        module: is left as it is, in either mode.
        batches: what it takes: tensors, or dictionaries of its arguments by name. Labels are not
            needed. Statistics are corrected batch by batch: some hundred samples each.
        options: what is wanted.
        labels: int64 [N] of all samples in order, for ``options.finetune``.
        progress: called with one line of text for each step.

    Returns:
        The sparse network in eval mode, its masks, and the error of every layer.

    Raises:
        UserError: there are no inputs, or the network does not take them; there are no labels to
            train by.

    Example:
        >>> import torch
        >>> from prunedeploy.sparsify.oneshot.one_shot import one_shot
        >>> from prunedeploy.sparsify.oneshot.options import CHANNELS, MIXED, OneShotOptions
        >>> network = torch.nn.Sequential(
        ...     *(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32)),
        ...     *(torch.nn.ReLU(), torch.nn.Linear(32, 4)),
        ... )
        >>> sparse = one_shot(network, [torch.randn(200, 16)], OneShotOptions(density=0.25))
        >>> int((sparse.module[2].weight != 0).sum())
        256
    """
    begin = time.perf_counter()
    if options.finetune and labels is None:
        raise UserError("training needs labels: store them beside the samples, or use --distill")
    report = logged(progress)
    dense = inference_copy(module).requires_grad_(False)
    every = options.units == CHANNELS
    looked = study(
        dense, batches, options.method, seed=options.seed, every_layer=every, progress=report
    )
    if options.speedup is not None:
        done = for_speed(looked, options, report)
    else:
        masks = by_share(looked, options)
        done = carried_out(looked, masks, dict.fromkeys(masks, options.units), report)
    done = trained(looked, done, options, labels, report)
    return replace(done, seconds=time.perf_counter() - begin)


def trained(
    looked: Study, done: OneShot, options: OneShotOptions, labels: Tensor | None, progress: Progress
) -> OneShot:
    """Train a sparse network, in place, as far as ``options`` say so; zeros stay."""
    if not options.distill and not options.finetune:
        return done
    inputs = joined(looked.batches)
    if options.distill:
        distill(
            *(done.module, looked.dense, inputs, done.masks, options.distill),
            seed=options.seed,
            progress=progress,
        )
    if options.finetune:
        progress("training by labels")
        finetune(done.module, inputs, labels, done.masks, options.finetune, seed=options.seed)
    return replace(done, agreement=looked.agreement(done.module))


def by_share(looked: Study, options: OneShotOptions) -> Masks:
    """The masks for a share of weights or of multiply-accumulates."""
    if options.units == CHANNELS:
        every = coupled(looked, speed.input_shape(looked), options.method)
        return _to_share(looked, options, lambda x: every.masks(x, options.chosen_budget))
    if options.units == MIXED:
        raise UserError("mixed units are chosen by their times: give --speedup")
    pattern = PATTERNS[options.units]
    ranked = pattern.units(looked.dense, looked.scope)

    def masks_at(share: float) -> Masks:
        return chosen(pattern, ranked, looked.scores, share, options.chosen_budget)

    return _to_share(looked, options, masks_at)


def _to_share(looked: Study, options: OneShotOptions, masks_at: Callable[[float], Masks]) -> Masks:
    if options.density is not None:
        return masks_at(options.density)
    assert options.flops is not None
    return searched(masks_at, lambda each: layer_shares.flops(looked.layers, each), options.flops)


def for_speed(looked: Study, options: OneShotOptions, progress: Progress) -> OneShot:
    """Plan for a speed; where the target is here, build, measure, and correct the plan by it."""
    assert options.speedup is not None
    planned = speed.plan(looked, options, progress)
    shape, wanted = speed.input_shape(looked), options.speedup
    best: OneShot | None = None
    for _ in range(1 + speed.CORRECTIONS):
        masks, patterns = planned.masks(planned.costs.dense / wanted)
        done = carried_out(looked, masks, patterns, progress)
        predicted = planned.predicted(masks)
        reached = Speed(options.target, options.speedup, predicted)
        if not speed.is_here(options):
            return replace(done, speed=reached)
        got = speed.measured(done.module, shape, options, progress)
        best = _nearer(best, replace(done, speed=replace(reached, measured=got)))
        if not best.speed or abs(best.speed.measured / options.speedup - 1) < TOLERANCE:
            break
        wanted *= options.speedup / got
    assert best is not None
    return best


def _nearer(one: OneShot | None, other: OneShot) -> OneShot:
    """The one that misses its speed least: too fast costs accuracy, too slow the speed."""

    def missed(done: OneShot) -> float:
        assert done.speed is not None
        return abs(math.log(done.speed.measured / done.speed.wanted))

    return other if one is None or missed(other) < missed(one) else one


def carried_out(
    looked: Study, masks: Masks, patterns: dict[str, str], progress: Progress
) -> OneShot:
    """Prune, refit and correct, and say what became of every layer."""
    sparse, errors = looked.pruned(masks, progress)
    rows = tuple(
        LayerResult(
            name=layer.name,
            pattern=patterns.get(layer.name, ""),
            weights=layer.weights,
            kept=int(masks[layer.name].sum()),
            error=errors.get(layer.name, 0.0),
        )
        for layer in looked.layers
        if layer.name in masks
    )
    return OneShot(
        module=sparse,
        masks=masks,
        layers=rows,
        density=layer_shares.density(looked.layers, masks),
        flops=layer_shares.flops(looked.layers, masks),
        agreement=looked.agreement(sparse),
        samples=sum(map(samples, looked.batches)),
        seconds=0.0,
        notes=tuple(notes_on(looked)),
    )


def notes_on(looked: Study) -> list[str]:
    """What calibration left out."""
    diagonal = [name for name, each in looked.calibration.items() if each.diagonal]
    if not diagonal:
        return []
    return [
        f"{len(diagonal)} layers were too large for the memory of calibration and were not refitted"
    ]


def samples(inputs: Inputs) -> int:
    """How many there are in a batch."""
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    return len(first)
