"""Sparse in one shot: from a dense network and a thousand inputs, without labels or training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from prunedeploy.core.log import logged
from prunedeploy.shrinking.inference_copy import inference_copy
from prunedeploy.sparsify.oneshot import layers as layer_shares
from prunedeploy.sparsify.oneshot.calibrate import Inputs
from prunedeploy.sparsify.oneshot.options import OneShotOptions
from prunedeploy.sparsify.oneshot.patterns import PATTERNS, chosen
from prunedeploy.sparsify.oneshot.result import LayerResult, OneShot
from prunedeploy.sparsify.oneshot.study import Progress, Study, study
from prunedeploy.sparsify.units import Masks

HALVINGS = 20  # of the interval in which a density is searched


def one_shot(
    module: nn.Module,
    batches: Sequence[Inputs],
    options: OneShotOptions,
    *,
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
        progress: called with one line of text for each step.

    Returns:
        The sparse network in eval mode, its masks, and the error of every layer.

    Raises:
        UserError: there are no inputs, or the network does not take them.

    Example:
        >>> import torch
        >>> from prunedeploy.sparsify.oneshot.one_shot import one_shot
        >>> from prunedeploy.sparsify.oneshot.options import OneShotOptions
        >>> network = torch.nn.Sequential(
        ...     *(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32)),
        ...     *(torch.nn.ReLU(), torch.nn.Linear(32, 4)),
        ... )
        >>> sparse = one_shot(network, [torch.randn(200, 16)], OneShotOptions(density=0.25))
        >>> int((sparse.module[2].weight != 0).sum())
        256
    """
    begin = time.perf_counter()
    told = logged(progress)
    dense = inference_copy(module).requires_grad_(False)
    looked = study(dense, batches, options.method, seed=options.seed, progress=told)
    masks = by_share(looked, options)
    done = carried_out(looked, masks, dict.fromkeys(masks, options.units), told)
    return replace(done, seconds=time.perf_counter() - begin)


def by_share(looked: Study, options: OneShotOptions) -> Masks:
    """The masks for a share of weights or of multiply-accumulates."""
    pattern = PATTERNS[options.units]
    ranked = pattern.units(looked.dense, looked.scope)

    def masks_at(share: float) -> Masks:
        return chosen(pattern, ranked, looked.scores, share, options.chosen_budget)

    if options.density is not None:
        return masks_at(options.density)
    assert options.flops is not None
    return searched(masks_at, lambda each: layer_shares.flops(looked.layers, each), options.flops)


def searched(
    masks_at: Callable[[float], Masks], cost: Callable[[Masks], float], wanted: float
) -> Masks:
    """The masks of the largest density that costs no more than ``wanted``, or the cheapest."""
    low, high = 0.0, 1.0
    best = masks_at(1.0)
    if cost(best) <= wanted:
        return best
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        masks = masks_at(middle)
        if cost(masks) <= wanted:
            low, best = middle, masks
        else:
            high = middle
    return best if low else masks_at(high)


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
