"""Sparse in one shot: from a dense network and a thousand inputs, without labels or training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.core.log import logged
from prunedeploy.shrinking.inference_copy import inference_copy
from prunedeploy.sparsify.oneshot import layers as layer_shares
from prunedeploy.sparsify.oneshot.calibrate import Inputs
from prunedeploy.sparsify.oneshot.patterns import PATTERNS, Pattern, chosen
from prunedeploy.sparsify.oneshot.result import LayerResult, OneShot
from prunedeploy.sparsify.oneshot.study import Progress, Study, study
from prunedeploy.sparsify.units import Masks, Scope

HALVINGS = 20  # of the interval in which a density is searched
SHARES = ("global", "uniform", "erk")  # budgets by scores and a density


@dataclass(frozen=True)
class Goal:
    """What is wanted, one of three: the share of weights, of multiply-accumulates, or a speed."""

    density: float | None = None
    flops: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.density, self.flops, self.speedup) if each is not None]
        if len(given) != 1:
            raise UserError("say what is wanted by one of density, flops and speedup")
        if self.speedup is None and not 0 < given[0] <= 1:
            raise UserError(f"a share of {given[0]:g} makes no sense: give one in (0, 1]")
        if self.speedup is not None and not 0 < self.speedup < float("inf"):
            raise UserError(f"a speed-up of {self.speedup:g} makes no sense: give one above 1")


def one_shot(
    module: nn.Module,
    batches: Sequence[Inputs],
    *,
    density: float | None = None,
    flops: float | None = None,
    method: str = "obs",
    budget: str = "global",
    units: str = "scattered",
    scope: Scope | None = None,
    seed: int = 0,
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
        density: the share of the weights of the layers that may lose some, that stays.
        flops: the share of all multiply-accumulates that stays, in the place of ``density``.
        method: of scoring: "magnitude", "wanda" or "obs" (see ``criteria``).
        budget: what every layer keeps: "global" ranks the weights of all layers together, "uniform"
            takes the same share of each, "erk" more of the small ones.
        units: a name of ``patterns.PATTERNS``.
        scope: layers that may lose weights; by default all but the first and the last.
        seed: of the positions that calibration looks at.
        progress: called with one line of text for each step.

    Returns:
        The sparse network in eval mode, its masks, and the error of every layer.

    Raises:
        UserError: nothing that makes sense is wanted, a name is unknown, there are no inputs, or
            the network does not take them.

    Example:
        >>> import torch
        >>> from prunedeploy.sparsify.oneshot.one_shot import one_shot
        >>> network = torch.nn.Sequential(
        ...     *(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32)),
        ...     *(torch.nn.ReLU(), torch.nn.Linear(32, 4)),
        ... )
        >>> sparse = one_shot(network, [torch.randn(200, 16)], density=0.25)
        >>> int((sparse.module[2].weight != 0).sum())
        256
    """
    begin = time.perf_counter()
    goal = Goal(density, flops)
    pattern = known_pattern(units)
    if budget not in SHARES:
        raise UserError(f"no budget is called {budget!r}: use {', '.join(SHARES)}")
    dense = inference_copy(module).requires_grad_(False)
    told = logged(progress)
    looked = study(dense, batches, method, seed=seed, scope=scope, progress=told)
    ranked = pattern.units(dense, looked.scope)

    def masks_at(share: float) -> Masks:
        return chosen(pattern, ranked, looked.scores, share, budget)

    if goal.density is not None:
        masks = masks_at(goal.density)
    else:
        assert goal.flops is not None
        masks = searched(masks_at, lambda each: layer_shares.flops(looked.layers, each), goal.flops)
    told("refitting")
    done = carried_out(looked, masks, dict.fromkeys(masks, units))
    return replace(done, seconds=time.perf_counter() - begin)


def known_pattern(name: str) -> Pattern:
    """The pattern of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PATTERNS:
        raise UserError(f"no units are called {name!r}: use {', '.join(PATTERNS)}")
    return PATTERNS[name]


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


def carried_out(looked: Study, masks: Masks, patterns: dict[str, str]) -> OneShot:
    """Prune, refit and correct, and say what became of every layer."""
    sparse, errors = looked.pruned(masks)
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
